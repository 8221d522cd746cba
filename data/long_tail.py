"""Long-tailed training lists: generated, or read from a file and identified by their digest.

    python -m data.long_tail BENCHMARK --names FILE_OR_STORE --imbalance 100 --out FILE

The profile is that of LDAM (Cao et al., arXiv 1906.07413) as used by BRL (arXiv 2308.14024): class
c of K keeps int(n_max * IF^(-c/(K-1))) samples. The lists of NTU RGB+D 60 are included, because
the sample order from which they were drawn is unknown (data/lists/NOTICE), and that of NW-UCLA,
which was drawn here in the order of its official list of clips.
"""

from __future__ import annotations

import lzma
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data import names as sample_names
from data import protocols
from data.names import Samples, digest
from data.readers import splits
from data.store import Store
from errors import InputError, Parser, run_command
from files import check_output, write_text

LISTS = Path(__file__).parent / "lists"
# Included lists, of imbalance 10. With a larger imbalance each class keeps the first of the same
# samples, because the samples are shuffled before the class is cut.
SHIPPED = {
    "ntu60-xsub": "ntu60-xsub_10.txt.xz",
    "ntu60-xview": "ntu60-xview_10.txt.xz",
    "nw-ucla": "nw-ucla_10.txt",
}

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
    """The training rows, in the order of the list, and the identity of the list."""

    rows: np.ndarray  # (n,) int64
    digest: str  # sha256 of the names
    published: str | None  # name of the published list with this digest
    made: str = ""  # message about a list that was missing and has been generated


def counts(
    n_max: int, imbalance: float, num_class: int, profile: str = "exp", least: int = 0
) -> np.ndarray:
    """Return the number of samples that each class keeps, (K,) int64, most frequent class first.

    exp: int(n_max * IF^(-c/(K-1))). step: n_max in the first half, int(n_max / IF) in the second.
    Each class keeps at least `least`. InputError if a class is left without samples.
    """
    if not 1 <= imbalance < np.inf:
        raise InputError(
            f"imbalance: must be at least 1 (largest / smallest class), not {imbalance:g}"
        )
    if profile == "step":
        tail = np.arange(num_class) >= num_class // 2
        kept = np.where(tail, int(n_max / imbalance), n_max)
    elif profile == "exp":
        share = [imbalance ** -(c / max(num_class - 1, 1)) for c in range(num_class)]
        kept = np.array([int(n_max * s) for s in share], np.int64)
    else:
        raise InputError(f"profile: must be exp or step, not {profile!r}")
    if n_max >= least:
        kept = np.maximum(kept, least)
    if kept.min() < 1:
        raise InputError(
            f"imbalance: {imbalance:g} leaves class {kept.argmin()} without samples if the largest "
            f"class has {n_max}; lower --imbalance or raise --n-max"
        )
    return kept


def draw(
    labels: np.ndarray, kept: np.ndarray, random: np.random.RandomState | None = None
) -> np.ndarray:
    """Return positions in a training list with labels (n,): the first kept[c] of each class c.

    Classes are processed in label order; one generator, if given, shuffles all of them first.
    """
    drawn = []
    for label, number in enumerate(kept):
        members = np.flatnonzero(labels == label)
        if random is not None:
            random.shuffle(members)
        drawn.append(members[:number])
    return np.concatenate(drawn)


def list_path(training_list: str, imbalance: float, fold: str | None, seed: int) -> Path:
    """Return the path of a `training_list`.

    If it contains {imbalance} it is a template, which can contain {seed} too, and each fold has its
    own file: NAME-fold2of5.txt for 2/5. Otherwise it is the path itself.
    """
    if "{imbalance}" not in training_list:
        return Path(training_list)
    path = Path(training_list.replace("{imbalance}", f"{imbalance:g}").replace("{seed}", str(seed)))
    return path.with_stem(f"{path.stem}-fold{fold.replace('/', 'of')}") if fold else path


def training_rows(
    store: Store,
    protocol: str,
    training_list: str | None,
    imbalance: float,
    fold: str | None = None,
    seed: int = 0,
    make: bool = False,
) -> TrainingList:
    """Return the training samples of a run: those of a list, or the whole training split (None).

    `training_list` is a file or a template (`list_path`). With `make`, the missing file of a
    template is generated; {seed} in the template shuffles the classes with that seed. InputError if
    the list is missing (with the command that generates it) or contains a sample outside the
    protocol's training split.
    """
    train, _ = protocols.split(store, protocol, fold)
    if training_list is None:
        return _training_list(store, train)
    path = list_path(training_list, imbalance, fold, seed)
    made = ""
    if not path.is_file():
        is_template = "{imbalance}" in training_list
        shuffle = seed if is_template and "{seed}" in training_list else None
        make = make and is_template
        made = _make_missing(path, store, protocol, imbalance, fold, shuffle, make)
    rows = store.rows_of(sample_names.read(path), path)
    foreign = rows[~np.isin(rows, train)]
    if len(foreign):
        part = f" in fold {fold}" if fold else ""
        raise InputError(
            f"{path}: {store.names[foreign[0]]} is not a training sample of {protocol}{part} "
            f"({len(foreign)} such samples)"
        )
    return _training_list(store, rows, made)


def _training_list(store: Samples, rows: np.ndarray, made: str = "") -> TrainingList:
    key = digest(store.names[rows].tolist())
    return TrainingList(rows, key, PUBLISHED.get(key), made)


def _make_missing(
    path: Path, store: Store, protocol: str, imbalance: float, fold: str | None,
    shuffle: int | None, make: bool,
) -> str:  # fmt: skip
    """Write a missing list, return a message.

    InputError if it differs from the published list, or with the command for it without `make`.
    """
    name = protocols.resolve(protocol)
    if not make:
        command = (
            f"python -m data.long_tail {name} --names {shlex.quote(str(store.path))} "
            f"--imbalance {imbalance:g} --out {shlex.quote(str(path))}"
        )
        command += f" --fold {fold}" if fold else ""
        command += f" --shuffle-classes {shuffle}" if shuffle is not None else ""
        raise InputError(f"training_list: {path} is missing; make it with `{command}`")
    drawn = make_list(store, protocol, imbalance, fold=fold, shuffle_classes=shuffle)
    known = f"{name} {imbalance:g}"
    is_plain = fold is None and shuffle is None
    if is_plain and known in PUBLISHED.values() and drawn.published != known:
        raise InputError(
            f"training_list: {path} is missing, and the list generated from {store.path} is not "
            f"the published list of {known} (sha256 {drawn.digest[:16]}): the store lacks training "
            "samples; prepare all of them, or generate the list with data.long_tail and set "
            "training_list to that file"
        )
    write_text(path, "\n".join(store.names[drawn.rows].tolist()))
    return f"{path} was missing and has been generated: {describe(drawn, store, imbalance)}"


def describe(drawn: TrainingList, samples: Samples, imbalance: float) -> str:
    """Return a line with the size of a list, its imbalance, and whether it is published."""
    per_class = np.bincount(samples.labels[drawn.rows])
    per_class = per_class[per_class > 0]
    largest, smallest = per_class.max(), per_class.min()
    known = (
        f"the published list of {drawn.published}" if drawn.published else "not a published list"
    )
    asked = "" if largest == imbalance * smallest else f", {imbalance:g} requested"
    return (
        f"{len(drawn.rows)} samples of {len(per_class)} classes ({largest} to {smallest}: "
        f"imbalance {largest / smallest:.3g}{asked}); {known}, sha256 {drawn.digest[:16]}"
    )


def make_list(
    store: Samples,
    protocol: str,
    imbalance: float,
    profile: str = "exp",
    n_max: int | None = None,
    own_order: bool = False,
    fold: str | None = None,
    shuffle_classes: int | None = None,
) -> TrainingList:
    """Return the training list of a benchmark, with the sizes of `class_sizes`.

    The seed `shuffle_classes` also shuffles the order of the classes; the largest class then has no
    more samples than the smallest class can have. An included list is not generated, except with
    `own_order`. InputError if a class has fewer samples than the list needs.
    """
    rule, name = protocols.get(protocol), protocols.resolve(protocol)
    is_own = own_order or fold is not None or shuffle_classes is not None
    is_shipped = name in SHIPPED and not is_own and "list_index" not in store.columns
    if is_shipped:
        source = shipped(name)
        train = np.arange(len(source.names))
    else:
        source = store
        train, _ = protocols.split(store, protocol, fold)
    labels = source.labels[train]
    available = np.bincount(labels, minlength=rule.num_class or 0)
    random = np.random.RandomState(shuffle_classes or 0)
    order = random.permutation(len(available)) if shuffle_classes is not None else None
    any_can_be_largest = order is None or available.min() >= (rule.n_max or 0)
    if n_max is None and fold is None and any_can_be_largest:
        n_max = rule.n_max

    def where(label: int) -> str:
        known = store.meta.get("class_names", [])
        called = f" ({known[label]})" if label < len(known) else ""
        hint = " (for --imbalance 10 or more; --own-order draws another)" if is_shipped else ""
        return f"{source.path}{hint}: class {label}{called}"

    kept = class_sizes(available, imbalance, profile, n_max, rule.natural, order, where)
    rows = train[draw(labels, kept, None if is_shipped else random)]
    if is_shipped:  # shuffled already
        rows = store.rows_of(source.names[rows].tolist(), f"the included list of {name}")
    return _training_list(store, rows)


def class_sizes(
    available: np.ndarray,
    imbalance: float,
    profile: str = "exp",
    n_max: int | None = None,
    natural: bool = False,
    order: np.ndarray | None = None,
    where: Callable[[int], str] = "class {}".format,
) -> np.ndarray:
    """Return how many of its `available` (K,) training samples each class keeps, (K,) int64.

    The classes get the sizes of `counts` in `order`, by default label order. Without `n_max` the
    largest class gets as many as the smallest class has, and each class keeps at least 1. With
    `natural`, classes are sorted by size: the largest keeps all its samples, the others the size of
    `counts` or all they have if that is less, and empty classes stay empty. Otherwise InputError,
    which begins with `where(c)`, if class c has too few samples.
    """
    if natural:
        order = np.argsort(-available, kind="stable") if order is None else order
        order = order[available[order] > 0]
        largest = int(available.max())
    else:
        order = np.arange(len(available)) if order is None else order
        largest = int(available.min())
        if not largest:
            raise InputError(f"{where(int(available.argmin()))} has no training samples")
    least = 1 if natural or n_max is None else 0
    wanted = np.zeros_like(available)
    wanted[order] = counts(
        largest if n_max is None else n_max, imbalance, len(order), profile, least
    )
    short = np.flatnonzero(available < wanted)
    if len(short) and not natural:
        label = int(short[0])
        raise InputError(
            f"{where(label)} has {available[label]} training samples, but the list needs "
            f"{wanted[label]}; lower --n-max or raise --imbalance"
        )
    return np.minimum(wanted, available)


def shipped(protocol: str) -> Samples:
    """Return the samples of an included list, class by class."""
    path = LISTS / SHIPPED[protocol]
    content = path.read_bytes()
    names = (lzma.decompress(content) if path.suffix == ".xz" else content).decode().split()
    labels = np.array([sample_names.parse(name)[0] for name in names], np.int64)
    return Samples(path=path, names=np.array(names), labels=labels)


def main(argv: list[str]) -> None:
    parser = Parser(prog="python -m data.long_tail", description=__doc__)
    add = parser.add_argument
    add("benchmark", help=f"one of {', '.join(protocols.PROTOCOLS)}")
    add("--names", type=Path,
        help=f"store, or file of sample names; not needed for {', '.join(SHIPPED)}")  # fmt: skip
    add("--imbalance", type=float, default=100, help="largest / smallest class (default: 100)")
    add("--out", required=True, type=Path, help="file to write")
    add(
        "--profile", choices=("exp", "step"), default="exp",
        help="exp: exponential class sizes (default); step: half of the classes are rare",
    )  # fmt: skip
    add("--n-max", type=int, help="samples of the largest class (default: from the benchmark)")
    add("--fold", metavar="K/N", help="K-th of N folds over subjects")
    add("--shuffle-classes", type=splits.seed, metavar="SEED",
        help="choose the rare classes and the samples at random, with this seed")  # fmt: skip
    add("--own-order", action="store_true",
        help="generate a list in name order instead of using the included list")  # fmt: skip
    args = parser.parse_args(argv)
    protocols.get(args.benchmark)  # an unknown benchmark is reported first
    samples: Samples
    if args.names is not None:
        check_output("--out", args.out, args.names)
        is_store = args.names.is_dir()
        samples = Store.open(args.names) if is_store else sample_names.samples(args.names)
    else:
        name = protocols.resolve(args.benchmark)
        is_own = args.own_order or args.fold is not None or args.shuffle_classes is not None
        if name not in SHIPPED or is_own:
            raise InputError("--names: give the store to draw from, or a file of sample names")
        samples = shipped(name)
    drawn = make_list(
        samples, args.benchmark, args.imbalance, args.profile, args.n_max, args.own_order,
        args.fold, args.shuffle_classes,
    )  # fmt: skip
    write_text(args.out, "\n".join(samples.names[drawn.rows].tolist()))
    print(f"{args.out}: {describe(drawn, samples, args.imbalance)}")


if __name__ == "__main__":
    sys.exit(run_command(main))
