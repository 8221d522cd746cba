"""UTKinect-Action3D (Xia et al., CVPRW 2012): recordings of ten actions each, with frame ranges.

`joints_s<subject>_e<take>.txt` has one line per frame: its number, then 20 times x y z.
`actionLabel.txt` has one line `name: first last` per action, with the first and last frame number.
If there is an `actionLabel_modified.txt`, which corrects seven ranges, it is used instead.
"""

from __future__ import annotations

import argparse
import re
from functools import lru_cache

import numpy as np

from data import names
from data.readers import Clip, Raw, kinect
from data.readers.archive import File, list_files
from errors import InputError

RECORDING = re.compile(r"s(\d+)_e\d+")
RANGE = re.compile(r"(\w+)\s*:\s*(\d+|NaN)\s+(\d+|NaN)")
LABELS = ("actionLabel_modified.txt", "actionLabel.txt")  # the first existing one is used

# File of the recording, sample name, label, subject, first and last frame number.
Item = tuple[File, str, int, int, int, int]
SOURCE = "folder, zip or tar archive of the joints_*.txt files and actionLabel.txt"


def reader(args: argparse.Namespace) -> Raw:
    files = {file.name: file for file in list_files(".txt", args.source)}
    table = next((files[name] for name in LABELS if name in files), None)
    if table is None:
        raise InputError(f"{args.source}: lacks {LABELS[1]}, the frame ranges of the actions")
    items = []
    for recording, action, *numbers in _ranges(table):
        name = f"joints_{recording}.txt"
        if name not in files:
            raise InputError(f"{args.source}: lacks {name}, which is listed in {table.name}")
        items.append((files[name], f"{recording}_{action}", *numbers))
    return kinect.raw("utkinect", items, read, ranges=table.name)


def read(item: Item) -> Clip:
    """Return one action of a recording: the frames in its range; InputError names file and line."""
    file, name, label, subject, first, last = item
    rows = _recording(file)
    rows = rows[(first <= rows[:, 0]) & (rows[:, 0] <= last)]
    joints = rows[:, 1:].reshape(len(rows), kinect.NUM_JOINTS, 3)
    return kinect.clip(file, name, label, subject, joints)


@lru_cache(maxsize=1)  # the actions of a recording are read in sequence
def _recording(file: File) -> np.ndarray:
    """Return the number and the coordinates of each frame of a recording, (L, 61) float64."""
    lines = [line.split() for line in kinect.text_lines(file)]
    return kinect.numbers(file, lines, width=1 + 3 * kinect.NUM_JOINTS)


def _ranges(table: File) -> list[tuple[str, str, int, int, int, int]]:
    """Return recording, action, label, subject, first and last frame number of each action.

    A missing range (NaN) is returned as 0 to -1, which contains no frames.
    """
    labels = {name.replace(" ", ""): c for c, name in enumerate(names.class_names("utkinect"))}
    ranges, recording, subject = [], "", 0
    for number, line in enumerate(kinect.text_lines(table), start=1):
        line = line.strip()
        if found := RECORDING.fullmatch(line):
            recording, subject = line, int(found[1])
        elif line:
            match = RANGE.fullmatch(line)
            if not match or not recording or match[1].lower() not in labels:
                kinect.fail(table, f"line {number}: {line!r} is not `action: first last`")
            has_numbers = "NaN" not in match.groups()
            first, last = map(int, match.groups()[1:]) if has_numbers else (0, -1)
            ranges.append((recording, match[1], labels[match[1].lower()], subject, first, last))
    return ranges
