"""Class weights by training count: what a sample of class y counts for in the loss.

A weighting is built from the class counts and is called with the epoch of its stage, from 0.
"""

from __future__ import annotations

import torch
from torch import Tensor


def scaled(raw: Tensor, counts: Tensor) -> Tensor:
    """Return raw weights (K,) float32, scaled to sum to the number of classes that have samples.

    A class without samples weighs 0.
    """
    present = counts > 0
    weights = torch.where(present, raw.double(), 0.0)
    return (weights * present.sum() / weights.sum()).float()


class InverseFrequency:
    """w_y = n_y^-power, scaled to sum K; power 1 is the inverse frequency, 0.5 its square root."""

    def __init__(self, class_counts: Tensor, power: float = 1.0) -> None:
        self.weights = scaled(class_counts.double().clamp_min(1) ** -power, class_counts)

    def __call__(self, stage_epoch: int) -> Tensor:
        return self.weights


class EffectiveNumber:
    """w_y = (1 - beta) / (1 - beta^n_y), scaled to sum K: Cui et al., "Class-Balanced Loss Based on
    Effective Number of Samples", CVPR 2019.

    beta 0 weighs all classes alike, beta -> 1 by inverse frequency. LDAM-DRW has 0.9999; the
    released BRL code 0.999 for the class-balanced loss and 0.999999 for LDAM.
    """

    def __init__(self, class_counts: Tensor, beta: float = 0.9999) -> None:
        if not 0 <= beta < 1:
            raise ValueError(f"beta must lie in [0, 1), not {beta}")
        counts = class_counts.double()
        self.weights = scaled((1 - beta) / (1 - beta ** counts.clamp_min(1)), counts)

    def __call__(self, stage_epoch: int) -> Tensor:
        return self.weights
