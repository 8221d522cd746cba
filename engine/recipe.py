"""The recipe that a run's method has on its benchmark, and what a run changes in it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from engine import config
from engine.config import CONFIG_ROOT, Config

BRL = "brl"  # the method of the benchmark folders themselves
# What a run may choose without leaving the recipe: where its data lie (the list is identified by
# its digest), which stream and backbone, how it is computed, what it is called.
FREE = {
    "store", "training_list", "imbalance", "stream", "model", "amp", "compile", "cuda_graphs",
    "tf32", "sync_bn", "seed", "benchmark", "tag", "method",
}  # fmt: skip


def method_files(folder: Path = CONFIG_ROOT) -> dict[str, Path]:
    """Return the configuration file of each method by its label; BRL has none.

    A benchmark's folder may have a released.yaml of its own.
    """
    files = {path.stem: path for path in sorted((CONFIG_ROOT / "methods").glob("*.yaml"))}
    own = folder / "released.yaml"
    return files | {"released": own if own.is_file() else CONFIG_ROOT / "released.yaml"}


def departures(run: Config) -> list[str] | None:
    """Return the keys, sorted, in which a run departs from its method's recipe on its benchmark.

    The label `method` only names the recipe; the values decide. None where no recipe is known: the
    benchmark is not a folder of config/, or the method not a file of config/methods.
    """
    folder = CONFIG_ROOT / run.benchmark
    file = method_files(folder).get(run.method)
    stream = folder / f"{run.stream}.yaml"
    if folder.parent != CONFIG_ROOT or not stream.is_file() or (file is None and run.method != BRL):
        return None
    files = [stream] if file is None else [stream, file]
    plain = config.load([stream])
    recipes = [config.load(files)]
    if run.method == "cross-entropy":  # the plain backbones of the tables have values of their own
        recipes.append(config.load([*files, CONFIG_ROOT / "backbones.yaml"]))
    return min((_changed(run, recipe, plain) for recipe in recipes), key=len)


def _changed(run: Config, recipe: Config, plain: Config) -> list[str]:
    """Return the keys in which `run` differs from `recipe`; `plain` is the benchmark's own run.

    A method that names a model has that model; under the others every backbone is free.
    """
    mine, its = dataclasses.asdict(run), dataclasses.asdict(recipe)
    for values in (mine, its):
        values["model_args"] = {k: v for k, v in values["model_args"].items() if k != "backbone"}
    free = FREE if recipe.model == plain.model else FREE - {"model"}
    return sorted(key for key in its if key not in free and mine[key] != its[key])


def departures_of_test(tested: Config, trained: Config) -> list[str] | None:
    """Return the keys in which the training or the test departs from the recipe of the training."""
    own = tested.replace(method=trained.method, benchmark=trained.benchmark)
    both = [departures(trained), departures(own)]
    return None if None in both else sorted({*both[0], *both[1]})


def describe(run: Config, changed: list[str] | None, started_from: str | None) -> str | None:
    """Return a line on how a run departs from its recipe in the keys `changed`; None if not.

    A run of a classifier method has to start from a trained network; any other should not.
    """
    changed = list(changed or ())
    if started_from is not None and run.classifier is None:
        changed.append(f"start from {started_from}")
    if not changed:
        return None
    return (
        f"departs from the recipe of {run.method} on {run.benchmark}: {', '.join(changed)}; "
        "no published figure is of such a run"
    )
