"""Kinetics-skeleton in st-gcn's format: kinetics_train/*.json, kinetics_train_label.json, and val.

The file of a clip contains `data`, a list of {frame_index, skeleton: [{pose: [x, y, ...], score:
[...]}]} with 18 OpenPose joints and positions in [0, 1], and label_index. The label file contains,
per clip, label, label_index and has_skeleton (default: true). Source: Yan et al., st-gcn,
arXiv 1801.07455.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from data import measure, names, normalize
from data.readers import Clip, Raw
from data.readers.json_file import JsonFile, to_numbers

NUM_JOINTS = 18
MAX_BODIES = 2
PERSONS_READ = 5  # st-gcn reads the first five persons of a frame
MAX_FRAME = 10_000  # longer than any clip; a damaged frame_index would need too much memory
PARTS = {"train": "train", "val": "test"}  # folder -> part of the split

Item = tuple[Path, str, int, bool]  # file, part, label, whether the clip has no body
SOURCE = "folder with kinetics_train, kinetics_val and the label files"


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
        read=read,
        layout="openpose",
        class_names=every_class,
        shape=(MAX_BODIES, NUM_JOINTS, 3),
        meta={"normalization": "st-gcn"},
        left_out={"unlabeled": _unlabeled(args.source, items)},
    )


def _list(source: Path, folder: str, part: str, class_names: dict[int, str]) -> list[Item]:
    """Return the clips in a label file, and add its class names to `class_names`."""
    file = JsonFile(source / f"kinetics_{folder}_label.json")
    items: list[Item] = []
    indices = {word: label for label, word in class_names.items()}
    for name, entry in sorted(file.table().items()):
        if not isinstance(entry, dict) or not {"label", "label_index"} <= entry.keys():
            file.fail(f"{name}: has no 'label' or no 'label_index'")
        label, word = names.whole_number(entry["label_index"]), str(entry["label"])
        if label is None:
            shown = f"label_index {entry['label_index']!r}"
            file.fail(f"{name}: {shown} is not a class; labels must number the classes from 0")
        if (other := class_names.setdefault(label, word)) != word:
            file.fail(f"{name}: label_index {label} is {word!r} here, but {other!r} before")
        if (first := indices.setdefault(word, label)) != label:
            file.fail(f"{name}: {word!r} has label_index {label} here and {first} before")
        is_empty = not entry.get("has_skeleton", True)
        items.append((source / f"kinetics_{folder}" / f"{name}.json", part, label, is_empty))
    return items


def _unlabeled(source: Path, items: list[Item]) -> list[str]:
    """Return the names of clips that are not in a label file."""
    labeled = {path for path, *_ in items}
    found = (path for folder in PARTS for path in (source / f"kinetics_{folder}").glob("*.json"))
    return sorted(path.stem for path in found if path not in labeled)


def read(item: Item) -> Clip:
    """Return the clip in one file; InputError names the file."""
    path, part, label, is_empty = item
    if is_empty:
        return Clip(path.stem, label, np.zeros((0, MAX_BODIES, NUM_JOINTS, 3)), {"split": part})
    file = JsonFile(path)
    stated = file.table().get("label_index", label)
    if names.whole_number(stated) != label:
        file.fail(f"label_index is {stated}, but {label} in the label file")
    joints, _ = read_frames(file)
    measure.check_finite(joints, str(path))
    joints = measure.only_found(joints, str(path))
    measure.check_corner(joints, str(path))
    return Clip(path.stem, label, normalize.best_scored(joints, MAX_BODIES), {"split": part})


def read_frames(file: JsonFile) -> tuple[np.ndarray, int]:
    """Return the joints (T, m, 18, 3), m <= 5, and the number of the first frame: frames by their
    index, persons in file order.

    Frames before the first and after the last body are dropped.
    """
    rows: dict[int, list[np.ndarray]] = {}
    for i, frame in enumerate(file.get_list("data")):
        try:
            index, persons = _frame(frame)
            if index in rows:
                raise ValueError(f"duplicate frame_index {index}")
        except ValueError as error:
            file.fail(f"element {i} of 'data': {error}")
        rows[index] = persons
    joints = np.zeros((max(rows, default=-1) + 1, PERSONS_READ, NUM_JOINTS, 3), np.float32)
    for index, persons in rows.items():
        for place, person in enumerate(persons):
            joints[index, place] = person
    seen = np.flatnonzero(joints.any(axis=(1, 2, 3)))
    most = max((len(row) for row in rows.values()), default=0)
    if not len(seen):
        return joints[:0], 0
    return joints[seen[0] : seen[-1] + 1, :most], int(seen[0])


def _frame(frame: Any) -> tuple[int, list[np.ndarray]]:
    """Return the index of a frame and its persons; ValueError if it is not valid."""
    if not isinstance(frame, dict) or not {"frame_index", "skeleton"} <= frame.keys():
        raise ValueError("has no 'frame_index' or no 'skeleton'")
    index, skeleton = frame["frame_index"], frame["skeleton"]
    if not isinstance(index, int) or not 0 <= index < MAX_FRAME:
        raise ValueError(f"frame_index {index!r} is not an integer from 0 to {MAX_FRAME - 1}")
    if not isinstance(skeleton, list):
        raise ValueError("'skeleton' is not a list of persons")
    persons = [_person(person) for person in skeleton[:PERSONS_READ]]
    return index, [person for person in persons if len(person)]


def _person(person: Any) -> np.ndarray:
    """Return the joints of one person (18, 3): x, y, score; (0, 3) for an empty pose.

    ValueError if they are not valid.
    """
    if not isinstance(person, dict) or not {"pose", "score"} <= person.keys():
        raise ValueError("a person has no 'pose' or no 'score'")
    pose, score = to_numbers(person["pose"]), to_numbers(person["score"])
    if pose is None or score is None:
        raise ValueError("a pose or score does not consist of numbers")
    if pose.size == score.size == 0:
        return np.zeros((0, 3), np.float32)
    if pose.size != 2 * NUM_JOINTS or score.size != NUM_JOINTS:
        raise ValueError(
            f"a pose has {pose.size} numbers and {score.size} scores; expected {2 * NUM_JOINTS} "
            f"(x and y) and {NUM_JOINTS}"
        )
    return np.column_stack([pose.reshape(NUM_JOINTS, 2), score.ravel()])
