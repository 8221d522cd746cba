"""What the names of samples tell: NTU RGB+D's and NW-UCLA's file names, and lists of names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from errors import InputError

NTU = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})")
NW_UCLA = re.compile(r"a(\d\d)_s(\d\d)_e(\d\d)_v(\d\d)")
NW_UCLA_ACTIONS = (1, 2, 3, 4, 5, 6, 8, 9, 11, 12)  # aXX of class 0, 1, ...; 7 and 10 do not exist
MANY_CLASSES = 100_000
CLASS_NAMES = Path(__file__).parent / "class_names"


@dataclass(frozen=True)
class Samples:
    """What protocols and lists need of samples. A Store has these attributes too."""

    path: Path
    names: np.ndarray  # (N,) str
    labels: np.ndarray  # (N,) int64
    columns: dict[str, np.ndarray]  # each (N,)


def parse(name: str) -> tuple[int, dict[str, int]]:
    """Return (label, columns) of an NTU or NW-UCLA sample name; InputError for any other name.

    SsssCcccPpppRrrrAaaa: setup, camera, subject, replication, action from 1.
    aXX_sYY_eZZ_vNN: action, subject, repetition, view (= camera).
    """
    if match := NTU.fullmatch(name):
        setup, camera, subject, _, action = map(int, match.groups())
        if 1 <= action <= 120:
            return action - 1, {"setup": setup, "camera": camera, "subject": subject}
    if match := NW_UCLA.fullmatch(name):
        action, subject, _, view = map(int, match.groups())
        if action in NW_UCLA_ACTIONS:
            return NW_UCLA_ACTIONS.index(action), {"camera": view, "subject": subject}
    raise InputError(
        f"{name!r} is no sample name of NTU RGB+D (S001C001P001R001A001) "
        "or NW-UCLA (a01_s01_e00_v01)"
    )


def read(path: str | Path) -> list[str]:
    """Read names, one a line; InputError if there is no such file, no name, or one comes twice."""
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list of names ({error})") from error
    names = [line.strip() for line in lines if line.strip()]  # a user's names may have spaces
    if not names:
        raise InputError(f"{path}: holds no names")
    if len(set(names)) < len(names):
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))
        raise InputError(f"{path}: {twice} comes twice")
    return names


def samples(path: str | Path) -> Samples:
    """Read a file of NTU or NW-UCLA names; its order counts as the official list's for NW-UCLA."""
    path = Path(path)
    names = read(path)
    try:
        labels, columns = zip(*map(parse, names))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    keys = set.intersection(*map(set, columns))
    arrays = {key: np.array([column[key] for column in columns]) for key in sorted(keys)}
    if "setup" not in keys:
        arrays["list_index"] = np.arange(len(names))
    return Samples(path, np.array(names), np.array(labels, np.int64), arrays)


def digest(names: Iterable[str]) -> str:
    """Return the sha256 (hex) of the names joined by newlines, without a final one."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def class_names(data_set: str, num_class: int | None = None) -> list[str]:
    """Return the class names of a data set (data/class_names/), the first `num_class` of them."""
    lines = (CLASS_NAMES / f"{data_set}.txt").read_text(encoding="utf-8").splitlines()
    return lines[:num_class]


def numbered(labels: Sequence[int]) -> list[str]:
    """Return class names for labels that came without: 'class 0' up to the largest label."""
    largest = max(labels, default=-1)
    if largest >= MANY_CLASSES:
        raise InputError(f"label {largest}: labels have to number the classes from 0")
    return [f"class {label}" for label in range(largest + 1)]
