"""Wrappers of the network: compiled, on several devices, in several ranks."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from engine.config import Config
from engine.distributed import World
from engine.precision import Float32Outputs
from errors import InputError


def wrap(
    model: nn.Module, config: Config, devices: list[torch.device], world: World
) -> tuple[nn.Module, nn.Module]:
    """Return (the network to train, the network to evaluate); both wrap `model`.

    The first returns an `Output` in float32, the second logits.
    """
    eval_net = model
    if config.compile:
        mode = "reduce-overhead" if takes_cuda_graphs(config, devices[0], world) else None
        compiled: Any = torch.compile(model, mode=mode, dynamic=False)
        eval_net = compiled
    net: nn.Module = Float32Outputs(eval_net, config.amp)
    if world.size > 1:
        ids = [devices[0]] if devices[0].type == "cuda" else None
        return nn.parallel.DistributedDataParallel(net, device_ids=ids), eval_net
    if len(devices) > 1:
        if config.compile:
            raise InputError("--compile with several devices needs torchrun")
        net = nn.DataParallel(net, device_ids=[device.index for device in devices])
        eval_net = Logits(net)
    return net, eval_net


class Logits(nn.Module):
    """Returns only the logits of a network that returns an `Output`."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return self.net(clips).logits


def takes_cuda_graphs(config: Config, device: torch.device, world: World) -> bool:
    """Return whether the compiled network is captured in CUDA graphs.

    Not with accumulation: the next micro-batch overwrites the memory of the gradients. Not with
    DistributedDataParallel: validation after training crashed at random
    (https://github.com/pytorch/pytorch/issues/128218).
    """
    return (
        config.cuda_graphs and device.type == "cuda" and config.accumulate == 1 and world.size == 1
    )


def eager_if_partial(config: Config, partial: bool) -> AbstractContextManager:
    """Return the context of one batch with `--compile`: a partial (last) batch runs eagerly.

    The values are the same, and nothing is compiled again for another shape.
    """
    if not config.compile or not partial:
        return nullcontext()
    return torch.compiler.set_stance("force_eager")
