"""Measurements and unit checks of clips: which joints were seen, how large the bodies are.

Clips are (T, M, V, C): frames, persons, joints, channels. A joint that is zero in all channels is
unseen. The readers (in StoreWriter), data.convert and prediction check their units here; an
InputError begins with `where`, the name of the clip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from errors import InputError

FAR = 5.0  # bodies larger or smaller than usual by this factor are reported
IMPOSSIBLE = 20.0  # 3D bodies larger or smaller than usual by this factor are an error
FACTORS = (1e-3, 1e-2, 0.0254, 0.1, 10, 1 / 0.0254, 1e2, 1e3)  # factors between common units
# Limits on the distance from the image center, in half-widths: for the median joint, for any joint.
OUTSIDE, ASTRAY = 2.0, 20.0
NOT_SCALED = 5.0  # limit for the median joint of scaled poses; pixels are far beyond it
MANY = 0.1  # fraction of joints outside the image above which the image size is checked
BEYOND = 0.3  # fraction of joints beyond an edge of the image: its origin or size is another
MOST_SCORE = 1.5  # limit for the median of the positive scores
# Positions are relative to the image, not pixels, if the median is at most IS_SHARE.
IS_SHARE, SMALLEST_IMAGE = 1.5, 16
FEW_LOST = 3  # joints at exactly -1 in a clip; more mean "not found"
MOST_PERSONS = 6  # that a sensor tracks; more persons than that and than frames: swapped axes


@dataclass(frozen=True)
class Size:
    """Percentiles over the clips of a data set; the size of a clip is the median of its bodies."""

    low: float  # 5 %
    median: float
    high: float  # 95 %


METERS = Size(0.8, 1.6, 2.0)  # people in front of a depth sensor, sitting and standing


def seen(joints: np.ndarray, origin: int | None = None) -> np.ndarray:
    """Return which joints (..., V, C) were seen, (..., V) bool.

    In a normalized clip (T, M, V, C), `origin` is the joint whose first position is the origin. It
    is zero there for the first body, although it was seen; until it first leaves the origin, it
    counts as seen in frames in which another joint of that body is seen.
    """
    there = np.asarray(joints.any(axis=-1))
    if origin is not None:
        elsewhere = there[:, 0, origin]
        before = slice(elsewhere.argmax() if elsewhere.any() else None)
        there[before, 0, origin] = there[before, 0].any(axis=-1)
    return there


def found(poses: np.ndarray) -> np.ndarray:
    """Return which joints of 2D poses (..., V, 2 or 3) were found, (..., V) bool.

    With a score (third channel), a joint is found if the score is positive; without, if its
    position is not exactly zero.
    """
    return poses[..., 2] > 0 if poses.shape[-1] == 3 else seen(poses)


def only_found(poses: np.ndarray, where: str = "clip") -> np.ndarray:
    """Return 2D poses (T, M, V, 2 or 3) with joints that were not found set to zero.

    InputError if there are positions but no positive score, or if scores are not in [0, 1].
    """
    there = found(poses)
    if not there.any() and poses.any():
        raise InputError(
            f"{where}: no score (third channel) is positive, so no joint counts as found; if the "
            "pose estimator has no scores, set them to 1"
        )
    if poses.shape[-1] == 3:
        check_scores(poses, where)
    return np.where(there[..., None], poses, 0)


def check_scores(poses: np.ndarray, where: str) -> None:
    """Raise InputError if the positive scores of poses (T, M, V, 3) are not in [0, 1].

    Peaks of heat maps and of SimCC exceed 1 a little.
    """
    scores = poses[..., 2][poses[..., 2] > 0]
    if len(scores) and np.median(scores) > MOST_SCORE:
        raise InputError(
            f"{where}: scores (third channel) up to {scores.max():.4g}, but they are from 0 to 1: "
            "divide percent by 100; set COCO's visibility, and outputs of a network (RTMW, DWPose) "
            "that exceed 1, to 1"
        )


def size(joints: np.ndarray, there: np.ndarray, planar: bool = False) -> float:
    """Return the body size: the largest extent along an axis, median over frames and bodies.

    `there`, (T, M, V), are the seen joints. `planar`: the poses are 2D, and a third channel is a
    score. NaN if no body has two joints.
    """
    is_body = np.count_nonzero(there, axis=2) > 1  # (T, M)
    bodies, there = joints[is_body], there[is_body]  # (n, V, C), (n, V)
    if not len(bodies):
        return np.nan
    extents = [
        np.where(there, axis, -np.inf).max(axis=1) - np.where(there, axis, np.inf).min(axis=1)
        for axis in np.moveaxis(bodies[..., : 2 if planar else 3].astype(np.float64), -1, 0)
    ]
    return float(np.median(np.max(extents, axis=0)))


def lowest(joints: np.ndarray) -> float:
    """Return the smallest x or y of all seen joints; inf if there is none."""
    return float(joints[seen(joints)][:, :2].min(initial=np.inf))


def compare(measured: float, usual: Size, whose: str) -> str:
    """Return a message if `measured` differs from the usual size by the factor FAR, else ''.

    `whose` names the bodies of usual size.
    """
    if not (measured > usual.high * FAR or measured < usual.low / FAR):
        return ""
    sizes = f"body size is {measured:.4g}; {whose}: {usual.low:.3g} to {usual.high:.3g}"
    if measured == 0:
        return f"{sizes}; all joints are at the same point"
    factor = min(FACTORS, key=lambda factor: abs(np.log(factor * measured / usual.median)))
    return f"{sizes}; multiply the positions by {factor:.3g}"


def check_size(measured: float, usual: Size, planar: bool, where: str) -> str:
    """Return a message if `measured` differs from the size of a network's training clips by the
    factor FAR, else ''; InputError if 3D bodies differ by IMPOSSIBLE."""
    doubt = compare(measured, usual, "those of its training clips")
    is_possible = usual.low / IMPOSSIBLE <= measured <= usual.high * IMPOSSIBLE
    if doubt and not (planar or is_possible):
        raise InputError(f"{where}: {doubt}")
    return doubt


def clip_of(values: Any, where: str) -> np.ndarray:
    """Return an array (T, V, C) or (T, M, V, C) as (T, M, V, C) float32; InputError if it is none.

    float16 is kept, because `normalize.upright` computes in float16 as the released code does.
    """
    try:
        joints = np.asarray(values)
        if joints.dtype.kind not in "fiu":
            raise ValueError
    except ValueError:
        raise InputError(
            f"{where}: not an array of numbers; all frames need the same joints and channels"
        ) from None
    if joints.ndim == 3:
        joints = joints[:, None]
    if joints.ndim != 4:
        raise InputError(
            f"{where}: has shape {joints.shape}; expected (frames, joints, channels) or "
            "(frames, persons, joints, channels)"
        )
    if 0 in joints.shape:
        raise InputError(f"{where}: is empty, shape {joints.shape}")
    frames, persons = joints.shape[:2]
    if persons > max(frames, MOST_PERSONS):  # as in PYSKL's pickles
        raise InputError(
            f"{where}: {frames} frames with {persons} persons, shape {joints.shape}; the axes must "
            "be (frames, persons, joints, channels): swap the first two"
        )
    if joints.dtype == np.float16:
        return joints
    with np.errstate(over="ignore"):
        return joints.astype(np.float32)


def check_finite(joints: np.ndarray, where: str) -> None:
    """Raise InputError if a frame (first axis) has a joint that is NaN or infinite."""
    finite = np.isfinite(joints).all(axis=tuple(range(1, joints.ndim)))
    if not finite.all():
        raise InputError(f"{where}: frame {finite.argmin()} has a joint that is NaN or infinite")


def check_lost(joints: np.ndarray, where: str) -> None:
    """Raise InputError if joints (..., C) are -1 in all channels, as some programs mark those that
    they did not find."""
    lost = np.count_nonzero((joints == -1).all(axis=-1))
    if lost > FEW_LOST:
        raise InputError(
            f"{where}: {lost} joints are at -1 in all channels; write 0 for joints that were not "
            "found"
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
    check_lost(signed, where)
    positions = np.abs(signed)
    shown = f"{where}: positions up to {positions.max():.4g}"
    if _are_shares(positions) and max(height, width) >= SMALLEST_IMAGE:
        raise InputError(
            f"{shown} are not pixels of an image of {height:g} x {width:g}; if they are relative "
            f"to the image (0 to 1), give {option} 1 1; if they are in [-1, 1], omit it"
        )
    distance = np.abs(positions / (width / 2, height / 2) - 1)  # in half-widths from the center
    if np.median(distance.max(axis=1)) > OUTSIDE or distance.max() > ASTRAY:
        raise InputError(
            f"{shown} are outside an image of height {height:g} and width {width:g}; give its size "
            f"in pixels as {option} HEIGHT WIDTH"
        )
    check_corner(poses, where)
    is_out = (positions > (width, height)).any(axis=1)
    share, size = f"{100 * is_out.mean():.0f} %", f"of height {height:g} and width {width:g}"
    if is_out.mean() > MANY and not (positions > (height, width)).any():
        raise InputError(
            f"{where}: {share} of the joints are outside an image {size}, none outside one of "
            f"height {width:g} and width {height:g}: give the height first, or set the scores of "
            "joints outside to 0"
        )
    if is_out.mean() > BEYOND:
        raise InputError(
            f"{where}: {share} of the joints are outside an image {size}; give its size in pixels "
            f"as {option} HEIGHT WIDTH"
        )


def check_corner(poses: np.ndarray, where: str) -> None:
    """Raise InputError if the origin of positions (T, M, V, 2 or 3) does not look like the corner
    of an image."""
    is_beyond = (poses[seen(poses)][:, :2] < 0).any(axis=1)
    if len(is_beyond) and is_beyond.mean() > BEYOND:
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
            f"{where}: positions up to {positions.max():.4g} look scaled; pixels are expected"
        )


def _are_shares(positions: np.ndarray) -> bool:
    """Return whether absolute positions (n, 2) are too small for pixels."""
    return bool(np.median(positions.max(axis=1)) <= IS_SHARE)


def check_scaled(
    poses: np.ndarray,
    where: str,
    half_width: float = 1.0,
    fix: str = "give --image-size HEIGHT WIDTH",
) -> None:
    """Raise InputError if positions (T, M, V, 2 or 3) look like pixels.

    They must be scaled so that the image is [-half_width, half_width]; the error ends with `fix`.
    """
    positions = np.abs(poses[seen(poses)][:, :2]) / half_width
    if not len(positions):
        return
    if np.median(positions.max(axis=1)) > NOT_SCALED or positions.max() > ASTRAY:
        raise InputError(
            f"{where}: positions up to {positions.max() * half_width:.4g} look like pixels; "
            f"[-{half_width:g}, {half_width:g}] over the image is expected: {fix}"
        )
