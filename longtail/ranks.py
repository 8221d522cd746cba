"""Sums over the ranks of a distributed run, for losses whose parts do not add up by themselves."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad


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


def _alone() -> bool:
    return not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1


def sum_over_ranks(part: Tensor) -> Tensor:
    """Return the sum of every rank's `part`, the same on all of them; gradients go through it.

    All ranks must call it equally often.
    """
    return part if _alone() else _Sum.apply(part)


def gather_over_ranks(rows: Tensor) -> tuple[Tensor, int]:
    """Return the rows (n, D) of all ranks, one after the other, and where this rank's begin.

    Gradients go through them. All ranks must call it equally often.
    """
    if _alone():
        return rows, 0
    own = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=rows.device)
    own[dist.get_rank()] = len(rows)
    counts = sum_over_ranks(own).tolist()
    first = sum(counts[: dist.get_rank()])
    return sum_over_ranks(pad(rows, (0, 0, first, sum(counts) - first - len(rows)))), first
