"""Arrays in the format of st-gcn and 2s-AGCN: train_data_joint.npy, train_label.pkl, and val.

The array is (N, 3, T, V, M), padded to T frames with zeros (st-gcn) or by repeating the clip
(2s-AGCN); the pickle is (names, labels). 25 joints are NTU RGB+D's, with its sample names; 18
joints are OpenPose's of Kinetics-skeleton, already relative to the image center. In st-gcn's arrays
their y points down, as in the image and as in the store, in those of 2s-AGCN and MS-G3D up: the
bodies show which, and the latter are turned. Sources: Yan et al., st-gcn, arXiv 1801.07455; Shi et
al., 2s-AGCN, arXiv 1805.07694.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np

from data import measure, names, normalize, unpickle
from data.readers import Clip, Raw
from errors import InputError
from files import reading

LAYOUTS = {25: "ntu_rgb_d", 18: "openpose"}
ARRAYS = ("data_joint", "data")  # name in 2s-AGCN, in st-gcn
NECK, HIPS = 1, (8, 11)  # of OpenPose's 18 joints
LOOKED_AT = 200  # clips per array
PARTS = {"train": "train", "val": "test"}  # prefix of the files -> part of the split

Item = tuple[str, int, str, np.ndarray]  # name, label, part of the split, (3, T, V, M)
SOURCE = "folder with the .npy and _label.pkl files"


def reader(args: argparse.Namespace) -> Raw:
    parts = []  # of each: part of the split, array, names, labels
    for prefix, part in PARTS.items():
        paths = [args.source / f"{prefix}_{name}.npy" for name in ARRAYS]
        if path := next((path for path in paths if path.is_file()), None):
            array = _array(path)
            parts.append((part, array, *_labels(args.source / f"{prefix}_label.pkl", len(array))))
    if not parts:
        wanted = " or ".join(f"train_{name}.npy" for name in ARRAYS)
        raise InputError(f"{args.source}: has no {wanted} (and no val)")
    shapes = {array.shape[3:] for _, array, *_ in parts}
    num_joints, persons = shapes.pop()
    if shapes or num_joints not in LAYOUTS:
        raise InputError(
            f"{args.source}: the arrays (N, 3, T, V, M) have {num_joints} joints V; supported: "
            f"{', '.join(map(str, LAYOUTS))}, the same in train and val"
        )
    layout = LAYOUTS[num_joints]
    every_name = [name for _, _, stems, _ in parts for name in stems]
    every_label = [label for *_, labels in parts for label in labels]
    is_ntu = layout == "ntu_rgb_d" and all(map(names.NTU.fullmatch, every_name))
    if is_ntu:
        class_names = names.class_names("ntu120", 60 if max(every_label) < 60 else 120)
    else:
        class_names = names.numbered(every_label)
    return Raw(
        items=(
            (name, label, part, np.array(row))
            for part, array, stems, labels in parts
            for name, label, row in zip(stems, labels, array)
        ),
        total=len(every_name),
        read=partial(
            read,
            source=args.source,
            layout=layout,
            is_ntu=is_ntu,
            upward=layout == "openpose" and y_is_upward([array for _, array, *_ in parts]),
        ),
        layout=layout,
        class_names=class_names,
        shape=(persons, num_joints, 3),
        meta={"normalization": normalize.USUAL[layout]},
    )


def y_is_upward(arrays: list[np.ndarray]) -> bool:
    """Return whether most bodies (N, 3, T, V, M) of 18 joints have their neck above their hips in
    y, of at most LOOKED_AT clips of each array."""
    heights = []
    for array in arrays:
        rows = np.unique(np.linspace(0, len(array) - 1, LOOKED_AT).astype(int))
        joints = np.asarray(array[rows][:, 1:, :, [NECK, *HIPS]], np.float32)  # y and score
        (neck, *hips), scores = joints[:, 0].transpose(2, 0, 1, 3), joints[:, 1]
        seen = (scores > 0).all(axis=2)
        heights.append((neck - np.mean(hips, axis=0))[seen])
    found = np.concatenate(heights)
    return bool(len(found)) and float(np.median(found)) > 0


def read(item: Item, source: Path, layout: str, is_ntu: bool, upward: bool) -> Clip:
    """Return the clip of a row without padding; InputError names the sample."""
    name, label, part, row = item
    columns = names.columns_of(name, label, source) if is_ntu else {"split": part}
    joints = _clip(row, f"{source}: {name}")
    if upward:
        joints[..., 1] *= -1
    if layout == "ntu_rgb_d":
        joints = normalize.upright(joints)
    return Clip(name, label, joints, columns)


def _clip(row: np.ndarray, where: str) -> np.ndarray:
    """Return the joints (T, M, V, 3) of a row (3, T, V, M) without the padding."""
    joints = np.ascontiguousarray(row.transpose(1, 3, 2, 0), np.float32)
    measure.check_finite(joints, where)
    joints = joints[: np.flatnonzero(joints.any(axis=(1, 2, 3))).max(initial=-1) + 1]
    # 2s-AGCN repeats each person to the end; a second person of another length has another period.
    first = joints[:, 0]
    if not first[:1].any():
        return joints
    repeats = [t for t in range(1, len(joints)) if np.array_equal(first[t], first[0])]
    period = (t for t in repeats if np.array_equal(first[t:], first[:-t]))
    return joints[: next(period, len(joints))]


def _array(path: Path) -> np.ndarray:
    with reading(path):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim != 5 or array.shape[1] != 3 or array.dtype.kind != "f" or not len(array):
        raise InputError(f"{path}: is {array.dtype} {array.shape}, not floats (N, 3, T, V, M)")
    return array


def _labels(path: Path, samples: int) -> tuple[list[str], list[int]]:
    """Return the names, without file extension, and the labels of all samples."""
    content = unpickle.load(path)
    is_pair = isinstance(content, list | tuple) and len(content) == 2
    if not is_pair or not all(isinstance(part, list | tuple | np.ndarray) for part in content):
        raise InputError(f"{path}: is not a pickle of (names, labels)")
    sample_names, words = map(list, content)
    if not len(sample_names) == len(words) == samples:
        raise InputError(
            f"{path}: has {len(sample_names)} names and {len(words)} labels, but the array has "
            f"{samples} samples"
        )
    stems = [str(name).removesuffix(".skeleton").removesuffix(".json") for name in sample_names]
    numbers = []
    for stem, word in zip(stems, words):
        if (number := names.whole_number(word)) is None:
            raise InputError(f"{path}: {stem}: label {word!r} is not a class number from 0")
        numbers.append(number)
    return stems, numbers
