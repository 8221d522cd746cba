"""Shared parts of the readers of Kinect v1 data sets: one body of 20 joints, layout `nw_ucla`.

Joints are in meters, relative to the layout's center joint at the start of the clip, as in NW-UCLA;
unseen joints stay zero. Frames without a body are dropped, as in NTU RGB+D's recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

import graph
from data import measure, names, normalize
from data.readers import Clip, Raw
from data.readers.archive import File
from errors import InputError

LAYOUT = "nw_ucla"
NUM_JOINTS = 20


def raw(data_set: str, items: Sequence[Any], read: Callable[[Any], Clip], **meta: Any) -> Raw:
    """Return the Raw of a data set whose class names are in data/class_names/."""
    center = graph.load(LAYOUT).center
    return Raw(
        items=items,
        total=len(items),
        read=read,
        layout=LAYOUT,
        class_names=names.class_names(data_set),
        shape=(1, NUM_JOINTS, 3),
        meta={"normalization": "centered", "centre": center, "drops_empty_frames": True, **meta},
    )


def clip(file: File, name: str, label: int, subject: int, joints: np.ndarray) -> Clip:
    """Return the sample with joints (T, 20, 3) in layout order; InputError names the file."""
    measure.check_finite(joints, file.path)
    joints = joints[joints.any(axis=(1, 2)), None].astype(np.float32)  # (T', 1, 20, 3)
    if len(joints):
        joints = normalize.centered(joints, graph.load(LAYOUT).center)
    return Clip(name, label, joints, {"subject": subject})


def numbers(file: File, rows: list[list[str]], width: int, first: int = 1) -> np.ndarray:
    """Return lines of `width` numbers each, (L, width) float64; InputError names file and line.

    `rows` are the fields of each line, `first` is the line number of the first row.
    """
    values = np.zeros((len(rows), width))
    for place, row in enumerate(rows):
        if len(row) != width:
            fail(file, f"line {first + place}: has {len(row)} fields, not {width}")
        try:
            values[place] = row
        except ValueError as error:
            fail(file, f"line {first + place}: {error}")
    return values


def text_lines(file: File) -> list[str]:
    """Return the lines of a text file without trailing empty lines."""
    try:
        return file.read().decode("utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError:
        fail(file, "is not UTF-8 text")


def fail(file: File, what: str) -> NoReturn:
    raise InputError(f"{file.path}: {what}")
