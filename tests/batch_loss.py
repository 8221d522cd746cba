"""The loss of a whole batch, which the loop computes in parts."""

from torch import Tensor

from longtail.losses import CrossEntropy, label_weights


def batch_loss(
    criterion: CrossEntropy,
    logits: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    **features: Tensor,
) -> Tensor:
    """Return the loss of logits (N, K) for targets and class weights as of `label_weights`."""
    entries = label_weights(targets, weights)
    return criterion.part(logits, entries, len(logits), **features)
