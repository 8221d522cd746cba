"""The six streams: what of the joints a network is shown (design section 6).

bone = joint - parent; skip = joint - grandparent, zero where the parent is the root; motion = next
frame - this one, zero in a clip's last frame. Streams are linear and, for a skeleton whose two
sides are alike, commute with every augmentation: so they are taken first, from whole clips.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch

from errors import InputError, nearest
from feeders.source import take_joints
from graph import Skeleton
from memory import send

Name = Literal["joint", "bone", "skip", "joint-motion", "bone-motion", "skip-motion"]
NAMES: tuple[str, ...] = get_args(Name)
SCORE = 2  # the channel of 2D data that holds a confidence


class Stream:
    """One of NAMES for one skeleton, as a function of whole clips."""

    def __init__(
        self, name: str, skeleton: Skeleton, channels: int, device: str | torch.device = "cpu"
    ) -> None:
        """`channels` of the frames: with all three of a 2D layout, the third is a confidence."""
        if name not in NAMES:
            raise InputError(
                f"stream: {name!r} is none of {', '.join(NAMES)}{nearest(name, NAMES)}"
            )
        self.name = name
        self.kind, _, self.motion = name.partition("-")
        self.scored = skeleton.confidence and channels == SCORE + 1
        joint, parent = torch.arange(skeleton.num_joints), torch.tensor(skeleton.parent)
        grandparent = parent[parent]
        partner = {"joint": joint, "bone": parent, "skip": grandparent}[self.kind]
        # A skip to the root would be the bone over again: such a joint is taken from itself.
        is_bone = (self.kind == "skip") & (grandparent == parent)
        self.partner = partner.to(device)
        self.origin = torch.where(is_bone, joint, partner).to(device)

    def commutes_with(self, flip: torch.Tensor) -> bool:
        """Whether the stream of flipped joints is the flipped stream of the joints."""
        return torch.equal(self.origin[flip], flip[self.origin])

    def __call__(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return the stream of frames (F, M, V, C): clips of `lengths` (N,), end to end."""
        frames = self.relative(frames)
        if self.motion:
            last = send(lengths.cumsum(0) - 1, frames.device)
            frames = self.between(frames, frames.roll(-1, 0))
            frames[last] = 0
        return frames

    def relative(self, frames: torch.Tensor) -> torch.Tensor:
        """Each joint of frames (..., V, C) minus its origin; its score is the two joints' mean."""
        if self.kind == "joint":
            return frames
        result = take_joints(frames, self.origin).neg_().add_(frames)
        if self.scored:
            score = frames[..., SCORE]
            result[..., SCORE] = (score + score.index_select(-1, self.partner)) / 2
        return result

    def relative_of_clips(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """`relative`, called as the stream is: the motion is taken later, between chosen frames."""
        return self.relative(frames)

    def between(self, this: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        """The motion from `this` to `following` (..., V, C); its score is the two frames' mean."""
        result = following - this
        if self.scored:
            result[..., SCORE] = (this[..., SCORE] + following[..., SCORE]) / 2
        return result
