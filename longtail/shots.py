"""Accuracy in the groups of the long tail: many, medium and few training samples a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

GROUPS = ("many", "medium", "few")


def groups(class_counts: Any, shots: Sequence[int] = (100, 20)) -> dict[str, Tensor]:
    """Return a mask (K,) for each group by training counts: many > shots[0], few < shots[1]."""
    counts = torch.as_tensor(class_counts)
    many, few = counts > shots[0], counts < shots[1]
    return dict(zip(GROUPS, (many, ~(many | few), few)))


def hits(scores: Tensor, labels: Tensor, k: int) -> Tensor:
    """Return whether each label is among the k highest scores (N,); of ties the first class is."""
    own = scores.gather(1, labels[:, None])
    earlier = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    return ((scores > own) | ((scores == own) & earlier)).sum(1) < k


def accuracy(
    scores: Any, labels: Any, class_counts: Any = None, shots: Sequence[int] = (100, 20)
) -> dict[str, Any]:
    """Return accuracies in percent of scores (N, K) for labels (N,); None where there are none.

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

    shot_groups = {} if class_counts is None else groups(torch.as_tensor(class_counts).cpu(), shots)
    return {
        "top1": percent(100 * first),
        "top5": percent(100 * hits(scores, labels, 5).cpu().double()),
        "mean_class": percent(per_class),
        **{
            name: percent(per_class[shot_groups[name]]) if name in shot_groups else None
            for name in GROUPS
        },
        "per_class": [None if value.isnan() else float(value) for value in per_class],
    }
