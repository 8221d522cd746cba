"""One clip from one file: .skeleton (NTU RGB+D), .json, .npy or .npz, joints as recorded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.readers import pose_json
from data.readers.json_file import JsonFile
from data.readers.npz_file import reason
from data.readers.ntu import choose_bodies
from data.readers.skeleton_file import parse
from errors import InputError
from files import UNREADABLE

SUFFIXES = (".skeleton", ".json", ".npy", ".npz")


@dataclass(frozen=True)
class ClipFile:
    """What a file says of its clip."""

    joints: np.ndarray  # (T, M, V, C) float32 or float16
    layout: str | None = None  # of the joints, where the file names it
    image_size: tuple[float, float] | None = None  # height and width in pixels, where it names them


def read(path: str | Path) -> ClipFile:
    """Return the clip of a file; InputError names the file if it cannot be read as one.

    .json is a list [T][V][C] or [T][M][V][C], or has one under `skeletons` (NW-UCLA's files) or
    `joints`, or is what a pose estimator writes (data/readers/pose_json.py); .npz has it under
    `joints` or as its one array, and may tell `layout` and `image_size` (height, width).
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder")
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: not one of {', '.join(SUFFIXES)}")
    try:
        return _READERS[path.suffix](path)
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"{path}: cannot be read as a clip ({reason(error)})") from error


def as_clip(values: Any, where: str) -> np.ndarray:
    """Return (T, V, C) or (T, M, V, C) numbers as (T, M, V, C) float32, or InputError.

    float16 stays: `normalize.upright` computes with it as the released code does.
    """
    try:
        joints = np.asarray(values)
        if joints.dtype.kind not in "fiu":
            raise ValueError
    except ValueError:
        raise InputError(
            f"{where}: not an array of numbers; every frame needs the same joints and channels"
        ) from None
    if joints.ndim == 3:
        joints = joints[:, None]
    if joints.ndim != 4:
        raise InputError(
            f"{where}: has shape {joints.shape}; a clip is (frames, joints, channels) or "
            "(frames, persons, joints, channels)"
        )
    if 0 in joints.shape:
        raise InputError(f"{where}: is empty, shape {joints.shape}")
    if joints.dtype != np.float16:
        with np.errstate(over="ignore"):
            joints = joints.astype(np.float32)
    broken = ~np.isfinite(joints).all(axis=(1, 2, 3))
    if broken.any():
        raise InputError(
            f"{where}: {broken.sum()} of {len(joints)} frames have a joint that is NaN or "
            f"infinite, the first is frame {broken.argmax()}; write 0 for what was not seen"
        )
    return joints


def _skeleton(path: Path) -> ClipFile:
    return ClipFile(choose_bodies(parse(path.read_bytes(), str(path))), "ntu_rgb_d")


def _json(path: Path) -> ClipFile:
    file = JsonFile(path)
    if (poses := pose_json.read_clip(file)) is not None:
        joints, layout, image_size = poses
        return ClipFile(as_clip(joints, str(path)), layout, image_size)
    is_ucla = isinstance(file.content, dict) and "skeletons" in file.content
    return ClipFile(as_clip(file.joints("skeletons" if is_ucla else "joints"), str(path)))


def _npy(path: Path) -> ClipFile:
    return ClipFile(as_clip(np.load(path, allow_pickle=False), str(path)))


def _npz(path: Path) -> ClipFile:
    with np.load(path, allow_pickle=False) as file:
        arrays = [key for key in file.files if key not in ("layout", "image_size")]
        if "joints" not in arrays and len(arrays) != 1:
            raise InputError(f"{path}: holds {arrays}, not 'joints' or one array")
        joints = as_clip(file["joints" if "joints" in arrays else arrays[0]], str(path))
        layout = str(file["layout"]) if "layout" in file.files else None
        size = file["image_size"].tolist() if "image_size" in file.files else None
    if size is not None and (len(size) != 2 or min(size) <= 0):
        raise InputError(f"{path}: image_size must be height and width, not {size}")
    return ClipFile(joints, layout, None if size is None else tuple(size))


_READERS = {".skeleton": _skeleton, ".json": _json, ".npy": _npy, ".npz": _npz}
