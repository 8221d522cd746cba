"""A configuration from a prepared store alone, for `--store PATH`: one's own data, no YAML."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from data import long_tail, protocols
from data.store import Store
from engine.build import hold_out
from engine.config import CONFIG_ROOT, Config, load
from errors import InputError
from longtail import shots

# The file of config/methods that is used unless another one is named.
METHOD = CONFIG_ROOT / "methods/balanced-softmax.yaml"
STEPS = 2000  # at least, of a run
CLIPS_PER_CHANNEL = 60  # training clips for which a channel of the first block is worth its time


def values_of(path: str | Path, with_method: bool = True) -> dict[str, Any]:
    """Return the values of a run that follow from a store, {key: value}; METHOD's on top.

    The store knows its layout, classes, persons, channels and split. Width, clip length and number
    of steps go by the number and the lengths of the training clips: 16 to 64 channels, 32 frames if
    the median clip has no more, and 24 epochs of at least STEPS steps in total. A tenth of the
    training clips is held out and selects best.pt. Raises InputError for a store with no split.
    """
    store = Store.open(path)
    protocol = protocol_of(store)
    train, _ = protocols.split(store, protocol)
    plain = Config()
    samples = plain.num_epoch * len(train)
    widths = [width for width in (64, 32) if len(train) >= CLIPS_PER_CHANNEL * width]
    values = {
        "store": str(path),
        "protocol": protocol,
        "benchmark": Path(path).resolve().name,
        "frames": 32 if np.median(store.lengths[train]) <= 32 else plain.frames,
        "repeat": max(1.0, math.ceil(10 * STEPS * plain.batch_size / samples) / 10),
        "val_split": 0.1,
        "shots": shots.AUTO,
        "model_args": {
            "graph": store.layout,
            "num_class": len(store.class_names),
            "num_person": store.joints.shape[1],
            "in_channels": store.joints.shape[3],
            "base_channels": widths[0] if widths else 16,
        },
    }
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
        "with --split 0.3, or name the configuration of a benchmark by --config"
    )


def with_shots(settings: Config) -> Config:
    """Return a configuration in which `shots: auto` is replaced by the limits it stands for.

    They follow from the class counts of the training samples, so the list is drawn if it is missing
    and can be (`long_tail.training_rows`).
    """
    if settings.shots != shots.AUTO:
        return settings
    store = Store.open(settings.store)
    rows = long_tail.training_rows(
        store, settings.protocol, settings.training_list, settings.imbalance, settings.fold,
        settings.seed, make=True,
    ).rows  # fmt: skip
    if settings.val_split is not None:
        rows, _ = hold_out(rows, store.labels, settings.val_split, settings.seed)
    return settings.replace(shots=list(shots.automatic(np.bincount(store.labels[rows]))))
