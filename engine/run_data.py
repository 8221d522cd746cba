"""The data of a run: the samples that it trains on and those that it is judged by, and whether they
are those of a checkpoint."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

import graph
from data import long_tail, protocols
from data.measure import Size, check_size
from data.normalize import name_in
from data.store import Store, copies, keys
from engine.config import Config, from_mapping
from engine.run import RunFolder
from errors import InputError
from graph.shapes import check_shape
from model.backbone import Network


@dataclass(frozen=True, kw_only=True)
class Data:
    """An opened store and the rows of a run; class counts are those of the training list."""

    store: Store
    skeleton: graph.Skeleton
    test_rows: np.ndarray  # (n,) rows of the test split
    duplicates: np.ndarray  # (n,) bool: test samples equal to one of the whole training split
    val_rows: np.ndarray  # (n,) the test rows, or those held out by val_split
    list_note: str = ""  # how the training list was drawn, or why there is none
    train_rows: np.ndarray | None = None  # (n,) training rows; None if there is no list (testing)
    class_counts: torch.Tensor | None = None  # (K,) int64
    list_digest: str | None = None  # of the training list, published or not
    published_list: str | None = None  # digest, if the whole list is trained on and published


@dataclass(frozen=True, kw_only=True)
class TrainingData(Data):
    """Data with a training list."""

    train_rows: np.ndarray
    class_counts: torch.Tensor
    seen_before: torch.Tensor | None = None  # `trained_on` of the initial weights

    @cached_property
    def trained_on(self) -> torch.Tensor:
        """The `keys` (n,) of the training clips, by which a later test knows them again, and of
        those that the initial weights were trained on."""
        own = torch.from_numpy(keys(self.store, self.train_rows))
        before = own[:0] if self.seen_before is None else self.seen_before
        return torch.cat([before, own]).unique()


def open_data(config: Config, model: Network) -> TrainingData:
    """Open the store, check that it fits network and protocol, and read the training list.

    A missing list is drawn if the rule is known (`long_tail.training_rows`). Raises InputError for
    a store, a protocol or a list that does not exist or does not fit.
    """
    return _with_list(_open_store(config, model), config, model.num_class, make=True)


def open_test_data(config: Config, model: Network) -> Data:
    """Open the data as `open_data` does, but draw no list; without one nothing is counted."""
    data = _open_store(config, model)
    try:
        return _with_list(data, config, model.num_class)
    except InputError as error:
        return dataclasses.replace(data, list_note=str(error))


def _open_store(config: Config, model: Network) -> Data:
    """Open the store and the test split."""
    store, num_class = Store.open(config.store), model.num_class
    check_shape(
        config.store, store.joints.shape[1:], model.skeleton, model.in_channels, model.num_person
    )
    own, its = graph.load(store.layout), model.skeleton
    if its.name in graph.LAYOUTS and its.name != own.name:  # a layout file is the user's choice
        raise InputError(
            f"{config.store}: has layout {own.name}, but the network takes {its.name}; set "
            f"model_args.graph={store.layout}, or name the store: --set store=DIR"
        )
    train_split, test_rows = protocols.split(store, config.protocol, config.fold)
    highest = int(store.labels[np.concatenate([train_split, test_rows])].max(initial=-1))
    if highest >= num_class:
        raise InputError(
            f"{config.store}: label {highest}, but the network has {num_class} classes "
            f"(model_args.num_class={num_class})"
        )
    if num_class > len(store.class_names):
        raise InputError(
            f"model_args.num_class: {num_class}, but {config.store} has "
            f"{len(store.class_names)} classes"
        )
    return Data(
        store=store, skeleton=model.skeleton, test_rows=test_rows, val_rows=test_rows,
        duplicates=copies(store, test_rows, train_split),
    )  # fmt: skip


def _with_list(data: Data, config: Config, num_class: int, make: bool = False) -> TrainingData:
    """Add the training list; InputError if there is none, or if `val_split` holds nothing out."""
    listed, train_rows, held_out = listed_rows(data.store, config, make)
    whole = config.val_split is None
    if not whole and not len(held_out):
        way_out = {"sample": "increase it", "subject": "val_by: subject needs several persons"}
        raise InputError(
            f"val_split: {config.val_split} holds out no sample; {way_out[config.val_by]}"
        )
    labels = torch.as_tensor(data.store.labels[train_rows])
    found = {
        "val_rows": data.test_rows if whole else held_out,
        "list_note": listed.made,
        "train_rows": train_rows,
        "class_counts": torch.bincount(labels, minlength=num_class),
        "list_digest": listed.digest,
        "published_list": listed.digest if listed.published and whole else None,
    }
    return TrainingData(**(vars(data) | found))


def listed_rows(
    store: Store, config: Config, make: bool = False
) -> tuple[long_tail.TrainingList, np.ndarray, np.ndarray]:
    """Return the training list, its rows to train on, and those that `val_split` holds out.

    With `make` a missing list is drawn. Raises InputError as `long_tail.training_rows` does, or if
    the store does not know the persons of `val_by: subject`.
    """
    listed = long_tail.training_rows(
        store, config.protocol, config.training_list, config.imbalance, config.fold, config.seed,
        make,
    )  # fmt: skip
    if config.val_split is None:
        return listed, listed.rows, listed.rows[:0]
    persons = protocols.persons(store, "val_by: subject") if config.val_by == "subject" else None
    return listed, *hold_out(listed.rows, store.labels, config.val_split, config.seed, persons)


def hold_out(
    rows: np.ndarray, labels: np.ndarray, share: float, seed: int,
    persons: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Split rows into (training, validation); every class keeps a sample to train on.

    rows (n,) of the store with labels (N,). `share` of each class is held out, or with `persons`
    (N,) all samples of that share of the persons, one at least, except those of a class that no
    other person has.
    """
    random = np.random.default_rng(seed)
    held = np.zeros(len(rows), dtype=bool)
    if persons is not None:
        names = np.unique(persons[rows])
        count = min(max(1, round(share * len(names))), len(names) - 1)
        held = np.isin(persons[rows], random.permutation(names)[:count])
        held &= np.isin(labels[rows], labels[rows[~held]])  # a class of theirs alone stays
        return rows[~held], rows[held]
    for label in np.unique(labels[rows]):
        members = np.flatnonzero(labels[rows] == label)
        count = min(round(share * len(members)), len(members) - 1)
        held[random.permutation(members)[:count]] = True
    return rows[~held], rows[held]


# --- the data of a checkpoint ---


def check_same_data(facts: dict[str, Any], data: TrainingData, path: Path) -> None:
    """Raise InputError that names the changes if a run was trained on other classes or another
    list; `facts` are those in its checkpoint `path`."""
    check_store(facts, data.store, len(data.class_counts), path)
    if facts.get("store_fingerprint") not in (None, data.store.fingerprint):
        raise InputError(
            f"{path}: the clips of {data.store.path} have changed since the run began; restore the "
            "store to --resume, or start again with --overwrite"
        )
    before, now = facts.get("list_digest"), data.list_digest
    then, counts = facts["class_counts"].tolist(), data.class_counts.tolist()
    if then == counts and before in (None, now):  # earlier versions wrote no digest
        return
    changed = [k for k in range(len(counts)) if then[k] != counts[k]]
    what = "other samples, same class counts"
    if changed:
        k, names = changed[0], data.store.class_names
        what = (
            f"{sum(then)} samples then, {sum(counts)} now; class {k} ({names[k]}) "
            f"{then[k]} then, {counts[k]} now"
        )
        if len(changed) > 1:
            what += f"; {len(changed)} classes differ"
    raise InputError(
        f"{path}: the training list has changed since the run began ({what}); restore the list to "
        "--resume, or start again with --overwrite"
    )


def check_result(
    run: RunFolder, result: dict[str, Any], list_digest: str | None, fingerprint: str | None
) -> None:
    """Raise InputError if the result of a finished run is of another training list, or of a store
    with other clips, than there are now (None: not there)."""
    for key, now, what in (
        ("list_digest", list_digest, "trained on another list than there is"),
        ("store_fingerprint", fingerprint, "tested on other clips than its store has"),
    ):
        if None not in (result.get(key), now) and result[key] != now:
            raise InputError(
                f"{run} was {what} now; restore the former, or name another --work-dir"
            )


def check_store(facts: dict[str, Any], store: Store, num_class: int, path: Path) -> str:
    """Return in what a store's clips may be of other units than a checkpoint's, '' if in nothing.

    InputError if its K classes are not the store's, or if its training clips were normalized
    otherwise or nobody can be of such a size. `facts` are those in checkpoint `path`.
    """
    names = (facts.get("class_names") or ())[:num_class]
    for k, (own, its) in enumerate(zip(names, store.class_names)):
        if own != its:
            raise InputError(
                f"{path}: was trained with class {k} = {own!r}, but in {store.path} it is {its!r}; "
                "name the store of the same classes: --set store=DIR; to train for these classes: "
                "--new-head"
            )
    then, now = _normalization(facts), _normalization(store.meta)
    if None not in (then, now) and then != now:
        raise InputError(
            f"{path}: was trained on clips of normalization {then}, but those of "
            f"{store.path} have {now}; prepare them alike, or name the store: "
            "--set store=DIR"
        )
    if facts.get("size") is None or store.meta.get("size") is None:
        return ""
    usual, (_, size, _) = Size(*facts["size"]), store.meta["size"]
    doubt = check_size(size, usual, store.reading.planar, f"{path}: does not fit {store.path}")
    return f"{store.path}: {doubt}" if doubt else ""


def _normalization(facts: dict[str, Any]) -> str | None:
    """Return what a checkpoint or a meta.json says of normalization, with the joint it is at."""
    name = name_in(facts)
    return f"centered (joint {facts.get('centre')})" if name == "centered" else name


def remembered(facts: dict[str, Any], data: Data) -> Data:
    """Return `data` with the class counts and list in a checkpoint, unchanged if they are the same.

    The list of the training is used even if its file has been changed or removed.
    """
    counts, listed = facts.get("class_counts"), facts.get("list_digest")
    now = data.class_counts
    if counts is None:
        return data
    same = now is not None and counts.tolist() == now.tolist()
    if same and listed in (None, data.list_digest):
        return data
    whole = facts["config"].get("val_split") is None  # else a part was held out
    published = listed if whole and listed in long_tail.PUBLISHED else None
    line = "is missing" if now is None else "differs from that of the training"
    note = f"the training list {line}: the shot figures use the class counts in the checkpoint"
    return dataclasses.replace(
        data, class_counts=counts, list_digest=listed, published_list=published, list_note=note
    )


def seen_in_training(facts: dict[str, Any], store: Store, rows: np.ndarray) -> np.ndarray:
    """Return a mask (n,) over rows of a store: clips that the network of a checkpoint was trained
    on.

    Checkpoints of earlier versions name their list instead, which must be the same, of the same
    clips. All False for one that says nothing.
    """
    if "trained_on" in facts:
        return np.isin(keys(store, rows), np.asarray(facts["trained_on"]))
    known = np.array([], np.int64)
    if facts.get("store_fingerprint") == store.fingerprint and "config" in facts:
        with suppress(InputError):  # the list is not there any more
            listed, trained, _ = listed_rows(store, from_mapping(facts["config"]))
            known = trained if listed.digest == facts.get("list_digest") else known
    return np.isin(rows, known)


def check_unseen(facts: dict[str, Any], data: Data, path: Path, training: bool = False) -> None:
    """Raise InputError if a checkpoint was trained on samples that it is now to be judged by: test
    samples, or in `training` those that val_split holds out."""
    judged = [
        (data.test_rows, "test samples", "use the protocol, the fold and the split of its training")
    ]
    if training:
        way_out = "use the val_split and seed of its training, or --set val_split=null"
        judged.append((data.val_rows, "held-out samples", way_out))
    for rows, what, way_out in judged:
        if known := seen_in_training(facts, data.store, rows).sum():
            raise InputError(
                f"{path}: was trained on {known} of the {len(rows)} {what}, which would be counted "
                f"as if it had not seen them; {way_out}"
            )
