"""Two small batches all the way through a run before its first step: what cannot work fails here.

Arguments that a constructor accepts can still be wrong for the data, the network or each other. At
this point nothing is written, and the configuration key is known.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from engine import evaluate
from engine.build import blame, check_used, make_feeder
from engine.distributed import Ranks
from errors import InputError
from feeders.skeleton import Batch

if TYPE_CHECKING:
    from engine.train import Trainer


def rehearse(trainer: Trainer) -> None:
    """Feed, mix, compute and judge a few clips as training and testing will; change nothing.

    The trainer has all of its parts but the wrapped network and the optimizer.

    Raises InputError that names the key. Two sizes of batches are tried, so that no shape fits by
    chance. Every rank rehearses by itself.
    """
    config, model, feeder = trainer.config, trainer.model, trainer.feeder
    check_used(config)
    with blame(config, "sampling"):
        drawn = trainer.sampling.epoch(torch.Generator().manual_seed(0), 0.0)
    smallest = min(config.batch_size, len(drawn))
    if smallest < trainer.ranks.world:
        raise InputError(
            f"batch_size: {smallest} samples for {trainer.ranks.world} ranks, but each needs one"
        )
    stand_in = copy.copy(trainer)
    stand_in.net = stand_in.judged = model
    stand_in.ranks, stand_in.mix = Ranks(), copy.deepcopy(trainer.mix)
    criteria = {trainer.stages.criterion(e): e for e in reversed(range(config.num_epoch))}
    amp = evaluate.autocast(config, trainer.device)
    gpus = [trainer.device] if trainer.device.type == "cuda" else []
    with unchanged(model), torch.random.fork_rng(gpus):
        for count in (2, 3):
            batch = Batch(torch.arange(count) % len(feeder), seed=count)
            with blame(config, "feeder"):
                ((clips, labels, _),) = feeder.batches([batch])
            stand_in.set_mode()
            with blame(config, "model"), torch.no_grad(), amp:
                model(clips)
            with blame(config, "mixing"):
                stand_in.mix(clips, labels, batch.generator)
            for criterion, epoch in criteria.items():
                with blame(config, "class_weights"):
                    weights = trainer.stages.class_weights(epoch).to(trainer.device)
                with blame(config, "loss", "model"):
                    mixed, entries = stand_in.mixed(clips, labels, batch, weights)
                    loss = stand_in.loss(mixed, entries, len(mixed), criterion)
                    if loss.ndim:
                        raise ValueError(f"gives {tuple(loss.shape)} values, not one")
        _rehearse_test(trainer)
    trainer.features.clear()


def _rehearse_test(trainer: Trainer) -> None:
    config, data = trainer.config, trainer.data
    with blame(config, "feeder"):
        feeder = make_feeder(
            config, data, data.test_rows[:1], trainer.device, clips=config.test_clips
        )
        ((clips, _, _),) = feeder.batches([torch.arange(1)])
    with blame(config, "model"), torch.inference_mode():
        with evaluate.autocast(config, trainer.device):
            logits = trainer.model.eval()(clips[:2])
        wanted = (len(clips[:2]), len(data.class_counts))
        if logits.shape != wanted:
            raise ValueError(f"gives {tuple(logits.shape)} for logits (N, K) of {wanted}")


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Give the buffers (batch statistics) and the mode back as they were."""
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
