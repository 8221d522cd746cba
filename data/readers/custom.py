"""Your own clips: .npy, .npz or .json files of (T, V, C) or (T, M, V, C), and their labels.

SOURCE is a CSV with the header file,label or file,label,split, or a folder with one folder per
class (inside train, test and val if there is a split). Files are relative to the CSV; labels are
numbers from 0 or names; split is train, test, val or empty; other columns are copied into the
store. --split 0.3 draws a test split, with --by subject one of whole subjects. The file formats are
those of prediction (data/clip_file.py). The layout is a name or a file like those in graph/.
"""

from __future__ import annotations

import argparse
import contextlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

import flags
import graph
from data import clip_file, names, normalize
from data.protocols import check_groups
from data.readers import Clip, Raw, splits, table
from errors import InputError, nearest

NORMALIZATIONS = ("upright", "centered", "image", "none")
LOOKED_AT = 500  # files, to find the number of persons

Item = tuple[str, int, dict[str, int | str]]  # file, label, columns


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="CSV, or folder of class folders")
    parser.add_argument("--layout", required=True, help="name of a layout, or a layout file")
    parser.add_argument(
        "--persons", type=int,
        help="maximum number of persons in a clip (default: 1, or 2 if one of 500 clips has two)",
    )  # fmt: skip
    parser.add_argument(
        "--channels", type=int, choices=(2, 3), default=3, help="channels per joint (default: 3)"
    )
    parser.add_argument(
        "--normalize", "--normalise", type=normalize.canonical, choices=NORMALIZATIONS,
        help="upright (default for ntu_rgb_d), centered (default for other 3D layouts), "
        "image (pixels to [-1, 1]; default for 2D layouts), none",
    )  # fmt: skip
    parser.add_argument("--image-size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"),
        help="image size in pixels, for --normalize image")  # fmt: skip
    flags.add_nan(parser)
    splits.add_arguments(parser, "draw a test split: fraction of the clips, e.g. 0.3")
    parser.add_argument(
        "--by", metavar="COLUMN", help="with --split: assign whole subjects, from this CSV column"
    )


def read(
    item: Item, folder: Path, layout: str, shape: tuple[int, int, int], normalization: str,
    terms: normalize.Terms, nan: str, score: int | None,
) -> Clip:  # fmt: skip
    """Return the clip in one file, scaled by its image size unless `terms` has one; InputError
    names the file."""
    file, label, columns = item
    path = folder / file
    clip = clip_file.read(path, nan, score)
    if clip.layout not in (None, layout):
        raise InputError(f"{path}: has layout {clip.layout}, not {layout}")
    seen = np.flatnonzero(clip.joints.any(axis=(0, 2, 3)))
    joints = clip.joints[:, : seen.max(initial=0) + 1]
    persons, num_joints, channels = shape
    if joints.shape[2:] != (num_joints, channels):
        raise InputError(
            f"{path}: has shape {joints.shape}; expected {num_joints} joints (layout) with "
            f"{channels} channels (--channels)"
        )
    if joints.shape[1] > persons:
        raise InputError(f"{path}: has {joints.shape[1]} persons; add --persons {joints.shape[1]}")
    if not len(seen):
        joints = joints[:0]
    else:
        size = clip.image_size_or(terms.image_size, path)
        if normalization == "image" and size is None:
            raise InputError(
                f"{path}: 2D poses are scaled by the image size; give --image-size HEIGHT WIDTH, "
                "or --normalize none if they are scaled already"
            )
        terms = replace(terms, where=str(path), image_size=size)
        joints = normalize.apply(normalization, joints, terms)
    doubt = f"{path}: {clip.doubt}" if clip.doubt else ""
    return Clip(table.sample_name(file), label, joints, columns, doubt)


def persons_in(files: list[Path]) -> int:
    """Return 2 if any of at most LOOKED_AT files, evenly spread, has a second person, else 1.

    A file that cannot be read counts as one person; the reader reports it.
    """
    for row in np.unique(np.linspace(0, len(files) - 1, min(len(files), LOOKED_AT)).astype(int)):
        with contextlib.suppress(InputError, OSError):
            if clip_file.read(files[row], "zero").joints[:, 1:].any():
                return 2
    return 1


def reader(args: argparse.Namespace) -> Raw:
    skeleton = graph.load(args.layout)
    if args.persons is not None and args.persons < 1:
        raise InputError(f"--persons: must be at least 1, not {args.persons}")
    normalization = args.normalize or normalize.usual(skeleton, args.channels)
    if args.image_size and normalization != "image":
        raise InputError(f"--image-size: applies only to --normalize image, not {normalization}")
    if args.image_size and min(args.image_size) < 1:
        raise InputError(f"--image-size: must be height and width in pixels, not {args.image_size}")
    if normalization in ("upright", "centered") and skeleton.confidence:
        raise InputError(
            f"--normalize {normalization}: is for 3D poses, but {args.layout} has 2D poses and "
            "scores"
        )
    if normalization == "upright" and not (normalize.has_spine(skeleton) and args.channels == 3):
        raise InputError(
            f"--normalize upright: needs 3 channels and the joints of NTU RGB+D, not {args.layout} "
            f"with {args.channels}; use centered or none"
        )
    clips = table.read(args.source)
    labels, class_names = names.classes(clips.labels, clips.where)
    columns = dict(clips.columns)
    if (parts := _split(clips, labels, args)) is not None:
        columns["split"] = parts
    rows = [dict(zip(columns, row)) for row in zip(*columns.values())] or [{}] * len(labels)
    items = list(zip(clips.files, labels, rows))
    persons = args.persons or persons_in([clips.folder / file for file in clips.files])
    shape = (persons, skeleton.num_joints, args.channels)
    size = tuple(args.image_size) if args.image_size else None
    return Raw(
        items=items,
        total=len(items),
        read=partial(
            read,
            folder=clips.folder,
            layout=skeleton.name,
            shape=shape,
            normalization=normalization,
            terms=normalize.Terms(skeleton.center, size),
            nan=args.nan,
            score=skeleton.score,
        ),
        layout=args.layout,
        class_names=class_names,
        shape=shape,
        meta={"normalization": normalization, "centre": skeleton.center, "image_size": size},
        left_out={"other_files": clips.other_files},
    )


def _split(clips: table.Table, labels: list[int], args: argparse.Namespace) -> list[str] | None:
    """Return the part of each clip, given or drawn with --split; None if there is no split."""
    if args.split is None:
        for flag in ("by", "seed"):
            if getattr(args, flag) is not None:
                raise InputError(f"--{flag}: applies only to --split")
        if clips.parts is None:
            if args.test_split:
                raise InputError(f"--test-split: {args.source} has no split")
            return None
        tested = splits.test_part(clips.parts, args.test_split, f"the split of {args.source}")
        return [{"train": "train", tested: "test"}.get(part, "") for part in clips.parts]
    if clips.parts is not None:
        raise InputError(f"--split: {args.source} already has a split")
    groups = None
    if args.by is not None:
        by = args.by.lower()
        if by not in clips.columns:
            known = ", ".join(clips.columns) or "none"
            hint = nearest(by, clips.columns)
            raise InputError(f"--by {args.by}: no such column{hint}; columns: {known}")
        groups = clips.columns[by]
        check_groups(groups, by, lambda row: f"{clips.where(row)}: --by {by}")
    return splits.drawn(args, labels, groups)
