"""Losses, pure: constants from the class counts, no epochs, hard and soft targets alike.

Every loss says what a sample would cost under each possible label k, an (N, K) matrix; a target,
hard or mixed, takes the expectation over it, and class weights enter there (`expectation`). z are
the logits, p their softmax, n_k the training count of class k. A loss that is another one before
the second stage carries that one as its attribute `first_stage`; one with `needs_features` takes
the features (N, D) that the logits were made from as well.
"""

from __future__ import annotations

import math

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


def costs_under_own_logits(logits: Tensor) -> Tensor:
    """Return -log softmax(l_ik)_k (N, K) of logits l (N, K, K) that differ with the label k.

    Margins and masks depend on the label; l_ik are the K logits that sample i has under label k.
    """
    return logits.logsumexp(-1) - logits.diagonal(dim1=-2, dim2=-1)


def log_prior(class_counts: Tensor) -> Tensor:
    """Return log(n_k / n) (K,) float32; finite, and hopeless, for a class without samples."""
    share = class_counts.double() / class_counts.sum()
    return share.clamp_min(torch.finfo(torch.float32).tiny).log().float()


def mirrored(values: Tensor, class_counts: Tensor) -> Tensor:
    """Return for each class the value of the class at the mirrored place in the order by count."""
    order = class_counts.argsort(descending=True, stable=True)
    result = torch.empty_like(values)
    result[order] = values[order.flip(0)]
    return result


class CrossEntropy(nn.Module):
    """c_ik = -log p_ik. The other losses override `costs`."""

    def __init__(self, class_counts: Tensor) -> None:
        super().__init__()
        self.num_class = len(class_counts)

    def costs(self, logits: Tensor) -> Tensor:
        """Return the loss of every sample under every label: (N, K) -> (N, K)."""
        return -logits.log_softmax(-1)

    def forward(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the scalar loss of logits (N, K) for targets (N, K) or (P, N, K), weights (K,)."""
        return expectation(self.costs(logits), targets, weights)


class Focal(CrossEntropy):
    """c_ik = -(1 - p_ik)^gamma log p_ik: Lin et al., "Focal Loss", ICCV 2017, eq. 4, on a softmax.

    gamma 0 is cross entropy; the paper and the released BRL code have 2.
    """

    def __init__(self, class_counts: Tensor, gamma: float = 2.0) -> None:
        super().__init__(class_counts)
        self.gamma = gamma

    def costs(self, logits: Tensor) -> Tensor:
        nll = super().costs(logits)
        doubt = -torch.expm1(-nll)  # 1 - p, exact also where p is nearly 1
        # Where p is 1, a power below 1 has no finite slope.
        return doubt.clamp_min(torch.finfo(doubt.dtype).tiny) ** self.gamma * nll


class LogitAdjustment(CrossEntropy):
    """Cross entropy of z_k + tau log(n_k / n): Menon et al., "Long-Tail Learning via Logit
    Adjustment", ICLR 2021, eq. 10.

    tau 1 is the balanced softmax of Ren et al., NeurIPS 2020; tau 0 and equal counts are
    cross entropy. (Post hoc, at test time: `longtail.classifiers.PostHocAdjustment`.)
    """

    def __init__(self, class_counts: Tensor, tau: float = 1.0) -> None:
        super().__init__(class_counts)
        self.register_buffer("shift", tau * log_prior(class_counts))

    def costs(self, logits: Tensor) -> Tensor:
        return super().costs(logits + self.shift)


class LDAM(CrossEntropy):
    """Cross entropy of s (z_j - [j = k] m_k) with margins m_k = C n_k^(-1/4): Cao et al., "Learning
    Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019.

    C makes the largest margin `max_margin`; s is `scale`. The paper's logits are cosines of a
    normalised classifier (`model_args.cosine`); the released BRL code takes plain logits, with the
    same scale of 30.
    """

    def __init__(self, class_counts: Tensor, max_margin: float = 0.5, scale: float = 30.0) -> None:
        super().__init__(class_counts)
        margins = torch.where(class_counts > 0, class_counts.double() ** -0.25, 0.0)
        self.register_buffer("margins", (margins * max_margin / margins.max()).float())
        self.scale = scale

    def costs(self, logits: Tensor) -> Tensor:
        return costs_under_own_logits(self.scale * (logits[:, None] - self.margins.diag()))


class Equalization(CrossEntropy):
    """Softmax equalization loss: Tan et al., "Equalization Loss for Long-Tailed Object
    Recognition", CVPR 2020:

        c_ik = -log(e^{z_k} / sum_j w_j e^{z_j}),   w_j = 1 - beta_j T(j) [j != k],

    beta_j ~ Bernoulli(gamma) for each sample and class; T(j) = 1 for tail classes: those of a
    frequency n_j / n below `threshold`, or (None) less frequent than the class at place 2 int(K/3)
    by count. So a tail class is rarely pushed down by the samples of others. `masked: head` spares
    all other classes instead, as the released BRL code does, with gamma 1 - 0.00176.
    """

    def __init__(
        self,
        class_counts: Tensor,
        gamma: float = 0.95,
        threshold: float | None = None,
        masked: str = "tail",
    ) -> None:
        super().__init__(class_counts)
        if masked not in ("tail", "head"):
            raise ValueError(f"masked must be tail or head, not {masked}")
        if threshold is None:
            limit = class_counts.sort(descending=True).values[2 * (len(class_counts) // 3)]
        else:
            limit = threshold * class_counts.sum()
        tail = class_counts < limit
        self.register_buffer("spared", tail if masked == "tail" else ~tail)
        self.gamma = gamma

    def costs(self, logits: Tensor, draws: Tensor | None = None) -> Tensor:
        """Return the costs (N, K); draws (N, K) in [0, 1) stand for beta where they are < gamma."""
        draws = torch.rand_like(logits) if draws is None else draws
        rivals = logits.masked_fill(self.spared & (draws < self.gamma), -torch.inf)
        own = torch.eye(self.num_class, dtype=torch.bool, device=logits.device)
        return costs_under_own_logits(torch.where(own, logits[:, None], rivals[:, None]))


class KPS(CrossEntropy):
    """Key point sensitive loss: Li et al., "Key Point Sensitive Loss for Long-Tailed Visual
    Recognition", TPAMI 2023, after its authors' code: cross entropy of

        s b_k (a_j z_j - [j = k] m_k),   a_j = log(base n_j / n_min) / log(base).

    a_j grows with the count. With ' for the class at the mirrored place in the order by count:
    m_k = max_margin a'_k / max a, so that the rarest class has the largest margin, and
    b_k = clamp(a'_k, 1, limit / s), the gradient adjustment, which acts in the second stage; in the
    first b_k = 1. The paper's logits are cosines of a normalised classifier (`model_args.cosine`);
    the released BRL code takes plain logits, with a scale s of 1.
    """

    def __init__(
        self,
        class_counts: Tensor,
        max_margin: float = 0.5,
        scale: float = 30.0,
        base: float = 50.0,
        limit: float = 50.0,
        adjust: bool = True,
    ) -> None:
        super().__init__(class_counts)
        counts = class_counts.double()
        counts = counts.clamp_min(counts[counts > 0].min())
        slopes = 1 + (counts / counts.min()).log() / math.log(base)
        reverse = mirrored(slopes, class_counts)
        self.register_buffer("slopes", slopes.float())
        self.register_buffer("margins", (max_margin * reverse / slopes.max()).float())
        stretch = reverse.clamp(1, limit / scale) if adjust else torch.ones_like(reverse)
        self.register_buffer("stretch", (scale * stretch).float())
        if adjust:
            self.first_stage = KPS(class_counts, max_margin, scale, base, limit, adjust=False)

    def costs(self, logits: Tensor) -> Tensor:
        logits = (self.slopes * logits)[:, None] - self.margins.diag()
        return costs_under_own_logits(self.stretch[:, None] * logits)


class Gumbel(CrossEntropy):
    """Gumbel cross entropy: Alexandridis et al., "Long-Tailed Instance Segmentation Using Gumbel
    Optimized Loss", ECCV 2022: with q_k = exp(-exp(-z_k)) in place of the sigmoid

        c_ik = -log q_ik - sum_{j != k} log(1 - q_ij),

    logits clamped to [-4, 10]. `softmax: true` is the released BRL code, which takes q for logits:
    c_ik = -log softmax(q_i)_k, bounded by 1 + log(K - 1 + 1/e).
    """

    def __init__(self, class_counts: Tensor, softmax: bool = False) -> None:
        super().__init__(class_counts)
        self.softmax = softmax

    def costs(self, logits: Tensor) -> Tensor:
        hazard = torch.exp(-logits.clamp(-4, 10))  # -log q
        if self.softmax:
            return super().costs(torch.exp(-hazard))
        absent = -torch.log(-torch.expm1(-hazard))  # -log(1 - q)
        return hazard + absent.sum(-1, keepdim=True) - absent


class InfluenceBalanced(CrossEntropy):
    """Influence-balanced loss: Park et al., "Influence-Balanced Loss for Imbalanced Visual
    Classification", ICCV 2021:

        c_ik = w_k (-log p_ik) alpha / (|p_i - e_k|_1 |h_i|_1 + epsilon),   averaged over the batch,

    h_i the features, |p_i - e_k|_1 = 2 (1 - p_ik). w is the inverse frequency. It follows a phase
    of cross entropy: `loss_from: second_stage`.
    """

    needs_features = True

    def __init__(self, class_counts: Tensor, alpha: float = 1000.0, epsilon: float = 1e-3) -> None:
        super().__init__(class_counts)
        self.alpha, self.epsilon = alpha, epsilon

    def forward(
        self, logits: Tensor, targets: Tensor, weights: Tensor | None = None, *, features: Tensor
    ) -> Tensor:
        """Return the scalar loss; features (N, D) are those that the logits were made from."""
        nll = self.costs(logits)
        influence = 2 * -torch.expm1(-nll) * features.abs().sum(1, keepdim=True)
        costs = nll * self.alpha / (influence + self.epsilon)
        return expectation(costs if weights is None else weights * costs, targets)
