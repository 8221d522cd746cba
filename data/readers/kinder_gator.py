"""Kinder-Gator (Aloba et al., Eurographics 2018): one CSV per clip, of ten adults and ten children.

`POSE-p<person>_<place>-<action>-<time>.csv` has a header line, then per frame a time stamp, 20
times x y z, the person and the action.
"""

from __future__ import annotations

import argparse
import re

from data import names
from data.readers import Clip, Raw, kinect
from data.readers.archive import File, list_files

NAME = re.compile(r"POSE-(p(\d+)_\d+-(.+?))-*-\d+\.csv")
ARM, LEG = ("Shoulder", "Elbow", "Wrist", "Hand"), ("Hip", "Knee", "Ankle", "Foot")
JOINTS = (
    "HipCenter", "Spine", "ShoulderCenter", "Head",
    *(f"{part}{side}" for limb in (ARM, LEG) for side in ("Left", "Right") for part in limb),
)  # fmt: skip
HEAD = ["Timestamp", *(f"{joint}{axis}" for joint in JOINTS for axis in "XYZ")]
SOURCE = "folder, zip or tar archive of the POSE-*.csv"


def reader(args: argparse.Namespace) -> Raw:
    return kinect.raw("kinder-gator", list_files(".csv", args.source), read)


def read(file: File) -> Clip:
    """Return the clip in one CSV; InputError names the file and the line."""
    match = NAME.fullmatch(file.name)
    if not match:
        kinect.fail(file, "is not named POSE-p<person>_<place>-<action>-<time>.csv")
    label = LABELS.get(_letters(match[3]))
    if label is None:
        kinect.fail(file, f"{match[3]!r} is not an action of Kinder-Gator")
    head, *lines = kinect.text_lines(file) or [""]
    if head.split(",")[: len(HEAD)] != HEAD:
        kinect.fail(file, f"line 1: the header is not {','.join(HEAD[:3])},... with 20 joints")
    rows = [line.rstrip(",").split(",") for line in lines]
    joints = kinect.numbers(file, [row[1:-2] for row in rows], len(HEAD) - 1, first=2)
    stated = {(person, _letters(action)) for *_, person, action in rows}
    if stated - {(match[2], _letters(match[3]))}:
        kinect.fail(file, "person or action in the file differs from the file name")
    joints = joints.reshape(-1, kinect.NUM_JOINTS, 3)
    return kinect.clip(file, match[1], label, int(match[2]), joints)


def _letters(action: str) -> str:
    """Return the letters of an action; its punctuation differs between files."""
    return re.sub("[^a-z]", "", action.lower())


# letters of the action -> label
LABELS = {_letters(name): c for c, name in enumerate(names.class_names("kinder-gator"))}
