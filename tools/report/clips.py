"""The hardest test clips of a report, as coordinates that a canvas can draw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import graph
from data.store import Store
from ensemble import Scores
from graph import Skeleton
from tools.report.gather import Entry

FRAMES = 96  # drawn of a clip at most: 3 s of the sensor's 30 frames a second, finer than needed


@dataclass
class Clip:
    """A sample to draw; absent joints are NaN."""

    sample: int  # row of Scores
    coordinates: np.ndarray  # (T, M, V, 3): right, up and depth in [-1, 1]
    seconds: float


def hardest(scores: Scores, number: int) -> np.ndarray:
    """Return the rows (at most `number`) whose true class got the least probability.

    One row of each class at most, so that a hopeless class does not fill the page; correctly
    recognised samples are left out.
    """
    true = scores.scores[np.arange(len(scores.labels)), scores.labels]
    order = np.argsort(true, kind="stable")
    order = order[scores.scores[order].argmax(1) != scores.labels[order]]
    _, first = np.unique(scores.labels[order], return_index=True)
    return order[np.sort(first)][:number]


def draw(entry: Entry, store: Store, number: int = 12) -> list[Clip]:
    """Return the hardest clips of an entry with their coordinates from the store."""
    rows = hardest(entry.scores, number)
    skeleton = graph.load(store.layout)
    clips = [store.clip(row) for row in store.rows_of(entry.scores.names[rows])]
    axes = view(clips, skeleton)
    return [
        Clip(int(row), fit(project(clip, axes)), len(clip) / store.meta.get("fps", 30))
        for row, clip in zip(rows, clips)
    ]


def view(clips: list[np.ndarray], skeleton: Skeleton) -> tuple[int, int, int, int]:
    """Return the axes (right, up, depth) and the sign of up, whatever the data set's convention.

    Up is the axis along which the upper body lies farthest from the lower body, on average; a
    normalised NTU skeleton stands along z, Kinect's own frame along y, an image's y points down.
    """
    upper = np.isin(np.arange(skeleton.num_joints), skeleton.upper)
    dimensions = 2 if skeleton.confidence else clips[0].shape[-1]
    offset = np.zeros(dimensions)
    for clip in clips:
        body = clip[:, 0, :, :dimensions]  # (T, V, C) of the first person
        offset += body[:, upper].mean((0, 1)) - body[:, ~upper].mean((0, 1))
    up = int(np.abs(offset).argmax())
    right, depth = [axis for axis in (0, 1, 2) if axis != up]
    return right, up, depth if dimensions == 3 else -1, int(np.sign(offset[up]) or 1)


def project(clip: np.ndarray, axes: tuple[int, int, int, int]) -> np.ndarray:
    """Return (T, M, V, 3): right, up, depth, of at most FRAMES frames; absent joints are NaN."""
    right, up, depth, sign = axes
    clip = clip[np.linspace(0, len(clip) - 1, min(len(clip), FRAMES)).round().astype(int)]
    third = clip[..., depth] if depth >= 0 else np.zeros_like(clip[..., 0])
    points = np.stack([clip[..., right], sign * clip[..., up], third], -1).astype(np.float64)
    points[(clip == 0).all(-1)] = np.nan
    return points


def fit(points: np.ndarray) -> np.ndarray:
    """Centre and scale into [-1, 1]; one scale for all axes, so that proportions stay."""
    flat = points.reshape(-1, 3)
    low, high = np.nanpercentile(flat, 1, axis=0), np.nanpercentile(flat, 99, axis=0)
    half = max((high - low).max() / 2, 1e-6) * 1.08
    return np.clip((points - (low + high) / 2) / half, -1, 1)
