"""Your own clips: .npy, .npz or .json files of (T, V, C) or (T, M, V, C), and their labels.

SOURCE is a CSV with a head, file,label or file,label,split, or a folder with one folder per class
(in train, test and val, where there is a split). Files are relative to the CSV; labels are numbers
from 0 or names; the split says train, test, val or nothing; further columns are kept in the store,
and --split 0.3 --by subject draws a test split of persons. The files are those that prediction
takes (data/clip_file.py). The layout is one of graph/ or a file like them.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import graph
from data import clip_file, names, normalize
from data.readers import Clip, Raw, splits, table
from errors import InputError, nearest

EXAMPLES = {"custom": "labels.csv --layout LAYOUT"}
NORMALIZATIONS = ("upright", "centered", "image", "none")

Item = tuple[str, int, dict[str, int | str]]  # file, label, columns


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="CSV, or folder of class folders")
    parser.add_argument("--layout", required=True, help="a layout's name, or a layout file")
    parser.add_argument("--persons", type=int, default=2, help="most persons in a clip (2)")
    parser.add_argument(
        "--channels", type=int, choices=(2, 3), default=3, help="numbers of a joint (3)"
    )
    parser.add_argument(
        "--normalize", "--normalise", type=normalize.canonical, choices=NORMALIZATIONS,
        help="upright (as NTU RGB+D; its default), centered (the default of other 3D layouts), "
        "image (pixels to [-1, 1]; the default of 2D layouts), none",
    )  # fmt: skip
    parser.add_argument("--image-size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"))
    clip_file.add_nan(parser)
    splits.add_arguments(parser, "share of the clips to test on, drawn, such as 0.3")
    parser.add_argument("--by", metavar="COLUMN", help="draw whole persons: column of the CSV")


@dataclass(frozen=True)
class Read:
    """How a file becomes a clip; what it is called with goes to the worker processes."""

    folder: Path
    layout: str  # its name
    shape: tuple[int, int, int]  # (M, V, C)
    normalization: str
    terms: normalize.Terms  # image_size None: as each file says
    nan: str  # one of clip_file.NAN

    def __call__(self, item: Item) -> Clip:
        """Return the clip of one file; InputError names it."""
        file, label, columns = item
        path = self.folder / file
        clip = clip_file.read(path, self.nan)
        if clip.layout not in (None, self.layout):
            raise InputError(f"{path}: has layout {clip.layout}, not {self.layout}")
        seen = np.flatnonzero(clip.joints.any(axis=(0, 2, 3)))
        clip = replace(clip, joints=clip.joints[:, : seen.max(initial=0) + 1])
        self._check(clip.joints, path)
        return Clip(table.sample_name(file), label, self._normalized(clip, path), columns)

    def _check(self, joints: np.ndarray, path: Path) -> None:
        persons, num_joints, channels = self.shape
        if joints.shape[2:] != (num_joints, channels):
            raise InputError(
                f"{path}: has the shape {joints.shape}; the layout asks for frames of "
                f"{num_joints} joints with {channels} numbers"
            )
        if joints.shape[1] > persons:
            raise InputError(f"{path}: has {joints.shape[1]} persons; make room by --persons")

    def _normalized(self, clip: clip_file.ClipFile, path: Path) -> np.ndarray:
        if not clip.joints.any():
            return clip.joints[:0]
        is_image = self.normalization == "image"
        size = clip.image_size_or(self.terms.image_size, path) if is_image else None
        terms = replace(self.terms, where=str(path), image_size=size)
        if not is_image:
            return normalize.apply(self.normalization, clip.joints, terms)
        if size is None:
            raise InputError(
                f"{path}: needs --image-size: 2D poses are scaled by their image; give HEIGHT "
                "WIDTH, or --normalize none if they are scaled already"
            )
        return normalize.apply("image", clip.joints, terms)


def reader(args: argparse.Namespace) -> Raw:
    skeleton = graph.load(args.layout)
    if args.persons < 1:
        raise InputError(f"--persons: {args.persons}; at least 1 is needed")
    normalization = args.normalize or normalize.usual(skeleton, args.channels)
    if args.image_size and normalization != "image":
        raise InputError(f"--image-size: is for --normalize image, not {normalization}")
    if args.image_size and min(args.image_size) < 1:
        raise InputError(f"--image-size: {args.image_size}, but height and width are pixels")
    if normalization in ("upright", "centered") and skeleton.confidence:
        raise InputError(
            f"--normalize {normalization}: is for 3D poses, and {args.layout} is of 2D poses and "
            "scores"
        )
    if normalization == "upright" and (skeleton.num_joints < 9 or args.channels != 3):
        raise InputError(
            f"--normalize upright: needs 3 channels and the joints of NTU RGB+D, not {args.layout} "
            f"with {args.channels}; take centered or none"
        )
    clips = table.read(args.source, clip_file.SUFFIXES)
    labels, class_names = names.classes(clips.labels, clips.where)
    columns = dict(clips.columns)
    if (parts := _split(clips, labels, args)) is not None:
        columns["split"] = parts
    rows = [dict(zip(columns, row)) for row in zip(*columns.values())] or [{}] * len(labels)
    items = list(zip(clips.files, labels, rows))
    shape = (args.persons, skeleton.num_joints, args.channels)
    size = tuple(args.image_size) if args.image_size else None
    return Raw(
        items=items,
        total=len(items),
        read=Read(
            clips.folder,
            skeleton.name,
            shape,
            normalization,
            normalize.Terms(skeleton.centre, size),
            args.nan,
        ),
        layout=args.layout,
        class_names=class_names,
        shape=shape,
        meta={"normalization": normalization, "centre": skeleton.centre, "image_size": size},
        left_out={"other_files": clips.other_files},
    )


def _split(clips: table.Table, labels: list[int], args: argparse.Namespace) -> list[str] | None:
    """Return the part of every clip, as given or as --split draws it; None for no split at all."""
    if args.split is None:
        for flag in ("by", "seed"):
            if getattr(args, flag) is not None:
                raise InputError(f"--{flag}: is for a split that --split draws")
        if clips.parts is None:
            if args.test_split:
                raise InputError(f"--test-split: {args.source} has no split")
            return None
        tested = splits.test_part(clips.parts, args.test_split, f"the split of {args.source}")
        return [{"train": "train", tested: "test"}.get(part, "") for part in clips.parts]
    if clips.parts is not None:
        raise InputError(f"--split: {args.source} has a split of its own")
    if args.test_split:
        raise InputError("--test-split: --split draws no val")
    if (share := splits.share(args.split)) is None:
        raise InputError(f"--split: {args.split!r} is not a share of the clips between 0 and 1")
    groups = None
    if args.by is not None:
        by = args.by.lower()
        if by not in clips.columns:
            known = ", ".join(clips.columns) or "none"
            hint = nearest(by, clips.columns)
            raise InputError(f"--by {args.by}: no such column{hint}; further columns: {known}")
        groups = [str(value) for value in clips.columns[by]]
        if "" in groups:
            raise InputError(f"{clips.where(groups.index(''))}: --by {args.by}: has no {by}")
    return splits.draw(labels, share, args.seed or 0, groups)
