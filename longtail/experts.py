"""RIDE's loss: Wang et al., "Long-Tailed Recognition by Routing Diverse Distribution-Aware
Experts", ICLR 2021, without the router. Its network is `model.experts.Model`.
"""

from __future__ import annotations

from torch import Tensor

from longtail.losses import LDAM, expected_loss


class Diversity(LDAM):
    """sum_e [LDAM(z_e) - diversity T^2 KL(p_mean(T) || p_e(T))] over experts e.

    p(T) is the softmax of z_k / T_k, T_k in proportion to 1 - f + f K n_k / n with f `reweighting`
    and scaled to a maximum of 1, so that the softmax of tail classes is sharper; T^2 is the
    square of their mean. In the first stage, before the classes are re-weighted, T = 1. As in
    the authors' code experts are compared with their mean, not pairwise. (The gradients through
    the mean sum to zero and are omitted.)
    """

    temperature: Tensor

    def __init__(
        self,
        class_counts: Tensor,
        max_margin: float = 0.5,
        scale: float = 30.0,
        diversity: float = 0.2,
        reweighting: float = 0.05,
    ) -> None:
        if not 0 <= reweighting < 1:
            raise ValueError(f"reweighting must lie in [0, 1), not {reweighting}")
        super().__init__(class_counts, max_margin, scale)
        counts = class_counts.double()
        temperature = 1 - reweighting + reweighting * counts / counts.mean()
        self.register_buffer("temperature", (temperature / temperature.max()).float())
        self.diversity = diversity
        if reweighting:
            self.first_stage = Diversity(class_counts, max_margin, scale, diversity, reweighting=0)

    def part(self, logits: Tensor, label_weights: Tensor, count: int) -> Tensor:
        """logits (N, E, K), or (N, K) of one network."""
        if logits.ndim == 2:
            return super().part(logits, label_weights, count)
        losses = [expected_loss(self.loss_matrix(z), label_weights) for z in logits.unbind(1)]
        softened = logits / self.temperature
        mean = (logits.mean(1, keepdim=True) / self.temperature).detach()
        log_ratio = mean.log_softmax(-1) - softened.log_softmax(-1)  # (N, E, K)
        divergence = (mean.softmax(-1) * log_ratio).sum() / count
        return sum(losses) - self.diversity * self.temperature.mean() ** 2 * divergence
