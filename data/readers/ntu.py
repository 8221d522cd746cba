"""NTU RGB+D 60 and 120: .skeleton files in folders or in the original zip files.

Bodies are selected as in CTR-GCN (arXiv 2107.12213) and PYSKL (arXiv 2205.09443): short tracks and
tracks with the shape of noise are dropped, the body with the most motion comes first. Where the two
differ, PYSKL is followed, because the released weights were trained on its annotations.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from data import names, normalize
from data.readers import Clip, Raw
from data.readers.archive import File, list_files
from data.readers.skeleton_file import NUM_JOINTS, Bodies, parse
from errors import InputError

MIN_FRAMES = 12  # a shorter track is noise if there are others
MAX_SPREAD = 0.8  # a frame with a larger width / height is noise
MAX_NOISE = 0.69754  # a track with at least this fraction of noisy frames is noise
MAX_BODIES = 2


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="+", type=Path, help="folders or zips of .skeleton files")
    parser.add_argument("--missing", type=Path, help="file with the names of samples to skip")
    add_normalize(parser)


def reader(args: argparse.Namespace) -> Raw:
    missing = read_missing(args.missing) if args.missing else set()
    normalization = normalize.OF_PYSKL[args.normalize or "upright"]
    found = list_files(".skeleton", *args.source)
    for file, following in pairwise(found):
        if file.name == following.name:
            raise InputError(
                f"{file.stem} is found twice, as {file.path} and as {following.path}; give only "
                "one of them"
            )
    files = [file for file in found if file.stem not in missing]
    if not files:
        sources = ", ".join(map(str, args.source))
        raise InputError(f"{sources}: all .skeleton files are in --missing")
    return Raw(
        items=files,
        total=len(files),
        read=partial(read, normalization=normalization),
        layout="ntu_rgb_d",
        class_names=names.class_names("ntu120"),
        shape=(MAX_BODIES, NUM_JOINTS, 3),
        meta={"normalization": normalization},
        left_out={"missing": [file.stem for file in found if file.stem in missing]},
    )


def add_normalize(parser: argparse.ArgumentParser) -> None:
    """Add --normalize, also to readers of other forms of these clips."""
    parser.add_argument("--normalize", choices=normalize.OF_PYSKL, metavar="HOW",
        help="3D poses: upright (default: spine and shoulders of the first frame aligned), or "
        "centered (not rotated: the recipes of DG-STGCN and ProtoGCN)")  # fmt: skip


def read(file: File, normalization: str = "upright") -> Clip:
    """Return the clip in one file; InputError names the file and the line."""
    label, columns = names.parse(file.stem, file.path)
    bodies, _ = choose_bodies(parse(file.read(), file.path))
    joints = normalize.apply(normalization, bodies, normalize.Terms(where=file.path))
    if not joints[:, 1].any():
        joints = joints[:, :1]  # half the data to send to the main process
    return Clip(file.stem, label, joints, columns)


def read_missing(path: Path) -> set[str]:
    """Return all NTU sample names in a text file, such as the list of missing skeletons."""
    found = {match[0] for match in names.NTU.finditer(names.decode_file(path))}
    if not found:
        raise InputError(f"--missing {path}: contains no NTU RGB+D sample names")
    return found


@dataclass(frozen=True, eq=False)
class Track:
    """One body over time."""

    frames: np.ndarray  # (n,) int64, ascending, indices among the frames that have a body
    joints: np.ndarray  # (n, 25, 3) float32

    @cached_property
    def noise(self) -> np.ndarray:
        """Which frames are too wide for a person, (n,) bool."""
        x, y = self.joints[..., 0], self.joints[..., 1]
        width, height = x.max(axis=1) - x.min(axis=1), y.max(axis=1) - y.min(axis=1)
        return width > MAX_SPREAD * height

    @cached_property
    def motion(self) -> float:
        """The variance of all joints in all frames, or without noisy frames if that is smaller."""
        variance = _variance(self.joints)
        if self.noise.any() and not self.noise.all():
            variance = min(variance, _variance(self.joints[~self.noise]))
        return variance


def _variance(joints: np.ndarray) -> float:
    """Return the summed variance of x, y and z over joints (n, 25, 3); inf if they are damaged."""
    with np.errstate(over="ignore"):
        return float(sum(joints[..., axis].var() for axis in range(3)))


def choose_bodies(bodies: Bodies) -> tuple[np.ndarray, np.ndarray]:
    """Return joints (T, 2, 25, 3) float32 of the main and the second body, zero where absent, and
    the numbers (T,) of the frames in the file.

    The main body is the one with the most motion, unless only the other one is present in the first
    frame. Frames without a selected body are dropped; T = 0 if there is none.
    """
    used, frames = np.unique(bodies.frames, return_inverse=True)
    tracks = _without_noise(_tracks(bodies, frames))
    joints = np.zeros((len(used), MAX_BODIES, NUM_JOINTS, 3), np.float32)
    # First and last frame of the tracks in each of the two slots so far.
    spans: list[tuple[int, int] | None] = [None] * MAX_BODIES
    for track in tracks:
        for slot, span in enumerate(spans):
            first, last = int(track.frames[0]), int(track.frames[-1])
            if span is None:
                spans[slot] = first, last
            elif min(span[1], last) < max(span[0], first):
                spans[slot] = min(span[0], first), max(span[1], last)
            else:
                continue  # overlaps in time with the tracks in this slot
            joints[track.frames, slot] = track.joints
            break
    seen = joints.any(axis=(1, 2, 3))
    joints, used = joints[seen], used[seen]
    begins_with_second = len(joints) and not joints[0, 0].any()
    return joints[:, ::-1] if begins_with_second else joints, used


def _tracks(bodies: Bodies, frames: np.ndarray) -> list[Track]:
    """Return one track per body id, in the order of first appearance."""
    rows: dict[bytes, list[int]] = {}
    for row, body in enumerate(bodies.ids):
        rows.setdefault(body, []).append(row)
    return [Track(frames[row], bodies.joints[row]) for row in rows.values()]


def _without_noise(tracks: list[Track]) -> list[Track]:
    """Return the tracks that are not noise, sorted by motion; at least one is kept."""
    if len(tracks) < 2:
        return tracks
    tracks = [track for track in tracks if len(track.frames) >= MIN_FRAMES] or tracks
    kept = list(tracks)
    for track in tracks:
        if len(kept) > 1 and track.noise.mean() >= MAX_NOISE:
            kept.remove(track)
    return sorted(kept, key=lambda track: -track.motion)
