"""Outputs of a trained network for training samples: those held out by `val_split`, and others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data import long_tail
from data.store import Store
from engine import checkpoint, evaluate, precision
from engine.build import (
    Data,
    TrainingData,
    hold_out,
    make_feeder,
    open_data,
    persons_of,
    to_device,
)
from engine.config import Config, from_written
from engine.fusion import Scores
from engine.run import check_same_data
from errors import InputError
from longtail.classifiers import Samples
from model.backbone import Output
from model.fuse_bn import fuse_bn


def score_held_out(path: Path, device: torch.device, config: Config | None = None) -> Scores:
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


def trained_rows(state: dict[str, Any], store: Store) -> np.ndarray:
    """Return the rows of a store that the network of a checkpoint was trained on.

    None of a store other than that of its training, nor if its list cannot be read any more.
    """
    none = np.array([], np.int64)
    if state.get("store_fingerprint") != store.fingerprint or "config" not in state:
        return none
    trained = from_written(state["config"], "the checkpoint")
    try:
        rows = long_tail.training_rows(
            store, trained.protocol, trained.training_list, trained.imbalance, trained.fold,
            trained.seed,
        ).rows  # fmt: skip
    except InputError:
        return none
    if trained.val_split is not None:
        persons = persons_of(store, trained.val_by)
        rows, _ = hold_out(rows, store.labels, trained.val_split, trained.seed, persons)
    return rows


def check_unseen(state: dict[str, Any], data: Data, path: Path, training: bool = False) -> None:
    """Raise InputError if a checkpoint was trained on samples that it is now to be judged by: test
    samples, or in `training` those that val_split holds out."""
    seen = trained_rows(state, data.store)
    judged = [(data.test_rows, "test samples", "use the protocol and the fold of its training")]
    if training:
        way_out = "use the val_split and seed of its training, or --set val_split=null"
        judged.append((data.val_rows, "held-out samples", way_out))
    for rows, what, way_out in judged:
        if known := np.isin(rows, seen).sum():
            raise InputError(
                f"{path}: was trained on {known} of the {len(rows)} {what}, which would be counted "
                f"as if it had not seen them; {way_out}"
            )


def for_method(
    config: Config, data: TrainingData, model: nn.Module, device: torch.device,
    state: dict[str, Any],
) -> Samples:  # fmt: skip
    """Return what a method's `prepare` may ask of the network, which began with a checkpoint.

    `state` is what the checkpoint contains. Each sample is one clip, not augmented. The held-out
    samples are refused, by an InputError, if it cannot be known that the network was not trained on
    them; `check_unseen` has refused those that it was trained on.
    """

    def held_out() -> tuple[Tensor, Tensor]:
        if config.val_split is None or not len(trained_rows(state, data.store)):
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
    outputs = _outputs(model, feeder, rows)
    return torch.cat([getattr(output, which) for output in outputs]), feeder.targets(rows)


def _outputs(model: nn.Module, feeder: Any, rows: Tensor) -> Iterator[Output]:
    model.eval()
    net = precision.Float32Outputs(model, "off")
    for clips, _, _ in feeder.batches(rows.split(evaluate.CLIPS_AT_ONCE["cpu"])):
        yield net(clips)
