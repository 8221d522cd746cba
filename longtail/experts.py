"""Losses of several experts, whose network is `model.experts.Model`.

RIDE's: Wang et al., "Long-Tailed Recognition by Routing Diverse Distribution-Aware Experts", ICLR
2021, without the router. SADE's: Zhang et al., "Self-Supervised Aggregation of Diverse Experts for
Test-Agnostic Long-Tailed Recognition", NeurIPS 2022, without the aggregation at test time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from longtail.losses import LDAM, CrossEntropy, log_prior, mirrored
from longtail.ranges import Factor, NotNegative, Positive


class Diversity(LDAM):
    """sum_e [LDAM(z_e) - diversity T^2 KL(p_mean(T) || p_e(T))] over experts e.

    p(T) is the softmax of z_k / T_k, T_k in proportion to 1 - f + f K n_k / n with f `reweighting`
    and scaled to a maximum of 1, so that the softmax of tail classes is sharper; T^2 is the
    square of their mean. In the first stage, before the classes are re-weighted, T = 1. As in
    the authors' code experts are compared with their mean, not pairwise. (The gradients through
    the mean sum to zero and are omitted.)
    """

    def __init__(
        self,
        class_counts: Tensor,
        max_margin: NotNegative = 0.5,
        scale: Positive = 30.0,
        diversity: NotNegative = 0.2,
        reweighting: Factor = 0.05,
    ) -> None:
        super().__init__(class_counts, max_margin, scale)
        counts = class_counts.double()
        temperature = 1 - reweighting + reweighting * counts / counts.mean()
        self.temperature = nn.Buffer((temperature / temperature.max()).float())
        self.diversity = diversity
        if reweighting:
            self.first_stage = Diversity(class_counts, max_margin, scale, diversity, reweighting=0)

    def part(self, logits: Tensor, features: Tensor, label_weights: Tensor, count: int) -> Tensor:
        """logits (N, E, K), or (N, K) of one network."""
        if logits.ndim == 2:
            return super().part(logits, features, label_weights, count)
        losses = [(label_weights * self.loss_matrix(z)).sum() for z in logits.unbind(1)]
        softened = logits / self.temperature
        mean = (logits.mean(1, keepdim=True) / self.temperature).detach()
        log_ratio = mean.log_softmax(-1) - softened.log_softmax(-1)  # (N, E, K)
        divergence = (mean.softmax(-1) * log_ratio).sum() / count
        return sum(losses) - self.diversity * self.temperature.mean() ** 2 * divergence


class SkillDiverse(CrossEntropy):
    """The sum of the losses of three experts (SADE), cross entropy of

        z,    z_k + log pi_k,    z_k + log pi_k - tau log pi'_k,

    pi_k = n_k / n, pi' the same at the mirrored place in the order by count: one expert each for
    the training distribution, equal classes, and the inverse distribution. Their mean is tested.
    """

    def __init__(self, class_counts: Tensor, tau: NotNegative = 2.0) -> None:
        super().__init__(class_counts)
        prior = log_prior(class_counts)
        inverse = mirrored(prior.double(), class_counts).float()
        shifts = [torch.zeros_like(prior), prior, prior - tau * inverse]
        self.shifts = nn.Buffer(torch.stack(shifts))  # (3, K)

    def part(self, logits: Tensor, features: Tensor, label_weights: Tensor, count: int) -> Tensor:
        """logits (N, 3, K)."""
        if logits.ndim != 3 or logits.shape[1] != len(self.shifts):
            raise ValueError(
                f"takes the logits of three experts (model.experts.Model), not {logits.shape}"
            )
        losses = self.loss_matrix(logits + self.shifts)
        return (label_weights * losses.sum(1)).sum()
