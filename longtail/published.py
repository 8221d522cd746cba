"""The published figures beside which a run is shown (`published.csv`: each with its source)."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("published.csv")
METHOD_FILES = Path(__file__).resolve().parents[1] / "config" / "methods"
BFL = "BRL with class-balanced loss (BFL)"
# The name a paper gives to what config/methods/<key>.yaml does.
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
    "shap-mix": "Shap-Mix",
    "shap-mix-recipe": "Shap-Mix",
    "max-norm": "balanced softmax + MaxNorm",
    "ride": "RIDE (3 experts)",
}
BACKBONES = {
    "model.stgcnpp.Model": "ST-GCN++",
    "model.stgcn.Model": "ST-GCN",
    "model.ctrgcn.Model": "CTR-GCN",
    "model.msg3d.Model": "MS-G3D",
    "model.aagcn.Model": "AAGCN",
}


@cache
def figures() -> dict[tuple[str, ...], float]:
    """Return (benchmark, imbalance, streams, method, backbone, metric) -> figure.

    Where two sources differ, the one that stands first in the table, the BRL repository's, is it.
    """
    table: dict[tuple[str, ...], float] = {}
    with TABLE.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            names = ("benchmark", "imbalance", "streams", "method", "backbone", "metric")
            table.setdefault(tuple(row[name] for name in names), float(row["value"]))
    return table


def lookup(
    benchmark: str,
    imbalance: int | None,
    streams: str,
    method: str = "BRL",
    backbone: str = "ST-GCN++",
    metric: str = "top1",
) -> float | None:
    """Return a published accuracy in percent, or None.

    streams is a stream's name or `2-stream`, `4-stream`, `6-stream`; method a paper's name or that
    of a file in config/methods; backbone a paper's name or an import string; metric top1, many,
    medium or few. k400 has no imbalance.
    """
    factor = "" if imbalance is None or benchmark == "k400" else str(imbalance)
    method, backbone = METHODS.get(method, method), BACKBONES.get(backbone, backbone)
    table = figures()
    for known in (backbone, ""):  # some tables name no backbone
        if (figure := table.get((benchmark, factor, streams, method, known, metric))) is not None:
            return figure
    return None


def method_of(run: Mapping[str, Any]) -> str | None:
    """Return the published name of the method that a run's configuration asks for, or None."""
    if str(run.get("sampling", "")).startswith("longtail.brl.") and str(
        run.get("mixing", "")
    ).startswith("longtail.brl."):
        weights = str(run.get("class_weights"))
        return {"ActionAwareWeights": "BRL", "EffectiveNumber": BFL}.get(weights.split(".")[-1])
    tag = str(run.get("tag", ""))
    known = METHODS.keys() | {path.stem for path in METHOD_FILES.glob("*.yaml")}
    named = [key for key in known if tag == key or tag.startswith(f"{key}-")]
    return METHODS.get(max(named, key=len)) if named else None


def backbone_of(run: Mapping[str, Any]) -> str:
    """Return the import string of a run's backbone: of experts, the network they are copies of."""
    return str(run.get("model_args", {}).get("backbone", run.get("model", "")))


def of_run(run: Mapping[str, Any], streams: str, metric: str = "top1") -> float | None:
    """Return what was published for a run's own benchmark, list, method and backbone, or None.

    run holds the values of its config.yaml; a run on a whole training split has nothing beside it.
    """
    method, benchmark = method_of(run), str(run.get("benchmark", ""))
    if method is None or (run.get("training_list") is None and benchmark != "k400"):
        return None
    return lookup(benchmark, run.get("imbalance"), streams, method, backbone_of(run), metric)
