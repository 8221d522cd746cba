"""The loss of a whole batch, which the loop computes in parts."""

import torch
from torch import Tensor

from longtail.losses import CrossEntropy, label_weights

ONES = torch.ones(1, 4)


def batch_loss(
    criterion: CrossEntropy,
    logits: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    features: Tensor = ONES,
) -> Tensor:
    """Return the loss of logits (N, K) for targets and class weights as of `label_weights`."""
    return criterion.part(logits, features, label_weights(targets, weights), len(logits))
