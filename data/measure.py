"""What the numbers of a clip tell: which joints were seen, how large a body is, whether units fit.

Clips are (T, M, V, C): frames, persons, joints, channels. A joint that is zero in all channels was
not seen. Every way in (readers through StoreWriter, data.convert, prediction) has its units checked
here; an InputError begins with `where`, which names the clip.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from errors import InputError

FAR = 5.0  # a body this many times larger or smaller than the usual is reported
IMPOSSIBLE = 20.0  # and in space by this factor is refused: nobody is that large
FACTORS = (1e-3, 1e-2, 0.0254, 0.1, 10, 1 / 0.0254, 1e2, 1e3)  # from another unit to the right one
# Half-widths of an image from its center, beyond which most joints, or a single one, cannot lie.
OUTSIDE, ASTRAY = 2.0, 20.0
NOT_SCALED = 5.0  # the same of poses that are said to be scaled: pixels are far beyond it
MANY = 0.1  # share of the joints outside an image that calls its size into question
BEYOND_ORIGIN = 0.3  # share of them left of or above the image that calls its origin into question
# Positions in pixels of which most joints lie within this are shares of the image instead.
IS_SHARE, SMALLEST_IMAGE = 1.5, 16
MOST_PERSONS = 6  # that any sensor tracks; with more of them than frames, the axes are exchanged


@dataclass(frozen=True)
class Size:
    """Percentiles of the sizes of a data set's bodies, each the median of a clip."""

    low: float  # 5 %
    median: float
    high: float  # 95 %


METERS = Size(0.8, 1.6, 2.0)  # people before a depth sensor, sitting and standing


def seen(joints: np.ndarray, origin: int | None = None) -> np.ndarray:
    """Return which joints (..., V, C) were seen, (..., V) bool.

    In a normalized clip (T, M, V, C) `origin` is the joint whose first place is the origin: of the
    first body it is zero there, though seen. So up to its first frame elsewhere it counts as seen
    wherever another joint of that body is.
    """
    there = joints.any(axis=-1)
    if origin is not None:
        elsewhere = there[:, 0, origin]
        before = slice(elsewhere.argmax() if elsewhere.any() else None)
        there[before, 0, origin] = there[before, 0].any(axis=-1)
    return there


def found(poses: np.ndarray) -> np.ndarray:
    """Return which joints of 2D poses (..., V, 2 or 3) were found, (..., V) bool.

    A joint with a score (third channel) is found if its score is positive, one without if it does
    not lie exactly at zero.
    """
    return poses[..., 2] > 0 if poses.shape[-1] == 3 else seen(poses)


def only_found(poses: np.ndarray, where: str = "clip") -> np.ndarray:
    """Return 2D poses (T, M, V, 2 or 3), zero in all channels where a joint was not found.

    InputError if there are positions but no score is positive.
    """
    there = found(poses)
    if not there.any() and poses.any():
        raise InputError(
            f"{where}: no score (the third channel) is positive, so no joint counts as found; "
            "write 1 where a pose estimator gives no score"
        )
    return np.where(there[..., None], poses, 0)


def size(joints: np.ndarray, there: np.ndarray, planar: bool = False) -> float:
    """Return how large a body is: its largest extent along an axis, the median over all frames.

    `there`, (T, M, V), are the seen joints; `planar`: the third channel, if there is one, is a
    score. NaN if no body has two joints.
    """
    is_body = np.count_nonzero(there, axis=2) > 1  # (T, M)
    bodies, there = joints[is_body], there[is_body]  # (n, V, C), (n, V)
    if not len(bodies):
        return np.nan
    axes = [
        bodies[..., axis].astype(np.float64)
        for axis in range(min(bodies.shape[2], 2 if planar else 3))
    ]  # (n, V)
    extents = [
        np.where(there, axis, -np.inf).max(axis=1) - np.where(there, axis, np.inf).min(axis=1)
        for axis in axes
    ]
    return float(np.median(np.max(extents, axis=0)))


def lowest(joints: np.ndarray, origin: int | None = None) -> float:
    """Return the smallest x or y of all seen joints; inf if there is none."""
    return float(joints[seen(joints, origin)][:, :2].min(initial=np.inf))


def factor(measured: float, usual: float) -> float:
    """Return the change of units that brings a body's size nearest to the usual one."""
    return min(FACTORS, key=lambda f: abs(np.log(f * measured / usual)))


def compare(measured: float, usual: Size, whose: str) -> str:
    """Return how a body of `measured` size departs FAR from the usual ones; '' if it does not.

    `whose` says of which bodies the usual sizes are.
    """
    if not (measured > usual.high * FAR or measured < usual.low / FAR):
        return ""
    sizes = f"a body measures {measured:.4g}, {whose} {usual.low:.3g} to {usual.high:.3g}"
    if measured == 0:
        return f"{sizes}: all joints lie in one point"
    return f"{sizes}; multiplied by {factor(measured, usual.median):.3g} it would fit"


def is_impossible(measured: float, usual: Size) -> bool:
    """Return whether no person can be of `measured` size where others are as usual."""
    return measured > usual.high * IMPOSSIBLE or measured < usual.low / IMPOSSIBLE


def check_axes(joints: np.ndarray, where: str) -> None:
    """Raise InputError if a clip seems to be (M, T, V, C), persons first, as in PYSKL's pickles."""
    frames, persons = joints.shape[:2]
    if persons > max(frames, MOST_PERSONS):
        raise InputError(
            f"{where}: {frames} frames of {persons} persons, shape {joints.shape}; frames come "
            "first: exchange the first two axes, (frames, persons, joints, channels)"
        )


def check_pixels(
    poses: np.ndarray, height: float, width: float, where: str, option: str = "--image-size"
) -> None:
    """Raise InputError if positions (T, M, V, 2 or 3) are not pixels of an image of that size.

    `option` gives the size to whatever reads them.
    """
    signed = poses[seen(poses)][:, :2]  # (n, 2)
    if not len(signed):
        return
    positions = np.abs(signed)
    shown = f"{where}: positions up to {positions.max():.4g}"
    if _are_shares(positions) and max(height, width) >= SMALLEST_IMAGE:
        raise InputError(
            f"{shown} are not pixels of an image of {height:g} x {width:g}; for shares of it, from "
            f"0 to 1, give {option} 1 1; for positions in [-1, 1] none"
        )
    apart = np.abs(positions / (width / 2, height / 2) - 1)  # half-widths from the center
    if np.median(apart.max(axis=1)) > OUTSIDE or apart.max() > ASTRAY:
        raise InputError(
            f"{shown} are not in an image of height {height:g} and width {width:g}; give its size "
            f"in pixels as {option} HEIGHT WIDTH"
        )
    check_corner(poses, where)
    is_out = (positions > (width, height)).any(axis=1)
    if is_out.mean() > MANY and not (positions > (height, width)).any():
        raise InputError(
            f"{where}: {100 * is_out.mean():.0f} % of the joints lie outside an image of height "
            f"{height:g} and width {width:g}, and none outside one of height {width:g} and width "
            f"{height:g}: give the height first; if it is, set the scores of joints outside to 0"
        )


def check_corner(poses: np.ndarray, where: str) -> None:
    """Raise InputError if the origin of positions (T, M, V, 2 or 3) does not look like the corner
    of an image."""
    is_beyond = (poses[seen(poses)][:, :2] < 0).any(axis=1)
    if len(is_beyond) and is_beyond.mean() > BEYOND_ORIGIN:
        raise InputError(
            f"{where}: {100 * is_beyond.mean():.0f} % of the joints have a negative x or y, but "
            "positions count from the image's upper left corner; if theirs is the image's center, "
            "add half of its width and height"
        )


def check_unscaled(poses: np.ndarray, where: str) -> None:
    """Raise InputError if positions (T, M, V, 2 or 3) do not look like pixels."""
    positions = np.abs(poses[seen(poses)][:, :2])
    if len(positions) and _are_shares(positions):
        raise InputError(
            f"{where}: positions up to {positions.max():.4g} look scaled, but pixels are expected"
        )


def _are_shares(positions: np.ndarray) -> bool:
    """Return whether absolute positions (n, 2) are too small for pixels."""
    return bool(np.median(positions.max(axis=1)) <= IS_SHARE)


def check_scaled(
    poses: np.ndarray,
    where: str,
    half_width: float = 1.0,
    remedy: str = "give --image-size HEIGHT WIDTH",
) -> None:
    """Raise InputError if positions (T, M, V, 2 or 3) look like pixels.

    The image's center is the origin, its edges are expected at `half_width`.
    """
    positions = np.abs(poses[seen(poses)][:, :2]) / half_width
    if not len(positions):
        return
    if np.median(positions.max(axis=1)) > NOT_SCALED or positions.max() > ASTRAY:
        raise InputError(
            f"{where}: positions up to {positions.max() * half_width:.4g} look like pixels; "
            f"[-{half_width:g}, {half_width:g}] over the image is expected: {remedy}"
        )
