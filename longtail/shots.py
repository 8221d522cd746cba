"""Accuracy of scores, also by the groups of the long tail, and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

GROUPS = ("many", "medium", "few")
METRICS = ("top1", "mean_class", *GROUPS)  # columns of tables and curves, in this order
SHOTS = (100, 20)  # many: more training samples per class; few: fewer
AUTO = "auto"  # in a configuration: the limits of `automatic`
ECE_BINS = 15


def groups(class_counts: Any, shots: Sequence[int] = SHOTS) -> dict[str, Tensor]:
    """Return a mask (K,) per group by training counts: many > shots[0], few < shots[1]."""
    counts = torch.as_tensor(class_counts)
    many, few = counts > shots[0], counts < shots[1]
    return dict(zip(GROUPS, (many, ~(many | few), few)))


def automatic(class_counts: Any) -> tuple[int, int]:
    """Return SHOTS if each group then has classes, else limits that make thirds of the classes.

    Classes (K,) without training samples are not counted. Classes of the same size are not parted,
    so the medium group can be empty: the largest have many and the smallest few. All are medium if
    none has half as many samples again as another.
    """
    counts = torch.as_tensor(class_counts)
    counts = counts[counts > 0].sort(descending=True).values
    if not len(counts) or all(mask.any() for mask in groups(counts).values()):
        return SHOTS
    if counts[0] < 1.5 * counts[-1]:
        return int(counts[0]), int(counts[-1])
    third = round(len(counts) / 3)
    last = max(third, len(counts) - third - 1)  # of the medium classes
    many, few = int(counts[third]), int(counts[last])
    if few == counts[-1]:  # a third or more are of the smallest size
        few += 1
        many = max(many, few)
    elif many == counts[0]:  # or of the largest
        many -= 1
        few = min(few, many)
    if many == counts[0] > few:
        many -= 1
    return many, few


def hits(scores: Tensor, labels: Tensor, k: int) -> Tensor:
    """Return whether each label is among the k highest scores, (N,); ties: the lower class wins."""
    own = scores.gather(1, labels[:, None])
    earlier = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    return ((scores > own) | ((scores == own) & earlier)).sum(1) < k


def accuracy(
    scores: Any, labels: Any, class_counts: Any = None, shots: Sequence[int] = SHOTS
) -> dict[str, Any]:
    """Return accuracies in percent of scores (N, K) for labels (N,); None for no samples.

    top1 and top5 average samples; mean_class, many, medium and few average the per_class (a list of
    K) of the classes that have test samples. Without class_counts the three groups are None.
    """
    scores, labels = torch.as_tensor(scores), torch.as_tensor(labels).long()
    num_class = scores.shape[1]
    first = hits(scores, labels, 1).cpu().double()
    tested = torch.bincount(labels.cpu(), minlength=num_class)
    per_class = 100 * torch.bincount(labels.cpu(), first, num_class) / tested  # NaN where untested

    def percent(values: Tensor) -> float | None:
        values = values[~values.isnan()]
        return float(values.mean()) if len(values) else None

    of_groups: dict[str, float | None] = dict.fromkeys(GROUPS)
    if class_counts is not None:
        masks = groups(torch.as_tensor(class_counts).cpu(), shots)
        of_groups = {name: percent(per_class[mask]) for name, mask in masks.items()}
    return {
        "top1": percent(100 * first),
        "top5": percent(100 * hits(scores, labels, 5).cpu().double()),
        "mean_class": percent(per_class),
        **of_groups,
        "per_class": [None if value.isnan() else float(value) for value in per_class],
    }


def reliability(scores: Any, labels: Any) -> Tensor:
    """Return (15, 3) of the bins of equal width, by the probability of the predicted class: number
    of samples, mean probability and accuracy, 0 where there are none. Scores (N, K), labels (N,).
    """
    scores, labels = torch.as_tensor(scores).cpu().double(), torch.as_tensor(labels).cpu().long()
    confidence, predicted = scores.max(1)
    right = (predicted == labels).double()
    edges = torch.arange(1, ECE_BINS, dtype=torch.float64) / ECE_BINS
    bins = torch.bucketize(confidence, edges)  # the bin of edge i is the one below it
    count, total, hit = (torch.bincount(bins, value, ECE_BINS)
                         for value in (torch.ones_like(right), confidence, right))  # fmt: skip
    return torch.stack([count, total / count.clamp_min(1), hit / count.clamp_min(1)], 1)


def probability_metrics(scores: Any, labels: Any) -> dict[str, float | None]:
    """Return macro_f1 and ece in percent and nll of probabilities (N, K) for labels (N,).

    macro_f1: the mean F1 of the classes that are a label or a prediction; a class never predicted
    correctly has 0. ece: expected calibration error of the predicted class (Guo et al., arXiv
    1706.04599, eq. 3), 15 bins of equal width, each open on the left. nll: mean of -log p of the
    label in nats; a probability of 0 counts as the smallest normal float32. None without samples.
    """
    scores, labels = torch.as_tensor(scores).cpu().double(), torch.as_tensor(labels).cpu().long()
    if not len(labels):
        return {"macro_f1": None, "ece": None, "nll": None}
    num_class = scores.shape[1]
    predicted = scores.argmax(1)
    right = (predicted == labels).double()

    true_positives = torch.bincount(labels, right, num_class)
    both = torch.bincount(torch.cat([labels, predicted]), minlength=num_class)
    f1 = (2 * true_positives / both)[both > 0]

    count, confidence, accuracy = reliability(scores, labels).T
    gap = (count * (accuracy - confidence).abs()).sum() / len(labels)

    own = scores.gather(1, labels[:, None]).clamp_min(torch.finfo(torch.float32).tiny)
    return {
        "macro_f1": float(100 * f1.mean()),
        "ece": float(100 * gap),
        "nll": float(-own.log().mean()),
    }
