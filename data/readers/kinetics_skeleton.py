"""Kinetics-skeleton as st-gcn publishes it: kinetics_train/*.json, kinetics_train_label.json, val.

A clip's file has `data`, a list of {frame_index, skeleton: [{pose: [x, y, ...], score: [...]}]}
with 18 OpenPose joints, positions in [0, 1], and label_index; the label file has, per clip,
has_skeleton, label and label_index. Source: Yan et al., st-gcn, arXiv 1801.07455.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data import names, normalize
from data.readers import Clip, Raw
from data.readers.json_file import JsonFile
from errors import InputError

NUM_JOINTS = 18
MAX_BODIES = 2
PERSONS_READ = 5  # st-gcn looks at the first five of a frame
MAX_FRAME = 10_000  # beyond any clip: a damaged frame_index would ask for endless zeros
PARTS = {"train": "train", "val": "test"}  # folder -> part of the split

Item = tuple[Path, str, int, bool]  # file, part, label, whether nobody is in it


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="folder of kinetics_train, kinetics_val, labels")


def reader(args: argparse.Namespace) -> Raw:
    items: list[Item] = []
    class_names: dict[int, str] = {}
    for folder, part in PARTS.items():
        items += _list(args.source, folder, part, class_names)
    every_class = [
        class_names.get(label, numbered)
        for label, numbered in enumerate(names.numbered(list(class_names)))
    ]
    return Raw(
        items=items,
        total=len(items),
        read=partial(read, num_class=len(every_class)),
        layout="openpose",
        class_names=every_class,
        shape=(MAX_BODIES, NUM_JOINTS, 3),
        meta={"normalisation": "st-gcn"},
    )


def _list(source: Path, folder: str, part: str, class_names: dict[int, str]) -> list[Item]:
    """Return the clips that a label file names, and add its class names."""
    file = JsonFile(source / f"kinetics_{folder}_label.json")
    items: list[Item] = []
    for name, entry in sorted(file.table().items()):
        try:
            label, is_empty = int(entry["label_index"]), not entry["has_skeleton"]
            class_names[label] = str(entry["label"])
        except (TypeError, KeyError, ValueError) as error:
            raise InputError(f"{file.path}: {name}: {error!r}") from None
        items.append((source / f"kinetics_{folder}" / f"{name}.json", part, label, is_empty))
    return items


def read(item: Item, num_class: int) -> Clip:
    """Return the clip of one file; InputError names it and the line."""
    path, part, label, is_empty = item
    if is_empty:
        return Clip(path.stem, label, np.zeros((0, MAX_BODIES, NUM_JOINTS, 3)), {"split": part})
    file = JsonFile(path)
    stated = file.table().get("label_index", label)
    if stated != label:
        file.fail(f"label_index {stated} is not {label}, as in the label file")
    if not 0 <= label < num_class:
        file.fail(f"label {label} is beyond the {num_class} classes")
    joints = _joints(file)
    seen = np.flatnonzero(joints.any(axis=(1, 2, 3)))
    joints = joints[seen[0] : seen[-1] + 1] if len(seen) else joints[:0]
    return Clip(path.stem, label, normalize.best_scored(joints, MAX_BODIES), {"split": part})


def _joints(file: JsonFile) -> np.ndarray:
    """Return the joints (T, 5, 18, 3): frames by their index, persons in the file's order."""
    rows: dict[int, list[np.ndarray]] = {}
    for i, frame in enumerate(file.get("data", list)):
        try:
            index = frame["frame_index"]
            persons = [_person(person) for person in frame["skeleton"][:PERSONS_READ]]
            if not isinstance(index, int) or not 0 <= index < MAX_FRAME or index in rows:
                raise ValueError(f"frame_index {index} is damaged")
        except (TypeError, KeyError, ValueError, OverflowError) as error:
            file.fail(f"element {i} of 'data': {error}", file.line("data", i))
        rows[index] = persons
    joints = np.zeros((max(rows, default=-1) + 1, PERSONS_READ, NUM_JOINTS, 3), np.float32)
    for index, persons in rows.items():
        for place, person in enumerate(persons):
            joints[index, place] = person
    return joints


def _person(person: Any) -> np.ndarray:
    """Return one person's joints (18, 3): x, y, score."""
    pose, score = np.array(person["pose"]), np.array(person["score"])
    if pose.dtype.kind not in "fi" or score.dtype.kind not in "fi":
        raise ValueError("a pose or score is not of numbers")
    joints = np.column_stack([pose.reshape(NUM_JOINTS, 2), score.reshape(NUM_JOINTS)])
    with np.errstate(over="ignore"):
        joints = joints.astype(np.float32)
    if not np.isfinite(joints).all():
        raise ValueError("a joint is NaN or infinite")
    return joints
