"""The MMD terms of InfoGCN's loss on its latent code (Chi et al., CVPR 2022, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from longtail.auxiliary import AuxiliaryLoss
from longtail.ranges import NotNegative
from longtail.ranks import sum_over_ranks
from model.backbone import Backbone, linear_classifier


class LatentPrior(AuxiliaryLoss):
    """Pull the latent codes of each class towards a mean of that class, and all codes to the
    origin.

    The means p_c, a buffer (K, D), are orthogonal, of norm `gain`, drawn once and never trained.
    With z_c the mean of class c's codes in the batch and z that of all,

        loss = discrepancy mean_{c, d}(z_c - p_c)^2 + center ||z||    over the classes present.

    A mixed sample counts in each z_c by its share in the class. The batch is a micro-batch of all
    ranks. The codes are the network's features, as drawn in training.
    """

    def __init__(
        self,
        model: Backbone,
        discrepancy: NotNegative = 0.1,
        center: NotNegative = 1e-4,
        gain: NotNegative = 3.0,
    ):
        super().__init__(model)
        self.discrepancy, self.center = discrepancy, center
        prior = torch.empty(self.num_class, linear_classifier(model, "auxiliary_loss").in_features)
        self.prior = nn.Buffer(nn.init.orthogonal_(prior, gain=gain))

    def forward(self, latent: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        labels, latent = labels.to(self.prior.dtype), latent.to(self.prior.dtype)
        sums = torch.cat([labels.sum(0)[:, None], labels.t() @ latent], 1)
        count, total = sum_over_ranks(sums).split([1, latent.shape[1]], 1)  # (K, 1), (K, D)
        present = count > 0
        squares = (total / torch.where(present, count, 1) - self.prior).square()
        discrepancy = (squares.mean(1, keepdim=True) * present).sum() / present.sum()
        center = (total.sum(0) / count.sum()).norm()  # the shares of a sample sum to 1
        return self.discrepancy * discrepancy + self.center * center
