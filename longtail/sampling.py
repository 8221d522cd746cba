"""Sampling: the rows of an epoch, from a number of draws per class, then shuffled.

Rows are chosen on the CPU, independent of the network's device, so the tensors are not buffers. The
draws of a class are distributed evenly over its members: whole copies of all members, then distinct
members drawn again in each epoch. So no sample is skipped while another one occurs twice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from longtail.ranges import Share


def draw_rows(labels: Tensor, draws: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return shuffled rows (sum of draws,) int64 with draws[c] samples of class c.

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
    """Return `length` draws divided by shares (K,), rounded so that they sum up: (K,) int64."""
    ends = (shares.double().cumsum(0) / shares.double().sum() * length).round().long()
    return ends.diff(prepend=ends.new_zeros(1))


def power_shares(members: Tensor, power: float) -> Tensor:
    """Return shares (K,) proportional to members (K,)^power, 0 for a class without members."""
    shares = torch.where(members > 0, members.double().clamp_min(1) ** power, 0.0)
    return shares / shares.sum()


def with_second(
    rows: Tensor, sampling: InstanceSampling, power: float, generator: torch.Generator | None
) -> Tensor:
    """Return pairs (n, 2): rows (n,), and as many that are drawn with shares n_c^power per class,
    spread evenly over a class's members."""
    draws = apportion(power_shares(sampling.members, power), len(rows))
    second = draw_rows(sampling.labels, draws, generator)
    return torch.stack([rows, second], 1)


class InstanceSampling(nn.Module):
    """Every row `repeat` times per epoch. The other rules override `draws`.

    A fraction of `repeat` is spread over the classes, and within each drawn again for each epoch.
    """

    def __init__(self, labels: Tensor, class_counts: Tensor, repeat: float = 1) -> None:
        super().__init__()
        self.labels = labels.cpu()
        self.class_counts = class_counts.cpu().long()
        self.members = torch.bincount(self.labels, minlength=len(class_counts))
        self.repeat, self.length = repeat, round(repeat * len(labels))

    def draws(self, progress: float) -> Tensor:
        """Return the draws of each class (K,) int64; `progress` in [0, 1) is the part completed."""
        return apportion(self.members, self.length)

    def __len__(self) -> int:
        """Return the length of an epoch in samples, the same in all epochs."""
        return int(self.draws(0.0).sum())

    def epoch(self, generator: torch.Generator | None, progress: float = 0.0) -> Tensor:
        """Return the shuffled rows (len(self),) int64 of one epoch; progress in [0, 1)."""
        return draw_rows(self.labels, self.draws(progress), generator)


class PowerSampling(InstanceSampling):
    """Class c has a share n_c^power of an epoch as long as instance sampling's: Kang et al.,
    "Decoupling Representation and Classifier", ICLR 2020, eq. 1.

    power 1 is instance sampling, 0.5 square-root, 0 class-balanced.
    """

    def __init__(
        self, labels: Tensor, class_counts: Tensor, repeat: float = 1, power: float = 0.0
    ) -> None:
        super().__init__(labels, class_counts, repeat)
        self.power = power

    def draws(self, progress: float) -> Tensor:
        return apportion(power_shares(self.members, self.power), self.length)


class ProgressiveSampling(InstanceSampling):
    """From instance to class-balanced sampling, Kang et al., ICLR 2020, eq. 2: shares
    (1 - t) p_instance + t p_balanced, where t is the completed part of the training."""

    def draws(self, progress: float) -> Tensor:
        instance, balanced = (power_shares(self.members, power) for power in (1.0, 0.0))
        shares = (1 - progress) * instance + progress * balanced
        return apportion(shares, self.length)


class RepeatFactorSampling(InstanceSampling):
    """repeat * max(1, sqrt(threshold / f_c)) copies of class c, f_c = n_c / n: Gupta et al.,
    "LVIS", CVPR 2019. threshold None is 1 / K, near that paper's 0.001 for 1203 classes."""

    def __init__(
        self,
        labels: Tensor,
        class_counts: Tensor,
        repeat: float = 1,
        threshold: Share | None = None,
    ) -> None:
        super().__init__(labels, class_counts, repeat)
        self.threshold = 1 / len(class_counts) if threshold is None else threshold

    def draws(self, progress: float) -> Tensor:
        frequency = self.members.double().clamp_min(1) / len(self.labels)
        factor = (self.threshold / frequency).sqrt().clamp_min(1)
        return (self.repeat * factor * self.members).round().long()
