"""One module per raw form of a data set, each driven by data.prepare.

A reader module has `arguments(parser)`, which adds its command line, `reader(args)`, which finds
out what there is to read, and EXAMPLES: name of a store -> the arguments that fill it. A module
without EXAMPLES fills the store of its own NAME from SOURCE alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# The NAME of data.prepare -> the module that reads that form.
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
    """Return the arguments of data.prepare that fill a store of that name."""
    for name, path in READERS.items():
        examples = getattr(importlib.import_module(path), "EXAMPLES", {name: "SOURCE"})
        if store in examples:
            return f"{name} {examples[store]}".strip()
    return "NAME SOURCE..."


@dataclass(frozen=True)
class Clip:
    """One sample, normalized; no frames if nobody is in it."""

    name: str
    label: int
    joints: np.ndarray  # (T, m, V, C) float32, m up to the store's M
    columns: dict[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Raw:
    """What a reader module found: the pieces to read, and how a piece becomes a clip.

    `items` are walked in the main process; `read` and an item go to a worker process, so both are
    picklable. `read` raises InputError that names the file (and line) if it cannot be read.
    """

    items: Iterable[Any]  # one a sample, in the order of the store
    total: int
    read: Callable[[Any], Clip]
    layout: str
    class_names: list[str]
    shape: tuple[int, int, int]  # (M, V, C) of the store
    meta: dict[str, Any]  # what meta.json is to tell beside: normalization, image size
    # Names that are left out unread, by the reason (see data.prepare.LEFT_OUT).
    left_out: dict[str, list[str]] = field(default_factory=dict)
