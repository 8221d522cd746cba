"""UTD-MHAD (Chen et al., ICIP 2015): one MATLAB file per clip, in a folder or an archive.

`a<class>_s<subject>_t<trial>_skeleton.mat` contains `d_skel`, (20, 3, T). Requires scipy.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import re

import numpy as np

from data.readers import Clip, Raw, kinect
from data.readers.archive import File, list_files
from errors import InputError
from files import UNREADABLE

SUFFIX = "_skeleton.mat"
NAME = re.compile(r"(a([1-9]\d?)_s([1-9]\d*)_t\d+)_skeleton\.mat")
NUM_CLASSES = 27
# Joint v of the layout is joint JOINTS[v] of the file, whose first four joints start at the head.
JOINTS = (3, 2, 1, 0, *range(4, 20))
SOURCE = f"folder, zip or tar archive of the *{SUFFIX} files"


def reader(args: argparse.Namespace) -> Raw:
    if importlib.util.find_spec("scipy") is None:
        raise InputError("utd-mhad: reading MATLAB files requires scipy: pip install scipy")
    return kinect.raw("utd-mhad", list_files(SUFFIX, args.source), read)


def read(file: File) -> Clip:
    """Return the clip in one MATLAB file; InputError names the file."""
    match = NAME.fullmatch(file.name)
    if not match or int(match[2]) > NUM_CLASSES:
        kinect.fail(file, f"is not named a<1..{NUM_CLASSES}>_s<subject>_t<trial>{SUFFIX}")
    joints = _array(file).transpose(2, 0, 1)[:, JOINTS]  # (T, 20, 3)
    return kinect.clip(file, match[1], int(match[2]) - 1, int(match[3]), joints)


def _array(file: File) -> np.ndarray:
    from scipy.io import loadmat  # optional dependency of this reader
    from scipy.io.matlab import MatReadError

    content = file.read()
    try:
        joints = loadmat(io.BytesIO(content), variable_names=["d_skel"]).get("d_skel")
    except (*UNREADABLE, MatReadError, NotImplementedError, IndexError) as error:
        kinect.fail(file, f"cannot be read as a MATLAB file ({error})")
    if joints is None or joints.dtype.kind != "f" or joints.shape[:2] != (20, 3):
        found = "missing" if joints is None else f"{joints.dtype} {joints.shape}"
        kinect.fail(file, f"d_skel is {found}, not floats (20, 3, T)")
    return joints.reshape(*joints.shape[:2], -1)  # MATLAB drops the last axis of a single frame
