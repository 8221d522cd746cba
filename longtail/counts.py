"""Class counts (K,): the tail classes by rank, and classes without training samples."""

from __future__ import annotations

import torch
from torch import Tensor


def last_third(class_counts: Tensor, skip: int = 0) -> Tensor:
    """Return a mask (K,): the places from 2 int(K/3) + skip on in the order by count.

    The order is descending and stable, so tied counts are in label order. Classes without samples
    have no place and do not count in K.
    """
    present = int((class_counts > 0).sum())
    order = class_counts.argsort(descending=True, stable=True)
    tail = torch.zeros(len(class_counts), dtype=torch.bool, device=class_counts.device)
    tail[order[2 * (present // 3) + skip : present]] = True
    return tail


def fill_absent(values: Tensor, class_counts: Tensor) -> Tensor:
    """Return values (K,) in which classes without samples have the value of the rarest class."""
    present = class_counts > 0
    rarest = torch.where(present, class_counts, class_counts.max() + 1).argmin()
    return torch.where(present, values, values[rarest])
