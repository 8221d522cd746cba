"""Which rows an epoch shows, and how often: a number of draws a class, then a shuffle.

A class's draws are spread over its members as evenly as they go: whole copies of all members, then
distinct members drawn anew each epoch. So no rule leaves a sample out while it shows another twice.
"""

from __future__ import annotations

import torch
from torch import Tensor


def draw_rows(labels: Tensor, draws: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return the shuffled rows (sum of draws,) int64 that show class c draws[c] times.

    labels (n,) int64, draws (K,) int64, 0 for a class without members.
    """
    members = torch.bincount(labels, minlength=len(draws))
    whole = draws // members.clamp_min(1)
    rest = draws - whole * members
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]  # classes in order, members shuffled
    label = labels[by_class]
    place = torch.arange(len(labels)) - (members.cumsum(0) - members)[label]
    rows = by_class.repeat_interleave(whole[label] + (place < rest[label]))
    return rows[torch.randperm(len(rows), generator=generator)]


def apportion(shares: Tensor, length: int) -> Tensor:
    """Split `length` draws by shares (K,), rounding so that they add up: (K,) int64."""
    ends = (shares.double().cumsum(0) / shares.double().sum() * length).round().long()
    return ends.diff(prepend=ends.new_zeros(1))


class Sampling:
    """Instance sampling: every row `repeat` times an epoch. The others override `draws`."""

    def __init__(self, labels: Tensor, class_counts: Tensor, repeat: int = 1) -> None:
        self.labels = labels.cpu()
        self.class_counts = class_counts.cpu().long()
        self.members = torch.bincount(self.labels, minlength=len(class_counts))
        self.repeat = repeat

    def draws(self, progress: float) -> Tensor:
        """Return how often each class is shown, (K,) int64, at a share `progress` of training."""
        return self.repeat * self.members

    def __len__(self) -> int:
        """Return the length of an epoch in samples, the same in all epochs."""
        return int(self.draws(0.0).sum())

    def epoch(self, generator: torch.Generator | None, progress: float = 0.0) -> Tensor:
        """Return the shuffled rows (len(self),) int64 of one epoch; progress in [0, 1)."""
        return draw_rows(self.labels, self.draws(progress), generator)
