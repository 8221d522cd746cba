"""npz files in CTR-GCN's format: NTU60_CS, NTU120_CSet, ..., or your own data.

x_train and x_test are (N, 300, 150): two bodies of 25 joints, padded with zeros to 300 frames;
y_train and y_test are one-hot, one column per class. Samples have no names; NTU's are sorted by
subject (or camera, or setup), then in the order of CTR-GCN's list skes_available_name.txt, from
which --names restores the names.
Source: Chen et al., CTR-GCN, arXiv 2107.12213.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from data import measure, names, normalize, protocols
from data.readers import Clip, Raw
from data.readers.npz_file import Rows, load
from errors import InputError

NUM_JOINTS = 25
MAX_BODIES = 2
SIZE = MAX_BODIES * NUM_JOINTS * 3
PARTS = ("train", "test")
PROTOCOLS = {60: ("ntu60-xsub", "ntu60-xview"), 120: ("ntu120-xsub", "ntu120-xset")}

Item = tuple[str, int, Mapping[str, int | str], np.ndarray]  # name, label, columns, (T, 150)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="npz file")
    parser.add_argument("--names", type=Path, help="CTR-GCN's statistics/skes_available_name.txt")


def reader(args: argparse.Namespace) -> Raw:
    path = args.source
    one_hot = {part: _one_hot(path, part) for part in PARTS}
    labels = {part: rows.argmax(axis=1) for part, rows in one_hot.items()}
    for part, known in labels.items():
        with Rows(path, f"x_{part}") as rows:
            if rows.shape[::2] != (len(known), SIZE) or rows.dtype.kind != "f":
                raise InputError(f"{path}: x_{part} is {rows.shape}, not ({len(known)}, T, {SIZE})")
    num_class, num_tested = (rows.shape[1] for rows in one_hot.values())
    if num_class != num_tested:
        raise InputError(
            f"{path}: y_train has {num_class} classes (columns), y_test has {num_tested}"
        )
    if args.names and num_class not in PROTOCOLS:
        raise InputError(f"--names: is for NTU's 60 or 120 classes, {path} has {num_class}")
    if args.names:
        sample_names = _names(path, labels, num_class, names.read(args.names))
    else:
        sample_names = {
            part: [f"{part}_{i:06d}" for i in range(len(known))] for part, known in labels.items()
        }
    return Raw(
        items=_items(path, labels, sample_names, named=bool(args.names)),
        total=sum(map(len, labels.values())),
        read=partial(read, path=path),
        layout="ntu_rgb_d",
        class_names=(
            names.class_names("ntu120", num_class)
            if num_class in PROTOCOLS
            else names.numbered(range(num_class))
        ),
        shape=(MAX_BODIES, NUM_JOINTS, 3),
        meta={"normalization": "upright"},
    )


def read(item: Item, path: Path) -> Clip:
    """Return the clip of a row without padding; InputError names the file and the sample."""
    name, label, columns, row = item
    measure.check_finite(row, f"{path}: {name}")
    length = int(np.flatnonzero(row.any(axis=1)).max(initial=-1)) + 1
    joints = row[:length].reshape(length, MAX_BODIES, NUM_JOINTS, 3).astype(np.float32)
    return Clip(name, label, normalize.upright(joints), columns)


def _items(
    path: Path, labels: dict[str, np.ndarray], sample_names: dict[str, list[str]], named: bool
) -> Iterator[Item]:
    for part in PARTS:
        with Rows(path, f"x_{part}") as rows:
            for name, label, row in zip(sample_names[part], labels[part].tolist(), rows):
                yield name, label, names.parse(name)[1] if named else {"split": part}, row


def _one_hot(path: Path, part: str) -> np.ndarray:
    """Return the labels (n, K), one column per class."""
    (one_hot,) = load(path, [f"y_{part}"]).values()
    is_one = one_hot == 1
    if one_hot.ndim != 2 or (one_hot[~is_one] != 0).any() or (is_one.sum(axis=1) != 1).any():
        raise InputError(f"{path}: y_{part} is not one-hot")
    return one_hot


def _names(
    path: Path, labels: dict[str, np.ndarray], num_class: int, available: list[str]
) -> dict[str, list[str]]:
    """Return the names of the rows, from the protocol whose split of the list fits all labels."""
    expected, columns = zip(*(names.parse(name, "--names") for name in available))
    wanted = np.array(expected)
    for protocol in PROTOCOLS[num_class]:
        rule = protocols.get(protocol)
        values = np.array([column[rule.column] for column in columns])
        rows = np.argsort(values, kind="stable")
        rows = rows[wanted[rows] < num_class]
        trains = np.isin(values[rows], rule.train)
        split = {"train": rows[trains], "test": rows[~trains]}
        if all(np.array_equal(wanted[split[part]], labels[part]) for part in PARTS):
            return {part: [available[row] for row in split[part]] for part in PARTS}
    raise InputError(f"{path}: the names in --names do not fit its labels under any protocol")
