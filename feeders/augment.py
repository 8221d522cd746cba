"""Augmentation as pure functions of the random values: linear maps, one matrix per clip.

Angles in radians, matrices act on the left of a coordinate (column) vector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from errors import InputError
from feeders.source import take_joints

# A rotation about axis a is FIXED[a] + cos * TURNED[a] + sin * CROSSED[a].
FIXED = torch.diag_embed(torch.eye(3))
TURNED = torch.diag_embed(1 - torch.eye(3))
CROSSED = torch.zeros(3, 3, 3)  # the Levi-Civita symbol
CROSSED[[0, 1, 2], [1, 2, 0], [2, 0, 1]] = 1
CROSSED[[0, 1, 2], [2, 0, 1], [1, 2, 0]] = -1


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of training clips; values are drawn uniformly from symmetric ranges.

    scale: each axis is multiplied by 1 + s, s in +-scale; rotate: angles about x, y and z in
    +-rotate, in radians (one number, or one per axis); flip: probability that left and right joints
    are exchanged; mirror (2D data): a flipped clip also has x negated. 0 disables each.
    """

    scale: float = 0.1
    rotate: float | Sequence[float] = 0.3
    flip: float = 0.5
    mirror: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.flip <= 1:
            raise InputError(f"feeder_args.flip: {self.flip} is not a probability from 0 to 1")
        if not 0 <= self.scale < math.inf:
            raise InputError(f"feeder_args.scale: {self.scale} must be at least 0")
        if not self.largest_angles.isfinite().all():
            raise InputError(f"feeder_args.rotate: {self.rotate} must be angles in radians")

    @property
    def largest_angles(self) -> torch.Tensor:
        """The largest angle about each axis, (3,) in radians."""
        return torch.as_tensor(self.rotate, dtype=torch.float32).expand(3)


def rotation(angles: torch.Tensor) -> torch.Tensor:
    """Return the (N, 3, 3) rotations Z Y X by the angles (N, 3) about x, y and z.

    X = [[1, 0, 0], [0, c, s], [0, -s, c]], Y and Z likewise, as in the released code.
    """
    cos, sin = angles.cos()[..., None, None], angles.sin()[..., None, None]
    x, y, z = (FIXED + cos * TURNED + sin * CROSSED).unbind(1)
    return z @ y @ x


def matrices(
    scale: torch.Tensor,
    angles: torch.Tensor,
    mirrored: torch.Tensor | None = None,
    planar: bool = False,
) -> torch.Tensor:
    """Return (N, 3, 3): scale axes by 1 + scale (N, 3), rotate by angles (N, 3), negate x.

    x is negated where `mirrored` (N,). `planar`: 2D data, whose third channel is not changed.
    """
    if planar:
        scale, angles = scale * torch.tensor([1, 1, 0]), angles * torch.tensor([0, 0, 1])
    result = rotation(angles) * (1 + scale)[:, None, :]
    if mirrored is not None:
        result[:, 0] *= torch.where(mirrored, -1.0, 1.0)[:, None]
    return result


def transform(clips: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """Apply matrices (N, 3, 3) to the coordinates of clips (N, ..., C); C = 2: x and y of them.

    Computed term by term: a matrix product would round to TF32 or bfloat16 where that is enabled,
    and is not faster for such small matrices.
    """
    C = clips.shape[-1]
    matrices = matrices[:, :C, :C]
    columns = matrices.reshape(len(clips), *[1] * (clips.dim() - 2), C, C).unbind(-1)
    result = clips[..., :1] * columns[0]
    for channel, column in enumerate(columns[1:], start=1):
        result.addcmul_(clips[..., channel : channel + 1], column)
    return result


def exchange(clips: torch.Tensor, flipped: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    """Exchange the left and right joints of clips (N, ..., V, C) where `flipped` (N,)."""
    flipped = flipped.view(-1, *[1] * (clips.dim() - 1))
    return torch.where(flipped, take_joints(clips, flip), clips)


def box(frames: torch.Tensor, owner: torch.Tensor, clips: int) -> torch.Tensor:
    """Scale each axis of frames (F, M, V, C) to [-1, 1] over all frames of a clip.

    `owner` (F,) is the number of a frame's clip. An axis without extent becomes -1.
    """
    place = owner[:, None].expand(-1, frames.shape[-1])
    low, high = (
        frames.new_zeros(clips, frames.shape[-1]).scatter_reduce(
            0, place, extreme, reduce, include_self=False
        )
        for extreme, reduce in ((frames.amin((1, 2)), "amin"), (frames.amax((1, 2)), "amax"))
    )  # each (N, C)
    extent = torch.where(high > low, high - low, 1)
    return (frames - low[owner, None, None]) / extent[owner, None, None] * 2 - 1
