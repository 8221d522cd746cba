"""Read one clip from a .skeleton (NTU RGB+D), .json, .npy or .npz file, without normalization."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data import measure
from data.names import natural_order
from data.readers import LAST_FRAME, ClipFile, image_size, pose_json
from data.readers.json_file import JsonFile
from data.readers.ntu import choose_bodies
from data.readers.skeleton_file import parse
from data.store import is_store
from errors import InputError
from files import files_below, reading, replacing
from flags import NAN

SUFFIXES = (".skeleton", ".json", ".npy", ".npz")
FACTS = ("layout", "image_size", "frame_numbers", "fps")  # in an .npz, beside the joints


def clips_below(folder: Path) -> list[Path]:
    """Return the clip files in a folder and below it in natural order, without hidden files and
    the arrays of prepared stores."""
    return [path for path in _listed(folder) if is_clip(path)]


def clips_of(folder: Path, where: str) -> list[Path]:
    """Return `clips_below`, and say which files are none by their last ending alone (.npy.gz);
    InputError, which begins with `where`, if there are no clips."""
    files = _listed(folder)
    clips = [path for path in files if is_clip(path)]
    others = [path for path in files if not is_clip(path)
              and any(ending.lower() in SUFFIXES for ending in path.suffixes)]  # fmt: skip
    if not clips:
        raise InputError(f"{where}: no {', '.join(SUFFIXES)} file in it")
    if others:
        first = others[0].relative_to(folder)
        print(f"{where}: skipped files that are not clips: {len(others)}, e.g. {first}",
              file=sys.stderr)  # fmt: skip
    return clips


def _listed(folder: Path) -> list[Path]:
    found = [
        path for path in files_below(folder)
        if not is_hidden(path.relative_to(folder)) and not is_store(path.parent)
    ]  # fmt: skip
    return sorted(found, key=lambda path: natural_order(path.as_posix()))


def is_clip(path: Path) -> bool:
    """Return whether a file has the ending of a clip, in small or capital letters."""
    return path.suffix.lower() in SUFFIXES


def is_hidden(path: Path) -> bool:
    """Return whether part of a relative path is hidden, or was added to an archive by macOS."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def read(path: str | Path, nan: str = "refuse", score: int | None = None) -> ClipFile:
    """Return the clip in a file; InputError names the file if it cannot be read.

    `nan`, one of NAN, is the treatment of joints that are NaN or infinite, and `score` the channel
    that is a score (see `as_clip`).

    .json contains a list [T][V][C] or [T][M][V][C], by itself or under `skeletons` (NW-UCLA) or
    `joints` (and optionally `layout` and `image_size`), or the output of a pose estimator
    (data/readers/pose_json.py). .npz contains an array `joints`, or a single array, and optionally
    what `save` writes beside it.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if not is_clip(path):
        raise InputError(f"{path}: not a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file")
    suffix = path.suffix.lower()
    with reading(path, "cannot be read as a clip"):
        clip = _READERS[suffix](path)
        if suffix != ".skeleton":  # which is finite, and has no frames if there is no body
            clip = replace(clip, joints=as_clip(clip.joints, str(path), nan, score))
    return clip


def save(path: Path, clip: ClipFile) -> None:
    """Write a clip as .npz with what is known of it: layout, image_size (height, width),
    frame_numbers (in the recording), fps."""
    facts = zip(FACTS, (clip.layout, clip.image_size, clip.frames, clip.fps), strict=True)
    known: dict[str, Any] = {key: np.array(value) for key, value in facts if value is not None}
    with replacing(path) as file:
        np.savez(file, joints=clip.joints, **known)


def as_clip(values: Any, where: str, nan: str = "refuse", score: int | None = None) -> np.ndarray:
    """Return an array (T, V, C) or (T, M, V, C) as (T, M, V, C), see `measure.clip_of`.

    Joints that are NaN or infinite are an error ('refuse'), unseen ('zero') or interpolated between
    frames ('interpolate', see `interpolated`), by `nan`.
    """
    if nan not in NAN:
        raise InputError(f"--nan {nan}: not one of {', '.join(NAN)}")
    joints = measure.clip_of(values, where)
    broken = ~np.isfinite(joints).all(axis=-1)  # (T, M, V)
    if not broken.any():
        return joints
    if nan == "refuse":
        frames = broken.any(axis=(1, 2))
        raise InputError(
            f"{where}: {frames.sum()} of {len(joints)} frames have a joint that is NaN or "
            f"infinite, the first is frame {frames.argmax()}; set unseen joints to 0, or give "
            "--nan zero or --nan interpolate"
        )
    joints = np.where(broken[..., None], 0, joints)
    return interpolated(joints, broken, score) if nan == "interpolate" else joints


def interpolated(joints: np.ndarray, broken: np.ndarray, score: int | None = None) -> np.ndarray:
    """Return a clip (T, M, V, C) with its `broken` joints (T, M, V) interpolated in time.

    Interpolation is linear between the nearest frames in which the joint was seen; before the first
    and after the last of them its position is repeated. A joint that is never seen stays zero.
    If the clip has the channel `score`, a joint whose score is 0 is not seen.
    """
    joints, usable = joints.copy(), measure.seen(joints) & ~broken
    if score is not None and score < joints.shape[-1]:
        usable &= joints[..., score] > 0
    for person, joint in np.argwhere(broken.any(axis=0) & usable.any(axis=0)):
        lost, known = (np.flatnonzero(mask[:, person, joint]) for mask in (broken, usable))
        for channel in range(joints.shape[-1]):
            line = joints[:, person, joint, channel]
            line[lost] = np.interp(lost, known, line[known])
    return joints


def _skeleton(path: Path) -> ClipFile:
    joints, frames = choose_bodies(parse(path.read_bytes(), str(path)))
    return ClipFile(joints, "ntu_rgb_d", frames=frames)


def _json(path: Path) -> ClipFile:
    file = JsonFile(path)
    if (clip := pose_json.read_clip(file)) is not None:
        return clip
    said = file.content if isinstance(file.content, dict) else {}
    joints = file.joints("skeletons" if "skeletons" in said else "joints")
    layout, size = said.get("layout"), said.get("image_size")
    return ClipFile(
        joints,
        None if layout is None else str(layout),
        None if size is None else image_size(size, f"{path}: image_size"),
    )


def _npy(path: Path) -> ClipFile:
    return ClipFile(np.load(path, allow_pickle=False))


def _npz(path: Path) -> ClipFile:
    with np.load(path, allow_pickle=False) as file:
        arrays = [key for key in file.files if key not in FACTS]
        if "joints" not in arrays and len(arrays) != 1:
            raise InputError(f"{path}: contains {arrays}, not 'joints' or a single array")
        joints = file["joints" if "joints" in arrays else arrays[0]]
        layout = str(file["layout"]) if "layout" in file.files else None
        size = None
        if "image_size" in file.files:
            size = image_size(file["image_size"].tolist(), f"{path}: image_size")
        frames = file.get("frame_numbers")
        fps = file.get("fps", np.zeros(1))
    if frames is not None and (
        frames.dtype.kind not in "iu"
        or frames.shape != joints.shape[:1]
        or frames.max(initial=0) > LAST_FRAME
        or (np.diff(frames.astype(np.int64), prepend=-1) < 1).any()
    ):
        raise InputError(
            f"{path}: frame_numbers must be ascending integers, one per frame, up to {LAST_FRAME}"
        )
    if fps.size != 1 or fps.dtype.kind not in "fiu" or not 0 <= fps.item() < np.inf:
        raise InputError(f"{path}: fps must be the frames per second, not {fps.tolist()}")
    rate = float(fps.item()) or None  # OpenCV has 0 for a rate that it does not know
    return ClipFile(joints, layout, size, "", frames, rate)


_READERS = {".skeleton": _skeleton, ".json": _json, ".npy": _npy, ".npz": _npz}
