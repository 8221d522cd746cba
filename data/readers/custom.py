"""A user's own clips: .npy, .npz or .json files of (T, V, C) or (T, M, V, C), and a CSV of labels.

The CSV's head is `file,label` or `file,label,split`; files are relative to its folder, labels are
numbers from 0 or names, the split says train, test (or val) or nothing. The files are those that
prediction takes (data/clip_file.py). The layout is one of graph/ or a file like them.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import graph
from data import clip_file, names, normalize
from data.readers import Clip, Raw
from errors import InputError

NORMALISATIONS = ("upright", "centred", "image", "none")
SPLITS = {"train": "train", "test": "test", "val": "test", "": ""}

Item = tuple[str, int, str | None]  # file, label, part of the split


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="the CSV: file,label[,split]")
    parser.add_argument("--layout", required=True, help="a layout's name, or a layout file")
    parser.add_argument("--persons", type=int, default=2, help="most persons in a clip (2)")
    parser.add_argument(
        "--channels", type=int, choices=(2, 3), default=3, help="numbers of a joint (3)"
    )
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
    layout: str  # its name
    shape: tuple[int, int, int]  # (M, V, C)
    normalise: str
    centre: int  # joint that a centred clip begins at
    image_size: tuple[int, int] | None  # height, width

    def __call__(self, item: Item) -> Clip:
        """Return the clip of one file; InputError names it."""
        file, label, part = item
        path = self.folder / file
        clip = clip_file.read(path)
        if clip.layout not in (None, self.layout):
            raise InputError(f"{path}: has layout {clip.layout}, not {self.layout}")
        joints = clip.joints
        self._check(joints, path)
        columns = {} if part is None else {"split": part}
        return Clip(_name(file), label, self._normalised(joints), columns)

    def _check(self, joints: np.ndarray, path: Path) -> None:
        persons, num_joints, channels = self.shape
        if joints.shape[2:] != (num_joints, channels):
            raise InputError(
                f"{path}: has the shape {joints.shape}; the layout asks for frames of "
                f"{num_joints} joints with {channels} numbers"
            )
        if joints.shape[1] > persons:
            raise InputError(f"{path}: has {joints.shape[1]} persons; make room by --persons")

    def _normalised(self, joints: np.ndarray) -> np.ndarray:
        if not joints.any():
            return joints[:0]
        if self.normalise == "image":
            return normalize.to_image(joints, *self.image_size)
        return normalize.normalise(joints, self.normalise, self.centre)


def reader(args: argparse.Namespace) -> Raw:
    skeleton = graph.load(args.layout)
    if args.persons < 1:
        raise InputError(f"--persons: {args.persons}; at least 1 is needed")
    normalise = args.normalise or _default(skeleton)
    if normalise == "image" and not args.image_size:
        raise InputError(
            "--image-size: 2D poses are scaled by their image; give HEIGHT WIDTH, or "
            "--normalise none if they are scaled already"
        )
    if args.image_size and min(args.image_size) < 1:
        raise InputError(f"--image-size: {args.image_size}, but height and width are pixels")
    if normalise in ("upright", "centred") and skeleton.confidence:
        raise InputError(
            f"--normalise {normalise}: is for 3D poses, and {args.layout} is of 2D poses and scores"
        )
    if normalise == "upright" and (skeleton.num_joints < 9 or args.channels != 3):
        raise InputError(
            f"--normalise upright: needs 3 channels and the joints of NTU RGB+D, not {args.layout} "
            f"with {args.channels}; take centred or none"
        )
    items, class_names = _table(args.source)
    shape = (args.persons, skeleton.num_joints, args.channels)
    size = tuple(args.image_size) if args.image_size else None
    return Raw(
        items=items,
        total=len(items),
        read=Read(args.source.parent, skeleton.name, shape, normalise, skeleton.centre, size),
        layout=args.layout,
        class_names=class_names,
        shape=shape,
        meta={"normalisation": normalise, "centre": skeleton.centre, "image_size": size},
    )


def _name(file: str) -> str:
    """Return the name of a file's sample."""
    return Path(file).with_suffix("").as_posix()


def _default(skeleton: graph.Skeleton) -> str:
    if skeleton.confidence:
        return "image"
    return "upright" if skeleton.name == "ntu_rgb_d" else "centred"


def _table(path: Path) -> tuple[list[Item], list[str]]:
    """Return the rows of the CSV and the class names; InputError names file and line."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, skipinitialspace=True)
            rows = [(table.line_num, row) for row in table]
            head = table.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a CSV ({error})") from error
    if not {"file", "label"} <= set(head):
        raise InputError(f"{path}: line 1: the head is {','.join(head)}, not file,label[,split]")
    lines: dict[str, int] = {}  # sample -> where it stands
    for line, row in rows:
        if None in row:
            raise InputError(f"{path}: line {line}: has more fields than the head")
        row.update({key: (field or "").strip() for key, field in row.items()})
        if not row["file"] or not row["label"]:
            raise InputError(f"{path}: line {line}: has no file or no label")
        if "split" in head and row["split"] not in SPLITS:
            raise InputError(f"{path}: line {line}: split {row['split']!r} is not train or test")
        first = lines.setdefault(_name(row["file"]), line)
        if first != line:
            raise InputError(f"{path}: line {line}: {row['file']} comes twice, see line {first}")
    if "split" in head and {"val", "test"} <= {row["split"] for _, row in rows}:
        raise InputError(
            f"{path}: split has both val and test; name one, and nothing for what takes no part"
        )
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
