"""Published figures to compare runs with (`published.csv` gives the source of each)."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from data import long_tail

TABLE = Path(__file__).with_name("published.csv")
BFL = "BRL with class-balanced loss (BFL)"
# `method` of a configuration -> name in the papers. Shap-Mix is absent, because its figures were
# obtained with its own recipe.
METHODS = {
    "brl": "BRL",
    "released": "BRL",
    "brl-class-balanced": BFL,
    "cross-entropy": "cross entropy",
    "focal": "focal",
    "class-balanced": "class-balanced loss",
    "ldam-drw": "LDAM-DRW",
    "balanced-softmax": "balanced softmax",
    "influence-balanced": "IB loss",
    "class-balanced-sampling": "random over-sampling",
    "mixup": "mixup",
    "remix-drw": "Remix-DRW",
    "max-norm": "balanced softmax + MaxNorm",
    "ride": "RIDE (3 experts)",
    "glmc": "GLMC",
    "bcl": "BCL",
    "paco": "PaCo",
}
FIRST_STAGE = {"max-norm": "balanced-softmax"}  # whose weights a published classifier starts from
BACKBONES = {
    "model.stgcnpp.Model": "ST-GCN++",
    "model.stgcn.Model": "ST-GCN",
    "model.ctrgcn.Model": "CTR-GCN",
    "model.msg3d.Model": "MS-G3D",
    "model.aagcn.Model": "AAGCN",
}
Place = tuple[str, ...]  # (benchmark, imbalance, method, backbone), as the table has them


def rows() -> list[dict[str, str]]:
    """Return the rows of the table, in order."""
    with TABLE.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@cache
def figures() -> dict[Place, dict[str, dict[str, float]]]:
    """Return {place and streams: {source: {metric: accuracy in percent}}}, in the table's order."""
    table: dict[Place, dict[str, dict[str, float]]] = {}
    for row in rows():
        key = ("benchmark", "imbalance", "method", "backbone", "streams")
        sources = table.setdefault(tuple(row[name] for name in key), {})
        sources.setdefault(row["source"], {})[row["metric"]] = float(row["value"])
    return table


def place_of(run: Mapping[str, Any]) -> Place | None:
    """Return the (benchmark, imbalance, method, backbone) of a tested run in the table, or None.

    `run` contains the values of its config.yaml and result.json. Benchmark and imbalance are
    determined by the digest of its training list. A run that departs from the recipe of its method,
    or did not start from the weights of its first stage, gives None. Kinetics-400 is trained
    without a list; its imbalance is "".
    """
    method, benchmark = METHODS.get(str(run.get("method"))), str(run.get("benchmark"))
    if method is None or run.get("departures") != [] or not _started_right(run):
        return None
    path = backbone_of(run)
    backbone = BACKBONES.get(path, path)
    if benchmark == "k400" and run.get("training_list") is None:
        return benchmark, "", method, backbone
    name, _, imbalance = long_tail.PUBLISHED.get(str(run.get("published_list")), "").partition(" ")
    return (benchmark, imbalance, method, backbone) if benchmark == f"{name}-lt" else None


def _started_right(run: Mapping[str, Any]) -> bool:
    """Whether a run began with random weights, or with those of the first stage of its method."""
    first = FIRST_STAGE.get(str(run.get("method")))
    return run.get("started_from_method") == first if first else not run.get("started_from")


def backbone_of(run: Mapping[str, Any]) -> str:
    """Return the import string of a run's backbone; for experts, that of their backbone."""
    return str(run.get("model_args", {}).get("backbone", run.get("model", "")))


def backbone_name(run: Mapping[str, Any]) -> str:
    """Return the name of a run's backbone in the papers, else its module; '' if it is unknown."""
    path = backbone_of(run)
    return BACKBONES.get(path, path.split(".")[-2] if "." in path else path)


def figures_for(runs: Iterable[Mapping[str, Any]], streams: str) -> dict[str, float]:
    """Return the published accuracies in percent, {metric: value}, of the method, list and backbone
    of all `runs`.

    `streams` is the name of a stream, or `2-stream`, `4-stream`, `6-stream`. {} if the runs differ,
    or are not in the table. If the sources of an entry differ in its top-1, that of the first, the
    BRL repository, is shown, and beside it only what belongs to the same top-1.
    """
    places = {place_of(run) for run in runs}
    place = places.pop() if len(places) == 1 else None
    found: dict[str, float] = {}
    for source in figures().get((*place, streams), {}).values() if place else ():
        if found.get("top1") in (None, source.get("top1", found.get("top1"))):
            found = source | found
    return found


def why_none(run: Mapping[str, Any]) -> str | None:
    """Return why a run of a published benchmark has no published figure, or None."""
    if str(run.get("benchmark")) not in {benchmark for benchmark, *_ in figures()}:
        return None
    if place_of(run) is not None or "departures" not in run:
        return None
    if run["departures"]:
        changed = ", ".join(run["departures"])
        return f"departs from the recipe of {run.get('method')} in {changed}: no published figure"
    if run.get("started_from") and not _started_right(run):
        first = FIRST_STAGE.get(str(run.get("method")))
        wanted = f", not from a run by the recipe of {first}" if first else ""
        return f"started from {run['started_from']}{wanted}: no published figure"
    if str(run.get("method")) in METHODS:
        return "not trained on a published list of this benchmark: no published figure"
    return None
