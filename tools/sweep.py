"""The runs of a comparison: methods by seeds and folds, of equal length, with tuned values.

A method is a file of config/methods, config/released.yaml (`released`), or `brl`: the benchmark as
it is. A run departs from its file in values that are words for --set: those of the whole sweep,
those that tuning has chosen, and `repeat` for equal steps.
"""

from __future__ import annotations

import bisect
import math
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
import yaml

from data.store import Store
from engine import checkpoint, config, own_data, recipe
from engine.build import find_class, make
from engine.jobs import Job
from engine.run import LAST, RunFolder
from engine.run_data import check_result, listed_rows
from errors import InputError, nearest
from longtail import shots

WORK_DIR = Path("work_dir")
FINEST = 10_000  # `repeat` for equal steps is a multiple of 1 / FINEST


def method_files(method: str, benchmark: Path = config.CONFIG_ROOT) -> list[Path]:
    """Return the configuration file of a method, none for brl; InputError names the known ones.

    A name that ends in .yaml is the path of a file of one's own.
    """
    if method.endswith(".yaml"):
        if not Path(method).is_file():
            raise InputError(f"--methods {method}: no such file")
        return [Path(method)]
    files = recipe.method_files(benchmark)
    if method not in (known := [*files, recipe.BRL]):
        raise InputError(
            f"--methods {method}: no such method{nearest(method, known)}; known: {', '.join(known)}"
        )
    return [files[method]] if method in files else []


def shown(path: Path) -> str:
    """Return a path relative to the current folder where it lies below it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


# --- equal steps ---


# The keys that determine the samples that a run trains on
LIST_KEYS = (
    "store", "protocol", "training_list", "imbalance", "fold", "seed", "val_split", "val_by",
)  # fmt: skip


Listed = tuple[torch.Tensor, str, str]


@cache
def _read_list(*values: Any) -> Listed:
    """Return what `training_list` does, for the `values` of LIST_KEYS."""
    settings = config.Config(**dict(zip(LIST_KEYS, values)))
    store = Store.open(settings.store)
    listed, rows, _ = listed_rows(store, settings, make=True)
    if listed.made:
        print(listed.made, file=sys.stderr)  # the lines of --dry-run stay commands
    return torch.as_tensor(store.labels[rows]), listed.digest, store.fingerprint


def training_list(settings: config.Config) -> Listed:
    """Return the labels (n,) that a run trains on, and the digests of its list, which is drawn if
    missing, and of its store."""
    return _read_list(*(getattr(settings, key) for key in LIST_KEYS))


def steps_per_epoch(settings: config.Config) -> int:
    """Return the optimizer steps of an epoch, of one process."""
    labels, _, _ = training_list(settings)
    counts = torch.bincount(labels, minlength=settings.model_args.get("num_class", 60))
    samples = len(make(settings, "sampling", labels, counts, settings.repeat))
    return math.ceil(samples / (settings.batch_size * settings.accumulate))


def steps(settings: config.Config) -> int:
    """Return the optimizer steps of a run: 0 if its classifier is only computed."""
    return steps_per_epoch(settings) * settings.num_epoch if trains(settings) else 0


def trains(settings: config.Config) -> bool:
    """Return whether a run of these settings trains anything."""
    name = settings.classifier
    return name is None or getattr(find_class(name, "classifier"), "trains", True)


def repeat_for(settings: config.Config, total: int) -> float:
    """Return the `repeat` with which a run of its own number of epochs takes `total` steps.

    Longer epochs, and not more of them, keep every proportion of the run: of schedule, warm-up,
    milestones and second stage, and how often it is validated. It is the largest multiple of
    1 / FINEST whose epochs have no more than total / num_epoch steps, rounded.
    """
    wanted = round(total / settings.num_epoch)
    if steps_per_epoch(settings) == wanted:
        return settings.repeat

    def steps_with(number: int) -> int:
        return steps_per_epoch(settings.replace(repeat=number / FINEST))

    upper = 2 * FINEST
    while steps_with(upper) <= wanted:
        upper *= 2
    first_above = bisect.bisect_right(range(upper), wanted, lo=1, key=steps_with)
    return max(FINEST, first_above - 1) / FINEST


# --- the runs ---


@dataclass(frozen=True)
class Run(Job):
    """One method, seed and fold of a comparison."""

    needs: Run | None = None
    method: str = ""
    seed: int = 0
    fold: str | None = None
    values: tuple[str, ...] = ()  # what tuning has chosen, and holds out

    @property
    def folder(self) -> Path:
        return self.place.path

    @property
    def steps(self) -> int:
        """The optimizer steps of the run and of the one that it starts from."""
        return steps(self.settings) + (self.needs.steps if self.needs else 0)

    def check(self) -> None:
        """Raise InputError if the folder, or the needed run's, holds a run with other values, or
        one of another training list or of other initial weights than there are now."""
        if self.needs is not None:
            self.needs.check()
        if changed := self.place.changed_keys(self.settings):
            raise InputError(
                f"{self.folder} contains a run with other values of {', '.join(changed)}; "
                "another --work-dir keeps both"
            )
        if not self.is_finished:
            return
        result = self.place.describe(LAST)
        try:
            _, *digests = training_list(self.settings)
        except InputError:
            pass  # it is not there any more
        else:
            check_result(self.place, result, *digests)
        began_with = result.get("started_from_digest")
        if self.needs is not None and began_with is not None:
            path = self.needs.place.checkpoint(LAST)
            there, now = f"{path}, which is not there", None
            if path.is_file():
                there = f"{self.needs.folder} has now"
                now = checkpoint.weights_digest(checkpoint.read(path)["model"])
            if now != began_with:
                raise InputError(
                    f"{self.folder} began with other weights than {there}; remove it, and it is "
                    "run again"
                )


Chosen = Mapping[tuple[str, str | None], tuple[str, ...]]  # (method, fold) -> words for --set


@dataclass(frozen=True)
class Sweep:
    """What all runs of a comparison share."""

    benchmark: Path | None  # its folder of configurations; None for a store without one
    methods: tuple[str, ...] = ()
    stream: str = "joint"
    root: Path = WORK_DIR
    overrides: tuple[str, ...] = ()
    equal_steps: bool = False
    store: str | None = None  # own data, of which main.py --store knows the rest

    def files(self, method: str) -> list[Path]:
        if self.benchmark is None:
            return method_files(method) or [recipe.BRL_FILE]
        return [self.benchmark / f"{self.stream}.yaml", *method_files(method, self.benchmark)]

    @cached_property
    def below(self) -> dict[str, Any] | None:
        """The values that follow from the store, which lie below the files."""
        return None if self.store is None else own_data.values_of(self.store, with_method=False)

    def parent(self, method: str) -> str | None:
        """Return the method whose run a classifier method starts from, None for the others."""
        files = self.files(method)
        if config.load(files, self.overrides, self.below).classifier is None:
            return None
        base = yaml.safe_load(files[-1].read_text(encoding="utf-8")).get("base")
        if base is None:
            return recipe.BRL
        if not isinstance(base, str):
            raise InputError(
                f"--methods {method}: base must name one file, whose run it starts from"
            )
        path = config.find(base, files[-1].parent)
        files_of = recipe.method_files(self.benchmark or config.CONFIG_ROOT)
        known = {file.resolve(): name for name, file in files_of.items()}
        below = known.get(path.resolve(), shown(path))
        return self.parent(below) or below

    @property
    def trained(self) -> list[str]:
        """The methods that start from nothing: those compared, and parents of the others."""
        return list(dict.fromkeys(self.parent(method) or method for method in self.methods))

    def resolve(
        self, method: str, seed: int, fold: str | None, more: Iterable[str] = ()
    ) -> config.Config:
        """Return the configuration of a run; `more` are words for --set of its own."""
        words = self.words(fold, more)
        stream = self.stream if self.store else None  # else the file's
        return config.resolve(self.files(method), words, below=self.below, seed=seed, stream=stream)

    def words(self, fold: str | None, more: Iterable[str] = ()) -> list[str]:
        """Return the words for --set: those of the sweep, the fold's, and `more` of a run's own;
        later ones in place of earlier ones with the same key."""
        of_fold = [f"fold={fold}"] if fold else []
        words = (*self.overrides, *self.limits, *of_fold, *more)
        return list({word.partition("=")[0]: word for word in words}.values())

    @cached_property
    def limits(self) -> list[str]:
        """The word for `shots: auto`: one pair of limits for all seeds and folds, whose figures are
        averaged; those of the usual split."""
        settings = config.resolve(self.files(recipe.BRL), self.overrides, below=self.below)
        if settings.shots != shots.AUTO:
            return []
        return [f"shots={own_data.with_shots(settings).shots}"]

    @property
    def tag(self) -> str:
        """What --set changes of the benchmark, as in the folders of the runs: if50, ctrgcn."""
        both = (self.overrides, ())
        own, plain = (config.load(self.files(recipe.BRL), each, self.below) for each in both)
        return config.tag_of([], own, plain)

    def plan(
        self, method: str, seed: int, fold: str | None = None, chosen: Chosen | None = None,
        held_out: float | None = None,
    ) -> Run:  # fmt: skip
        """Return the run of a method, after the run of its parent if it is a classifier method.

        `chosen` are the values that tuning has found; a trial for it holds out a share of the
        training list. What is not in the files, the sweep or the seed is in the folder's name.
        """
        own = (chosen or {}).get((method, fold), ())
        kept = () if held_out is None else (f"val_split={held_out:g}",)
        # The test of a trial is not looked at, so it is a short one.
        more = [*own, *kept, *(["test_clips=1"] if kept else [])]
        plain = self.resolve(method, seed, fold, more)
        parent = self.parent(method)
        needs = None if parent is None else self.plan(parent, seed, fold, chosen, held_out)
        # a classifier has a run for each of its network
        of_parent = [word for word in (needs.values if needs else ()) if word not in kept]
        tags = [plain.tag, *map(_as_tag, (*kept, *of_parent, *own))]
        if self.equal_steps:
            steps_tag = f"steps{(total := longest(self, seed, fold))}"
            # The parent of a classifier method has them; the classifier's own come on top.
            if needs is None and (repeat := repeat_for(plain, total)) != plain.repeat:
                more.append(f"repeat={repeat}")
                tags.append(steps_tag)
            if needs is not None and needs.settings.tag.endswith(steps_tag):
                tags.append(steps_tag)
        tag = "-".join(filter(None, tags))
        settings = self.resolve(method, seed, fold, more).replace(tag=tag)
        words = self.words(fold, more)
        folder = config.run_folder(settings, self.root)
        arguments = ["--config", *map(shown, self.files(method)), "--seed", str(seed)]
        arguments += ["--store", self.store, "--stream", self.stream] if self.store else []
        arguments += ["--set", *words] if words else []
        arguments += ["--tag", tag] if tag != plain.tag else []
        arguments += ["--work-dir", str(folder)] if self.root != WORK_DIR else []
        if needs is not None:
            weights = str(needs.place.checkpoint(LAST))
            arguments += ["--phase", "classifier", "--weights", weights]
        arguments.append("--resume")
        values = (*own, *kept)
        name = ", ".join((method, f"seed {seed}", *([f"fold {fold}"] if fold else []), *values))
        return Run(
            name, tuple(arguments), RunFolder(folder), settings, needs, method=method, seed=seed,
            fold=fold, values=values,
        )  # fmt: skip


@cache
def longest(sweep: Sweep, seed: int, fold: str | None) -> int:
    """Return the optimizer steps of the longest method, on a seed's list and a fold."""
    return max(steps(sweep.resolve(method, seed, fold)) for method in sweep.trained)


def _as_tag(word: str) -> str:
    """Return a word for --set as a part of a folder's name: lr0.05 of lr=0.05."""
    key, _, value = word.partition("=")
    name = {"val_split": "val"}.get(key, key.rpartition(".")[2])
    return re.sub(r"[^\w.-]+", "_", f"{name}{value}")
