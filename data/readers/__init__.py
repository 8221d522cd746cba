"""Readers of raw data sets for data.prepare, one module per file format.

A reader module defines `reader(args)`, which returns a `Raw`, and `arguments(parser)`, which adds
its command-line arguments, or SOURCE, the help of the only one, `source`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data import names
from errors import InputError

LAST_FRAME = 10_000_000  # of a recording; larger numbers of images are times

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
    "demo": "data.demo",
}
# Name of a store -> the arguments of data.prepare that create it.
EXAMPLES = {
    **dict.fromkeys(("ntu", "ntu60", "ntu120"), "ntu FOLDER_OR_ZIP..."),
    "ntu60-hrnet": "pyskl ntu60_hrnet.pkl",
    "ntu120-hrnet": "pyskl ntu120_hrnet.pkl",
    "k400": "pyskl k400_hrnet.pkl --kpfiles FOLDER",
    "gym": "pyskl gym_hrnet.pkl",
    "diving48": "pyskl diving48_hrnet.pkl",
    "ucf101": "pyskl ucf101_hrnet.pkl --split 1",
    "hmdb51": "pyskl hmdb51_hrnet.pkl --split 1",
    "ntu-cs": "ctrgcn NTU60_CS.npz",
    "ntu-cv": "ctrgcn NTU60_CV.npz",
    "st-gcn": "st-gcn FOLDER",
    "nw-ucla": "nw-ucla FOLDER_OR_NPZ",
    "kinetics-skeleton": "kinetics-skeleton FOLDER",
    "utd-mhad": "utd-mhad FOLDER_OR_ARCHIVE",
    "msr-action3d": "msr-action3d FOLDER_OR_ARCHIVE",
    "utkinect": "utkinect FOLDER_OR_ARCHIVE",
    "kinder-gator": "kinder-gator FOLDER_OR_ARCHIVE",
    "custom": "custom labels.csv --layout LAYOUT",
    "demo": "demo",
}


def image_size(said: Any, what: str) -> tuple[float, float]:
    """Return the height and width in pixels that a file says; InputError begins with `what`."""
    numbers = list(map(names.number, said)) if isinstance(said, tuple | list | np.ndarray) else []
    height, width = numbers if len(numbers) == 2 else (None, None)
    if not (height and width and 0 < height < math.inf and 0 < width < math.inf):
        raise InputError(f"{what} is {said!r}, not (height, width) in pixels")
    return height, width


@dataclass(frozen=True)
class ClipFile:
    """The content of a file with one clip, without normalization; see data/clip_file.py."""

    joints: np.ndarray  # (T, M, V, C) float32 or float16
    layout: str | None = None  # None if the file does not contain it
    image_size: tuple[float, float] | None = None  # height, width in pixels; None if not contained
    doubt: str = ""  # which frames are missing, whether persons can change places
    frames: np.ndarray | None = None  # (T,) their ascending numbers in the recording, if known
    fps: float | None = None  # frames per second of the recording; None if not contained

    def image_size_or(
        self, given: Sequence[float] | None, path: str | Path
    ) -> tuple[float, float] | None:
        """Return the given height and width, or else those in the file, if any.

        InputError if the file contains others.
        """
        if given is None:
            return self.image_size
        height, width = given
        if self.image_size is not None and self.image_size != (height, width):
            shown = " ".join(f"{length:g}" for length in self.image_size)
            raise InputError(
                f"{path}: contains the image size {shown}, not --image-size "
                f"{' '.join(f'{length:g}' for length in given)}; omit the option"
            )
        return height, width

    def fps_or(self, given: float | None, path: str | Path) -> float | None:
        """Return the frames per second in the file, if any, or else the given ones.

        InputError if they differ by more than rounding (30 for 29.97).
        """
        if given and self.fps and not math.isclose(given, self.fps, rel_tol=0.01):
            raise InputError(
                f"{path}: contains {self.fps:g} frames per second, not --fps {given:g}; omit the "
                "option"
            )
        return self.fps or given


@dataclass(frozen=True)
class Clip:
    """One normalized sample; zero frames if it has no body."""

    name: str
    label: int
    joints: np.ndarray  # (T, m, V, C) float32, m up to the store's M
    columns: Mapping[str, int | str] = field(default_factory=dict)
    doubt: str = ""  # a warning about its file; see ClipFile


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
