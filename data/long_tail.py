"""Long-tailed training lists: drawn by the field's rule, or read and recognised by their digest.

    python -m data.long_tail BENCHMARK --names FILE_OR_STORE --imbalance 100 --out FILE

The rule is that of LDAM (Cao et al., arXiv 1906.07413) as BRL (arXiv 2308.14024) uses it: class c
of K keeps int(n_max * IF^(-c/(K-1))) samples.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data import names as sample_names
from data import protocols
from data.names import Samples, digest
from data.store import Store
from errors import InputError, Parser, run_command
from files import write_text

BRL_REPOSITORY = "https://github.com/firework8/BRL"

# sha256 of the lists that BRL published -> benchmark and imbalance.
PUBLISHED = {
    "4bc0779e83d192d0ea7756ecb54ca9716566fa0b796b71fde76d63c6b52fe262": "ntu60-xsub 10",
    "2cce99ef2be828a25051347d45370d739de8880ba53b02e0c1ae891ad778b53f": "ntu60-xsub 50",
    "992425d1b1f674142523257b13b5b811d2880673443177b9956b420894f25d31": "ntu60-xsub 100",
    "7ac11c28379ee988cb745fd409da9a0f45a7cd261abbf6f8188fc7a842ba4c87": "ntu60-xview 10",
    "5507e59373288535e18fe328550f6ba5c8e7d512212a2f42b22d763c640dabc3": "ntu60-xview 50",
    "e4777be86c39a357ff2c483f7bb017715820fae213ae00d39b9895d24a19908a": "ntu60-xview 100",
    "3d1058b7817640a5c7a3079f716d1a11a5052834d13f31d63642d921ee31741f": "ntu120-xsub 10",
    "9eb339922064ab63039d63912c9943de13a9145a0bde6da8b5285adab3a0d76c": "ntu120-xsub 50",
    "7978b035e9a24c2b431fa5d7fe7de394e6763b82b33c42177e82949823447348": "ntu120-xsub 100",
    "4eac40d4b0403a8ed1f37c11192d55ac484367f28e8ab43c8521d652de518998": "ntu120-xset 10",
    "06bc03b7b60cfff7477020595236bff64651e93dbd8aa915c7431e867f2cb3bb": "ntu120-xset 50",
    "cb849477aefd71aa500f9c32f74486f7caa4ef3aa949acadf2c3664eb1353554": "ntu120-xset 100",
}


@dataclass(frozen=True)
class TrainingList:
    """The rows to train on, in the list's order, and which list it is."""

    rows: np.ndarray  # (n,) int64
    digest: str  # sha256 of its names
    published: str | None  # what the digest is known as


def counts(n_max: int, imbalance: float, num_class: int, profile: str = "exp") -> np.ndarray:
    """Return how many samples each class keeps, (K,) int64, in label order.

    exp: int(n_max * IF^(-c/(K-1))). step: n_max in the first half, int(n_max / IF) in the second.
    InputError if that leaves a class without samples.
    """
    if not 1 <= imbalance < np.inf:
        raise InputError(f"imbalance: {imbalance:g}, but largest over least class is from 1 on")
    if profile == "step":
        tail = np.arange(num_class) >= num_class // 2
        kept = np.where(tail, int(n_max / imbalance), n_max)
    elif profile == "exp":
        share = [imbalance ** -(c / max(num_class - 1, 1)) for c in range(num_class)]
        kept = np.array([int(n_max * s) for s in share], np.int64)
    else:
        raise InputError(f"profile: {profile!r} is neither exp nor step")
    if kept.min() < 1:
        raise InputError(
            f"imbalance: {imbalance:g} leaves class {kept.argmin()} no sample where the largest "
            f"has {n_max}; lower --imbalance or raise --n-max"
        )
    return kept


def draw(labels: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return positions in a training list whose labels are (n,): kept[c] of each class c.

    Class by class in label order, each shuffled by one generator of seed 0 that serves them all.
    """
    random = np.random.RandomState(0)
    drawn = []
    for label, number in enumerate(kept):
        members = np.flatnonzero(labels == label)
        random.shuffle(members)
        drawn.append(members[:number])
    return np.concatenate(drawn)


def published(names: list[str]) -> str | None:
    """Return the name of the published list that these names are, None if they are none."""
    return PUBLISHED.get(digest(names))


def read_list(path: str | Path, store: Store) -> np.ndarray:
    """Return the rows (int64) of the names in file `path`, in its order.

    InputError names the file if it cannot be read, a name comes twice or is not in the store.
    """
    try:
        return store.rows_of(sample_names.read(path))
    except InputError as error:
        message = str(error)
        raise InputError(message if str(path) in message else f"{path}: {message}") from None


def training_rows(
    store: Store, protocol: str, training_list: str | None, imbalance: float
) -> TrainingList:
    """Return the training samples of a run: those of a list, or the whole training split (None).

    `{imbalance}` in `training_list` stands for the number. InputError if the list is missing (it
    says how to get it) or holds a sample that the protocol does not train on.
    """
    train, _ = protocols.split(store, protocol)
    if training_list is None:
        return _training_list(store, train)
    path = Path(training_list.replace("{imbalance}", f"{imbalance:g}"))
    if not path.is_file():
        raise InputError(_way_to(path, protocols.resolve(protocol), store.path, imbalance))
    rows = read_list(path, store)
    foreign = rows[~np.isin(rows, train)]
    if len(foreign):
        raise InputError(
            f"{path}: {store.names[foreign[0]]} is no training sample of {protocol} "
            f"({len(foreign)} such names)"
        )
    return _training_list(store, rows)


def _training_list(store: Store | Samples, rows: np.ndarray) -> TrainingList:
    drawn = store.names[rows].tolist()
    return TrainingList(rows, digest(drawn), published(drawn))


def _way_to(path: Path, protocol: str, store: Path, imbalance: float) -> str:
    """Say in one line where a missing list comes from."""
    command = (
        f"python -m data.long_tail {protocol} --names {shlex.quote(str(store))} "
        f"--imbalance {imbalance:g} --out {shlex.quote(str(path))}"
    )
    if protocol.startswith("ntu60"):
        return (
            f"training_list: {path} is missing; NTU60's lists are published at {BRL_REPOSITORY} "
            f"(put it there, or set training_list), or draw another: `{command} --own-order`"
        )
    return f"training_list: {path} is missing; make it with `{command}`"


def make_list(
    store: Store | Samples,
    protocol: str,
    imbalance: float,
    profile: str = "exp",
    n_max: int | None = None,
    own_order: bool = False,
) -> TrainingList:
    """Draw the training list of a benchmark.

    InputError if the order that the published list was drawn from is not known (`own_order` then
    draws by name) or a class has fewer samples than the list asks for.
    """
    rule = protocols.get(protocol)
    if not own_order:
        _require_order(store, protocols.resolve(protocol))
    train, _ = protocols.split(store, protocol)
    labels = store.labels[train]
    available = np.bincount(labels, minlength=rule.num_class or 0)
    if not available.all():
        raise InputError(f"{store.path}: class {available.argmin()} has no training samples")
    if n_max is None:
        n_max = rule.n_max or int(available.min())
    kept = counts(n_max, imbalance, len(available), profile)
    short = np.flatnonzero(available < kept)
    if len(short):
        c = short[0]
        raise InputError(
            f"{store.path}: class {c} has {available[c]} training samples, the list asks for "
            f"{kept[c]}; lower --n-max"
        )
    return _training_list(store, train[draw(labels, kept)])


def _require_order(store: Store | Samples, protocol: str) -> None:
    """Raise InputError where the order of the official list cannot be told from the samples."""
    if protocol.startswith("ntu60"):
        raise InputError(
            f"{protocol}: the published lists were drawn from an order that is not recoverable; "
            f"take them from {BRL_REPOSITORY}, or give --own-order for a list drawn by name"
        )
    if protocol == "nw-ucla" and "list_index" not in store.columns:
        raise InputError(
            f"{store.path}: does not hold the order of the official list; use "
            "data/lists/nw-ucla_10.txt, or give --own-order for a list drawn by name"
        )


def main(argv: list[str]) -> None:
    parser = Parser(
        prog="python -m data.long_tail", description="Draw a long-tailed training list."
    )
    parser.add_argument("benchmark", help=f"one of {', '.join(protocols.PROTOCOLS)}")
    parser.add_argument("--names", required=True, type=Path, help="a store, or a file of names")
    parser.add_argument("--imbalance", type=float, default=100, help="largest over least class")
    parser.add_argument("--out", required=True, type=Path, help="the file to write")
    parser.add_argument("--profile", choices=("exp", "step"), default="exp")
    parser.add_argument("--n-max", type=int, help="samples of the largest class")
    parser.add_argument("--own-order", action="store_true", help="draw by name where need be")
    parser.add_argument("--debug", action="store_true", help="show where an error arose")
    args = parser.parse_args(argv)
    store = Store.open(args.names) if args.names.is_dir() else sample_names.samples(args.names)
    drawn = make_list(
        store, args.benchmark, args.imbalance, args.profile, args.n_max, args.own_order
    )
    write_text(args.out, "\n".join(store.names[drawn.rows].tolist()))
    per_class = np.bincount(store.labels[drawn.rows])
    known = f"the published list of {drawn.published}" if drawn.published else "no published list"
    print(
        f"{args.out}: {len(drawn.rows)} samples of {len(per_class)} classes "
        f"({per_class.max()} to {per_class.min()}); {known}, sha256 {drawn.digest[:16]}"
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
