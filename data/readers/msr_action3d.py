"""MSR Action3D (Li et al., CVPRW 2010): one text file per clip, in a folder or an archive.

`a<class>_s<subject>_e<trial>_skeleton3D.txt` (world coordinates, not image coordinates) has 20
lines per frame: x y z confidence.
"""

from __future__ import annotations

import argparse
import re

from data.readers import Clip, Raw, kinect
from data.readers.archive import File, list_files

SUFFIX = "_skeleton3D.txt"
NAME = re.compile(r"(a(\d\d)_s(\d\d)_e\d\d)_skeleton3D\.txt")
NUM_CLASSES = 20
# Joint v of the layout is joint JOINTS[v] of the file.
JOINTS = (6, 3, 2, 19, 0, 7, 9, 11, 1, 8, 10, 12, 4, 13, 15, 17, 5, 14, 16, 18)
SOURCE = f"folder, zip or tar archive of the *{SUFFIX} files"


def reader(args: argparse.Namespace) -> Raw:
    return kinect.raw("msr-action3d", list_files(SUFFIX, args.source), read)


def read(file: File) -> Clip:
    """Return the clip in one text file; InputError names the file and the line."""
    match = NAME.fullmatch(file.name)
    if not match or not 1 <= int(match[2]) <= NUM_CLASSES:
        kinect.fail(file, f"is not named a<01..{NUM_CLASSES}>_s<subject>_e<trial>{SUFFIX}")
    rows = kinect.numbers(file, [line.split() for line in kinect.text_lines(file)], width=4)
    if len(rows) % kinect.NUM_JOINTS:
        kinect.fail(
            file, f"incomplete last frame: {len(rows)} lines, {kinect.NUM_JOINTS} per frame"
        )
    joints = rows.reshape(-1, kinect.NUM_JOINTS, 4)[:, JOINTS, :3]
    return kinect.clip(file, match[1], int(match[2]) - 1, int(match[3]), joints)
