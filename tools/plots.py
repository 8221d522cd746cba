"""The charts of the report for papers, as PNG and vector PDF, by matplotlib."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from tools.report.gather import Entry, Report

# Okabe and Ito's palette, which is safe for color-blind readers.
SHOTS = {"many": "#0072b2", "medium": "#009e73", "few": "#d55e00"}
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#3fa0d8", "#6a6f78")
CURVES = {
    "loss": "training loss", "top1": "top-1", "mean_class": "mean class",
    "many": "many-shot", "medium": "medium-shot", "few": "few-shot",
}  # fmt: skip
STYLE: Any = {
    "font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6,
    "legend.frameon": False, "lines.linewidth": 1.2, "pdf.fonttype": 42, "savefig.dpi": 300,
}  # fmt: skip


def save_all(report: Report, class_names: list[str], folder: Path) -> Iterator[Path]:
    """Write all charts for which the report has data; yield the files."""
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        if any(run.epochs for run in report.runs):
            yield from save(curves(report), folder / "curves")
        if report.entries:
            yield from save(classes(report, report.lead, class_names), folder / "classes")
            yield from save(confusion(report, report.lead, class_names), folder / "confusion")
        if report.entries and report.class_counts is not None:
            yield from save(shot_bars(report), folder / "shots")


def save(figure: Figure, path: Path) -> Iterator[Path]:
    """Write path.png and path.pdf, reproducibly; yield both paths."""
    for suffix, metadata in ((".png", None), (".pdf", {"CreationDate": None})):
        file = path.with_name(path.name + suffix)
        figure.savefig(file, bbox_inches="tight", metadata=metadata)
        yield file


def curves(report: Report) -> Figure:
    """Loss and accuracies by epoch, one line per run."""
    runs = [run for run in report.runs if run.epochs]
    keys = [k for k in CURVES if any(e.get(k) is not None for run in runs for e in run.epochs)]
    rows = math.ceil(len(keys) / 3)
    figure = Figure(figsize=(7, 1.9 * rows), layout="constrained")
    for place, key in enumerate(keys, 1):
        axes = figure.add_subplot(rows, 3, place, title=CURVES[key])
        for i, run in enumerate(runs):
            values = [np.nan if e.get(key) is None else e[key] for e in run.epochs]
            color, dash = LINES[i % 7], ("-", "--", ":")[i // 7 % 3]
            epochs = [e["epoch"] for e in run.epochs]
            axes.plot(epochs, values, dash, color=color, label=run.name)
        axes.set(xlabel="epoch", ylim=(0, None if key == "loss" else 100))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return figure


def classes(report: Report, entry: Entry, class_names: list[str]) -> Figure:
    """Accuracy of each class from head to tail, and below it the training counts as numbers."""
    order, counted = report.head_to_tail, report.class_counts
    K, place = len(order), np.arange(len(order))
    accuracy = np.array([entry.figures["per_class"][k] for k in order], float)
    groups = np.array(report.shot_of_class)[order]
    colors = [SHOTS.get(group, LINES[-1]) for group in groups]
    size = min(8.0, 320 / K)  # points of a letter, so that upright texts do not touch
    readable = size >= 4
    heights = (5,) if counted is None else (5, 1)
    figure = Figure(figsize=(7, 2.6 if counted is None else 3.1), layout="constrained")
    rows = figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)
    axes, below = rows[0, 0], rows[-1, 0]
    axes.bar(place, accuracy, color=colors)
    axes.set(ylabel="accuracy (%)", ylim=(0, 104), xlim=(-0.7, K - 0.3))
    for group, color in SHOTS.items():
        inside = np.flatnonzero(groups == group)
        if len(inside) and (mean := entry.figures[group]) is not None:
            axes.hlines(mean, inside[0] - 0.4, inside[-1] + 0.4, "black", "dashed", linewidth=0.8)
            axes.text(inside.mean(), 106, f"{group} {mean:.1f}", ha="center", color=color)
    if counted is not None:
        counts = counted[order]
        below.bar(place, counts, color=colors, alpha=0.45)
        below.set(ylabel="clips", yticks=[], ylim=(0, 1.9 * counts.max()))
        for at, n in zip(place, counts) if readable else ():
            below.text(at, n + 0.08 * counts.max(), n, ha="center", va="bottom", fontsize=size,
                       rotation=90 if K > 30 else 0)  # fmt: skip
    if readable:
        below.set_xticks(place, [class_names[k] for k in order], rotation=90, fontsize=size)
    else:
        below.set_xlabel("class" if counted is None else "class, by training count")
    return figure


def confusion(report: Report, entry: Entry, class_names: list[str]) -> Figure:
    """Confusion matrix, true class by predicted class, rows sum to 100 %, from head to tail."""
    order = report.head_to_tail
    K = len(order)
    counts = np.zeros((K, K))
    np.add.at(counts, (entry.scores.labels, entry.scores.scores.argmax(1)), 1)
    share = (counts / np.maximum(counts.sum(1, keepdims=True), 1))[np.ix_(order, order)]
    side = max(3.3, min(7.0, 1.6 + 0.11 * K))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(100 * share, cmap="Blues", norm=matplotlib.colors.PowerNorm(0.5, 0, 100))
    axes.set(xlabel="predicted class", ylabel="true class")
    if K <= 64:
        names, size = [class_names[k] for k in order], max(3.5, 8 - K / 12)
        axes.set_xticks(range(K), names, rotation=90, fontsize=size)
        axes.set_yticks(range(K), names, fontsize=size)
    groups = np.array(report.shot_of_class)[order]
    for edge in np.flatnonzero(groups[1:] != groups[:-1]) + 0.5:
        axes.axhline(edge, color="gray", linewidth=0.5)
        axes.axvline(edge, color="gray", linewidth=0.5)
    figure.colorbar(image, shrink=0.6, label="fraction of the true class (%)")
    return figure


def shot_bars(report: Report) -> Figure:
    """Many-, medium- and few-shot accuracy of each entry."""
    figure = Figure(figsize=(max(3.3, 0.75 * len(report.entries)), 2.4), layout="constrained")
    axes = figure.subplots()
    place = np.arange(len(report.entries))
    shown = [g for g in SHOTS if any(e.figures[g] is not None for e in report.entries)]
    for i, group in enumerate(shown):
        heights = [np.nan if e.figures[group] is None else e.figures[group] for e in report.entries]
        offset = (i - (len(shown) - 1) / 2) * 0.27
        bars = axes.bar(place + offset, heights, 0.25, label=group, color=SHOTS[group])
        axes.bar_label(bars, fmt="%.0f", fontsize=5.5)
    axes.set_xticks(place, [e.name for e in report.entries], rotation=30, ha="right")
    axes.set(ylabel="accuracy (%)", ylim=(0, 105))
    figure.legend(loc="outside upper center", ncols=3)
    return figure
