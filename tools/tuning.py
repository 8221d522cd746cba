"""Tuning: values that are chosen for each method alike, on training samples that are held out."""

from __future__ import annotations

import inspect
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Any

import torch

import model as models
from engine import config, samples
from engine.build import find_class
from engine.jobs import Job
from engine.run import LAST
from errors import InputError, nearest
from feeders.augment import Augmentation
from feeders.frames import CHOICES
from longtail import shots
from tools.sweep import LIST_KEYS, Chosen, Run, Sweep, trains

# Checks and makes runs; returns what went wrong with which. None: some are missing (--dry-run).
Maker = Callable[[Sequence[Run]], "dict[Job, str] | None"]


# Keys of which a value would be chosen by the samples that it holds out, or not be tried at all
FIXED = (*LIST_KEYS, "stream", "test_clips")


@dataclass(frozen=True)
class Tuned:
    """What --tune says: keys that take one value together, and what that is chosen from."""

    keys: tuple[str, ...]
    values: tuple[str, ...]  # YAML, or a factor like 0.5x

    @classmethod
    def parse(cls, text: str) -> Tuned:
        """Read KEY[+KEY...]=VALUE,VALUE,...; InputError if it is not of this form."""
        keys, separator, values = text.partition("=")
        parts = tuple(value.strip() for value in values.split(","))
        if not separator or not all(parts) or len(set(parts)) < 2:
            raise InputError(f"--tune {text}: expected KEY=VALUE,VALUE,..., e.g. lr=0.5x,1x,2x")
        names = tuple(keys.split("+"))
        for key in names:
            top, _, inner = key.partition(".")
            if top not in config.KEYS:
                hint = nearest(top, config.KEYS)
                raise InputError(f"--tune {text}: unknown key {top!r}{hint}")
            if top in FIXED:
                raise InputError(
                    f"--tune {text}: {top} says what a run is trained and tested on, not how a "
                    "method trains; give it to all by --set"
                )
            if inner and not top.endswith("_args"):
                raise InputError(f"--tune {text}: {top} has no inner key {inner}")
        return cls(names, parts)

    def applies(self, settings: config.Config) -> bool:
        """Return whether all of the keys have an effect on a method: it trains, and its classes
        take arguments of these names."""
        for key in self.keys:
            top, _, inner = key.partition(".")
            if not trains(settings) and top != "classifier_args":
                return False
            if inner and inner not in _arguments(settings, top):
                return False
        return True

    def words(self, settings: config.Config) -> list[tuple[str, ...]]:
        """Return the words for --set of each value."""
        return [
            tuple(f"{key}={self._value(settings, key, value)}" for key in self.keys)
            for value in self.values
        ]

    def _value(self, settings: config.Config, key: str, value: str) -> str:
        """Return a value as it is, or a factor times the method's own value."""
        if not re.fullmatch(r"\d*\.?\d+(e[-+]?\d+)?x", value):
            return value
        top, _, inner = key.partition(".")
        own = _arguments(settings, top).get(inner) if inner else getattr(settings, top)
        if isinstance(own, bool) or not isinstance(own, int | float):
            raise InputError(
                f"--tune {key}={value}: {settings.method} has {own}, which is not a number; give "
                "values instead of factors"
            )
        return f"{float(value[:-1]) * own:.6g}"


def _arguments(settings: config.Config, top: str) -> dict[str, Any]:
    """Return the arguments of the class that a key like loss_args is for: its defaults, and what
    the method says; {} if there is no class."""
    said = dict(getattr(settings, top))
    key = top.removesuffix("_args")
    path = getattr(settings, key)
    if not isinstance(path, str) or "." not in path:  # a word, as of the schedule, or none
        return said
    found = find_class(path, key)
    usual = models.defaults(found) if inspect.isclass(found) else {}
    if key == "feeder":
        policies: tuple[Any, ...] = (Augmentation, CHOICES.get(said.get("choice", "uniform")))
        for kind in filter(None, policies):
            usual |= {field.name: field.default for field in fields(kind)}
    return usual | said


def grid(
    sweep: Sweep, method: str, fold: str | None, tuned: Sequence[Tuned]
) -> list[tuple[str, ...]]:
    """Return every combination of the values of the keys that a method has, as --set words; []
    if it has none of the keys."""
    settings = sweep.resolve(method, 0, fold)
    axes = [each.words(settings) for each in tuned if each.applies(settings)]
    return [tuple(word for words in point for word in words) for point in product(*axes) if point]


def held_out_accuracy(run: Run, which: str) -> float:
    """Return the mean class accuracy of a trial on the samples that it held out, in percent.

    A run that trains measures it each epoch; that of the checkpoint `which` is it. best.pt is of
    the last of equal epochs (TrainState.end_epoch).
    """
    if epochs := run.place.epochs():
        latest = epochs[::-1]
        epoch = latest[0] if which == LAST else max(latest, key=lambda epoch: epoch["top1"])
        return epoch["mean_class"]
    found = samples.score_held_out(run.place.checkpoint(which), torch.device("cpu"), run.settings)
    return shots.accuracy(found.scores, found.labels)["mean_class"]


@dataclass
class Choice:
    """The values that tuning has chosen for a method on a fold, and what each was worth."""

    method: str
    fold: str | None
    words: tuple[str, ...]
    held_out: float  # mean class accuracy of the chosen values on the held-out samples
    accuracy: dict[str, float | None]  # of all values; None: a trial failed
    failed: dict[str, str]  # why

    @property
    def shown(self) -> str:
        """The values as a table shows them: `lr 0.05, tau 1`."""
        parts = [word.partition("=") for word in self.words]
        return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, _, value in parts)


def tune(
    sweep: Sweep, tuned: Sequence[Tuned], seeds: Sequence[int], folds: Sequence[str | None],
    share: float, which: str, make: Maker,
) -> list[Choice] | None:  # fmt: skip
    """Choose the values of each method on each fold; None if trials are missing (--dry-run).

    The highest mean class accuracy on a share of the training list that no trial of the fold has
    trained on, the mean over seeds; of equal ones the first. Classifier methods come after the
    methods whose runs they start from. InputError for a key that no method has a use for.
    """
    trained = sweep.trained
    others = [method for method in sweep.methods if method not in trained]
    settings = [sweep.resolve(method, 0, folds[0]) for method in (*trained, *others)]
    for each in tuned:
        if not any(each.applies(one) for one in settings):
            raise InputError(f"--tune {'+'.join(each.keys)}: none of the methods has a use for it")
    choices: list[Choice] = []
    for layer in (trained, others):
        chosen = as_chosen(choices)
        trials = {
            (method, fold): {
                point: [
                    sweep.plan(method, seed, fold, {**chosen, (method, fold): point}, share)
                    for seed in seeds
                ]
                for point in grid(sweep, method, fold, tuned)
            }
            for method, fold in product(layer, folds)
        }
        runs = [run for points in trials.values() for row in points.values() for run in row]
        failures = make(runs)
        if failures is None:
            return None
        choices += [choose(*at, points, failures, which) for at, points in trials.items() if points]
    return choices


def choose(
    method: str, fold: str | None, points: Mapping[tuple[str, ...], Sequence[Run]],
    failures: Mapping[Job, str], which: str,
) -> Choice:  # fmt: skip
    """Return the best point of a grid; InputError if a trial of every point has failed."""
    reached: dict[tuple[str, ...], float] = {}
    failed: dict[str, str] = {}
    for point, runs in points.items():
        if reason := next((failures[run] for run in runs if run in failures), None):
            failed[" ".join(point)] = reason
        else:
            reached[point] = statistics.mean(held_out_accuracy(run, which) for run in runs)
    if not reached:
        reason = next(iter(failed.values()))
        raise InputError(f"--tune: no value of {method} could be tried: {reason}")
    # The means of equal accuracies of other classes differ by 1e-14.
    best = max(reached, key=lambda point: round(reached[point], 6))
    accuracy = {" ".join(point): reached.get(point) for point in points}
    return Choice(method, fold, best, reached[best], accuracy, failed)


def as_chosen(choices: Sequence[Choice]) -> Chosen:
    return {(choice.method, choice.fold): choice.words for choice in choices}
