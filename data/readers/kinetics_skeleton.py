"""Kinetics-skeleton as st-gcn publishes it: kinetics_train/*.json, kinetics_train_label.json, val.

A clip's file has `data`, a list of {frame_index, skeleton: [{pose: [x, y, ...], score: [...]}]}
with 18 OpenPose joints, positions in [0, 1], and label_index; the label file has, per clip,
label, label_index and has_skeleton (absent: true). Source: Yan et al., st-gcn, arXiv 1801.07455.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data import measure, names, normalize
from data.readers import Clip, Raw
from data.readers.json_file import JsonFile, to_numbers
from errors import InputError

EXAMPLES = {"kinetics-skeleton": "FOLDER"}
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
        meta={"normalization": "st-gcn"},
        left_out={"unlabeled": _unlabeled(args.source, items)},
    )


def _list(source: Path, folder: str, part: str, class_names: dict[int, str]) -> list[Item]:
    """Return the clips that a label file names, and add its class names."""
    file = JsonFile(source / f"kinetics_{folder}_label.json")
    items: list[Item] = []
    indices = {word: label for label, word in class_names.items()}
    for name, entry in sorted(file.table().items()):
        if not isinstance(entry, dict) or not {"label", "label_index"} <= entry.keys():
            raise InputError(f"{file.path}: {name}: has no 'label' or no 'label_index'")
        label, word = names.whole_number(entry["label_index"]), str(entry["label"])
        if label is None:
            raise InputError(
                f"{file.path}: {name}: label_index {entry['label_index']!r} is not a class; labels "
                "number the classes from 0"
            )
        if class_names.setdefault(label, word) != word:
            raise InputError(
                f"{file.path}: {name}: label_index {label} is {word!r} here and "
                f"{class_names[label]!r} before"
            )
        if (first := indices.setdefault(word, label)) != label:
            raise InputError(
                f"{file.path}: {name}: {word!r} has label_index {label} here and {first} before"
            )
        is_empty = not entry.get("has_skeleton", True)
        items.append((source / f"kinetics_{folder}" / f"{name}.json", part, label, is_empty))
    return items


def _unlabeled(source: Path, items: list[Item]) -> list[str]:
    """Return the names of clips that no label file names."""
    labeled = {path for path, *_ in items}
    found = (path for folder in PARTS for path in (source / f"kinetics_{folder}").glob("*.json"))
    return sorted(path.stem for path in found if path not in labeled)


def read(item: Item, num_class: int) -> Clip:
    """Return the clip of one file; InputError names it and the line."""
    path, part, label, is_empty = item
    if is_empty:
        return Clip(path.stem, label, np.zeros((0, MAX_BODIES, NUM_JOINTS, 3)), {"split": part})
    file = JsonFile(path)
    stated = file.table().get("label_index", label)
    if names.whole_number(stated) != label:
        file.fail(f"label_index {stated} is not {label}, as in the label file")
    if not 0 <= label < num_class:
        file.fail(f"label {label} is beyond the {num_class} classes")
    joints = measure.only_found(read_frames(file), str(path))
    measure.check_corner(joints, str(path))
    return Clip(path.stem, label, normalize.best_scored(joints, MAX_BODIES), {"split": part})


def read_frames(file: JsonFile) -> np.ndarray:
    """Return the joints (T, m, 18, 3), m <= 5: frames by their index, persons in the file's order.

    The first and the last frame have somebody. InputError names the file and the line.
    """
    rows: dict[int, list[np.ndarray]] = {}
    for i, frame in enumerate(file.get("data", list)):
        try:
            index, persons = _frame(frame)
            if index in rows:
                raise ValueError(f"frame_index {index} comes twice")
        except ValueError as error:
            file.fail(f"element {i} of 'data': {error}", file.line("data", i))
        rows[index] = persons
    joints = np.zeros((max(rows, default=-1) + 1, PERSONS_READ, NUM_JOINTS, 3), np.float32)
    for index, persons in rows.items():
        for place, person in enumerate(persons):
            joints[index, place] = person
    seen = np.flatnonzero(joints.any(axis=(1, 2, 3)))
    persons = max(map(len, rows.values()), default=0)
    return joints[seen[0] : seen[-1] + 1, :persons] if len(seen) else joints[:0]


def _frame(frame: Any) -> tuple[int, list[np.ndarray]]:
    """Return the frame's index and its persons; ValueError says what is wrong with it."""
    if not isinstance(frame, dict) or not {"frame_index", "skeleton"} <= frame.keys():
        raise ValueError("has no 'frame_index' or no 'skeleton'")
    index, skeleton = frame["frame_index"], frame["skeleton"]
    if not isinstance(index, int) or not 0 <= index < MAX_FRAME:
        raise ValueError(f"frame_index {index!r} is not a number from 0 to {MAX_FRAME - 1}")
    if not isinstance(skeleton, list):
        raise ValueError("'skeleton' is not a list of persons")
    persons = [_person(person) for person in skeleton[:PERSONS_READ]]
    return index, [person for person in persons if len(person)]


def _person(person: Any) -> np.ndarray:
    """Return one person's joints (18, 3): x, y, score; (0, 3) for an empty pose, which is nobody.

    ValueError says what is wrong with them.
    """
    if not isinstance(person, dict) or not {"pose", "score"} <= person.keys():
        raise ValueError("a person has no 'pose' or no 'score'")
    pose, score = to_numbers(person["pose"]), to_numbers(person["score"])
    if pose is None or score is None:
        raise ValueError("a pose or score is not of finite numbers")
    if pose.size == score.size == 0:
        return np.zeros((0, 3), np.float32)
    if pose.size != 2 * NUM_JOINTS or score.size != NUM_JOINTS:
        raise ValueError(
            f"a pose of {pose.size} numbers and {score.size} scores; {NUM_JOINTS} joints have "
            f"{2 * NUM_JOINTS} (x and y) and {NUM_JOINTS}"
        )
    return np.column_stack([pose.reshape(NUM_JOINTS, 2), score.ravel()])
