"""The ranks of a run: a single process, or several under torchrun."""

from __future__ import annotations

import gc
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from errors import InputError, Stopped
from model.backbone import Network


@dataclass(frozen=True)
class World:
    """This process, one of `size`; every rank draws the same global batch and computes its rows."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> World:
        """Join the group started by torchrun (NCCL for GPUs, else gloo), or return a single
        process."""
        if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", 1)) == 1:
            return cls()
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        world = cls(rank, size, int(os.environ.get("LOCAL_RANK", 0)))
        if not dist.is_initialized():
            on_gpus = torch.cuda.is_available()  # `--device cpu` is possible there as well
            dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo")
        return world

    @property
    def is_main(self) -> bool:
        """True for the rank that writes files and prints."""
        return self.rank == 0

    def local_rows(self, count: int) -> slice:
        """Return this rank's rows of a global batch of `count`."""
        return slice(self.rank, count, self.size)

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()

    def gather(self, part: Any) -> list[Any]:
        """Return the objects of all ranks, in rank order, on every rank."""
        if self.size == 1:
            return [part]
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, part)
        return parts

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean of a tensor over the ranks."""
        if self.size > 1:
            dist.all_reduce(values)
        return values / self.size

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank."""
        return any(self.gather(flag)) if self.size > 1 else flag

    def sync_gradients(self, net: nn.Module, sync: bool) -> AbstractContextManager:
        """Return the context of a backward pass; with `sync` gradients are averaged over the ranks.

        Without `sync` they are accumulated: more micro-batches of the step follow.
        """
        if sync or not isinstance(net, nn.parallel.DistributedDataParallel):
            return nullcontext()
        return net.no_sync()

    def average_gradients(self, module: nn.Module) -> None:
        """Average the gradients of a module that DistributedDataParallel does not wrap."""
        if self.size > 1:
            for parameter in module.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= self.size

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Copy the buffers of rank 0 to all ranks: batch statistics differ between ranks."""
        if self.size > 1:
            for buffer in model.buffers():
                values = buffer.contiguous()
                dist.broadcast(values, src=0)
                buffer.copy_(values)

    def __enter__(self) -> World:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave the group; with NCCL, a rank that fails alone does not wait for the others.

        The others block until torchrun ends them.
        """
        together = kind is None or issubclass(kind, Stopped)
        if self.size > 1 and (together or not torch.cuda.is_available()):
            dist.destroy_process_group()


def choose_devices(names: list[str] | None, world: World) -> list[torch.device]:
    """Return the devices for `--device` (GPU indices or `cpu`); default GPU 0, else the CPU.

    Under torchrun each rank takes one device, the entry `local_rank` of the list. Raises InputError
    for an invalid name, a GPU that does not exist, or fewer GPUs than ranks.
    """
    count = torch.cuda.device_count()
    if not names:
        names = [str(i) for i in range(world.local_rank + 1)] if count else ["cpu"]
    if names == ["cpu"]:
        return [torch.device("cpu")]
    for name in names:
        if not name.isdecimal():
            raise InputError(f"--device {name}: give GPU indices (0 1 ...) or cpu")
        if int(name) >= count:
            there = f"0 to {count - 1}" if count else "none; use --device cpu"
            raise InputError(f"--device {name}: no such GPU (available: {there})")
    if world.size > 1:
        if world.local_rank >= len(names):
            raise InputError(
                f"--device {' '.join(names)}: fewer GPUs than processes; "
                f"use torchrun --nproc-per-node {len(names)}"
            )
        names = [names[world.local_rank]]
    return [torch.device("cuda", int(name)) for name in names]


def free_memory() -> None:
    """Free the frames and the compiled network of a finished run."""
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def synchronize_batch_norm(model: Network, device: torch.device) -> Network:
    """Return `model` with batch norms that share statistics between ranks; InputError on a CPU."""
    if device.type != "cuda":
        raise InputError(
            "sync_bn: torch synchronizes batch norm only between GPUs; set it to false"
        )
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)
