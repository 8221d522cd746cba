"""Readers of raw data sets for data.prepare, one module per file format.

A reader module defines `arguments(parser)`, which adds its command-line arguments, `reader(args)`,
which returns a `Raw`, and EXAMPLES: name of a store -> arguments that prepare it. Without EXAMPLES
the store has the NAME of the reader, and SOURCE is the only argument.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# NAME of data.prepare -> reader module.
READERS = {
    "ntu": "data.readers.ntu",
    "pyskl": "data.readers.pyskl",
    "ctrgcn": "data.readers.ctrgcn",
    "st-gcn": "data.readers.st_gcn",
    "nw-ucla": "data.readers.nw_ucla",
    "kinetics-skeleton": "data.readers.kinetics_skeleton",
    "utd-mhad": "data.readers.utd_mhad",
    "msr-action3d": "data.readers.msr_action3d",
    "utkinect": "data.readers.utkinect",
    "kinder-gator": "data.readers.kinder_gator",
    "custom": "data.readers.custom",
    "demo": "data.readers.demo",
}


def example(store: str) -> str:
    """Return example arguments of data.prepare for a store with that name."""
    for name, path in READERS.items():
        examples = getattr(importlib.import_module(path), "EXAMPLES", {name: "SOURCE"})
        if store in examples:
            return f"{name} {examples[store]}".strip()
    return "NAME SOURCE..."


@dataclass(frozen=True)
class Clip:
    """One normalized sample; zero frames if it has no body."""

    name: str
    label: int
    joints: np.ndarray  # (T, m, V, C) float32, m up to the store's M
    columns: Mapping[str, int | str] = field(default_factory=dict)
    doubt: str = ""  # a warning about its file: which frames are missing


@dataclass(frozen=True)
class Raw:
    """A raw data set: the items to read, and the function that converts an item to a clip.

    The main process iterates over `items`; `read` and each item are sent to a worker process, so
    they must be picklable. `read` raises InputError, which names the file (and line), if it fails.
    """

    items: Iterable[Any]  # one per sample, in the order of the store
    total: int
    read: Callable[[Any], Clip]
    layout: str
    class_names: list[str]
    shape: tuple[int, int, int]  # (M, V, C) of the store
    meta: dict[str, Any]  # additional entries of meta.json: normalization, image size
    # Reason (see data.prepare.LEFT_OUT) -> names that are skipped without reading.
    left_out: dict[str, list[str]] = field(default_factory=dict)
