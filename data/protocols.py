"""The benchmarks: who trains, who tests, in which order, and how long the head of the tail is.

NTU RGB+D: Shahroudy et al., arXiv 1604.02808; 120: Liu et al., arXiv 1905.04757; NW-UCLA: Wang et
al., arXiv 1405.2941. The small sets' usual split is by person; Kinder-Gator, which has none
published, trains on every other child and adult.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from data.names import Samples
from data.store import Store
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
    """One way to split a data set; a sample whose `column` is in `train` is for training."""

    column: str
    train: tuple[int | str, ...]
    num_class: int | None  # None: the store's; samples of later classes take no part
    n_max: int | None  # samples of the largest class of the long tail; None: what all classes have
    order: tuple[str, ...]  # columns that order the training list, most important first
    natural: bool = False  # classes differ in size: the long tail ranks them by it


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


# Benchmarks that are called otherwise than their protocol.
OTHERWISE = {"demo": "demo-xsub", "k400": "given", "kinetics-skeleton": "given"}


def get(name: str) -> Protocol:
    """Return the protocol of that name, or of the benchmark of that name (see `resolve`)."""
    name = resolve(name)
    if name not in PROTOCOLS:
        raise InputError(
            f"protocol: there is no {name!r}{nearest(name, PROTOCOLS)}; "
            f"known are {', '.join(PROTOCOLS)}"
        )
    return PROTOCOLS[name]


def resolve(name: str) -> str:
    """Return the protocol's name: `ntu120-xset` of `ntu120/xset` and of `ntu120-xset-lt`."""
    name = name.replace("/", "-").removesuffix("-lt")
    return OTHERWISE.get(name, name)


def split(
    store: Store | Samples, protocol: str, fold: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows (int64) for training, in the order of the training list, and for testing.

    With a fold (`2/5`: the second of five) the samples of a fifth of the persons are for testing,
    all others for training, whoever the protocol trains on. InputError if the samples lack the
    column that is split by, or one part is empty.
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
        subjects = _column(store, "subject", f"fold {fold}")
        trains = ~np.isin(subjects, held_out(subjects[takes_part], fold))
    train, test = np.flatnonzero(takes_part & trains), np.flatnonzero(takes_part & ~trains)
    for rows, part in ((train, "train"), (test, "test")):
        if not len(rows):
            raise InputError(f"{store.path}: protocol {protocol!r} finds no samples to {part} on")
    return train[_order(store, rule, train)], test


def held_out(subjects: np.ndarray, fold: str) -> np.ndarray:
    """Return the persons that fold `k/n` tests on: from the k-th on, every n-th in their order.

    InputError if the fold is not 1/n to n/n, n from 2 to the number of persons.
    """
    persons = np.unique(subjects)
    match = re.fullmatch(r"(\d+)/(\d+)", fold)
    index, folds = map(int, match.groups()) if match else (0, 0)
    if not 2 <= folds <= len(persons) or not 1 <= index <= folds:
        raise InputError(
            f"fold: {fold!r} is not k/n, the k-th of n folds, n from 2 to {len(persons)} persons"
        )
    return persons[index - 1 :: folds]


def _column(store: Store | Samples, column: str, what: str) -> np.ndarray:
    """Return a column that `what` needs; InputError if the samples lack it."""
    if column not in store.columns:
        own = "; it brings a split of its own: protocol=given" if "split" in store.columns else ""
        raise InputError(f"{store.path}: its samples have no {column!r}, which {what} needs{own}")
    return store.columns[column]


def num_class(store: Store, protocol: str) -> int:
    """Return the number of classes of the benchmark."""
    return get(protocol).num_class or len(store.class_names)


def _order(store: Store | Samples, rule: Protocol, rows: np.ndarray) -> np.ndarray:
    """Return the permutation of `rows` that the training list's order asks for."""
    columns = {"name": store.names, **store.columns}
    keys = [columns[key][rows] for key in rule.order if key in columns]
    return np.lexsort(keys[::-1]) if keys else np.arange(len(rows))
