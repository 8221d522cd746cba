"""The hardest test clips of a report, as coordinates for a canvas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import graph
from data import measure
from data.store import Store
from engine.fusion import Scores
from graph import Skeleton
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
    for row, at in zip(rows, store.rows_of(entry.scores.names[rows])):
        clip = store.clip(at)
        shown = np.linspace(0, len(clip) - 1, min(len(clip), FRAMES)).round().astype(int)
        points = pose(clip[shown], skeleton, store.reading.origin)
        drawn.append(Clip(int(row), points, len(clip) / fps))
    return drawn


def pose(clip: np.ndarray, skeleton: Skeleton, origin: int | None = None) -> np.ndarray:
    """Return a clip (T, M, V, C) as right, up and depth in [-1, 1], (T, M, V, 3); NaN if unseen.

    `origin` is the joint at the origin, which is zero although it is seen; or None.
    """
    points = clip @ view(clip, skeleton, origin).T.astype(np.float64)
    points[~measure.seen(clip, origin)] = np.nan
    flat = points.reshape(-1, 3)
    low, high = np.nanpercentile(flat, 1, axis=0), np.nanpercentile(flat, 99, axis=0)
    half = max((high - low).max() / 2, 1e-6) * 1.08  # one scale for all axes keeps proportions
    return np.clip((points - (low + high) / 2) / half, -1, 1)


def view(clip: np.ndarray, skeleton: Skeleton, origin: int | None = None) -> np.ndarray:
    """Return the matrix (3, C) from the coordinates of a clip to right, up and depth.

    In 2D, y points down. In 3D, up is the direction in which the upper body is farthest from the
    lower body, because conventions differ: it is y for Kinect, and z or, depending on the rotation
    of the shoulders, -z for a normalized NTU skeleton.
    """
    C = clip.shape[-1]
    if skeleton.confidence or C == 2:
        return np.diag([1, -1, 0])[:, :C]
    upper = np.isin(np.arange(skeleton.num_joints), skeleton.upper)
    there = measure.seen(clip, origin)
    halves = [clip[there & half] for half in (upper, ~upper)]  # each (n, C)
    offset = np.subtract(*(half.mean(0) if len(half) else np.zeros(C) for half in halves))
    up = int(np.abs(offset).argmax())
    right, depth = (axis for axis in range(3) if axis != up)
    matrix = np.zeros((3, 3))
    matrix[[0, 1, 2], [right, up, depth]] = 1, np.sign(offset[up]) or 1, 1
    matrix[0] *= -np.linalg.det(matrix)  # not mirrored: right x up points to the viewer
    return matrix
