"""Augmentation as pure functions of drawn values: every map is linear, one matrix per clip.

Angles in radians, matrices act on the left of a coordinate (column) vector.
"""

from __future__ import annotations

import torch

from feeders.source import take_joints

# A rotation about axis a is FIXED[a] + cos * TURNED[a] + sin * CROSSED[a].
FIXED = torch.diag_embed(torch.eye(3))
TURNED = torch.diag_embed(1 - torch.eye(3))
CROSSED = torch.zeros(3, 3, 3)  # the Levi-Civita symbol
CROSSED[[0, 1, 2], [1, 2, 0], [2, 0, 1]] = 1
CROSSED[[0, 1, 2], [2, 0, 1], [1, 2, 0]] = -1


def rotation(angles: torch.Tensor) -> torch.Tensor:
    """Return the (N, 3, 3) rotations Z Y X by the angles (N, 3) about x, y and z.

    X = [[1, 0, 0], [0, c, s], [0, -s, c]], Y and Z likewise, as the released code has them.
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
    """Return (N, 3, 3): stretch the axes by 1 + scale (N, 3), rotate, negate x where `mirrored`.

    `planar` leaves the third channel as it is: 2D data is stretched and turned in its plane.
    """
    if planar:
        scale, angles = scale * torch.tensor([1, 1, 0]), angles * torch.tensor([0, 0, 1])
    result = rotation(angles) * (1 + scale)[:, None, :]
    if mirrored is not None:
        result[:, 0] *= torch.where(mirrored, -1.0, 1.0)[:, None]
    return result


def transform(clips: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """Apply matrices (N, C, C) to the coordinates of clips (N, ..., C).

    Term by term rather than by a matrix product, which would round to TF32 or bfloat16 where that
    is switched on, and which is no faster for matrices as small as these.
    """
    columns = matrices.reshape(len(clips), *[1] * (clips.dim() - 2), *matrices.shape[1:]).unbind(-1)
    result = clips[..., :1] * columns[0]
    for channel, column in enumerate(columns[1:], start=1):
        result.addcmul_(clips[..., channel : channel + 1], column)
    return result


def exchange(clips: torch.Tensor, flipped: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    """Exchange the left and right joints of clips (N, ..., V, C) where `flipped` (N,)."""
    flipped = flipped.view(-1, *[1] * (clips.dim() - 1))
    return torch.where(flipped, take_joints(clips, flip), clips)
