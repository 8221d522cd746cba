"""Augmentation as pure functions of drawn values: every map is linear, one matrix per clip.

Angles in radians, matrices act on the left of a coordinate (column) vector.
"""

from __future__ import annotations

import torch


def rotation(angles: torch.Tensor) -> torch.Tensor:
    """Return the (N, 3, 3) rotations Z Y X by the angles (N, 3) about x, y and z."""
    (cx, cy, cz), (sx, sy, sz) = angles.cos().unbind(-1), angles.sin().unbind(-1)
    i, o = torch.ones_like(cx), torch.zeros_like(cx)
    about_x = _matrices([i, o, o], [o, cx, sx], [o, -sx, cx])
    about_y = _matrices([cy, o, -sy], [o, i, o], [sy, o, cy])
    about_z = _matrices([cz, sz, o], [-sz, cz, o], [o, o, i])
    return about_z @ about_y @ about_x


def _matrices(*rows: list[torch.Tensor]) -> torch.Tensor:
    """Return (N, 3, 3) from three rows of three (N,) entries."""
    return torch.stack([entry for row in rows for entry in row], -1).unflatten(-1, (3, 3))


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


def joint_order(flipped: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    """Return (N, V): which joint stands at each place, left and right exchanged where `flipped`."""
    return torch.where(flipped[:, None], flip, torch.arange(len(flip)))
