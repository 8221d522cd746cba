"""Mixing of the samples of a batch, and the soft targets that come of it.

All draws come from a CPU generator, so an epoch is the same on every device; the arithmetic runs
where the clips are, and nothing waits for it. Inputs are never modified.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot


class Plain:
    """No mixing: the clips as they are, one-hot targets (N, K)."""

    def __init__(self, class_counts: Tensor, skeleton: Any = None) -> None:
        self.num_class = len(class_counts)

    def __call__(
        self, clips: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return clips, one_hot(labels, self.num_class).float()
