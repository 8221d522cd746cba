"""Class weights by training count: the weight of a sample of class y in the loss.

A weighting is built from the class counts and called with the epoch of its stage, from 0. Whether
weighted losses are divided by the weight of the batch or by its samples is set by `weigh_by`
(`losses.label_weights`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from longtail.ranges import Factor, NotNegative


def scaled(raw: Tensor, counts: Tensor) -> Tensor:
    """Return raw weights (K,) float32, scaled to sum to the number of classes that have samples.

    A class without samples weighs 0.
    """
    present = counts > 0
    weights = torch.where(present, raw.double(), 0.0)
    return (weights * present.sum() / weights.sum()).float()


class Weighting(nn.Module):
    """Class weights that are the same in all epochs; subclasses that change override `forward`."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Buffer(weights, persistent=False)

    def forward(self, stage_epoch: int) -> Tensor:
        """Return w (K,) float32 for an epoch, from 0, of the stage that has these weights."""
        return self.weights


class InverseFrequency(Weighting):
    """w_y = n_y^-power, scaled to sum K; power 1 is the inverse frequency, 0.5 its square root."""

    def __init__(self, class_counts: Tensor, power: NotNegative = 1.0) -> None:
        super().__init__(scaled(class_counts.double().clamp_min(1) ** -power, class_counts))


class EffectiveNumber(Weighting):
    """w_y = (1 - beta) / (1 - beta^n_y), scaled to sum K: Cui et al., "Class-Balanced Loss Based on
    Effective Number of Samples", CVPR 2019.

    beta 0 gives equal weights, beta -> 1 the inverse frequencies. The authors divide the loss by
    the samples (`weigh_by: samples`), as Remix-DRW does; LDAM-DRW, with beta 0.9999, by the weight
    of the batch. The released BRL code has 0.999 for the class-balanced loss, 0.999999 for LDAM.
    """

    def __init__(self, class_counts: Tensor, beta: Factor = 0.9999) -> None:
        counts = class_counts.double()
        super().__init__(scaled((1 - beta) / (1 - beta ** counts.clamp_min(1)), counts))
