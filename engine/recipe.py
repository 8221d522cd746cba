"""The recipe of a run's method on its benchmark, and the keys in which a run differs from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from engine import config
from engine.config import CONFIG_ROOT, Config
from errors import InputError

BRL = "brl"  # the method of the benchmark folders themselves
BRL_FILE = CONFIG_ROOT / "brl.yaml"  # for data that have no such folder
# Keys that do not belong to the recipe: paths of the data (the list is identified by its digest),
# stream and backbone, how the run is computed, and its name.
FREE = {
    "store", "training_list", "imbalance", "stream", "model", "amp", "compile", "cuda_graphs",
    "step_graph", "tf32", "test_batch_size", "val_by", "sync_bn", "seed", "benchmark", "tag",
    "method",
}  # fmt: skip


def method_files(folder: Path = CONFIG_ROOT) -> dict[str, Path]:
    """Return the configuration file of each method by name; BRL has none.

    The folder of a benchmark may contain its own released.yaml.
    """
    files = {path.stem: path for path in sorted((CONFIG_ROOT / "methods").glob("*.yaml"))}
    own = folder / "released.yaml"
    return files | {"released": own if own.is_file() else CONFIG_ROOT / "released.yaml"}


def departures(run: Config) -> list[str] | None:
    """Return the keys, sorted, in which a run differs from its method's recipe on its benchmark.

    The key `method` only names the recipe; all values are compared. None if no recipe is known: the
    benchmark is not a folder of config/, or the method is not a file of config/methods.
    """
    folder = CONFIG_ROOT / run.benchmark
    known = method_files(folder)
    file = known.get(run.method)
    stream = folder / f"{run.stream}.yaml"
    if folder.parent != CONFIG_ROOT or not stream.is_file() or (file is None and run.method != BRL):
        return None
    files = [stream] if file is None else [stream, file]
    plain = config.load([stream])
    recipes = [config.load(files)]
    if run.method == "cross-entropy":  # the tables' plain backbones have other values
        recipes.append(config.load([*files, CONFIG_ROOT / "backbones.yaml"]))
    if run.method == "brl-class-balanced":  # in the tables: on the released BRL
        recipes.append(config.load([stream, known["released"], known[run.method]]))
    return min((_changed(run, recipe, plain) for recipe in recipes), key=len)


def _changed(run: Config, recipe: Config, plain: Config) -> list[str]:
    """Return the keys in which `run` differs from `recipe`; `plain` is the benchmark's own run.

    The model belongs to the recipe only if the method's file names one.
    """
    mine, its = dataclasses.asdict(run), dataclasses.asdict(recipe)
    for values in (mine, its):
        values["model_args"] = {k: v for k, v in values["model_args"].items() if k != "backbone"}
    free = FREE if recipe.model == plain.model else FREE - {"model"}
    return sorted(key for key in its if key not in free and mine[key] != its[key])


def departures_of_test(tested: Config, trained: Config) -> list[str] | None:
    """Return the keys in which the training or the test differs from the recipe of the training."""
    own = tested.replace(method=trained.method, benchmark=trained.benchmark)
    first, second = departures(trained), departures(own)
    return None if first is None or second is None else sorted({*first, *second})


def method_of(content: dict[str, Any], path: Path) -> str | None:
    """Return the method of the run that a checkpoint of this project is of.

    None if the run departs from the method's recipe, or began with other weights, or if its
    configuration cannot be read: a label is no reason to refuse weights.
    """
    if not isinstance(content.get("config"), dict):
        return None
    try:
        trained = config.from_mapping(content["config"], str(path))
    except InputError:
        return None
    plain = departures(trained) == [] and content.get("started_from") is None
    return trained.method if plain else None


def describe(run: Config, changed: list[str] | None, started_from: str | None) -> str | None:
    """Return a log line if a run differs from its recipe in the keys `changed`, else None.

    Starting from trained weights is a difference, except for the classifier methods, which need it.
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
