"""Parser of NTU RGB+D .skeleton files.

A file contains the number of frames; per frame the number of bodies; per body a line that begins
with its id, the number of joints (25), and one line of 12 numbers per joint: x y z in meters, then
image positions, orientation and state, which are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from errors import InputError

NUM_JOINTS = 25
NUM_FIELDS = 12  # in the line of a joint


@dataclass(frozen=True)
class Bodies:
    """The bodies in all frames, in file order; a body that is in n frames has n entries."""

    frames: np.ndarray  # (B,) int64, frame of each entry
    ids: list[bytes]  # (B,)
    joints: np.ndarray  # (B, 25, 3) float32, meters


def parse(text: bytes, path: str) -> Bodies:
    """Return the bodies in a .skeleton file; InputError names the file and the line."""
    lines = _Lines(text, path)
    frames, ids, positions, places = [], list[bytes](), [], []
    for frame in range(lines.count("the number of frames")):
        first = len(ids)
        for _ in range(lines.count("the number of bodies")):
            body = lines.next("a body").split(None, 1)[0]
            if body in ids[first:]:
                shown = body.decode(errors="replace")
                lines.fail(f"two bodies of frame {frame} have the id {shown}; number them apart")
            ids.append(body)
            frames.append(frame)
            if lines.count("the number of joints") != NUM_JOINTS:
                lines.fail(f"a body of NTU RGB+D has {NUM_JOINTS} joints")
            places.append(lines.number)
            positions += lines.joints()
    lines.end()
    with np.errstate(over="ignore"):
        joints = np.array(positions, np.float32).reshape(-1, NUM_JOINTS, 3)
    for body, joint, _ in np.argwhere(~np.isfinite(joints))[:1]:
        lines.number = places[body] + joint + 1
        lines.fail("a joint is NaN or infinite")
    return Bodies(np.array(frames, np.int64), ids, joints)


class _Lines:
    """A line-by-line reader whose errors name the current line."""

    def __init__(self, text: bytes, path: str) -> None:
        self.lines, self.number, self.path = text.split(b"\n"), 0, path

    def fail(self, what: str) -> NoReturn:
        raise InputError(f"{self.path}: line {self.number}: {what}")

    def next(self, what: str) -> bytes:
        line = b"".join(self.lines[self.number : self.number + 1])
        self.number = min(self.number + 1, len(self.lines))
        if not line.strip():
            self.fail(f"{what} is missing; the file is truncated or damaged")
        return line

    def count(self, what: str) -> int:
        digits = self.next(what).strip()
        if not digits.isdigit() or len(digits) > 9:
            self.fail(f"{what} is not an integer below 10^9")
        return int(digits)

    def joints(self) -> list[tuple[float, float, float]]:
        """Return x, y and z of the next 25 lines."""
        block = self.lines[self.number : self.number + NUM_JOINTS]
        try:
            positions = [
                (float(x), float(y), float(z))
                for x, y, z, _, _, _, _, _, _, _, _, _ in map(bytes.split, block)
            ]
        except ValueError:
            positions = []
        if len(positions) < NUM_JOINTS:
            self._fail_within()
        self.number += NUM_JOINTS
        return positions

    def _fail_within(self) -> NoReturn:
        """Raise InputError for the first line of the body that is not a joint."""
        for _ in range(NUM_JOINTS):
            fields = self.next("a joint").split()
            if len(fields) != NUM_FIELDS:
                self.fail(f"a joint has {NUM_FIELDS} numbers, not {len(fields)}")
            try:
                list(map(float, fields[:3]))
            except ValueError:
                self.fail("a joint's position is not a number")
        raise AssertionError("the body is valid")

    def end(self) -> None:
        for number, line in enumerate(self.lines[self.number :], start=self.number + 1):
            if line.strip():
                self.number = number
                self.fail("unexpected content after the last frame")
