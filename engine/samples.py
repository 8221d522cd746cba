"""Outputs of a trained network for training samples: those held out by `val_split`, and others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine import checkpoint, evaluate, precision
from engine.build import make_feeder, to_device
from engine.config import Config
from engine.fusion import Scores
from engine.run_data import TrainingData, check_same_data, open_data, seen_in_training
from errors import InputError
from longtail.classifiers import Samples
from model.fuse_bn import fuse_bn


def score_held_out(path: Path, device: torch.device, config: Config | None = None) -> Scores:
    """Return the probabilities of a checkpoint for the samples that its training held out.

    `config` replaces the checkpoint's own. Samples are scored as in testing, with all their clips.
    Raises InputError if it was trained on its whole list, or if the list has changed.
    """
    config, model, facts = checkpoint.load_network(path, config)
    if config.val_split is None:
        raise InputError(
            f"{path}: was trained on its whole training list, so no sample is held out; train with "
            "--val-split 0.1"
        )
    data = open_data(config, model)
    check_same_data(facts, data, path)
    feeder = make_feeder(config, data, data.val_rows, device, clips=config.test_clips)
    scores = evaluate.score(fuse_bn(to_device(model, device)), feeder, config, device)
    return Scores(np.array(feeder.names), feeder.labels.numpy(), scores)


def for_method(
    config: Config, data: TrainingData, model: nn.Module, device: torch.device,
    facts: dict[str, Any],
) -> Samples:  # fmt: skip
    """Return what a method's `prepare` may ask of the network, which began with a checkpoint.

    `facts` are those in the checkpoint. Each sample is one clip, not augmented. The held-out
    samples are refused, by an InputError, if it cannot be known that the network was not trained on
    them; `check_unseen` has refused those that it was trained on.
    """

    def held_out() -> tuple[Tensor, Tensor]:
        seen = seen_in_training(facts, data.store, data.train_rows)
        if config.val_split is None or not seen.any():
            raise InputError(
                "classifier_args.tau: auto needs training samples that the network was not trained "
                "on: train it with --val-split 0.1, and use the same --val-split, --seed and list "
                "in this phase, or give a number, e.g. --set classifier_args.tau=1.0"
            )
        return computed(model, make_feeder(config, data, data.val_rows, device), "logits")

    def features() -> tuple[Tensor, Tensor]:
        return computed(model, make_feeder(config, data, data.train_rows, device), "features")

    return Samples(held_out, features)


@torch.no_grad()
def computed(model: nn.Module, feeder: Any, which: str) -> tuple[Tensor, Tensor]:
    """Return `logits` or `features` (n, ...) and the labels (n,) of all samples of a feeder."""
    rows = torch.arange(len(feeder))
    net = precision.Float32Outputs(model.eval(), "off")
    batches = feeder.batches(rows.split(evaluate.CLIPS_AT_ONCE["cpu"]))
    found = torch.cat([getattr(net(clips), which) for clips, _, _ in batches])
    return found, feeder.labels_of(rows)
