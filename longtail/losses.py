"""Losses: constants from the class counts, no epochs, hard and soft targets alike.

Every loss is a loss matrix c (N, K), the loss of sample i under each possible label k. Targets,
hard or mixed, and class weights give the weights of its entries, the label weights s (N, K); the
loss of a batch is

    loss = sum_ik s_ik c_ik    (`CrossEntropy.part`),    s = label_weights(targets, weights).

s does not depend on the network and includes the normalizer of the whole batch, so the sum can be
computed in parts: micro-batches of one optimizer step, or the ranks of a distributed run. z are the
logits, p their softmax, n_k the training count of class k. The attribute `first_stage` is the loss
of the first stage if it differs.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from errors import InputError, check_word
from longtail.counts import fill_absent, last_third
from longtail.ranges import Factor, NotNegative, Positive, Range, Share

Divisor = Literal["batch", "samples"]


def label_weights(targets: Tensor, weights: Tensor | None = None, by: Divisor = "batch") -> Tensor:
    """Return s (N, K), the weight of each entry of the loss matrix in the loss of this batch.

    targets (N, K) with class weights w (K,):

        by batch      s_ik = w_k t_ik / sum_jl w_l t_jl    torch's cross entropy with hard labels
        by samples    s_ik = w_k t_ik / N                  a batch of rare classes has a large loss

    (torch divides by N if labels are soft.) Rows of targets that sum to 2, as in Shap-Mix, double
    the loss. targets (P, N, K) are P label sets; each is weighted by its share sum_ik t_pik / N and
    has its own normalizer, as in the released BRL heads. A label set without weight is ignored.
    """
    sets = targets if targets.ndim == 3 else targets[None]
    weighted = sets if weights is None else sets * weights
    count = sets.shape[1]
    if by == "samples":
        return weighted.sum(0) / count
    mass = weighted.sum((1, 2), keepdim=True).clamp_min(torch.finfo(weighted.dtype).tiny)
    return (sets.sum((1, 2), keepdim=True) / count / mass * weighted).sum(0)


def soft_labels(targets: Tensor) -> Tensor:
    """Return the share (N, K) of each class in a sample; rows of the result sum to 1.

    targets are (N, K), or P label sets (P, N, K), see `label_weights`.
    """
    total = targets.sum(0) if targets.ndim == 3 else targets
    return total / total.sum(1, keepdim=True)


def label_dependent_cross_entropy(logits: Tensor) -> Tensor:
    """Return -log softmax(l_ik)_k (N, K) of logits l (N, K, K) that differ with the label k.

    Margins and masks depend on the label; l_ik are the K logits of sample i under label k.
    """
    return logits.logsumexp(-1) - logits.diagonal(dim1=-2, dim2=-1)


def log_prior(class_counts: Tensor) -> Tensor:
    """Return log(n_k / n) (K,) float32; classes without samples have the value of the rarest
    class."""
    counts = fill_absent(class_counts.double(), class_counts)
    return (counts / class_counts.sum()).log().float()


def mirrored(values: Tensor, class_counts: Tensor) -> Tensor:
    """Return for each class the value (K,) of the class at the mirrored place in the order by
    count.

    Classes without samples have no place and get the value of the rarest class.
    """
    order = class_counts.argsort(descending=True, stable=True)[: int((class_counts > 0).sum())]
    result = torch.zeros_like(values)
    result[order] = values[order.flip(0)]
    return fill_absent(result, class_counts)


def check_logits(logits: Tensor, label_weights: Tensor) -> None:
    """Raise ValueError for logits that are not (N, K), such as those of several experts."""
    if logits.shape != label_weights.shape:
        raise ValueError(
            f"takes the logits of one classifier, {tuple(label_weights.shape)}, but the network "
            f"returns {tuple(logits.shape)}"
        )


class CrossEntropy(nn.Module):
    """c_ik = -log p_ik. The other losses override `loss_matrix`.

    `logit_scale`: the required scale of the network's cosines (`model_args.cosine`) for a loss with
    margins; None if any scale is possible.
    """

    logit_scale: float | None = None

    def __init__(self, class_counts: Tensor) -> None:
        super().__init__()
        self.num_class = len(class_counts)

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        for former, now in (("costs", "loss_matrix"), ("forward", "part")):
            if former in vars(cls):  # it would be ignored, and the parent's loss used
                raise InputError(f"loss {cls.__name__}: override {now} instead of {former}")

    def loss_matrix(self, logits: Tensor) -> Tensor:
        """Return the loss of every sample under every label: (N, K) -> (N, K)."""
        return -logits.log_softmax(-1)

    def part(self, logits: Tensor, features: Tensor, label_weights: Tensor, count: int) -> Tensor:
        """Return sum_ik s_ik c_ik, the scalar part of some samples in the loss of a batch.

        Args:
            logits: (N, K); ValueError for others, such as those of several experts
            features: (N, D), the input of the classifier
            label_weights: the rows (N, K) of these samples in s of the whole batch
            count: rows of the whole mixed batch, for losses that are not sums over rows
        """
        check_logits(logits, label_weights)
        return (label_weights * self.loss_matrix(logits)).sum()


def smoothed(loss_matrix: Tensor, epsilon: float | Tensor) -> Tensor:
    """Return (1 - epsilon_k) c_ik + epsilon_k mean_j c_ij (N, K); epsilon is a number or (K,)."""
    return (1 - epsilon) * loss_matrix + epsilon * loss_matrix.mean(-1, keepdim=True)


class LabelSmoothing(CrossEntropy):
    """c_ik = -(1 - epsilon) log p_ik - epsilon mean_j log p_ij: Szegedy et al., "Rethinking the
    Inception Architecture for Computer Vision", CVPR 2016, section 7."""

    def __init__(self, class_counts: Tensor, epsilon: Factor = 0.1) -> None:
        super().__init__(class_counts)
        self.epsilon = epsilon

    def loss_matrix(self, logits: Tensor) -> Tensor:
        return smoothed(super().loss_matrix(logits), self.epsilon)


class LabelAwareSmoothing(CrossEntropy):
    """Label smoothing by more for frequent classes: Zhong et al., "Improving Calibration for
    Long-Tailed Recognition" (MiSLAS), CVPR 2021, the concave form:

        epsilon_k = tail + (head - tail) sin(pi/2 (n_k - n_min) / (n_max - n_min)).

    As in the authors' code epsilon is spread over all K classes. The values are theirs for CIFAR-10
    of imbalance 100.
    """

    def __init__(self, class_counts: Tensor, head: Factor = 0.3, tail: Factor = 0.0) -> None:
        super().__init__(class_counts)
        counts = fill_absent(class_counts.double(), class_counts)
        place = (counts - counts.min()) / (counts.max() - counts.min()).clamp_min(1)
        epsilon = tail + (head - tail) * (math.pi / 2 * place).sin()
        self.epsilon = nn.Buffer(epsilon.float())  # (K,)

    def loss_matrix(self, logits: Tensor) -> Tensor:
        return smoothed(super().loss_matrix(logits), self.epsilon)


class Focal(CrossEntropy):
    """c_ik = -(1 - p_ik)^gamma log p_ik: Lin et al., "Focal Loss", ICCV 2017, eq. 4, on a softmax.

    gamma 0 is cross entropy; the paper and the released BRL code have 2.
    """

    def __init__(self, class_counts: Tensor, gamma: NotNegative = 2.0) -> None:
        super().__init__(class_counts)
        self.gamma = gamma

    def loss_matrix(self, logits: Tensor) -> Tensor:
        nll = super().loss_matrix(logits)
        doubt = -torch.expm1(-nll)  # 1 - p, exact also where p is nearly 1
        # At p = 1 a power below 1 has no finite slope.
        return doubt.clamp_min(torch.finfo(doubt.dtype).tiny) ** self.gamma * nll


class LogitAdjustment(CrossEntropy):
    """Cross entropy of z_k + tau log(n_k / n): Menon et al., "Long-Tail Learning via Logit
    Adjustment", ICLR 2021, eq. 10.

    tau 1 is the balanced softmax of Ren et al., NeurIPS 2020; tau 0 and equal counts are
    cross entropy. (Post hoc, at test time: `longtail.classifiers.PostHocAdjustment`.)
    """

    def __init__(self, class_counts: Tensor, tau: float = 1.0) -> None:
        super().__init__(class_counts)
        self.shift = nn.Buffer(tau * log_prior(class_counts))

    def loss_matrix(self, logits: Tensor) -> Tensor:
        return super().loss_matrix(logits + self.shift)


class VectorScaling(LogitAdjustment):
    """Cross entropy of (n_k / n_max)^gamma z_k + tau log(n_k / n): Kini et al., "Label-Imbalanced
    and Group-Sensitive Classification under Overparameterization", NeurIPS 2021.

    gamma 0 is logit adjustment. The values are those of the authors' code.
    """

    def __init__(self, class_counts: Tensor, gamma: NotNegative = 0.3, tau: float = 1.0) -> None:
        super().__init__(class_counts, tau)
        counts = fill_absent(class_counts.double(), class_counts)
        self.slopes = nn.Buffer(((counts / counts.max()) ** gamma).float())

    def loss_matrix(self, logits: Tensor) -> Tensor:
        return super().loss_matrix(self.slopes * logits)


class GaussianClouded(CrossEntropy):
    """Cross entropy of z_k - s amplitude |e_ik| m_k / max m with m_k = log(n_max / n_k) and noise
    e_ik ~ N(0, 1/9) within [-1, 1]: Li et al., "Long-Tailed Visual Recognition via Gaussian Clouded
    Logit Adjustment" (GCL), CVPR 2022, first stage.

    z are cosines times the scale s (`model_args.cosine`, the same number as `scale`). The authors
    train the classifier again afterwards, class-balanced (crt).
    """

    def __init__(
        self, class_counts: Tensor, scale: Positive = 30.0, amplitude: NotNegative = 0.5
    ) -> None:
        super().__init__(class_counts)
        counts = fill_absent(class_counts.double(), class_counts)
        rarity = (counts.max() / counts).log()
        largest = rarity.max().clamp_min(torch.finfo(rarity.dtype).tiny)
        self.reach = nn.Buffer((scale * amplitude * rarity / largest).float())
        self.logit_scale = scale

    def loss_matrix(self, logits: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the loss matrix; noise (N, K) is of unit variance."""
        noise = torch.randn_like(logits) if noise is None else noise
        return super().loss_matrix(logits - self.reach * (noise / 3).abs().clamp_max(1))


class LDAM(CrossEntropy):
    """Cross entropy of z_j - [j = k] s m_k with margins m_k = C n_k^(-1/4): Cao et al., "Learning
    Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019.

    C makes the largest margin `max_margin`. The paper's logits are cosines of a normalized
    classifier times the scale s (`model_args.cosine`, the same number as `scale`). `rescale`: the
    logits are those of a linear classifier and multiplied by s here, as in the released BRL code.
    """

    def __init__(
        self,
        class_counts: Tensor,
        max_margin: NotNegative = 0.5,
        scale: Positive = 30.0,
        rescale: bool = False,
    ) -> None:
        super().__init__(class_counts)
        margins = fill_absent(class_counts.double(), class_counts) ** -0.25
        self.margins = nn.Buffer((scale * max_margin / margins.max() * margins).float())  # s m_k
        self.logit_scale, self.factor = (1.0, scale) if rescale else (scale, 1.0)

    def loss_matrix(self, logits: Tensor) -> Tensor:
        shifted = self.factor * logits[:, None] - self.margins.diag()
        return label_dependent_cross_entropy(shifted)


class Equalization(CrossEntropy):
    """Softmax equalization loss: Tan et al., "Equalization Loss for Long-Tailed Object
    Recognition", CVPR 2020:

        c_ik = -log(e^{z_k} / sum_j w_j e^{z_j}),   w_j = 1 - beta_j T(j) [j != k],

    beta_j ~ Bernoulli(gamma) for each sample and class; T(j) = 1 for tail classes: those of a
    frequency n_j / n below `threshold`, or (None) the last third by count (`counts.last_third`). So
    the logit of a tail class is rarely lowered by samples of other classes. `masked: head` spares
    the other classes instead, as in the released BRL code, with gamma 1 - 0.00176 and a tail that
    begins one place later. Classes without samples are never spared: no other samples lower them.
    """

    def __init__(
        self,
        class_counts: Tensor,
        gamma: Share = 0.95,
        threshold: Share | None = None,
        masked: Literal["tail", "head"] = "tail",
    ) -> None:
        super().__init__(class_counts)
        check_word("loss_args.masked", masked, ("tail", "head"))
        if threshold is None:
            tail = last_third(class_counts, skip=int(masked == "head"))
        else:
            tail = class_counts < threshold * class_counts.sum()
        spared = tail if masked == "tail" else ~tail
        self.spared = nn.Buffer(spared & (class_counts > 0))
        self.gamma = gamma

    def loss_matrix(self, logits: Tensor, draws: Tensor | None = None) -> Tensor:
        """Return the loss matrix; draws (N, K) in [0, 1): beta is 1 where they are below gamma."""
        draws = torch.rand_like(logits) if draws is None else draws
        rivals = logits.masked_fill(self.spared & (draws < self.gamma), -torch.inf)
        own = torch.eye(self.num_class, dtype=torch.bool, device=logits.device)
        return label_dependent_cross_entropy(torch.where(own, logits[:, None], rivals[:, None]))


class KPS(CrossEntropy):
    """Key point sensitive loss: Li et al., "Key Point Sensitive Loss for Long-Tailed Visual
    Recognition", TPAMI 2023, after its authors' code: cross entropy of

        b_k (a_j z_j - [j = k] s m_k),   a_j = log(base n_j / n_min) / log(base).

    a_j grows with the count. With ' for the class at the mirrored place in the order by count: m_k
    = max_margin a'_k / max a, so that the rarest class has the largest margin, and b_k =
    clamp(a'_k, 1, limit / s), the gradient adjustment, used in the second stage (in the authors'
    code the last 40% of the epochs); in the first b_k = 1. The paper's logits are cosines of a
    normalized classifier times the scale s (`model_args.cosine`, the same number as `scale`); the
    released BRL code uses linear logits, margins of 0.5 and a scale s of 1.
    """

    def __init__(
        self,
        class_counts: Tensor,
        max_margin: NotNegative = 0.2,
        scale: Positive = 15.0,
        base: Annotated[float, Range(1, above=True)] = 50.0,
        limit: Positive = 50.0,
        adjust: bool = True,
    ) -> None:
        super().__init__(class_counts)
        counts = fill_absent(class_counts.double(), class_counts)
        slopes = 1 + (counts / counts.min()).log() / math.log(base)
        reverse = mirrored(slopes, class_counts)
        self.slopes = nn.Buffer(slopes.float())
        self.margins = nn.Buffer((scale * max_margin * reverse / slopes.max()).float())
        stretch = reverse.clamp(1, limit / scale) if adjust else torch.ones_like(reverse)
        self.stretch = nn.Buffer(stretch.float())
        self.logit_scale = scale
        if adjust:
            self.first_stage = KPS(class_counts, max_margin, scale, base, limit, adjust=False)

    def loss_matrix(self, logits: Tensor) -> Tensor:
        logits = (self.slopes * logits)[:, None] - self.margins.diag()
        return label_dependent_cross_entropy(self.stretch[:, None] * logits)


class Gumbel(CrossEntropy):
    """Gumbel cross entropy: Alexandridis et al., "Long-Tailed Instance Segmentation Using Gumbel
    Optimized Loss", ECCV 2022: with q_k = exp(-exp(-z_k)) in place of the sigmoid

        c_ik = -log q_ik - sum_{j != k} log(1 - q_ij),

    logits clamped to [-4, 10]. `softmax: true` is the released BRL code, which uses q as logits:
    c_ik = -log softmax(q_i)_k, bounded by 1 + log(K - 1 + 1/e).
    """

    def __init__(self, class_counts: Tensor, softmax: bool = False) -> None:
        super().__init__(class_counts)
        self.softmax = softmax

    def loss_matrix(self, logits: Tensor) -> Tensor:
        hazard = torch.exp(-logits.clamp(-4, 10))  # -log q
        if self.softmax:
            return super().loss_matrix(torch.exp(-hazard))
        absent = -torch.log(-torch.expm1(-hazard))  # -log(1 - q)
        return hazard + absent.sum(-1, keepdim=True) - absent


class InfluenceBalanced(CrossEntropy):
    """Influence-balanced loss: Park et al., "Influence-Balanced Loss for Imbalanced Visual
    Classification", ICCV 2021:

        c_ik = (-log p_ik) alpha / (|p_i - e_k|_1 |h_i|_1 + epsilon),

    h_i the features, |p_i - e_k|_1 = 2 (1 - p_ik). It is used with inverse frequencies as class
    weights, averaged over the samples (`weigh_by: samples`), after a phase of cross entropy
    (`loss_from: second_stage`).
    """

    def __init__(
        self, class_counts: Tensor, alpha: Positive = 1000.0, epsilon: Positive = 1e-3
    ) -> None:
        super().__init__(class_counts)
        self.alpha, self.epsilon = alpha, epsilon

    def part(self, logits: Tensor, features: Tensor, label_weights: Tensor, count: int) -> Tensor:
        check_logits(logits, label_weights)
        nll = self.loss_matrix(logits)
        influence = 2 * -torch.expm1(-nll) * features.abs().sum(1, keepdim=True)
        return (label_weights * (nll * self.alpha / (influence + self.epsilon))).sum()
