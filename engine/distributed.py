"""The ranks of a run: one process by itself, or several under torchrun."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from errors import InputError, Stopped


@dataclass(frozen=True)
class Ranks:
    """This process among `world`; every rank makes the same global batch and takes its rows."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> Ranks:
        """Join the group that torchrun started (NCCL between GPUs, else gloo), or be alone."""
        if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", 1)) == 1:
            return cls()
        ranks = cls(
            int(os.environ["RANK"]),
            int(os.environ["WORLD_SIZE"]),
            int(os.environ.get("LOCAL_RANK", 0)),
        )
        if not dist.is_initialized():
            on_gpus = torch.cuda.is_available()  # where `--device cpu` may be asked for, too
            dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo")
        return ranks

    @property
    def leads(self) -> bool:
        """True for the rank that writes files and talks."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Return this rank's rows of a global batch of `count`."""
        return slice(self.rank, count, self.world)

    def join(self, part: torch.Tensor, count: int) -> torch.Tensor:
        """Return the `count` rows of the global batch, of which `part` (n, ...) is `share`.

        Every rank takes the loss of the whole batch, however that divides and weighs its rows; the
        gradient of `part` is the sum over the ranks, of which DistributedDataParallel makes a mean.
        """
        if self.world == 1:
            return part
        rows = part.new_zeros(count, *part.shape[1:])
        rows[self.share(count)] = part
        return _Sum.apply(rows)

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()

    def gather(self, part: object) -> list[object]:
        """Return every rank's object, in the order of the ranks, on every rank."""
        if self.world == 1:
            return [part]
        parts: list[object] = [None] * self.world
        dist.all_gather_object(parts, part)
        return parts

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean of a tensor over the ranks."""
        if self.world > 1:
            dist.all_reduce(values)
        return values / self.world

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank."""
        return any(self.gather(flag)) if self.world > 1 else flag

    def agree(self, model: nn.Module) -> None:
        """Give every rank the first one's buffers: batch statistics depend on a rank's own rows."""
        if self.world > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave the group; a rank that fails by itself does not wait for the others, as NCCL would.

        They wait for it in turn, until whoever started the ranks ends them.
        """
        together = kind is None or issubclass(kind, Stopped)
        if self.world > 1 and (together or not torch.cuda.is_available()):
            dist.destroy_process_group()


def choose_devices(names: list[str] | None, ranks: Ranks) -> list[torch.device]:
    """Return the devices for `--device` (GPU indices or `cpu`); default GPU 0, else the CPU.

    Under torchrun each rank takes one device: the entry of the list that its number within the
    machine says. Raises InputError for a name that is neither, or a GPU that is not there, or fewer
    GPUs than ranks.
    """
    count = torch.cuda.device_count()
    if not names:
        names = [str(i) for i in range(ranks.local_rank + 1)] if count else ["cpu"]
    if names == ["cpu"]:
        return [torch.device("cpu")]
    for name in names:
        if not name.isdecimal():
            raise InputError(f"--device {name}: give GPU indices (0 1 ...) or cpu")
        if int(name) >= count:
            there = f"0 to {count - 1}" if count else "none; use --device cpu"
            raise InputError(f"--device {name}: no such GPU (there: {there})")
    if ranks.world > 1:
        if ranks.local_rank >= len(names):
            raise InputError(
                f"--device {' '.join(names)}: fewer GPUs than processes; "
                f"torchrun --nproc-per-node {len(names)} has one for each"
            )
        names = [names[ranks.local_rank]]
    return [torch.device("cuda", int(name)) for name in names]


def release() -> None:
    """Free what a run held: its frames, and its compiled network, are no use to the next one."""
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class _Sum(torch.autograd.Function):
    """The sum of a tensor over the ranks; every rank's loss depends on every part of it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return _Sum.forward(ctx, grad.contiguous())


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm with the statistics of all ranks' batches; torch's own one needs GPUs."""

    def _check_input_dim(self, x: torch.Tensor) -> None:
        pass

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        given, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32))
        over = [axis for axis in range(x.ndim) if axis != 1]
        per_channel = [1, -1] + [1] * (x.ndim - 2)
        count = x.new_full((1,), x.numel() / x.shape[1])
        count, total = _Sum.apply(torch.cat([count, x.sum(over)])).split([1, x.shape[1]])
        mean = total / count
        centred = x - mean.view(per_channel)
        variance = _Sum.apply(centred.square().sum(over)) / count
        with torch.no_grad():
            unbiased = variance * count / (count - 1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
            self.num_batches_tracked.add_(1)
        scale = (variance + self.eps).rsqrt() * self.weight
        return (centred * scale.view(per_channel) + self.bias.view(per_channel)).to(given)


def synchronise_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Let the batch norms of `model` share their statistics between the ranks."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.__class__ = SyncBatchNorm  # parameters, buffers and names stay as they are
    return model
