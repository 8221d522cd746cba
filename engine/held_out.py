"""Scores of the training samples that `val_split` held out of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from engine import checkpoint, evaluate, precision
from engine.build import make_feeder, open_data, to_device
from engine.config import Config
from engine.fusion import Scores
from engine.run import check_same_data
from errors import InputError
from model.fuse_bn import fuse_bn


def score(path: Path, device: torch.device, config: Config | None = None) -> Scores:
    """Return the probabilities of a checkpoint for the samples that its training held out.

    `config` replaces the checkpoint's own. Samples are scored as in testing, with all their clips.
    Raises InputError if it was trained on its whole list, or if the list has changed.
    """
    config, model, state = checkpoint.load_network(path, config)
    if config.val_split is None:
        raise InputError(
            f"{path}: was trained on its whole training list, so no sample is held out; train with "
            "--val-split 0.1"
        )
    data = open_data(config, model)
    check_same_data(state, data, path)
    feeder = make_feeder(config, data, data.val_rows, device, clips=config.test_clips)
    net = fuse_bn(to_device(model, device))
    precision.set_tf32(config.tf32)
    scores = evaluate.score(net, feeder, config, device)
    names = np.asarray(data.store.names)[data.val_rows]
    return Scores(names, np.asarray(data.store.labels)[data.val_rows], scores)
