"""A configuration from a prepared store alone, for `--store PATH`: one's own data, no YAML."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

import model as models
from data import protocols
from data.store import Store
from engine.checkpoint import facts_of, trained_stream
from engine.config import CONFIG_ROOT, Config, load
from engine.run_data import hold_out, listed_rows
from errors import InputError
from longtail import shots
from model.upstream import Checkpoint

# The file of config/methods that is used unless another one is named.
METHOD = CONFIG_ROOT / "methods/balanced-softmax.yaml"
STEPS = 2000  # at least, of a run
CLIPS_PER_CHANNEL = 60  # training clips for which a channel of the first block is worth its time


def values_of(
    path: str | Path, with_method: bool = True, weights: str | Path | None = None
) -> dict[str, Any]:
    """Return the values of a run that follow from a store, {key: value}; METHOD's on top.

    The store knows its layout, classes, persons, channels and split. Width, clip length and number
    of steps go by the number and the lengths of the training clips: 16 to 64 channels, 32 frames if
    the median clip has no more, and 24 epochs of at least STEPS steps in total. A tenth of the
    training clips (more of a few) is held out and selects best.pt. A run that starts from `weights`
    has the backbone and the stream of that checkpoint. Raises InputError for a store with no split.
    """
    store = Store.open(path)
    protocol = protocol_of(store)
    train, _ = protocols.split(store, protocol)
    plain = Config()
    for share in (0.1, 0.2, 0.3, 0.5):  # so that a class at least holds out a sample
        trained, held_out = hold_out(train, store.labels, share, seed=0)
        if len(held_out):
            break
    samples = plain.num_epoch * len(trained)
    widths = [width for width in (64, 32) if len(train) >= CLIPS_PER_CHANNEL * width]
    network = {
        "graph": store.layout,
        "num_class": len(store.class_names),
        "num_person": store.joints.shape[1],
        "in_channels": store.joints.shape[3],
    }
    if widths[:1] != [64]:  # which is the networks' own
        network["base_channels"] = widths[0] if widths else 16
    values = {
        "store": str(path),
        "protocol": protocol,
        "benchmark": Path(path).resolve().name,
        "frames": 32 if np.median(store.lengths[train]) <= 32 else plain.frames,
        "repeat": max(1.0, math.ceil(10 * STEPS * plain.batch_size / samples) / 10),
        "val_split": share if len(held_out) else None,
        "shots": shots.AUTO,
        "model_args": network,
    }
    if weights is not None:
        network.pop("base_channels", None)
        checkpoint = Checkpoint.read(weights)
        name, args = models.network_of(checkpoint, store.layout)
        way_out = "name it with --config to say that you trust it"
        models.check_import(weights, name, args, way_out)
        values["model"] = name
        if stream := trained_stream(facts_of(checkpoint.content)):
            values["stream"] = stream
    return dataclasses.asdict(load([METHOD], below=values)) if with_method else values


def protocol_of(store: Store) -> str:
    """Return the protocol of a store: its own split, else that of the data set of its name."""
    if "split" in store.columns:
        return "given"
    name = store.meta.get("data_set", "")
    if name in protocols.PROTOCOLS:
        return name
    raise InputError(
        f"--store {store.path}: has no split of its own: prepare it again with a column `split` or "
        f"with --split 0.3, or use --config of a benchmark with --set store={store.path} instead"
    )


def with_shots(settings: Config) -> Config:
    """Return a configuration in which `shots: auto` is replaced by the limits it stands for.

    They follow from the class counts of the training samples, so the list is drawn if it is missing
    and can be (`long_tail.training_rows`).
    """
    if settings.shots != shots.AUTO:
        return settings
    store = Store.open(settings.store)
    _, rows, _ = listed_rows(store, settings, make=True)
    return settings.replace(shots=list(shots.automatic(np.bincount(store.labels[rows]))))
