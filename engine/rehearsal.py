"""Two small batches through all parts of a run before its first step, so that errors appear early.

Arguments that a constructor accepts can still be wrong for the data, the network or each other. At
this point nothing has been written, and the configuration key is known.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from engine.build import blame, make_feeder
from engine.config import Config
from engine.distributed import World
from engine.precision import Float32Outputs
from engine.run_data import TrainingData
from errors import InputError
from feeders.skeleton import Batch
from longtail.method import Method


def rehearse(
    config: Config, world: World, device: torch.device, data: TrainingData, feeder: Any,
    method: Method, model: nn.Module,
) -> None:  # fmt: skip
    """Feed, mix, compute and test a few clips as the run will, without side effects.

    Raises InputError that names the key. Two batch sizes are tried, so that no shape fits by
    chance, in the first and in the last epoch. Each rank does this independently.
    """
    with blame(config, "sampling"):
        rows = method.rows(torch.Generator().manual_seed(0), 0.0)
        smallest = min(config.batch_size, len(rows))
    if smallest < world.size:
        raise InputError(
            f"batch_size: {smallest} samples for {world.size} ranks, but each rank needs one"
        )
    method, net = copy.deepcopy(method), Float32Outputs(model, config.amp)
    gpus = [device] if device.type == "cuda" else []
    with unchanged(model), torch.random.fork_rng(gpus):
        for count in (2, 3):
            batch = Batch(rows[torch.arange(count) % len(rows)], seed=count)
            with blame(config, "feeder"):
                ((clips, labels, _),) = feeder.batches([batch])
            method.set_mode(net)
            with blame(config, "model"), torch.no_grad():
                net(clips.flatten(0, clips.ndim - 5))
            for epoch in (0, config.num_epoch - 1):
                method.begin_epoch(epoch)
                with blame(config, "mixing", "class_weights"):
                    mixed, targets = method.mix(net, clips, labels, batch.generator)
                with blame(config, "loss", "model"):
                    loss = method.loss(net, mixed, targets, len(mixed))
                    if loss.ndim:
                        raise ValueError(f"the loss has shape {tuple(loss.shape)}, not ()")
        with blame(config, "feeder"):
            feeder = make_feeder(config, data, data.test_rows[:1], device, clips=config.test_clips)
            ((clips, _, _),) = feeder.batches([torch.arange(1)])
        with blame(config, "model"), torch.inference_mode():
            shape = tuple(net.eval()(clips[:2]).logits.shape)
            wanted = (len(clips[:2]), len(data.class_counts))
            if shape != wanted:
                raise ValueError(f"returns {shape}, but logits (N, K) must be {wanted}")


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Restore the buffers (batch statistics) and the training mode at the end of the context."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
        for module, mode in modes:
            module.training = mode
