"""Losses, pure: constants from the class counts, no epochs, hard and soft targets alike.

Every loss says what a sample would cost under each possible label k, an (N, K) matrix; a target,
hard or mixed, takes the expectation over it, and class weights enter there (`expectation`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def expectation(costs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the scalar  sum_p share_p * (sum_ik w_k t_pik c_ik) / (sum_ik w_k t_pik).

    costs (N, K): the loss of sample i under label k. targets (N, K), or (P, N, K) for P label sets
    of which each is scaled by its share and has a normaliser of its own, as the released BRL heads
    have it: share_p = sum_ik t_pik / N. Rows of (N, K) targets sum to 1, so their share is 1. The
    normaliser is the weight of the batch, as in torch's cross entropy with hard labels; torch
    divides by N when labels are soft. A label set without weight costs nothing.
    """
    targets = targets if targets.ndim == 3 else targets[None]
    weighted = targets if weights is None else targets * weights
    shares = targets.sum((1, 2)) / targets.shape[1]
    mass = weighted.sum((1, 2)).clamp_min(torch.finfo(costs.dtype).tiny)
    return (shares * (weighted * costs).sum((1, 2)) / mass).sum()


class CrossEntropy(nn.Module):
    """c_ik = -log softmax(z_i)_k. The other losses override `costs`."""

    def __init__(self, class_counts: Tensor) -> None:
        super().__init__()
        self.num_class = len(class_counts)

    def costs(self, logits: Tensor) -> Tensor:
        """Return the loss of every sample under every label: (N, K) -> (N, K)."""
        return -logits.log_softmax(-1)

    def forward(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the scalar loss of logits (N, K) for targets (N, K) or (P, N, K), weights (K,)."""
        return expectation(self.costs(logits), targets, weights)
