"""NW-UCLA as the field feeds it (CTR-GCN's feeder_ucla): each clip scaled into a box of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import graph
from errors import InputError
from feeders import augment, skeleton
from feeders.frames import linspace, sorted_draw
from feeders.source import Clips, gather
from memory import send

TRIES = 4  # values drawn for each frame: what falls on a member of the urn already drawn is lost


@dataclass(frozen=True)
class Draws:
    """What chance decides for a training batch."""

    angles: torch.Tensor  # (N, 3) rotation about x and y in radians; none about z
    frames: torch.Tensor  # (N, 4 T) uniform in [0, 1), see frames.sorted_draw


class Feeder(skeleton.Feeder):
    """Clips rotated in training, scaled axis by axis to [-1, 1], then stream and 52 frames.

    The scale comes from a whole clip after its rotation, so the stream is taken batch by batch.
    """

    def __init__(
        self,
        store: Any,
        rows: np.ndarray,
        stream: str = "joint",
        frames: int = 52,
        clips: int = 1,
        train: bool = False,
        skeleton: graph.Skeleton | None = None,
        device: str | torch.device = "cpu",
        resident: bool | None = None,
        persons: int | None = None,
        rotate: float = math.pi / 3,
    ) -> None:
        """Arguments as of feeders.skeleton.Feeder; `rotate` is for x and y, in radians."""
        if clips != 1:
            raise InputError(f"test_clips: {clips}, but NW-UCLA is tested on 1 clip a sample")
        super().__init__(
            store, rows, stream, frames, clips, train, skeleton, device, resident, persons,
            scale=0, rotate=rotate, flip=0,
        )  # fmt: skip

    def prepare(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return frames

    def test_frames(self, length: int) -> np.ndarray:
        return linspace(length, self.frames)

    def draw(self, rows: torch.Tensor, generator: torch.Generator | None = None) -> Draws | None:
        if not self.train:
            return None
        drawn = torch.rand(len(rows), 2 + TRIES * self.frames, generator=generator)
        angles = torch.nn.functional.pad((2 * drawn[:, :2] - 1) * self.rotate, (0, 1))
        return Draws(angles, drawn[:, 2:])

    def make(
        self, rows: torch.Tensor, draws: Draws | None, read: Clips | None = None
    ) -> torch.Tensor:
        clips = self.source.finish(read or self.source.read(rows)).packed()
        lengths, joints = clips.lengths, clips.frames
        owner = send(torch.arange(len(rows)).repeat_interleave(lengths), self.device)  # (F,)
        if draws is None:
            chosen = self.table[rows]
        else:
            chosen = sorted_draw(lengths, draws.frames, self.frames)
            # Row vectors times Y X, as the field has it: column vectors by the transpose.
            matrices = send(augment.rotation(draws.angles).mT, self.device)
            joints = augment.transform(joints, matrices[owner])
        joints = self.stream(box(joints, owner, len(rows)), lengths)
        return self.pad_persons(gather(Clips(joints, clips.starts, lengths), chosen))


def box(frames: torch.Tensor, owner: torch.Tensor, clips: int) -> torch.Tensor:
    """Scale each axis of frames (F, M, V, C) to [-1, 1] over all frames of a clip.

    `owner` (F,) is the clip that a frame belongs to. An axis without extent becomes -1.
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
