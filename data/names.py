"""Sample names, lists of names, class names, and labels.

The sample names of NTU RGB+D and NW-UCLA contain action, subject and camera.
"""

from __future__ import annotations

import codecs
import hashlib
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from numbers import Real
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from errors import InputError, nearest
from files import reading

NTU = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})")
NW_UCLA = re.compile(r"a(\d\d)_s(\d\d)_e(\d\d)_v(\d\d)")
NW_UCLA_ACTIONS = (1, 2, 3, 4, 5, 6, 8, 9, 11, 12)  # aXX of class 0, 1, ...; 7 and 10 do not exist
MANY_CLASSES = 100_000
NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)(e[+-]?\d+)?", re.IGNORECASE)
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
# Kinds of `left_out` in a store's meta.json.
WHY_LEFT_OUT = {"nobody": "it has no body", "missing": "excluded by --missing"}
CLASS_NAMES = Path(__file__).parent / "class_names"


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The samples of a data set, as protocols and lists use them."""

    path: Path
    names: np.ndarray  # (N,) str
    labels: np.ndarray  # (N,) int64
    columns: dict[str, np.ndarray] = field(default_factory=dict)  # each (N,): subject, ..., split
    meta: dict[str, Any] = field(default_factory=dict)  # of a store

    def rows_of(self, names: Sequence[str], source: str | Path) -> np.ndarray:
        """Return the rows (int64) of these names, in their order.

        InputError, which begins with `source`, gives the number of absent names, and a reason.
        """
        rows = {name: row for row, name in enumerate(self.names.tolist())}
        if absent := [name for name in names if name not in rows]:
            left_out = self.meta.get("left_out", {})
            reasons = [_why_absent(name, left_out) for name in absent]
            if len(names) == 1:
                hint = nearest(absent[0], rows) if len(rows) < 10_000 else ""
                why = f": {reasons[0]}" if reasons[0] else hint
                raise InputError(f"{source}: {absent[0]!r} is not in {self.path}{why}")
            known = sum(reason is not None for reason in reasons)
            listed = f"; left_out of its meta.json lists {known} of them" if left_out else ""
            raise InputError(
                f"{source}: {len(absent)} of {len(names)} names are not in {self.path}{listed}; "
                f"the first is {absent[0]!r}: {reasons[0] or 'not among the prepared samples'}"
            )
        return np.array([rows[name] for name in names], np.int64)


def _why_absent(name: str, left_out: dict[str, list[str]]) -> str | None:
    """Return why data.prepare skipped a sample, None if there is no entry for it."""
    # An entry begins with the name of the sample or its file: folder/NAME.npy, NAME_skeleton.mat.
    subject = re.compile(rf"(?:^|[/\\]|: ?){re.escape(name)}(?:[._]\w+)*:")
    for kind, entries in left_out.items():
        if kind == "unreadable":
            if reason := next(filter(subject.search, entries), None):
                return f"unreadable, {reason}"
        elif name in entries:
            return WHY_LEFT_OUT.get(kind, f"skipped ({kind})")
    return None


def file_name(sample: str) -> str:
    """Return the name of a sample, which can have folders in it, for a file."""
    return sample.replace("/", "_")


def parse(name: str, where: str | Path = "") -> tuple[int, dict[str, int]]:
    """Return (label, columns) of an NTU or NW-UCLA sample name; InputError for any other name.

    SsssCcccPpppRrrrAaaa: setup, camera, subject, replication, action from 1.
    aXX_sYY_eZZ_vNN: action, subject, repetition, view (= camera).
    The error begins with `where`, if given.
    """
    if match := NTU.fullmatch(name):
        setup, camera, subject, _, action = map(int, match.groups())
        if 1 <= action <= 120:
            return action - 1, {"setup": setup, "camera": camera, "subject": subject}
    if match := NW_UCLA.fullmatch(name):
        action, subject, _, view = map(int, match.groups())
        if action in NW_UCLA_ACTIONS:
            return NW_UCLA_ACTIONS.index(action), {"camera": view, "subject": subject}
    place = f"{where}: " if where else ""
    raise InputError(
        f"{place}{name!r} is not a sample name of NTU RGB+D (S001C001P001R001A001) "
        "or NW-UCLA (a01_s01_e00_v01)"
    )


def columns_of(name: str, label: int, where: str | Path) -> dict[str, int]:
    """Return the columns of `parse`; InputError also if the name says another label."""
    expected, columns = parse(name, where)
    if label != expected:
        raise InputError(f"{where}: {name}: label is {label}, but {expected} in the name")
    return columns


def decode_file(path: Path) -> str:
    """Return the text of a file in UTF-8, UTF-16 or cp1252; InputError for other content.

    cp1252 is a guess (most bytes are text in it), which is said once per file.
    """
    with reading(path):
        content = path.read_bytes()
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for encoding in ["utf-16"] if is_utf16 else ["utf-8-sig", "cp1252"]:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            if encoding == "cp1252":
                _tell_guess(path)
            return text
    raise InputError(
        f"{path}: is not text in UTF-8, UTF-16 (with a byte order mark) or cp1252; save it as UTF-8"
    )


@cache
def _tell_guess(path: Path) -> None:
    print(
        f"warning: {path}: is not UTF-8 and was read as cp1252 (Western European); if its names "
        "are in another encoding, such as GBK, save it as UTF-8 (in Excel: CSV UTF-8)",
        file=sys.stderr,
    )


def read(path: str | Path) -> list[str]:
    """Read names, one per line; InputError for a missing or empty file or a duplicate name.

    A backslash is a path separator, as on Windows.
    """
    path = Path(path)
    lines = decode_file(path).splitlines()
    # Names of custom samples can contain spaces.
    names = [line.strip().replace("\\", "/") for line in lines if line.strip()]
    if not names:
        raise InputError(f"{path}: contains no names")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(f"{path}: contains {twice[0]} twice")
    return names


def natural_order(text: str) -> tuple[list[tuple[int, int | str]], str]:
    """Return a sort key that sorts frame2 before frame10."""
    parts = re.split(r"(\d+)", text)
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts if part], text


def samples(path: str | Path) -> Samples:
    """Read a file of NTU or NW-UCLA names; NW-UCLA's must be in the order of the official list."""
    path = Path(path)
    names = read(path)
    labels, columns = zip(*(parse(name, path) for name in names))
    keys = set.intersection(*map(set, columns))
    arrays = {key: np.array([column[key] for column in columns]) for key in sorted(keys)}
    if "setup" not in keys:
        arrays["list_index"] = np.arange(len(names))
    return Samples(
        path=path, names=np.array(names), labels=np.array(labels, np.int64), columns=arrays
    )


def digest(names: Iterable[str]) -> str:
    """Return the sha256 (hex) of the names joined by newlines, without a final one."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def class_names(data_set: str, num_class: int | None = None) -> list[str]:
    """Return the (first `num_class`) class names of a data set, from data/class_names/."""
    lines = (CLASS_NAMES / f"{data_set}.txt").read_text(encoding="utf-8").splitlines()
    return lines[:num_class]


def numbered(labels: Sequence[int]) -> list[str]:
    """Return class names for labels without names: 'class 0' to the largest label."""
    largest = max(labels, default=-1)
    if largest >= MANY_CLASSES:
        raise InputError(f"label {largest}: labels must number the classes from 0")
    return [f"class {label}" for label in range(largest + 1)]


def number(label: Any) -> float | None:
    """Return a label as a number ("3", "3.0", "3,0" and "3e0" are numbers), None for a word.

    "1,000" is a word: it can be one and a thousand.
    """
    if isinstance(label, Real):
        return float(label)
    if isinstance(label, str) and NUMBER.fullmatch(word := label.strip()):
        if THOUSANDS.fullmatch(word):
            return None
        return float(label.replace(",", "."))
    return None


def whole_number(label: Any) -> int | None:
    """Return a label as an integer of at least 0, None if it is not one."""
    value = number(label)
    return int(value) if value is not None and value.is_integer() and value >= 0 else None


def classes(labels: Sequence[Any], where: Callable[[int], str]) -> tuple[list[int], list[str]]:
    """Return labels as numbers from 0, and the class names.

    Labels are all numbers (see `number`) or all words, which are numbered in natural order. White
    space and the encoding of accents do not distinguish words; two that differ in case alone are
    an error. InputError begins with `where(i)`, the position of the wrong label.
    """

    def fail(row: int, what: str) -> NoReturn:
        shown = labels[row] if isinstance(labels[row], str) else repr(labels[row])
        raise InputError(f"{where(row)}: label {shown} {what}")

    numbers = [number(label) for label in labels]
    are_words = all(value is None for value in numbers)
    for row, (label, value) in enumerate(zip(labels, numbers)):
        if value is None and not (isinstance(label, str) and label.strip()):
            fail(row, "is neither a number nor a name")
        if are_words:
            continue
        if value is None:
            fail(row, "is a word, but others are numbers; write all as numbers or all as names")
        if not value.is_integer() or not 0 <= value < MANY_CLASSES:
            fail(row, "is not a class; labels must number the classes from 0")
    if not are_words:
        labeled = [int(value) for value in numbers if value is not None]
        return labeled, numbered(labeled)
    words = [" ".join(unicodedata.normalize("NFC", label).split()) for label in labels]
    class_names = sorted(set(words), key=natural_order)
    alike: dict[str, str] = {}
    for name in class_names:
        if (other := alike.setdefault(name.casefold(), name)) != name:
            fail(words.index(name), f"and {other} differ in case alone; write them alike")
    rows = {name: row for row, name in enumerate(class_names)}
    return [rows[word] for word in words], class_names
