"""NTU RGB+D 60 and 120: .skeleton files in folders, or in the original zip files as they are.

The choice of bodies is the field's (CTR-GCN, arXiv 2107.12213, and PYSKL, arXiv 2205.09443, whose
annotations the released weights saw): drop tracks that are short or have the shape of noise, let
the most moving body lead. Where those two differ, PYSKL is followed.
"""

from __future__ import annotations

import argparse
import re
import zipfile
from collections.abc import Container
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import pairwise
from pathlib import Path, PureWindowsPath

import numpy as np

from data import names, normalize
from data.readers import Clip, Raw
from data.readers.skeleton_file import NUM_JOINTS, Bodies, parse
from errors import InputError
from files import UNREADABLE

EXAMPLES = dict.fromkeys(("ntu", "ntu60", "ntu120"), "FOLDER_OR_ZIP...")
MIN_FRAMES = 12  # a shorter track beside others is noise
MAX_SPREAD = 0.8  # a frame wider than so many times its height is noise
MAX_NOISE = 0.69754  # a track with so large a share of noisy frames is noise
MAX_BODIES = 2

Item = tuple[str, str | None]  # a file, or a zip file and the member of it


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="+", type=Path, help="folders or zips of .skeleton files")
    parser.add_argument("--missing", type=Path, help="file that names samples to leave out")


def reader(args: argparse.Namespace) -> Raw:
    missing = read_missing(args.missing) if args.missing else set()
    return raw(args.source, names.class_names("ntu120"), missing)


def raw(sources: list[Path], class_names: list[str], missing: Container[str] = ()) -> Raw:
    """Return what is to be read: all .skeleton files of the sources but the missing samples."""
    found = list_files(sources)
    files = [item for item in found if _name(item) not in missing]
    if not files:
        which = "all .skeleton files are named by --missing" if found else "no .skeleton files"
        if zips := [path for source in sources for path in source.glob("*.zip")]:
            which += f"; give its zip files themselves, as {min(zips)}"
        raise InputError(f"{', '.join(map(str, sources))}: {which}")
    return Raw(
        items=files,
        total=len(files),
        read=partial(read, num_class=len(class_names)),
        layout="ntu_rgb_d",
        class_names=class_names,
        shape=(MAX_BODIES, NUM_JOINTS, 3),
        meta={"normalization": "upright"},
        left_out={"missing": [_name(item) for item in found if _name(item) in missing]},
    )


def read(item: Item, num_class: int) -> Clip:
    """Return the clip of one file; InputError names it, and the line that cannot be read."""
    path, member = item
    source = _source(item)
    try:
        label, columns = names.parse(_name(item))
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    if label >= num_class:
        raise InputError(f"{source}: label {label} is beyond the {num_class} classes")
    joints = normalize.upright(choose_bodies(parse(_text(path, member, source), source)))
    if not joints[:, 1].any():
        joints = joints[:, :1]  # half as much to hand over
    return Clip(_name(item), label, joints, columns)


def list_files(sources: list[Path]) -> list[Item]:
    """Return every .skeleton file of the folders and zip files, sorted by sample name.

    Names that begin with a dot (what macOS adds to an archive) are passed over. InputError if a
    source cannot be read, or a sample comes twice.
    """
    files: list[Item] = []
    for source in sources:
        if source.is_dir():
            files += [(str(path), None) for path in source.rglob("*.skeleton")]
        elif source.suffix == ".skeleton" and source.is_file():
            files.append((str(source), None))
        else:
            try:
                with zipfile.ZipFile(source) as archive:
                    members = archive.namelist()
            except UNREADABLE as error:
                raise InputError(f"{source}: neither a folder nor a zip file ({error})") from error
            files += [(str(source), name) for name in members if name.endswith(".skeleton")]
    files = sorted((item for item in files if not _name(item).startswith(".")), key=_name)
    for item, following in pairwise(files):
        if _name(item) == _name(following):
            raise InputError(
                f"{_name(item)} comes twice, as {_source(item)} and as {_source(following)}; "
                "name the one or the other"
            )
    return files


def read_missing(path: Path) -> set[str]:
    """Return all NTU sample names in a text, such as the data set's list of missing skeletons."""
    found = re.findall(names.NTU.pattern.replace("(", "(?:"), names.decode_file(path))
    if not found:
        raise InputError(f"--missing {path}: holds no NTU RGB+D sample names")
    return set(found)


def _name(item: Item) -> str:
    path, member = item
    return Path(path).stem if member is None else PureWindowsPath(member).stem  # either slash


def _source(item: Item) -> str:
    path, member = item
    return path if member is None else f"{path}:{member}"


@cache
def _archive(path: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def _text(path: str, member: str | None, source: str) -> bytes:
    try:
        return Path(path).read_bytes() if member is None else _archive(path).read(member)
    except UNREADABLE as error:
        raise InputError(f"{source}: cannot be read ({error})") from error


@dataclass(frozen=True, eq=False)
class Track:
    """One body through the file."""

    frames: np.ndarray  # (n,) int64, ascending, among the frames that have any body
    joints: np.ndarray  # (n, 25, 3) float32

    @cached_property
    def noise(self) -> np.ndarray:
        """Which frames are wider than people are, (n,) bool."""
        x, y = self.joints[..., 0], self.joints[..., 1]
        width, height = x.max(axis=1) - x.min(axis=1), y.max(axis=1) - y.min(axis=1)
        return width > MAX_SPREAD * height

    @cached_property
    def motion(self) -> float:
        """The variance of all joints in all frames, noisy frames left out if that is less."""
        variance = _variance(self.joints)
        if self.noise.any() and not self.noise.all():
            variance = min(variance, _variance(self.joints[~self.noise]))
        return variance


def _variance(joints: np.ndarray) -> float:
    """Return the summed variance of x, y and z over joints (n, 25, 3); inf if they are damaged."""
    with np.errstate(over="ignore"):
        return float(sum(joints[..., axis].var() for axis in range(3)))


def choose_bodies(bodies: Bodies) -> np.ndarray:
    """Return joints (T, 2, 25, 3) float32 of the main actor and a second body, absent ones zero.

    The main actor is the most moving one, but who is there first if the other comes later. The
    frames are those in which anybody is seen and kept; T = 0 if nobody is.
    """
    used, frames = np.unique(bodies.frames, return_inverse=True)
    tracks = _without_noise(_tracks(bodies, frames))
    joints = np.zeros((len(used), MAX_BODIES, NUM_JOINTS, 3), np.float32)
    # First and last frame of what each of the two slots holds so far.
    spans: list[tuple[int, int] | None] = [None] * MAX_BODIES
    for track in tracks:
        for slot, span in enumerate(spans):
            first, last = int(track.frames[0]), int(track.frames[-1])
            if span is None:
                spans[slot] = first, last
            elif min(span[1], last) < max(span[0], first):
                spans[slot] = min(span[0], first), max(span[1], last)
            else:
                continue  # overlaps in time with the body that is there
            joints[track.frames, slot] = track.joints
            break
    joints = joints[joints.any(axis=(1, 2, 3))]
    begins_with_second = len(joints) and not joints[0, 0].any()
    return joints[:, ::-1] if begins_with_second else joints


def _tracks(bodies: Bodies, frames: np.ndarray) -> list[Track]:
    """Return the appearances of each id, in the order of their first."""
    rows: dict[bytes, list[int]] = {}
    for row, body in enumerate(bodies.ids):
        rows.setdefault(body, []).append(row)
    return [Track(frames[row], bodies.joints[row]) for row in rows.values()]


def _without_noise(tracks: list[Track]) -> list[Track]:
    """Return the tracks of people, most moving first; the last one left is never dropped."""
    if len(tracks) < 2:
        return tracks
    tracks = [track for track in tracks if len(track.frames) >= MIN_FRAMES] or tracks
    kept = list(tracks)
    for track in tracks:
        if len(kept) > 1 and track.noise.mean() >= MAX_NOISE:
            kept.remove(track)
    return sorted(kept, key=lambda track: -track.motion)
