"""Protocols of the benchmarks: training and test split, list order, size of the largest class.

NTU RGB+D: Shahroudy et al., arXiv 1604.02808; 120: Liu et al., arXiv 1905.04757; NW-UCLA: Wang et
al., arXiv 1405.2941. The small sets are usually split by subject. Kinder-Gator has no published
split; here every other child and every other adult is for training.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from data import names
from data.names import Samples
from errors import InputError, nearest

NTU60_SUBJECTS = (1, 2, 4, 5, 8, 9, *range(13, 20), 25, 27, 28, 31, 34, 35, 38)
NTU120_SUBJECTS = (
    *NTU60_SUBJECTS,
    *(45, 46, 47, 49, 50, *range(52, 60), 70, 74, 78, *range(80, 87), 89),
    *(*range(91, 96), 97, 98, 100, 103),
)
EVEN_SETUPS = tuple(range(2, 33, 2))
ODD_SUBJECTS = tuple(range(1, 1000, 2))
KINDER_GATOR_SUBJECTS = (103, 169, 337, 474, 644, 577, 734, 888, 934, 976)  # children, adults


@dataclass(frozen=True)
class Protocol:
    """One way to split a data set: samples whose `column` is in `train` are for training."""

    column: str
    train: tuple[int | str, ...]
    num_class: int | None  # None: that of the store; samples of further classes are not used
    n_max: int | None  # samples of the largest class of the long tail; None: of the smallest class
    order: tuple[str, ...]  # columns by which the training list is sorted, most important first
    natural: bool = False  # classes differ in size; the long tail keeps their order by size


PROTOCOLS = {
    "ntu60-xsub": Protocol("subject", NTU60_SUBJECTS, 60, 600, ("name",)),
    "ntu60-xview": Protocol("camera", (2, 3), 60, 600, ("name",)),
    "ntu120-xsub": Protocol("subject", NTU120_SUBJECTS, 120, 600, ("subject", "name")),
    "ntu120-xset": Protocol("setup", EVEN_SETUPS, 120, 400, ("name",)),
    "nw-ucla": Protocol("camera", (1, 2), 10, 100, ("list_index", "name")),
    "utd-mhad": Protocol("subject", ODD_SUBJECTS, 27, None, ("name",)),
    "msr-action3d": Protocol("subject", ODD_SUBJECTS, 20, None, ("name",)),
    "utkinect": Protocol("subject", ODD_SUBJECTS, 10, None, ("name",)),
    "kinder-gator": Protocol("subject", KINDER_GATOR_SUBJECTS, 58, None, ("name",)),
    "demo-xsub": Protocol("subject", ODD_SUBJECTS, None, None, ("name",)),
    "given": Protocol("split", ("train",), None, None, (), natural=True),
}


# Benchmarks whose protocol has another name.
ALIASES = {"demo": "demo-xsub"} | dict.fromkeys(
    ("k400", "kinetics-skeleton", "gym", "diving48", "ucf101", "hmdb51"), "given"
)


def get(name: str) -> Protocol:
    """Return the protocol with that name, or of the benchmark with that name (see `resolve`)."""
    name = resolve(name)
    if name not in PROTOCOLS:
        raise InputError(
            f"protocol: unknown protocol {name!r}{nearest(name, PROTOCOLS)}; "
            f"known: {', '.join(PROTOCOLS)}"
        )
    return PROTOCOLS[name]


def resolve(name: str) -> str:
    """Return the name of the protocol: `ntu120-xset` for `ntu120/xset` and `ntu120-xset-lt`."""
    name = name.replace("/", "-").removesuffix("-lt")
    return ALIASES.get(name, name)


def split(store: Samples, protocol: str, fold: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows (int64) for training, in the order of the training list, and for testing.

    With a fold (`2/5`: the second of five), a fifth of the subjects are for testing and all others
    for training, regardless of the protocol's split. InputError if the samples lack the required
    column, or one part is empty.
    """
    rule = get(protocol)
    takes_part = np.ones(len(store.names), bool)
    if rule.column in store.columns:
        takes_part = store.columns[rule.column] != ""  # a given split may exclude samples
    if rule.num_class is not None:
        takes_part &= store.labels < rule.num_class
    if fold is None:
        trains = np.isin(_column(store, rule.column, f"protocol {protocol!r}"), rule.train)
    else:
        subjects = persons(store, f"fold {fold}")
        trains = ~np.isin(subjects, held_out(subjects[takes_part], fold))
    train, test = np.flatnonzero(takes_part & trains), np.flatnonzero(takes_part & ~trains)
    for rows, part in ((train, "train"), (test, "test")):
        if not len(rows):
            raise InputError(f"{store.path}: protocol {protocol!r} has no samples to {part} on")
    return train[_order(store, rule, train)], test


def persons(store: Samples, what: str) -> np.ndarray:
    """Return the subject (N,) of each sample, as `what` needs it; InputError if the samples have
    none, and as `check_groups`."""
    subjects = _column(store, "subject", what)
    check_groups(subjects, "subject", lambda row: f"{store.path}: {what}: {store.names[row]}")
    return subjects


def check_groups(values: Iterable[Any], column: str, where: Callable[[int], str]) -> None:
    """Raise InputError, which begins with `where(row)`, if a subject is blank or may have two
    spellings (1 and 01, Ann and ann): one person could be on both sides of a split.

    `values` (N,) are those of `column`, usually `subject`.
    """
    words = [str(value) for value in values]
    spellings: dict[int | str, str] = {}
    for word in dict.fromkeys(words):
        if not word:
            raise InputError(f"{where(words.index(word))}: its {column} is empty")
        number = names.whole_number(word)
        other = spellings.setdefault(word.strip().casefold() if number is None else number, word)
        if other != word:
            raise InputError(
                f"{where(words.index(word))}: {column} {word!r} may be the {column} {other!r} of "
                "other samples; write them alike"
            )


def held_out(subjects: np.ndarray, fold: str) -> np.ndarray:
    """Return the test subjects of fold `k/n`: the k-th, (k+n)-th, ... in sorted order.

    InputError unless 1 <= k <= n and 2 <= n <= the number of subjects.
    """
    persons = np.unique(subjects)
    match = re.fullmatch(r"(\d+)/(\d+)", fold)
    index, folds = map(int, match.groups()) if match else (0, 0)
    if not 2 <= folds <= len(persons) or not 1 <= index <= folds:
        raise InputError(
            f"fold: {fold!r} is not k/n, the k-th of n folds, with n from 2 to {len(persons)}, the "
            "number of subjects"
        )
    return persons[index - 1 :: folds]


def _column(store: Samples, column: str, what: str) -> np.ndarray:
    """Return the column that `what` needs; InputError if the samples lack it."""
    if column not in store.columns:
        own = "; to use its own split, set protocol=given" if "split" in store.columns else ""
        raise InputError(f"{store.path}: samples have no {column!r}, which {what} needs{own}")
    return store.columns[column]


def _order(store: Samples, rule: Protocol, rows: np.ndarray) -> np.ndarray:
    """Return the permutation that sorts `rows` in the order of the training list."""
    columns = {"name": store.names, **store.columns}
    keys = [columns[key][rows] for key in rule.order if key in columns]
    return np.lexsort(keys[::-1]) if keys else np.arange(len(rows))
