"""The hardest test clips of a report, as coordinates for a canvas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import graph
from data.store import Store
from data.view import pose
from engine.fusion import Scores
from tools.report.gather import Entry

FRAMES = 96  # maximum number of drawn frames per clip; 3 s at the sensor's 30 frames per second


@dataclass
class Clip:
    """A sample to draw; unseen joints are NaN."""

    sample: int  # row in Scores
    coordinates: np.ndarray  # (T, M, V, 3): right, up and depth in [-1, 1]
    seconds: float


def hardest(scores: Scores, number: int) -> np.ndarray:
    """Return the misclassified rows with the lowest probability of the true class.

    At most `number` rows, and one per class, so that a difficult class does not fill the page.
    """
    true = scores.scores[np.arange(len(scores.labels)), scores.labels]
    order = np.argsort(true, kind="stable")
    order = order[scores.scores[order].argmax(1) != scores.labels[order]]
    _, first = np.unique(scores.labels[order], return_index=True)
    return order[np.sort(first)][:number]


def draw(entry: Entry, store: Store, number: int = 12) -> list[Clip]:
    """Return the hardest clips of an entry with their coordinates from the store."""
    rows = hardest(entry.scores, number)
    skeleton, fps = graph.load(store.layout), store.meta.get("fps", 30)
    drawn = []
    for row, at in zip(rows, store.rows_of(entry.scores.names[rows].tolist(), "scores.npz")):
        clip = store.clip(at)
        shown = np.linspace(0, len(clip) - 1, min(len(clip), FRAMES)).round().astype(int)
        points = pose(clip[shown], skeleton, store.reading.origin)
        drawn.append(Clip(int(row), points, len(clip) / fps))
    return drawn
