"""The six streams: joints, bones, skips and the motion of each.

bone = joint - parent; skip = joint - grandparent, zero where the parent is the root; motion = next
frame - this frame, zero in the last frame of a clip. Streams are linear and, for a skeleton with
symmetric parents, commute with every augmentation, so they are computed first, from whole clips.
"""

from __future__ import annotations

import torch

from errors import InputError, nearest
from feeders.source import take_joints
from flags import STREAMS
from graph import Skeleton
from memory import send

SCORE = 2  # the channel of 2D data with the confidence score


class Stream:
    """One of STREAMS for one skeleton, as a function of whole clips."""

    def __init__(
        self, name: str, skeleton: Skeleton, channels: int, device: str | torch.device = "cpu"
    ) -> None:
        """`channels` of the frames; if 3 in a 2D layout, the third is a confidence score."""
        if name not in STREAMS:
            raise InputError(
                f"stream: {name!r} is not one of {', '.join(STREAMS)}{nearest(name, STREAMS)}"
            )
        self.name = name
        self.kind, _, self.motion = name.partition("-")
        self.scored = skeleton.confidence and channels == SCORE + 1
        joint, parent = torch.arange(skeleton.num_joints), torch.tensor(skeleton.parent)
        grandparent = parent[parent]
        partner = {"joint": joint, "bone": parent, "skip": grandparent}[self.kind]
        # A skip to the root would equal the bone: such a joint is subtracted from itself.
        no_grandparent = (self.kind == "skip") & (grandparent == parent)
        self.partner = partner.to(device)
        self.origin = torch.where(no_grandparent, joint, partner).to(device)

    def commutes_with(self, flip: torch.Tensor) -> bool:
        """Return whether the stream of flipped joints equals the flipped stream of the joints."""
        return torch.equal(self.origin[flip], flip[self.origin])

    def __call__(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return the stream of frames (F, M, V, C), clips of `lengths` (N,) end to end."""
        frames = self.relative(frames)
        if self.motion:
            last = send(lengths.cumsum(0) - 1, frames.device)
            frames = self.between(frames, frames.roll(-1, 0))
            frames[last] = 0
        return frames

    def relative(self, frames: torch.Tensor) -> torch.Tensor:
        """Return frames (..., V, C) minus the origin of each joint; scores are means of both
        joints."""
        if self.kind == "joint":
            return frames
        result = take_joints(frames, self.origin).neg_().add_(frames)
        if self.scored:
            score = frames[..., SCORE]
            result[..., SCORE] = (score + score.index_select(-1, self.partner)) / 2
        return result

    def between(self, this: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        """Return `following - this`, both (..., V, C); scores are the means of both frames."""
        result = following - this
        if self.scored:
            result[..., SCORE] = (this[..., SCORE] + following[..., SCORE]) / 2
        return result
