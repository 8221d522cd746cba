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


def rows() -> list[dict[str, str]]:
    """Return the rows of the table, in order."""
    with TABLE.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@cache
def figures() -> dict[tuple[str, ...], tuple[float, float | None]]:
    """Return (benchmark, imbalance, streams, method, backbone, metric) -> (figure, the top-1 of the
    same source).

    If two sources differ, the first in the table, the BRL repository, is used.
    """
    table: dict[tuple[str, ...], tuple[float, float | None]] = {}
    names = ("benchmark", "imbalance", "streams", "method", "backbone")
    top1 = {
        (row["source"], *(row[name] for name in names)): float(row["value"])
        for row in rows() if row["metric"] == "top1"
    }  # fmt: skip
    for row in rows():
        key = tuple(row[name] for name in names)
        of_source = top1.get((row["source"], *key))
        table.setdefault((*key, row["metric"]), (float(row["value"]), of_source))
    return table


def lookup(
    benchmark: str,
    imbalance: int | None,
    streams: str,
    method: str = "BRL",
    backbone: str = "ST-GCN++",
    metric: str = "top1",
    of_one_source: bool = False,
) -> float | None:
    """Return a published accuracy in percent, or None.

    With `of_one_source` it must belong to the run whose top-1 is shown: the sources of both may
    differ in the top-1 of the same entry. `streams` is the name of a stream, or `2-stream`,
    `4-stream`, `6-stream`; `method` a name from a paper or of a file in config/methods; `backbone`
    a name from a paper or an import string, "" for tables that do not give it; `metric` top1, many,
    medium or few. k400 has no imbalance.
    """
    factor = "" if imbalance is None or benchmark == "k400" else str(imbalance)
    method, backbone = METHODS.get(method, method), BACKBONES.get(backbone, backbone)
    table, key = figures(), (benchmark, factor, streams, method, backbone)
    figure, of_source = table.get((*key, metric), (None, None))
    shown, _ = table.get((*key, "top1"), (of_source, None))
    differs = None not in (of_source, shown) and of_source != shown
    return None if of_one_source and differs else figure


def place_of(run: Mapping[str, Any]) -> tuple[str, int | None, str, str] | None:
    """Return the (benchmark, imbalance, method, backbone) of a tested run in the table, or None.

    `run` contains the values of its config.yaml and result.json. Benchmark and imbalance are
    determined by the digest of its training list. A run that departs from the recipe of its method,
    or did not start from the weights of its first stage, gives None. Kinetics-400 is trained
    without a list.
    """
    method, benchmark = METHODS.get(str(run.get("method"))), str(run.get("benchmark"))
    if method is None or run.get("departures") != [] or not _started_right(run):
        return None
    if benchmark == "k400" and run.get("training_list") is None:
        return benchmark, None, method, backbone_of(run)
    name, _, imbalance = long_tail.PUBLISHED.get(str(run.get("published_list")), "").partition(" ")
    if not name or benchmark != f"{name}-lt":
        return None
    return benchmark, int(imbalance), method, backbone_of(run)


def _started_right(run: Mapping[str, Any]) -> bool:
    """Whether a run began with random weights, or with those of the first stage of its method."""
    first = FIRST_STAGE.get(str(run.get("method")))
    if first is None:
        return not run.get("started_from")
    return run.get("started_from_method") == first


def backbone_of(run: Mapping[str, Any]) -> str:
    """Return the import string of a run's backbone; for experts, that of their backbone."""
    return str(run.get("model_args", {}).get("backbone", run.get("model", "")))


def backbone_name(run: Mapping[str, Any]) -> str:
    """Return the name of a run's backbone in the papers, else its module; '' if it is unknown."""
    path = backbone_of(run)
    return BACKBONES.get(path, path.split(".")[-2] if "." in path else path)


def figure_for(
    runs: Iterable[Mapping[str, Any]], streams: str, metric: str = "top1"
) -> float | None:
    """Return the published figure for `streams` with the method, list and backbone of all `runs`.

    None if these differ between the runs, or are not in the table.
    """
    places = {place_of(run) for run in runs}
    place = places.pop() if len(places) == 1 else None
    if place is None:
        return None
    benchmark, imbalance, method, backbone = place
    return lookup(benchmark, imbalance, streams, method, backbone, metric, of_one_source=True)


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
