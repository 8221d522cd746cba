"""From a configuration to objects: import strings become classes here and nowhere else."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import nn

import graph
from data import long_tail, protocols
from data.store import Store, copies
from engine.config import Config
from errors import InputError, nearest
from feeders.augment import Augmentation
from feeders.frames import CHOICES
from longtail.auxiliary import AuxiliaryLoss
from longtail.losses import CrossEntropy
from longtail.method import Method, Parts
from longtail.schedule import Stages


def find_class(path: str, key: str) -> Callable[..., Any]:
    """Import `package.module.Name`; InputError names the configuration key if there is none."""
    if not isinstance(path, str) or not re.fullmatch(r"\w+(\.\w+)+", path):
        raise InputError(f"{key}={path}: expected an import string like package.module.Class")
    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if missing.split(".")[0] == module_name.split(".")[0]:
            lacks = "does not exist" if "." in missing else "is not installed"
            raise InputError(f"{key}={path}: {missing} {lacks}") from None
        raise InputError(f"{key}={path}: it needs {missing}, which is not installed") from None
    except Exception as error:  # the module is the user's: anything can happen in it
        raise InputError(
            f"{key}={path}: importing {module_name} fails: {_reason(error)} (--debug shows where)"
        ) from error
    if not hasattr(module, name):
        hint = nearest(name, vars(module))
        raise InputError(f"{key}={path}: {module_name} has no {name}{hint}")
    if not callable(getattr(module, name)):
        raise InputError(f"{key}={path}: is not a class")
    return getattr(module, name)


def make(config: Config, key: str, *args: Any, **extra: Any) -> Any:
    """Build what the import string under `key` names, with `<key>_args` as keyword arguments.

    `extra` holds arguments of the workbench's own. Whatever goes wrong is an InputError that names
    the key.
    """
    path = getattr(config, key)
    factory = find_class(path, key)
    keywords = getattr(config, f"{key}_args")
    for name in keywords.keys() & extra.keys():
        raise InputError(f"{key}_args.{name}: this argument comes from a key of its own")
    taken = argument_names(factory)
    if taken is not None:
        for name in {**keywords, **extra}:
            if name not in taken:
                hint = nearest(str(name), taken)
                raise InputError(
                    f"{key}_args.{name}: {path} takes no such argument{hint}; "
                    f"--set {key}_args={{...}} gives others"
                )
    with blame(config, key):
        return factory(*args, **keywords, **extra)


@contextmanager
def blame(config: Config, *keys: str) -> Iterator[None]:
    """Turn an error that the values of `keys` cause into an InputError that names them."""
    try:
        yield
    except (InputError, OSError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        named = " and ".join(
            f"{key}={getattr(config, key)} with {key}_args={getattr(config, f'{key}_args')}"
            for key in keys
        )
        raise InputError(f"{named}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return an error's text in one line, its type where the text alone would be a riddle."""
    text = " ".join(str(error).split())
    plain = isinstance(error, ValueError | RuntimeError | TypeError | ArithmeticError) and text
    return text if plain else f"{type(error).__name__}: {text}"


def check_used(config: Config) -> None:
    """Raise InputError for the arguments of a class that is not there."""
    for key in ("class_weights", "classifier", "auxiliary_loss"):
        if getattr(config, key) is None and getattr(config, f"{key}_args"):
            raise InputError(f"{key}_args: {key} is null, so nothing uses them; leave them out")


def argument_names(factory: Callable[..., Any]) -> set[str] | None:
    """Return the names of the arguments that a class or function takes; None: any name.

    A constructor that takes `**common` hands it on: the names are those of its bases as well.
    """
    constructors = [factory]
    if inspect.isclass(factory):
        bases = [vars(base) for base in inspect.getmro(factory)]
        constructors = [base["__init__"] for base in bases if "__init__" in base]
    names: set[str] = set()
    for constructor in constructors:
        try:
            parameters = inspect.signature(constructor).parameters.values()
        except ValueError:  # of a class that is not written in Python
            return None
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            return names - {"self"}
    return None


@dataclass(frozen=True)
class Data:
    """An opened store and the rows of a run; class counts are those of the list that was read."""

    store: Store
    skeleton: graph.Skeleton
    test_rows: np.ndarray  # (n,) rows of the test split
    train_rows: np.ndarray | None  # (n,) rows trained on; None where testing needs no list
    val_rows: np.ndarray  # the test rows, or those held out by val_split
    class_counts: torch.Tensor | None  # (K,) int64
    published_list: str | None  # digest of a published list that is trained on whole, else None
    list_made: str  # how the training list was made, if its file was missing
    copied: np.ndarray  # (test,) bool: equals a sample of the protocol's whole training split
    list_digest: str | None = None  # of the list that was read, published or not


def open_data(config: Config, training: bool = True) -> Data:
    """Open the store, check it against model and protocol, and read the training list.

    For training a missing list is made if the rule can draw it (`long_tail.training_rows`). Without
    `training`, a list that cannot be read only leaves the class counts empty.
    """
    store = Store.open(config.store)
    skeleton = graph.load(config.model_args.get("graph", "ntu_rgb_d"))
    _check_shape(config, store, skeleton)
    train_split, test_rows = protocols.split(store, config.protocol, config.fold)
    num_class = config.model_args.get("num_class", 60)
    highest = int(store.labels[np.concatenate([train_split, test_rows])].max(initial=-1))
    if highest >= num_class:
        raise InputError(
            f"{config.store}: label {highest} is beyond the {num_class} classes of "
            "model_args.num_class"
        )
    if num_class > len(store.class_names):
        raise InputError(
            f"model_args.num_class: {num_class}, but {config.store} has "
            f"{len(store.class_names)} classes"
        )
    try:
        listed = long_tail.training_rows(
            store, config.protocol, config.training_list, config.imbalance, config.fold,
            config.seed, make=training,
        )  # fmt: skip
    except InputError:
        if training:
            raise
        return Data(
            store, skeleton, test_rows, None, test_rows, None, None, "",
            copies(store, test_rows, train_split),
        )  # fmt: skip
    train_rows, val_rows = listed.rows, test_rows
    if config.val_split is not None:
        train_rows, val_rows = hold_out(listed.rows, store.labels, config.val_split, config.seed)
        if not len(val_rows):
            raise InputError(f"val_split: {config.val_split} holds out no sample; raise it")
    class_counts = torch.bincount(torch.as_tensor(store.labels[train_rows]), minlength=num_class)
    return Data(
        store, skeleton, test_rows, train_rows, val_rows, class_counts,
        listed.digest if listed.published and config.val_split is None else None, listed.made,
        copies(store, test_rows, train_split), listed.digest,
    )  # fmt: skip


def _check_shape(config: Config, store: Store, skeleton: graph.Skeleton) -> None:
    persons, joints, channels = store.joints.shape[1:]
    if joints != skeleton.num_joints:
        raise InputError(
            f"{config.store}: {joints} joints ({store.layout}), but model_args.graph="
            f"{skeleton.name} has {skeleton.num_joints}"
        )
    wanted = config.model_args.get("in_channels", 3)
    if channels != wanted:
        raise InputError(
            f"{config.store}: {channels} channels, but model_args.in_channels={wanted}"
        )
    wanted = config.model_args.get("num_person", 2)
    if persons != wanted:
        raise InputError(
            f"{config.store}: {persons} persons a clip, but model_args.num_person={wanted}"
        )


def hold_out(
    rows: np.ndarray, labels: np.ndarray, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split rows into (training, validation), class by class; one sample a class stays at least."""
    random = np.random.default_rng(seed)
    held = np.zeros(len(rows), dtype=bool)
    for label in np.unique(labels[rows]):
        members = np.flatnonzero(labels[rows] == label)
        count = min(round(share * len(members)), len(members) - 1)
        held[random.permutation(members)[:count]] = True
    return rows[~held], rows[held]


def make_model(config: Config) -> nn.Module:
    """Build the network; a backbone that `model_args` names (of experts) is imported here."""
    args = config.model_args
    if isinstance(args.get("backbone"), str):
        args = {**args, "backbone": find_class(args["backbone"], "model_args.backbone")}
    model = make(config.replace(model_args=args), "model")
    if "outputs" not in inspect.signature(model.forward).parameters:
        raise InputError(
            f"model={config.model}: must be a model.backbone.Backbone, or its forward take "
            "outputs=True and give a model.backbone.Output"
        )
    return model


def make_feeder(
    config: Config, data: Data, rows: np.ndarray, device: torch.device, **how: Any
) -> Any:
    """Build the feeder of some rows of a run's data; `how` as for `feeder_of`."""
    return feeder_of(config, data.store, data.skeleton, rows, device, **how)


def feeder_of(
    config: Config, store: Store, skeleton: graph.Skeleton, rows: np.ndarray, device: torch.device,
    *, clips: int = 1, train: bool = False, views: int = 1,
) -> Any:  # fmt: skip
    """Build the feeder of some rows: training clips, or `clips` fixed ones per sample.

    `feeder_args` are flat: those of the frame choice and of the augmentation make these policies,
    the rest goes to the feeder.
    """
    args = dict(config.feeder_args)
    name = args.pop("choice", "uniform")
    if name not in CHOICES:
        raise InputError(f"feeder_args.choice: {name} is not one of {', '.join(CHOICES)}")
    with blame(config, "feeder"):
        policies = {
            "choice": _policy(CHOICES[name], args), "augmentation": _policy(Augmentation, args),
        }  # fmt: skip
    return make(
        config.replace(feeder_args=args), "feeder", store, rows, stream=config.stream,
        frames=config.frames, clips=clips, train=train, views=views, skeleton=skeleton,
        device=device, **policies,
    )  # fmt: skip


def _policy(kind: Callable[..., Any], args: dict[str, Any]) -> Any:
    """Build a dataclass from those of `args` that are its fields, and take them out of `args`."""
    own = {field.name: args.pop(field.name) for field in fields(kind) if field.name in args}
    return kind(**own)


def make_method(config: Config, data: Data, model: nn.Module, classifier: bool = False) -> Method:
    """Build the method of a run from the keys that name its parts.

    Without `classifier` the key of that name is not used; with it the auxiliary loss is not, which
    would act on a frozen network.
    """
    counts = data.class_counts
    labels = torch.from_numpy(data.store.labels[data.train_rows])
    parts = Parts(
        counts,
        sampling=make(config, "sampling", labels, counts, config.repeat),
        mixing=make(config, "mixing", counts, data.skeleton),
        stages=make_stages(config, counts),
        weigh_by=config.weigh_by,
        classifier=make(config, "classifier", counts) if classifier else None,
        auxiliary_loss=None if classifier else make_auxiliary_loss(config, model),
    )
    method = make(config, "objective", parts, model)
    if not isinstance(method, Method):
        raise InputError(f"objective={config.objective}: must be a longtail.method.Method")
    return method


def make_auxiliary_loss(config: Config, model: nn.Module) -> AuxiliaryLoss | None:
    """Build the loss on the network's other outputs, if the configuration names one."""
    if config.auxiliary_loss is None:
        return None
    loss = make(config, "auxiliary_loss", model)
    if not isinstance(loss, AuxiliaryLoss):
        raise InputError(
            f"auxiliary_loss={config.auxiliary_loss}: must be a longtail.auxiliary.AuxiliaryLoss"
        )
    return loss


def make_stages(config: Config, class_counts: torch.Tensor) -> Stages:
    """Build the loss, the class weights and the schedule of both."""
    criterion = make(config, "loss", class_counts)
    if not isinstance(criterion, CrossEntropy):
        raise InputError(
            f"loss={config.loss}: a loss is a subclass of longtail.losses.CrossEntropy"
        )
    check_scale(config, criterion)
    weights = make(config, "class_weights", class_counts) if config.class_weights else None
    return Stages(
        num_epoch=config.num_epoch,
        second_stage=config.second_stage,
        criterion=criterion,
        weights=weights,
        loss_from=config.loss_from,
        weights_from=config.weights_from,
        num_class=len(class_counts),
        share=config.second_stage_share,
    )


def check_scale(config: Config, criterion: CrossEntropy) -> None:
    """Refuse a loss whose margins are measured on another scale than the network's logits have."""
    scale = float(config.model_args.get("cosine", 0)) or 1.0
    if criterion.logit_scale not in (None, scale):
        raise InputError(
            f"loss={config.loss}: its margins are for logits of scale {criterion.logit_scale:g}, "
            f"those of the network have {scale:g}; make model_args.cosine and loss_args.scale the "
            "same number"
        )
