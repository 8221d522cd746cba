"""Write a report as one HTML file, with arrays as base64 in JSON and all page files inlined."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import files
from engine.run import LAST
from longtail import shots
from longtail.shots import METRICS
from tools import published
from tools.report.gather import Entry, Report, Run

FOLDER = Path(__file__).parent / "page"
STYLE_SHEET = (FOLDER / "style.css").read_text(encoding="utf-8")
SCRIPTS = (
    "base", "summary", "curves", "classes", "confusion", "calibration", "clips", "configuration",
    "main",
)  # fmt: skip
FIGURES = (*METRICS, "top5")
TITLES = {
    "top1": "Top-1", "mean_class": "Mean class", "many": "Many", "medium": "Medium", "few": "Few",
    "top5": "Top-5", "macro_f1": "Macro F1", "ece": "ECE", "loss": "Training loss",
}  # fmt: skip
CURVES = ("loss", *METRICS)


def render(data: dict[str, Any]) -> str:
    """Return the page: body.html with styles, scripts and data inlined."""
    # "</script>" or "<!--" in a class name must not end the element that contains the data.
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    scripts = "\n".join((FOLDER / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    title = html.escape(data["title"])
    body = (FOLDER / "body.html").read_text(encoding="utf-8")
    body = body.replace("{{ title }}", title, 1).replace("{{ data }}", text, 1)
    script = f"(() => {{\n'use strict';\n{scripts}\n}})();"
    return files.page(title, STYLE_SHEET, body, script)


def encode(
    report: Report, class_names: list[str], clips: list[dict[str, Any]],
    edges: Iterable[tuple[int, int]],
) -> dict[str, Any]:  # fmt: skip
    """Return the content of the page as a JSON-serializable dictionary.

    Per sample and entry, only the predicted class is stored.
    """
    labels = {  # by sample name
        name: label
        for entry in report.entries
        for name, label in zip(entry.scores.names.tolist(), entry.scores.labels)
    }
    names = list(labels)
    places = (published.place_of(run.facts) for run in report.runs)
    lists = {place[:2] for place in places if place}  # (benchmark, imbalance)
    return {
        "title": report.title,
        "figures": {key: TITLES[key] for key in FIGURES},
        "curves": {key: TITLES[key] for key in CURVES},
        "classes": class_names,
        "counts": None if report.class_counts is None else report.class_counts.tolist(),
        "head_to_tail": report.head_to_tail.tolist(),
        "shots": list(report.shots),
        "shot": report.shot_of_class,
        "lead": report.entries.index(report.lead) if report.entries else None,
        "names": "\n".join(names),
        "labels": pack(np.array(list(labels.values()), np.uint16)),
        "runs": [encode_run(run) for run in report.runs],
        "entries": [encode_entry(entry, names, report) for entry in report.entries],
        "clips": clips,
        "edges": list(edges),
        "published": [
            {**row, "value": float(row["value"])}
            for row in published.rows()
            if (row["benchmark"], row["imbalance"]) in lists
        ],
        "backbone": published.backbone_name(
            next((run.config for run in report.runs if run.config), {})
        ),
        "sentences": report.sentences,
        "notes": report.notes,
    }


def encode_run(run: Run) -> dict[str, Any]:
    keys = (*CURVES, "epoch", "stage", "seconds")
    result, last = run.result, run.folder.result(LAST) or {}
    return {
        "name": run.name,
        "group": run.group,
        "stream": run.stream,
        "path": run.path.as_posix(),
        "config": run.config,
        "yaml": yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True),
        "epochs": {key: [number(epoch.get(key)) for epoch in run.epochs] for key in keys},
        "published_list": result.get("published_list"),
        "held_out": run.facts.get("val_split"),
        "origin": origin(run),
        "top1_last": last.get("top1"),
        "top1_clean": result.get("top1_clean"),
        "has_copies": result.get("samples_clean") not in (None, 0, result.get("samples")),
    }


def origin(run: Run) -> dict[str, str]:
    """Return where a run comes from, {what: text}; without what it does not know."""
    result, seconds = run.result, sum(epoch.get("seconds") or 0 for epoch in run.epochs)
    made = result.get("made_with") or {}
    facts = {
        "Method": run.config.get("method"),
        "Seed": run.facts.get("seed"),
        "Trained on": made.get("date"),
        "Training time": f"{seconds / 60:.1f} min" if seconds else None,
        "Device": made.get("device"),
        "CPU threads": made.get("threads"),
        "torch": made.get("torch"),
        "Code (digest)": result.get("code"),
        "Training list (sha256)": (result.get("list_digest") or "")[:16],
    }
    return {what: str(value) for what, value in facts.items() if value not in (None, "")}


def encode_entry(entry: Entry, names: list[str], report: Report) -> dict[str, Any]:
    index = {name: i for i, name in enumerate(names)}
    predicted = np.full(len(names), 0xFFFF, np.uint16)  # of samples without scores
    predicted[[index[name] for name in entry.scores.names.tolist()]] = entry.scores.scores.argmax(1)
    return {
        "name": entry.name,
        "weights": entry.weights,
        "run": report.runs.index(entry.runs[0]) if len(entry.runs) == 1 else None,
        "figures": {key: entry.figures[key] for key in FIGURES},
        "published": entry.published,
        "calibration": calibration(entry, report.shot_of_class),
        "predicted": pack(predicted),
    }


def calibration(entry: Entry, shot_of: Sequence[str | None]) -> dict[str, Any]:
    """Return ece (percent) and nll, and the bins (n, probability, accuracy) that have samples: of
    all of them, and of those whose class is in each group."""
    probabilities, labels = entry.scores.scores, entry.scores.labels
    groups = np.array(shot_of)[labels]
    bins = {"all": shots.reliability(probabilities, labels)}
    for group in shots.GROUPS:
        if (rows := groups == group).any():
            bins[group] = shots.reliability(probabilities[rows], labels[rows])
    found = shots.probability_metrics(probabilities, labels)
    return {
        "ece": number(found["ece"]),
        "nll": number(found["nll"]),
        "bins": {
            group: [[int(n), round(p, 4), round(a, 4)] for n, p, a in each.tolist() if n]
            for group, each in bins.items()
        },
    }


def pack(array: np.ndarray) -> dict[str, Any]:
    """Return an array as base64-encoded little-endian bytes, with dtype and shape."""
    small = array.astype(array.dtype.newbyteorder("<"))
    data = base64.b64encode(small.tobytes()).decode("ascii")
    return {"dtype": array.dtype.name, "shape": array.shape, "data": data}


def number(value: Any) -> float | None:
    """Return a number rounded to five digits; None if not finite, because JSON has no NaN."""
    return None if value is None or not np.isfinite(value) else float(f"{value:.5g}")
