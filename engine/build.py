"""Build the objects that a configuration describes."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, get_type_hints

import numpy as np
import torch

import graph
import model as models
from data.store import Store
from engine.config import Config, check_value
from engine.run_data import Data, TrainingData
from errors import InputError, check_word, nearest
from feeders.augment import Augmentation
from feeders.frames import CHOICES
from longtail.auxiliary import AuxiliaryLoss
from longtail.classifiers import Classifier
from longtail.losses import CrossEntropy
from longtail.method import Method, Parts
from longtail.mixing import Mixing
from longtail.sampling import InstanceSampling
from longtail.stages import Stages
from longtail.weights import Weighting
from model.backbone import Network

# What the classes of these keys must be.
BASES: dict[str, type] = {
    "objective": Method, "sampling": InstanceSampling, "mixing": Mixing, "loss": CrossEntropy,
    "class_weights": Weighting, "auxiliary_loss": AuxiliaryLoss, "classifier": Classifier,
}  # fmt: skip
# Attributes of a built network that are read here; a Backbone has them.
NETWORK_FACTS = ("skeleton", "num_class", "num_person", "in_channels")


def find_class(path: str, key: str) -> Callable[..., Any]:
    """Import `package.module.Name`; InputError names the configuration key if it does not exist."""
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
        raise InputError(f"{key}={path}: requires {missing}, which is not installed") from None
    except Exception as error:  # a user's module can raise anything
        raise InputError(
            f"{key}={path}: importing {module_name} fails: {_reason(error)} (--debug shows where)"
        ) from error
    found = getattr(module, name, None)
    if found is None:
        hint = nearest(name, vars(module))
        raise InputError(f"{key}={path}: {module_name} has no {name}{hint}")
    if not callable(found):
        raise InputError(f"{key}={path}: is not a class")
    return found


def make(config: Config, key: str, *args: Any, **extra: Any) -> Any:
    """Build the class named by `key`, with `<key>_args` as keyword arguments; None for null.

    `args` and `extra` are arguments that do not come from `<key>_args`. Every error is an
    InputError that names the key; so is a class that is not of the kind that BASES says.
    """
    path = getattr(config, key)
    if path is None:
        return None
    factory = find_class(path, key)
    keywords = getattr(config, f"{key}_args")
    for name in keywords.keys() & extra.keys():
        raise InputError(f"{key}_args.{name}: this argument is set by another key")
    check_arguments(key, path, factory, keywords, *extra)
    with blame(config, key):
        made = factory(*args, **keywords, **extra)
    base = BASES.get(key, object)
    if not isinstance(made, base):
        raise InputError(f"{key}={path}: must be a {base.__module__}.{base.__name__}")
    return made


def check_arguments(
    key: str, path: str, factory: Callable[..., Any], keywords: Mapping[str, Any], *extra: str
) -> None:
    """Raise InputError for keywords of `<key>_args` that a class does not take, or whose values its
    annotations exclude; `extra` are the names of other arguments.

    A class that passes arguments on to its `backbone`, as experts do, is checked with that one.
    """
    taken, takes_others = arguments_of(factory)
    if key == "model" and takes_others and isinstance(factory, type):
        inner = keywords.get("backbone", models.defaults(factory).get("backbone"))
        if isinstance(inner, type):
            passed, takes_others = arguments_of(inner)
            taken = {**passed, **taken}
    for name in (*keywords, *extra):
        if name not in taken and not takes_others:
            raise InputError(
                f"{key}_args.{name}: {path} takes no such argument{nearest(str(name), taken)}; "
                f"--set {key}_args={{...}} replaces all arguments"
            )
    for name, value in keywords.items():
        check_value(value, taken.get(name, Any), f"{key}_args.{name}")


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
    """Return an error's text on one line, with its type if the text alone is not clear."""
    text = " ".join(str(error).split())
    plain = isinstance(error, ValueError | RuntimeError | TypeError | ArithmeticError) and text
    return text if plain else f"{type(error).__name__}: {text}"


def arguments_of(factory: Callable[..., Any]) -> tuple[dict[str, Any], bool]:
    """Return the arguments that a class or function takes with their annotations, and whether it
    takes any others.

    A constructor with `**common` passes it to its base, so the arguments of the bases are included.
    """
    constructors = [factory]
    if inspect.isclass(factory):
        bases = [vars(base) for base in inspect.getmro(factory)]
        constructors = [base["__init__"] for base in bases if "__init__" in base]
    found: dict[str, Any] = {}
    for constructor in constructors:
        try:
            parameters = inspect.signature(constructor).parameters.values()
        except ValueError:  # a class implemented in C
            break
        try:
            hints = get_type_hints(constructor, include_extras=True)
        except (NameError, TypeError):  # of a foreign class: its names are not to be found, or none
            hints = {}
        names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        found = {name: hints.get(name, Any) for name in names if name != "self"} | found
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            return found, False
    return found, True


def make_model(config: Config) -> Network:
    """Build the network; `model_args.backbone`, the import string of experts, is imported here.

    Raises InputError for a network that cannot be built or does not have the interface of a
    `model.backbone.Backbone`.
    """
    args = config.model_args
    if isinstance(args.get("backbone"), str):
        args = {**args, "backbone": find_class(args["backbone"], "model_args.backbone")}
    model = make(config.replace(model_args=args), "model")
    lacks = [name for name in NETWORK_FACTS if not hasattr(model, name)]
    if lacks or "outputs" not in inspect.signature(model.forward).parameters:
        raise InputError(
            f"model={config.model}: must be a model.backbone.Backbone, or have the attributes "
            f"{', '.join(NETWORK_FACTS)} (missing: {', '.join(lacks) or 'none'}), and its forward "
            "take outputs=True and return a model.backbone.Output"
        )
    return model


def to_device(model: Network, device: torch.device) -> Network:
    """Move a network, its weights in the order of memory that convolutions prefer."""
    # torch has this argument, its type hints do not
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def make_feeder(
    config: Config, data: Data, rows: np.ndarray, device: torch.device, **how: Any
) -> Any:
    """Build the feeder of some rows of a run's data; `how` are keywords of `feeder_of`."""
    return feeder_of(config, data.store, data.skeleton, rows, device, **how)


def feeder_of(
    config: Config, store: Store, skeleton: graph.Skeleton, rows: np.ndarray, device: torch.device,
    *, clips: int = 1, train: bool = False, views: int = 1,
) -> Any:  # fmt: skip
    """Build the feeder of some rows: random training clips, or `clips` fixed clips per sample.

    `feeder_args` contains the fields of the frame choice and of the augmentation as well; the rest
    are arguments of the feeder.
    """
    args = dict(config.feeder_args)
    name = args.pop("choice", "uniform")
    check_word("feeder_args.choice", name, CHOICES)
    with blame(config, "feeder"):
        policies = {
            "choice": _policy(CHOICES[name], args), "augmentation": _policy(Augmentation, args),
        }  # fmt: skip
    return make(
        config.replace(feeder_args=args), "feeder", store, rows, stream=config.stream,
        frames=config.frames, clips=clips, train=train, views=views, skeleton=skeleton,
        device=device, **policies,
    )  # fmt: skip


def _policy(kind: Any, args: dict[str, Any]) -> Any:
    """Build a dataclass from its fields in `args`, and remove these from `args`."""
    own = {field.name: args.pop(field.name) for field in fields(kind) if field.name in args}
    check_arguments("feeder", kind.__name__, kind, own)
    return kind(**own)


def make_method(
    config: Config, data: TrainingData, model: Network, classifier: bool = False
) -> Method:
    """Build the method of a run from the keys that name its parts.

    Without `classifier` the key of that name is not used; with it the auxiliary loss is not, which
    would act on a frozen network. Raises InputError for a mixing of positions in a stream that has
    none.
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
        auxiliary_loss=None if classifier else make(config, "auxiliary_loss", model),
    )
    if parts.mixing.takes_positions and config.stream != "joint":
        raise InputError(
            f"mixing={config.mixing} with mixing_args={config.mixing_args}: takes positions, which "
            f"stream {config.stream} does not have, only stream joint"
        )
    return make(config, "objective", parts, model)


def make_stages(config: Config, class_counts: torch.Tensor) -> Stages:
    """Build the loss and the class weights with the epochs in which they are used.

    Raises InputError for a loss whose margins assume another scale of the logits.
    """
    criterion = make(config, "loss", class_counts)
    scale = float(config.model_args.get("cosine", 0)) or 1.0
    if criterion.logit_scale not in (None, scale):
        raise InputError(
            f"loss={config.loss}: its margins assume logits of scale {criterion.logit_scale:g}, "
            f"but those of the network have scale {scale:g}; set model_args.cosine and "
            "loss_args.scale to the same number"
        )
    return Stages(
        num_epoch=config.num_epoch,
        second_stage=config.second_stage,
        criterion=criterion,
        weights=make(config, "class_weights", class_counts),
        loss_from=config.loss_from,
        weights_from=config.weights_from,
        share=config.second_stage_share,
    )
