"""The text of an NTU RGB+D .skeleton file, read fast, and slowly where something is wrong.

A file holds its number of frames, then per frame the number of bodies, then per body a line that
begins with its id, the number of joints (25), and a line of 12 numbers per joint: x y z in metres,
then image positions, an orientation and a state, which are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from errors import InputError

NUM_JOINTS = 25
NUM_FIELDS = 12  # of a joint's line
EXACT_DIGITS = 15  # integers of so many digits are exact in float64, and so are
POWERS_OF_TEN = 10.0 ** np.arange(EXACT_DIGITS + 1)


@dataclass(frozen=True)
class Bodies:
    """Every appearance of a body in a frame of the file, in the file's order."""

    frames: np.ndarray  # (B,) int64, frame of each appearance
    ids: list[bytes]  # (B,)
    joints: np.ndarray  # (B, 25, 3) float32, metres


def parse(text: bytes, path: str) -> Bodies:
    """Return the bodies of a .skeleton file; InputError names the file and the line at fault."""
    try:
        bodies = _parse_fast(text)
    except (ValueError, IndexError):
        bodies = None
    return bodies if bodies is not None else parse_by_line(text, path)


def parse_by_line(text: bytes, path: str) -> Bodies:
    """As `parse`, line by line: the plain reading of the format, which knows what is wrong."""
    lines = _Lines(text, path)
    frames, ids, joints = [], [], []
    for frame in range(lines.count("the number of frames")):
        for _ in range(lines.count("the number of bodies")):
            ids.append(lines.fields("a body", 1)[0])
            frames.append(frame)
            if lines.count("the number of joints") != NUM_JOINTS:
                lines.fail(f"a body of NTU RGB+D has {NUM_JOINTS} joints")
            joints.append([lines.joint() for _ in range(NUM_JOINTS)])
    lines.end()
    array = np.array(joints, np.float32).reshape(-1, NUM_JOINTS, 3)
    return Bodies(np.array(frames, np.int64), ids, array)


class _Lines:
    """The lines of a file one after the other, and complaints about the one just read."""

    def __init__(self, text: bytes, path: str) -> None:
        self.lines: Iterator[tuple[int, bytes]] = enumerate(text.split(b"\n"), start=1)
        self.number, self.path = 0, path

    def fail(self, what: str) -> NoReturn:
        raise InputError(f"{self.path}: line {self.number}: {what}")

    def fields(self, what: str, at_least: int) -> list[bytes]:
        self.number, line = next(self.lines, (self.number, b""))
        fields = line.split()
        if len(fields) < at_least:
            self.fail(f"{what} is missing; the file is cut off or damaged")
        return fields

    def count(self, what: str) -> int:
        line = b" ".join(self.fields(what, 1))
        try:
            return to_count(line)
        except ValueError:
            self.fail(f"{what} is not a whole number")

    def joint(self) -> list[float]:
        fields = self.fields("a joint", NUM_FIELDS)
        if len(fields) > NUM_FIELDS:
            self.fail(f"a joint has {NUM_FIELDS} numbers, not {len(fields)}")
        try:
            position = [float(field) for field in fields[:3]]
        except ValueError:
            self.fail("a joint's position is not a number")
        with np.errstate(over="ignore"):
            if not np.isfinite(np.array(position, np.float32)).all():
                self.fail("a joint is NaN or infinite")
        return position

    def end(self) -> None:
        for number, line in self.lines:
            if line.strip():
                self.number = number
                self.fail("there is more than the number of frames announces")


def _parse_fast(text: bytes) -> Bodies | None:
    """As `parse` for files written as usual; None, ValueError or IndexError for any other."""
    text = text.rstrip() + b"\n"
    data = np.frombuffer(text, np.uint8)
    separators = np.flatnonzero((data == ord(" ")) | (data == ord("\n")))
    line_ends = np.flatnonzero(data[separators] == ord("\n"))  # which separators end a line
    walk = _walk(text, separators[line_ends].tolist())
    if walk is None:
        return None
    frames, ids, first = walk
    lines = (np.array(first, np.int64)[:, None] + np.arange(NUM_JOINTS)).ravel()
    if (np.diff(line_ends, prepend=-1)[lines] != NUM_FIELDS).any():
        return None
    # The separators before the joint's x and after its x, y and z.
    bounds = separators[line_ends[lines - 1][:, None] + np.arange(4)]
    values = to_numbers(text, bounds[:, :3].ravel() + 1, bounds[:, 1:].ravel())
    with np.errstate(over="ignore"):
        joints = values.astype(np.float32).reshape(-1, NUM_JOINTS, 3)
    if not np.isfinite(joints).all():
        return None
    return Bodies(np.array(frames, np.int64), ids, joints)


def _walk(text: bytes, ends: list[int]) -> tuple[list[int], list[bytes], list[int]] | None:
    """Return frame, id and first joint's line of every body; None if the file does not add up.

    `ends` are the places where the lines end.
    """
    frames, ids, first = [], [], []
    line = 1
    for frame in range(to_count(text[: ends[0]])):
        for _ in range(to_count(text[ends[line - 1] : ends[line]])):
            ids.append(text[ends[line] : ends[line + 1]].split(None, 1)[0])
            frames.append(frame)
            if to_count(text[ends[line + 1] : ends[line + 2]]) != NUM_JOINTS:
                return None
            first.append(line + 3)
            line += 2 + NUM_JOINTS
        line += 1
    return (frames, ids, first) if line == len(ends) else None


def to_count(text: bytes) -> int:
    """Return a number of things; ValueError if the text is not digits alone, or has too many."""
    digits = text.strip()
    if not digits.isdigit():
        raise ValueError
    return int(digits)


def to_numbers(text: bytes, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return float(text[start:end]) of many spans at once, (n,) float64, equal to the last bit.

    A plain decimal of few digits is its digits as an integer over a power of ten; both are exact
    in float64, so the quotient is the correctly rounded value (Clinger, PLDI 1990). Spans of any
    other form go through float(); ValueError if one is no number.
    """
    lengths = np.minimum(ends - starts, EXACT_DIGITS + 2).astype(np.uint8)
    width = min(int(lengths.max(initial=0)), EXACT_DIGITS)
    data = np.frombuffer(b" " * width + text + b" ", np.uint8)
    # The last characters of every span, (width, n); each stands at a power of ten.
    powers = np.arange(width, dtype=np.uint8)[::-1, None]
    characters = data[ends + np.arange(width)[:, None]]
    inside = powers < lengths
    digits = characters - np.uint8(ord("0"))  # wraps round: all but digits are above 9
    is_digit = (digits < 10) & inside
    is_point = (characters == ord(".")) & inside
    is_negative = (data[starts + width] == ord("-")) & (lengths > 0)
    num_digits, num_points, num_decimals = (
        each.sum(axis=0, dtype=np.uint8) for each in (is_digit, is_point, is_point * powers)
    )
    is_plain = (num_digits > 0) & (num_points <= 1)
    is_plain &= num_digits + num_points + is_negative == lengths
    # With the point as a digit 0, what is before it stands one place too high.
    mantissa = POWERS_OF_TEN[powers[:, 0]] @ (digits * is_digit)
    decimal = POWERS_OF_TEN[np.minimum(num_decimals, EXACT_DIGITS)]
    before = np.where(num_points == 1, np.floor(mantissa / (10 * decimal)), 0)
    values = (mantissa - 9 * before * decimal) / decimal
    values = np.where(is_negative, -values, values)
    for i in np.flatnonzero(~is_plain):
        values[i] = float(text[starts[i] : ends[i]])
    return values
