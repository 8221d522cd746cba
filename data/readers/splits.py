"""Which samples train and which test: parts by the names that people give them, or drawn."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from errors import InputError

# How people call the parts of a split; a sample without a part is stored and takes no part.
PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def add_arguments(parser: argparse.ArgumentParser, split_help: str) -> None:
    parser.add_argument("--split", help=split_help)
    parser.add_argument(
        "--test-split", choices=("val", "test"),
        help="part to test on where there are both (default: test; val then takes no part)",
    )  # fmt: skip
    parser.add_argument("--seed", type=seed, help="random seed of a drawn split (default: 0)")


def seed(text: str) -> int:
    """Return the random seed that a command line gives; argparse tells what is not one."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0 to 2**32 - 1")
    return int(text)


def share(text: str | None) -> float | None:
    """Return the share of the clips that --split asks to draw for testing, None for other words."""
    try:
        value = float(text) if text is not None else None
    except ValueError:
        return None
    return value if value is not None and 0 < value < 1 else None


def test_part(parts: Iterable[str], chosen: str | None, where: str) -> str:
    """Return which of the parts ('train', 'val', 'test') is tested on.

    InputError if what was chosen is not among them.
    """
    parts = set(parts)
    if chosen is not None and chosen not in parts:
        raise InputError(f"--test-split {chosen}: {where} has no such part")
    return chosen or ("test" if "test" in parts else "val")


def draw(
    labels: Sequence[int], share: float, seed: int, groups: Sequence[str] | None = None
) -> list[str]:
    """Return 'train' or 'test' for every sample; about the given share is for testing.

    Without groups each class gives its share: at least one sample of two, none of one. With groups
    (persons) none is in both parts: whole groups are drawn until the share is met as nearly as they
    allow. InputError if there is only one group.
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
            raise InputError(f"--by: all clips have the one value {next(iter(sizes), '')!r}")
        drawn = [list(sizes)[row] for row in random.permutation(len(sizes))]
        ends = np.cumsum([sizes[group] for group in drawn])[:-1]
        number = 1 + int(np.abs(ends - share * len(groups)).argmin())
        tests = np.isin(groups, drawn[:number])
    if not tests.any():
        raise InputError("--split: no class has two clips, so none can be spared for testing")
    return np.where(tests, "test", "train").tolist()
