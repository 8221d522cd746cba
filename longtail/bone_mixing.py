"""Partial mixup in bone space, with partners by class.

After the idea of Kim et al., "Long-Tailed Skeleton-Based Action Recognition via Realistic Mixing
and Class-Aware Sampling", IEEE Access 14, 2026, of which only the abstract was available here:
bones are mixed, not positions, their lengths are aligned, and partners depend on their classes. The
form is this project's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graph import Skeleton
from longtail.brl import PartialMixup
from longtail.ranges import NotNegative, Ratio, Share
from memory import send


class BoneMixup(PartialMixup):
    """BRL's partial mixup, in which the lower body of j is turned into one of i's.

    align    each bone of the lower body has j's direction and i's length, and hangs on i's upper
             body, so that a mixed body has the proportions of one person and no gap at the hip.
             False: positions are exchanged, as in `PartialMixup`.
    power    the partner of i is drawn from the other samples with probability proportional to
             n_j^-power: 0 is uniform, 1 gives each class of the batch about the same chance.

    Targets and the remaining arguments are those of `PartialMixup`. With `align` the clips must be
    positions (stream joint); a bone that is unseen in j, or an absent person, stays i's own.
    """

    def __init__(
        self,
        class_counts: Tensor,
        skeleton: Skeleton,
        ratio: Share = 1 / 16,
        alpha: Share | None = None,
        threshold: Ratio = 3.0,
        align: bool = True,
        power: NotNegative = 1.0,
    ) -> None:
        super().__init__(class_counts, skeleton, ratio, alpha, threshold)
        self.align, self.power, self.takes_positions = align, power, align
        self.coordinates = 2 if skeleton.confidence else 3
        self.lower = [v for v in from_the_root(skeleton) if v not in skeleton.upper]
        self.parent = skeleton.parent

    def forward(
        self, clips: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        N = len(clips)
        rows = torch.randperm(N, generator=generator)[: int(N * self.ratio) if N > 1 else 0]
        noise = torch.rand(len(rows), N, generator=generator)
        noise[torch.arange(len(rows)), rows] = 0  # not itself: the key is then -inf
        partners = self.choose(send(noise, clips.device), labels)
        return self.combine(clips, labels, rows, partners)

    def choose(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Return partners (n,), drawn by weight with uniform noise (n, N): argmax log(u) / w."""
        weights = self.counts[labels].to(noise.dtype).clamp_min(1) ** -self.power
        return (noise.log() / weights).argmax(1)

    def graft(self, clips: Tensor, others: Tensor) -> Tensor:
        if not self.align:
            return super().graft(clips, others)
        joints = list(clips.unbind(3))  # V of (N, M, T, C)
        place = slice(self.coordinates)
        for v in self.lower:
            above = self.parent[v]
            mine = (clips[..., v, :] - clips[..., above, :])[..., place]
            theirs = (others[..., v, :] - others[..., above, :])[..., place]
            length, wanted = (bone.norm(dim=-1, keepdim=True) for bone in (theirs, mine))
            is_seen = (length > 0) & (wanted > 0)
            turned = torch.where(is_seen, theirs * (wanted / length.clamp_min(1e-8)), mine)
            position = joints[above][..., place] + turned
            joints[v] = torch.cat([position, others[..., v, self.coordinates :]], -1)
        return torch.stack(joints, 3)


def from_the_root(skeleton: Skeleton) -> list[int]:
    """Return the joints in an order in which each comes after its parent."""
    found = [v for v, above in enumerate(skeleton.parent) if v == above]
    for above in found:  # grows
        found += [v for v, parent in enumerate(skeleton.parent) if parent == above and v != above]
    return found
