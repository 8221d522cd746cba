"""Training and test splits: names of their parts, and random splits."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from errors import InputError

# Accepted names of the parts; a sample without a part is stored but not used.
PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def add_arguments(parser: argparse.ArgumentParser, split_help: str) -> None:
    parser.add_argument("--split", help=split_help)
    parser.add_argument(
        "--test-split", choices=("val", "test"),
        help="part to test on if there are both (default: test; the other is not used)",
    )  # fmt: skip
    parser.add_argument("--seed", type=seed, help="random seed of --split (default: 0)")


def seed(text: str) -> int:
    """Convert a command-line argument to a random seed, for argparse."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not an integer from 0 to 2**32 - 1")
    return int(text)


def share(text: str | None) -> float | None:
    """Return --split as the fraction of clips to draw for testing, None if it is not one."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 < value < 1 else None


def drawn(
    args: argparse.Namespace, labels: Sequence[int], groups: Sequence[Any] | None = None
) -> list[str]:
    """Return the split that --split, a fraction, asks for; see `draw`."""
    if args.test_split:
        raise InputError("--test-split: cannot be combined with --split, which draws no val")
    if (fraction := share(args.split)) is None:
        raise InputError(f"--split: {args.split!r} is not a fraction between 0 and 1")
    return draw(labels, fraction, args.seed or 0, groups)


def test_part(parts: Iterable[str], chosen: str | None, where: str) -> str:
    """Return the part to test on, of the parts ('train', 'val', 'test') that exist.

    InputError if the chosen part does not exist.
    """
    parts = set(parts)
    if chosen is not None and chosen not in parts:
        raise InputError(f"--test-split {chosen}: {where} does not have this part")
    return chosen or ("test" if "test" in parts else "val")


def draw(
    labels: Sequence[int], share: float, seed: int, groups: Sequence[Any] | None = None
) -> list[str]:
    """Return 'train' or 'test' for each sample; about a fraction `share` is for testing.

    Without groups the split is stratified: each class with two or more samples has at least one in
    each part, a class with one sample is for training. With groups (subjects) whole groups are
    assigned, as close to the fraction as possible. InputError if there is only one group.
    """
    random = np.random.RandomState(seed)
    if groups is None:
        tests = np.zeros(len(labels), bool)
        for label in np.unique(labels):
            members = random.permutation(np.flatnonzero(np.equal(labels, label)))
            number = min(max(round(share * len(members)), 1), len(members) - 1)
            tests[members[:number]] = True
    else:
        sizes = Counter(groups)
        if len(sizes) < 2:
            raise InputError(f"--by: all clips have the same value {next(iter(sizes), '')!r}")
        drawn = [list(sizes)[row] for row in random.permutation(len(sizes))]
        ends = np.cumsum([sizes[group] for group in drawn])[:-1]
        number = 1 + int(np.abs(ends - share * len(groups)).argmin())
        tests = np.isin(groups, drawn[:number])
    if not tests.any():
        raise InputError("--split: no class has two clips, so no clips are left for testing")
    return np.where(tests, "test", "train").tolist()
