"""Statistics of the clips of a data set: body sizes, unseen joints, static and duplicate clips."""

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

IN_METERS = ("ntu_rgb_d", "nw_ucla", "h36m")  # layouts whose 3D positions are in meters
NAMED = 3  # clips named in a line


@dataclass(frozen=True)
class Reading:
    """How the coordinates of normalized clips are to be interpreted."""

    layout: str  # name of the layout
    planar: bool  # 2D: x, y and possibly a score
    normalization: str | None
    origin: int | None  # joint of the first body whose first position is the origin, or None

    @classmethod
    def of(
        cls, layout: str | Path, shape: tuple[int, int, int], meta: Mapping[str, Any]
    ) -> Reading:
        """Return the interpretation of clips with shape (M, V, C); `meta` as in meta.json."""
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
        """Half of the image width in the unit of the clips; None if not scaled by the image."""
        return normalize.HALF_WIDTHS.get(self.normalization or "")


@dataclass(frozen=True, slots=True)
class Figures:
    """The measurements of one clip."""

    name: str
    size: float  # body size, see measure.size; NaN if no body has two joints
    unseen: int  # number of unseen joints of the present bodies, over all frames
    joints: int  # number of all joints of these bodies
    low: float  # smallest x or y of 2D poses
    is_frozen: bool  # several frames, all equal
    digest: bytes  # equal for bit-identical clips


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
    """The statistics of the clips of a data set."""

    size: Size | None  # None if no body has two joints
    unseen: float  # fraction of the joints of all bodies, 0 to 1
    far: tuple[str, ...]  # clips larger or smaller than the median by the factor measure.FAR
    frozen: tuple[str, ...]  # clips without motion
    duplicates: tuple[tuple[str, str], ...]  # a clip, and the first clip identical to it
    doubts: tuple[str, ...]  # warnings about the units

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
        """Return the statistics as lines of text."""
        size = self.size
        sizes = f"{size.low:.3g}, {size.median:.3g}, {size.high:.3g}" if size else "unknown"
        return [
            f"body size: {sizes} (5th, 50th, 95th percentile of the clips); "
            f"unseen joints: {100 * self.unseen:.2g} %",
            f"clips {measure.FAR:g} times larger or smaller than the median: {_named(self.far)}; "
            f"without motion: {_named(self.frozen)}; "
            f"duplicates: {_named([f'{clip} of {of}' for clip, of in self.duplicates])}",
        ]


def _doubts(size: Size | None, low: float, reading: Reading) -> Iterator[str]:
    """Yield warnings about the units of clips of this size, whose smallest x or y is `low`."""
    if size is None:
        return
    if not reading.planar:
        if reading.layout in IN_METERS and (
            doubt := measure.compare(size.median, measure.METERS, "people in meters")
        ):
            yield doubt
    elif reading.normalization == "none" and size.median > 2 * measure.OUTSIDE:
        yield (
            f"body size is {size.median:.4g}, but the whole image, from -1 to 1, has size 2; scale "
            "pixels with --normalize image --image-size HEIGHT WIDTH"
        )
    elif reading.normalization in ("image", "none") and low >= 0:
        yield (
            "no x or y is negative: positions seem to be relative to the image (0 to 1), but -1 to "
            "1 is expected; scale them with --normalize image --image-size 1 1"
        )


def _named(clips: Sequence[str]) -> str:
    """Return the number of clips, and the first names."""
    more = ", ..." if len(clips) > NAMED else ""
    return f"{len(clips)} ({', '.join(clips[:NAMED])}{more})" if clips else "0"
