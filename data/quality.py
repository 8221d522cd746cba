"""What a data set's clips are like: sizes of bodies, unseen joints, frozen and duplicate clips."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import graph
from data import measure, normalize
from data.measure import Size

KINECT = ("ntu_rgb_d", "nw_ucla")  # layouts of people before a depth sensor, in meters
NAMED = 3  # clips that a line names


@dataclass(frozen=True)
class Reading:
    """How the numbers of a data set's normalized clips are to be read."""

    layout: str  # its name
    planar: bool  # x, y and perhaps a score, not a place in space
    normalization: str | None
    origin: int | None  # joint of the first body whose first place is the origin, if one's is

    @classmethod
    def of(
        cls, layout: str | Path, shape: tuple[int, int, int], meta: Mapping[str, Any]
    ) -> Reading:
        """Return how clips of `shape` (M, V, C) of a layout are read; `meta` as in meta.json."""
        skeleton, (_, num_joints, channels) = graph.load(layout), shape
        normalization = normalize.name_in(meta)
        return cls(
            skeleton.name,
            skeleton.confidence or channels == 2,
            normalization,
            normalize.origin(normalization, num_joints, meta.get("centre")),
        )

    @property
    def half_width(self) -> float | None:
        """Half of the image's width in the clips' unit, if they are scaled by it."""
        return normalize.HALF_WIDTHS.get(self.normalization)


@dataclass(frozen=True, slots=True)
class Figures:
    """What is measured of one clip."""

    name: str
    size: float  # of a body, see measure.size; NaN if no body has two joints
    unseen: int  # joints of the bodies that are there, over all frames
    joints: int  # all joints of these bodies
    low: float  # the smallest x or y of 2D poses
    is_frozen: bool  # all of its frames, more than one, are equal
    digest: bytes  # equal for clips that are equal bit for bit


def figures(name: str, joints: np.ndarray, reading: Reading) -> Figures:
    """Measure a normalized clip (T, M, V, C)."""
    there = measure.seen(joints, reading.origin)
    bodies = there[there.any(axis=-1)]  # (n, V)
    joints = np.ascontiguousarray(joints)
    return Figures(
        name,
        measure.size(joints, there, reading.planar),
        unseen=int((~bodies).sum()),
        joints=bodies.size,
        low=measure.lowest(joints) if reading.planar else 0.0,
        is_frozen=len(joints) > 1 and bool((joints[1:] == joints[0]).all()),
        digest=hashlib.blake2b(joints.data, digest_size=16).digest(),
    )


@dataclass(frozen=True)
class Quality:
    """What is reported of a data set's clips."""

    size: Size | None  # None if no body has two joints
    unseen: float  # share of the joints of all bodies, 0 to 1
    far: tuple[
        str, ...
    ]  # clips whose bodies are measure.FAR times larger or smaller than the median
    frozen: tuple[str, ...]
    duplicates: tuple[tuple[str, str], ...]  # clip, and the first one that it equals
    doubts: tuple[str, ...]  # what looks wrong about the units

    @classmethod
    def of(cls, clips: Sequence[Figures], reading: Reading) -> Quality:
        sizes = np.array([clip.size for clip in clips])
        known = sizes[~np.isnan(sizes)]
        size = Size(*np.percentile(known, (5, 50, 95)).tolist()) if len(known) else None
        first: dict[bytes, str] = {}
        duplicates = []
        for clip in clips:
            if (equal := first.setdefault(clip.digest, clip.name)) != clip.name:
                duplicates.append((clip.name, equal))
        middle = size.median if size else np.nan
        is_far = (sizes > middle * measure.FAR) | (sizes < middle / measure.FAR)
        return cls(
            size,
            sum(clip.unseen for clip in clips) / max(1, sum(clip.joints for clip in clips)),
            tuple(clip.name for clip, far in zip(clips, is_far) if far),
            tuple(clip.name for clip in clips if clip.is_frozen),
            tuple(duplicates),
            tuple(_doubts(size, min((clip.low for clip in clips), default=0), reading)),
        )

    def lines(self) -> list[str]:
        """Return the figures as text."""
        size = self.size
        sizes = f"{size.low:.3g}, {size.median:.3g}, {size.high:.3g}" if size else "unknown"
        return [
            f"size of a body: {sizes} (5, 50, 95 % of the clips); "
            f"unseen joints: {100 * self.unseen:.2g} %",
            f"clips {measure.FAR:g} times larger or smaller than the median: {_named(self.far)}; "
            f"frozen: {_named(self.frozen)}; "
            f"duplicates: {_named([f'{clip} of {of}' for clip, of in self.duplicates])}",
        ]


def _doubts(size: Size | None, low: float, reading: Reading) -> Iterator[str]:
    """Yield what looks wrong about the units of clips of this size, none of whose x, y is lower."""
    if size is None:
        return
    if not reading.planar:
        if reading.layout in KINECT and (
            doubt := measure.compare(size.median, measure.METERS, "people in meters")
        ):
            yield doubt
    elif reading.normalization == "none" and size.median > 2 * measure.OUTSIDE:
        yield (
            f"a body measures {size.median:.4g}, but a whole image, from -1 to 1, is 2: scale "
            "pixels by --normalize image --image-size HEIGHT WIDTH"
        )
    elif reading.normalization in ("image", "none") and low >= 0:
        yield (
            "no x or y is negative, as in shares of the image, from 0 to 1, where -1 to 1 is "
            "expected; scale them by --normalize image --image-size 1 1"
        )


def _named(clips: Sequence[str]) -> str:
    """Return how many, and the first of them."""
    more = ", ..." if len(clips) > NAMED else ""
    return f"{len(clips)} ({', '.join(clips[:NAMED])}{more})" if clips else "0"
