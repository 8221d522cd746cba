"""Sums over the ranks of a distributed run, for losses whose parts do not add up by themselves."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class _Sum(torch.autograd.Function):
    """The loss of every rank depends on every rank's summand: gradients are summed as well."""

    @staticmethod
    def forward(ctx, part: Tensor) -> Tensor:
        total = part.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)


def sum_over_ranks(part: Tensor) -> Tensor:
    """Return the sum of every rank's `part`, the same on all of them; gradients go through it.

    All ranks must call it equally often.
    """
    alone = not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1
    return part if alone else _Sum.apply(part)
