"""The hardest test clips of a report, as coordinates for a canvas."""

from __future__ import annotations

from typing import Any

import numpy as np

import graph
from data.store import Store
from data.view import pose
from engine.fusion import Scores
from tools.report.gather import Report
from tools.report.page import pack

FRAMES = 96  # maximum number of drawn frames per clip; 3 s at the sensor's 30 frames per second
ABSENT, SCALE = -32768, 32000  # an unseen joint, and what 1 is; as in page/clips.js


def hardest(scores: Scores, number: int) -> np.ndarray:
    """Return the misclassified rows with the lowest probability of the true class.

    At most `number` rows, and one per class, so that a difficult class does not fill the page.
    """
    true = scores.scores[np.arange(len(scores.labels)), scores.labels]
    order = np.argsort(true, kind="stable")
    order = order[scores.scores[order].argmax(1) != scores.labels[order]]
    _, first = np.unique(scores.labels[order], return_index=True)
    return order[np.sort(first)][:number]


def draw(report: Report, store: Store, number: int) -> list[dict[str, Any]]:
    """Return the hardest clips of the entry shown first, as the page has them: coordinates
    (T, M, V, 3) from the store, right, up and depth, and what each entry predicts."""
    scores = report.lead.scores
    rows = hardest(scores, number)
    skeleton, fps = graph.load(store.layout), store.meta.get("fps", 30)
    drawn = []
    for row, at in zip(rows, store.rows_of(scores.names[rows].tolist(), "scores.npz")):
        clip, name = store.clip(at), str(scores.names[row])
        shown = np.linspace(0, len(clip) - 1, min(len(clip), FRAMES)).round().astype(int)
        points = pose(clip[shown], skeleton, store.reading.origin)  # from -1 to 1
        absent = np.isnan(points).any(-1, keepdims=True)
        points = np.where(absent, ABSENT, np.nan_to_num(points) * SCALE).astype(np.int16)
        drawn.append(
            {
                "name": name,
                "label": int(scores.labels[row]),
                "seconds": round(len(clip) / fps, 2),
                "points": pack(points),
                "predictions": [top_classes(entry.scores, name) for entry in report.entries],
            }
        )
    return drawn


def top_classes(scores: Scores, name: str) -> list[list[float]] | None:
    """Return the three most probable classes of a sample, [class, percent]; None without scores."""
    row = np.flatnonzero(scores.names == name)
    if not len(row):
        return None
    values = scores.scores[row[0]]
    best = np.argsort(-values, kind="stable")[:3]
    return [[int(k), round(float(100 * values[k]), 1)] for k in best]
