"""The terms of InfoGCN's loss on its latent code (Chi et al., CVPR 2022, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LatentPrior(nn.Module):
    """Pull the latent codes of each class towards a mean of that class, and all codes to the
    origin.

    The means p_c, a buffer (K, D), are orthogonal, of norm `gain`, drawn once and never trained.
    With z_c the mean of class c's codes in the batch and z that of all,

        loss = discrepancy mean_{c, d}(z_c - p_c)^2 + center ||z||    over the classes present.
    """

    prior: Tensor

    def __init__(
        self,
        num_class: int,
        width: int = 256,
        discrepancy: float = 0.1,
        center: float = 1e-4,
        gain: float = 3.0,
    ):
        super().__init__()
        self.discrepancy, self.center = discrepancy, center
        prior = torch.empty(num_class, width)
        self.register_buffer("prior", nn.init.orthogonal_(prior, gain=gain))

    def forward(self, latent: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss of sampled latent codes (N, D) and labels (N,) int64."""
        latent = latent.to(self.prior.dtype)
        return (
            self.discrepancy * self.mean_discrepancy(latent, labels)
            + self.center * latent.mean(0).norm()
        )

    def mean_discrepancy(self, latent: Tensor, labels: Tensor) -> Tensor:
        """Return the mean squared distance between the mean codes of the classes present and
        p_c."""
        members = nn.functional.one_hot(labels, len(self.prior)).to(latent.dtype)  # (N, K)
        count = members.sum(0)
        means = members.t() @ latent / count.clamp_min(1)[:, None]  # (K, D)
        squares = (means - self.prior).square().mean(1)
        return (squares * (count > 0)).sum() / (count > 0).sum()
