"""Hong et al., "Disentangling Label Distribution for Long-tailed Visual Recognition" (LADE),
CVPR 2021, arXiv 2012.00321."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from longtail.losses import log_prior
from longtail.method import Method, Parts
from longtail.ranges import NotNegative
from longtail.ranks import gather_over_ranks
from model.backbone import linear_classifier


class LADE(Method):
    """The loss of a composition, with a term that pulls the logits to those of uniform classes.

    With the label shares p_c = n_c / n and the batch B, N_c of it with label c,

        first_c  = sum_{i in B, y_i = c} z_ic / N_c    (0 if there are none),
        second_c = log( mean_{i in B} e^{z_ic} / (K p_c) ),
        loss     = L - weight sum_c p_c (first_c - second_c - regularization second_c^2),

    a Donsker-Varadhan bound for each class, regularized (eq. 10 to 12). L is the balanced softmax.
    B is a micro-batch of all ranks. The values are the authors' for CIFAR-100-LT of imbalance
    factor 100 (their `alpha` is our `weight`, their `remine_lambda` our `regularization`).
    """

    refuses = ("mixing", "class_weights", "classifier")

    def __init__(
        self,
        parts: Parts,
        model: nn.Module,
        weight: NotNegative = 0.1,
        regularization: NotNegative = 0.01,
    ) -> None:
        super().__init__(parts, model)
        linear_classifier(model)  # the bounds are those of one classifier
        self.weight, self.regularization = weight, regularization
        self.log_shares = nn.Buffer(log_prior(parts.class_counts), persistent=False)

    def loss(self, net: nn.Module, clips: Tensor, targets: Tensor, count: int) -> Tensor:
        output = net(clips)
        bounds = self.bounds(output.logits, targets[:, 1])
        share = len(clips) / count  # the micro-batches of all ranks add up to one whole batch
        loss = self.part(output, targets, count)
        return loss - self.weight * share * (self.log_shares.exp() * bounds).sum()

    def bounds(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the regularized bound of each class (K,), of logits and labels (n, K), one-hot."""
        every, _ = gather_over_ranks(torch.cat([logits, labels.to(logits.dtype)], 1))
        logits, labels = every.chunk(2, 1)
        first = (labels * logits).sum(0) / labels.sum(0).clamp_min(1)
        num_class, batch = logits.shape[1], len(logits)
        second = (logits - self.log_shares).logsumexp(0) - math.log(num_class * batch)
        return first - second - self.regularization * second**2
