"""A user's own clips: .npy, .npz or .json files of (T, V, C) or (T, M, V, C), and a CSV of labels.

The CSV's head is `file,label` or `file,label,split`; files are relative to its folder, labels are
numbers from 0 or names, the split says train, test (or val) or nothing. An npz holds one array, a
JSON file a nested list or an object with `joints`. The layout is one of graph/ or a file like them.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import graph
from data import names, normalize
from data.readers import UNREADABLE, Clip, Raw
from data.readers.json_file import JsonFile
from errors import InputError

NORMALISATIONS = ("upright", "centred", "image", "none")
SPLITS = {"train": "train", "test": "test", "val": "test", "": ""}

Item = tuple[str, int, str | None]  # file, label, part of the split


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="the CSV: file,label[,split]")
    parser.add_argument("--layout", required=True, help="a layout's name, or a layout file")
    parser.add_argument("--persons", type=int, default=2, help="most persons in a clip (2)")
    parser.add_argument("--channels", type=int, default=3, help="numbers of a joint (3)")
    parser.add_argument(
        "--normalise", choices=NORMALISATIONS,
        help="upright (as NTU RGB+D; its default), centred (the default of other 3D layouts), "
        "image (pixels to [-1, 1]; the default of 2D layouts), none",
    )  # fmt: skip
    parser.add_argument("--image-size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"))


@dataclass(frozen=True)
class Read:
    """How a file becomes a clip; what it is called with goes to the worker processes."""

    folder: Path
    shape: tuple[int, int, int]  # (M, V, C)
    normalise: str
    centre: int  # joint that a centred clip begins at
    image_size: tuple[int, int] | None  # height, width

    def __call__(self, item: Item) -> Clip:
        """Return the clip of one file; InputError names it."""
        file, label, part = item
        path = self.folder / file
        joints = _load(path)
        if joints.ndim == 3:
            joints = joints[:, None]
        self._check(joints, path)
        columns = {} if part is None else {"split": part}
        return Clip(Path(file).with_suffix("").as_posix(), label, self._normalised(joints), columns)

    def _check(self, joints: np.ndarray, path: Path) -> None:
        persons, num_joints, channels = self.shape
        if joints.ndim != 4 or joints.shape[2:] != (num_joints, channels):
            raise InputError(
                f"{path}: has the shape {joints.shape}; the layout asks for frames of "
                f"{num_joints} joints with {channels} numbers"
            )
        if joints.shape[1] > persons:
            raise InputError(f"{path}: has {joints.shape[1]} persons; make room by --persons")
        if not np.isfinite(joints).all():
            frame = int(np.flatnonzero(~np.isfinite(joints).all(axis=(1, 2, 3)))[0])
            raise InputError(f"{path}: frame {frame} has a joint that is NaN or infinite")

    def _normalised(self, joints: np.ndarray) -> np.ndarray:
        if not joints.any():
            return joints[:0]
        if self.normalise == "image":
            return normalize.to_image(joints, *self.image_size)
        return normalize.normalise(joints, self.normalise, self.centre)


def reader(args: argparse.Namespace) -> Raw:
    skeleton = graph.load(args.layout)
    normalise = args.normalise or _default(skeleton)
    if normalise == "image" and not args.image_size:
        raise InputError(
            "--image-size: 2D poses are scaled by their image; give HEIGHT WIDTH, or "
            "--normalise none if they are scaled already"
        )
    if normalise == "upright" and (skeleton.num_joints < 9 or args.channels != 3):
        raise InputError(f"--normalise: {args.layout} is no 3D layout with NTU RGB+D's joints")
    items, class_names = _table(args.source)
    shape = (args.persons, skeleton.num_joints, args.channels)
    size = tuple(args.image_size) if args.image_size else None
    return Raw(
        items=items,
        total=len(items),
        read=Read(args.source.parent, shape, normalise, skeleton.centre, size),
        layout=args.layout,
        class_names=class_names,
        shape=shape,
        meta={"normalisation": normalise, "centre": skeleton.centre, "image_size": size},
    )


def _default(skeleton: graph.Skeleton) -> str:
    if skeleton.confidence:
        return "image"
    return "upright" if skeleton.name == "ntu_rgb_d" else "centred"


def _table(path: Path) -> tuple[list[Item], list[str]]:
    """Return the rows of the CSV and the class names; InputError names file and line."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            rows = [(table.line_num, row) for row in table]
            head = table.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a CSV ({error})") from error
    if not {"file", "label"} <= set(head):
        raise InputError(f"{path}: line 1: the head is {','.join(head)}, not file,label[,split]")
    for line, row in rows:
        if not row["file"] or not row["label"]:
            raise InputError(f"{path}: line {line}: has no file or no label")
        if "split" in head and row["split"] not in SPLITS:
            raise InputError(f"{path}: line {line}: split {row['split']!r} is not train or test")
    if not rows:
        raise InputError(f"{path}: names no files")
    words = [row["label"] for _, row in rows]
    if all(word.isdecimal() for word in words):
        labels = [int(word) for word in words]
        class_names = names.numbered(labels)
    else:
        class_names = sorted(set(words))
        labels = [class_names.index(word) for word in words]
    parts = [SPLITS[row["split"]] if "split" in head else None for _, row in rows]
    return list(zip((row["file"] for _, row in rows), labels, parts)), class_names


def _load(path: Path) -> np.ndarray:
    """Return the array of a clip's file as float32."""
    if path.suffix == ".json":
        return JsonFile(path).joints("joints")
    try:
        array = np.load(path, allow_pickle=False)
        if isinstance(array, np.lib.npyio.NpzFile):
            with array as file:
                if len(file.files) != 1 and "joints" not in file.files:
                    raise ValueError(f"holds {file.files}, not one array or 'joints'")
                array = file["joints" if "joints" in file.files else file.files[0]]
        if array.dtype.kind not in "fiu":
            raise ValueError(f"holds {array.dtype}, not numbers")
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except UNREADABLE as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    return array.astype(np.float32)
