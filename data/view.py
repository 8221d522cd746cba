"""A clip as a viewer sees it: right, up and depth, for every picture of skeletons."""

from __future__ import annotations

import numpy as np

from data import measure
from graph import Skeleton


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
    of the shoulders, -z for a normalized NTU skeleton. Two persons are seen side by side.
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
    if clip.shape[1] > 1 and there[:, 1].any():
        apart = np.abs(clip[:, 0][there[:, 0]].mean(0) - clip[:, 1][there[:, 1]].mean(0))
        right, depth = sorted((right, depth), key=lambda axis: -apart[axis])
    matrix = np.zeros((3, 3))
    matrix[[0, 1, 2], [right, up, depth]] = 1, np.sign(offset[up]) or 1, 1
    matrix[0] *= -np.linalg.det(matrix)  # not mirrored: right x up points to the viewer
    return matrix
