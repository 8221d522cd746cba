"""NW-UCLA (Wang et al., arXiv 1405.2941): one JSON file per clip, or all clips in one npz file.

A JSON file contains `skeletons`, (T, 20, 3), and `label`, 1 to 10; its name contains action and
view. The npz contains the concatenated `frames` of all clips, `offsets`, `names`, `labels` and
`list_index`, the position in the official list, on which the long-tailed list depends.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data import measure, names, normalize
from data.readers import Clip, Raw
from data.readers.json_file import JsonFile
from data.readers.npz_file import load
from errors import InputError
from files import files_below

NUM_JOINTS = 20
KEYS = ("frames", "offsets", "names", "labels", "list_index")
SOURCE = "folder of JSON files, or npz file"


def reader(args: argparse.Namespace) -> Raw:
    items: Iterable[Any]
    read: Callable[[Any], Clip]
    if args.source.is_dir():
        files = [path for path in files_below(args.source) if path.suffix == ".json"]
        items, read = sorted(files, key=lambda path: path.stem), read_json
        if not items:
            raise InputError(f"{args.source}: contains no JSON files")
        total = len(items)
    else:
        arrays, read = _load(args.source), partial(read_arrays, path=args.source)
        joints = np.split(arrays["frames"].astype(np.float32), arrays["offsets"][1:-1])
        columns = (arrays[key].tolist() for key in ("names", "labels", "list_index"))
        items, total = zip(*columns, joints), len(joints)
    return Raw(
        items=items,
        total=total,
        read=read,
        layout="nw_ucla",
        class_names=names.class_names("nw-ucla"),
        shape=(1, NUM_JOINTS, 3),
        meta={"normalization": "nw-ucla"},
    )


def read_json(path: Path) -> Clip:
    """Return the clip in one JSON file; InputError names the file."""
    label, columns = names.parse(path.stem, path)
    file = JsonFile(path)
    stated = file.table().get("label")
    if names.whole_number(stated) != label + 1:
        file.fail(f"label is {stated}, but {label + 1} in the file name")
    joints = file.joints("skeletons", (NUM_JOINTS, 3))
    measure.check_finite(joints, str(path))
    return Clip(path.stem, label, _normalized(joints), columns)


def read_arrays(item: tuple[str, int, int, np.ndarray], path: Path) -> Clip:
    """Return one clip of the npz file; InputError names the file and the sample."""
    name, label, list_index, joints = item
    measure.check_finite(joints, f"{path}: {name}")
    columns = names.columns_of(name, label, path) | {"list_index": list_index}
    return Clip(name, label, _normalized(joints), columns)


def _normalized(joints: np.ndarray) -> np.ndarray:
    """(T, 20, 3) -> (T, 1, 20, 3), normalized; zero frames if there is no body."""
    return normalize.nw_ucla(joints[:, None]) if joints.any() else joints[:0, None]


def _load(path: Path) -> dict[str, np.ndarray]:
    arrays = load(path, KEYS)
    frames, offsets = arrays["frames"], arrays["offsets"]
    if frames.ndim != 3 or frames.shape[1:] != (NUM_JOINTS, 3) or frames.dtype.kind != "f":
        raise InputError(f"{path}: frames are {frames.dtype} {frames.shape}, not (F, 20, 3)")
    shapes = {arrays[key].shape for key in ("names", "labels", "list_index")}
    if shapes != {(len(offsets) - 1,)}:
        raise InputError(f"{path}: names, labels, list_index and offsets differ in length")
    if (np.diff(offsets) < 0).any() or offsets[0] != 0 or offsets[-1] != len(frames):
        raise InputError(f"{path}: offsets and frames are not consistent")
    return arrays
