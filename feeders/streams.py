"""The six streams: what of the joints a network is shown (design section 6).

bone = joint - parent; skip = joint - grandparent, zero where the parent is the root; motion = next
frame - this one, zero in a clip's last frame. Streams are linear and, for a skeleton whose two
sides are alike, commute with every augmentation: so they are taken first, from whole clips.
"""

from __future__ import annotations

import torch

from errors import InputError, nearest
from graph import Skeleton

NAMES = ("joint", "bone", "skip", "joint-motion", "bone-motion", "skip-motion")
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
        origin = self.origin.cpu()
        return torch.equal(origin[flip], flip[origin])

    def __call__(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return the stream of frames (F, M, V, C): clips of `lengths` (N,), end to end."""
        if self.kind != "joint":
            frames = self._relative(frames)
        return self._motion(frames, lengths) if self.motion else frames

    def _relative(self, frames: torch.Tensor) -> torch.Tensor:
        """Each joint minus its origin; the confidence is the mean of joint and partner."""
        result = frames - frames.index_select(-2, self.origin)
        if self.scored:
            score = frames[..., SCORE]
            result[..., SCORE] = (score + score.index_select(-1, self.partner)) / 2
        return result

    def _motion(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Next frame minus this one; the confidence is the mean of both; zero in the last frame."""
        this, following = frames[:-1], frames[1:]
        result = torch.empty_like(frames)
        torch.sub(following, this, out=result[:-1])
        if self.scored:
            result[:-1, ..., SCORE] = (this[..., SCORE] + following[..., SCORE]) / 2
        result[(lengths.cumsum(0) - 1).to(frames.device)] = 0
        return result
