"""Configuration: defaults, YAML files on top of each other, `--set`, and where a run lives.

Command line > YAML > its parents (`base:`) > the defaults below, which are NTU60's recipe.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from errors import InputError, nearest
from feeders.augment import Augmentation
from flags import Amp, Stream
from longtail.ranges import Amount, Count, Multiple, Part, Range, Rate, Seed
from longtail.shots import SHOTS

CONFIG_ROOT = Path(__file__).resolve().parents[1] / "config"
# Naming another class drops the arguments of the one before it. (A model and an optimizer keep
# theirs: graph and classes go with every backbone, momentum with every SGD.)
OWN_ARGUMENTS = (
    "objective", "loss", "class_weights", "mixing", "sampling", "classifier", "auxiliary_loss",
    "schedule",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Every value of a run; the comment next to a key is its documentation."""

    # Data
    store: str = "data/ntu"  # folder of the prepared store (python -m data.prepare)
    protocol: str = "ntu60-xsub"  # the training split and the test split
    fold: str | None = None  # k/n: test on part k of n of the persons, train on the others
    # File of sample names ({imbalance} and {seed} are replaced); null: the whole training split
    training_list: str | None = None
    imbalance: Count = 100  # imbalance factor (largest / smallest class) of the list
    val_split: Part | None = None  # fraction of the training list to validate on; null: test split
    val_by: Literal["sample", "subject"] = "sample"  # subject: val_split holds out whole persons
    stream: Stream = "joint"  # input stream
    frames: Count = 64  # frames per clip
    test_clips: Count = 10  # test clips per sample; their probabilities are averaged
    test_batch_size: Count | None = None  # clips at once in tests; null: 60, on a GPU 500
    feeder: str = "feeders.skeleton.Feeder"  # frame choice, augmentation
    # scale, rotate (radians), flip, mirror; choice, p_interval, box, sampled_motion, resident
    feeder_args: dict = field(default_factory=dict)
    # Model
    model: str = "model.stgcnpp.Model"  # the backbone
    model_args: dict = field(default_factory=dict)  # graph, num_class, num_person, ...
    # Optimization
    num_epoch: Count = 24  # each has `repeat` copies of the training list
    batch_size: Count = 16  # global: it is split between the ranks of a distributed run
    accumulate: Count = 1  # batches per optimizer step; mixing and weights act on all of them
    lr: Rate = 0.0125  # learning rate for a batch of lr_batch clips
    lr_batch: Count = 16  # the learning rate is lr * batch_size * accumulate / lr_batch
    optimizer: str = "torch.optim.SGD"  # any optimizer that needs no closure
    optimizer_args: dict = field(
        default_factory=lambda: {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
    )
    schedule: Literal["cosine", "step", "constant"] = "cosine"  # cosine: to 0, per iteration
    schedule_args: dict = field(default_factory=dict)  # warm_up (epochs); step: milestones, gamma
    backbone_lr: Amount = 1.0  # factor of lr for all layers but those that classify
    frozen_epochs: Amount = 0  # epochs at the start in which backbone_lr is 0
    clip_grad: Rate | None = None  # maximum norm of the gradient
    ema: Part | None = None  # decay of an exponential moving average of the weights
    # Long tail
    second_stage: int | None = None  # epochs; null: round(second_stage_share * num_epoch)
    second_stage_share: Part = 5 / 24  # fraction of the epochs, at least 1 epoch
    repeat: Multiple = 5  # copies of a sample per epoch; 2.5: half of the samples a third time
    objective: str = "longtail.method.Composed"  # class of the method; Composed uses the keys below
    objective_args: dict = field(default_factory=dict)
    sampling: str = "longtail.brl.ReverseSampling"  # which samples an epoch has
    sampling_args: dict = field(default_factory=dict)
    mixing: str = "longtail.brl.PartialMixup"  # how the samples of a batch are mixed
    mixing_args: dict = field(default_factory=dict)
    loss: str = "longtail.losses.CrossEntropy"  # docs/methods.md lists them
    loss_args: dict = field(default_factory=dict)
    loss_from: Literal["start", "second_stage"] = "start"  # before: plain cross entropy
    class_weights: str | None = "longtail.brl.ActionAwareWeights"  # weights of the loss
    class_weights_args: dict = field(default_factory=dict)
    weights_from: Literal["start", "second_stage"] = "second_stage"  # before: unweighted
    weigh_by: Literal["batch", "samples"] = "batch"  # what weighted losses are divided by
    # On outputs of the network besides its logits; added to the loss of the method
    auxiliary_loss: str | None = None
    auxiliary_loss_args: dict = field(default_factory=dict)
    classifier: str | None = None  # class of the second-stage method (--phase classifier)
    classifier_args: dict = field(default_factory=dict)
    # many: above the first, few: below the second; auto: from the class counts (longtail/shots.py)
    shots: list[int] | Literal["auto"] = field(default_factory=lambda: list(SHOTS))
    # Execution
    amp: Amp = "off"  # auto: bf16 if the device supports it
    compile: bool = False  # torch.compile
    cuda_graphs: bool = True  # for the compiled network on one GPU; not with accumulate
    step_graph: bool = False  # on one GPU, not with fp16: a whole step as one CUDA graph
    tf32: bool = True  # float32 matrix products in TF32 on GPUs that support it
    sync_bn: bool = False  # batch statistics over all ranks of a distributed run
    seed: Seed = 0  # of weights, order, augmentation, and of {seed} in training_list
    # Identity of the run: set from the config folder and the command line
    method: str = ""  # name of the recipe: brl, or a file of config/methods
    benchmark: str = ""  # name of the config folder, or of the store
    tag: str = ""  # the rest of the run folder's name

    @property
    def shot_limits(self) -> tuple[int, int]:
        """(many, few); they are numbers once the data are known."""
        assert isinstance(self.shots, list)
        many, few = self.shots
        return many, few

    @property
    def scaled_lr(self) -> float:
        """The learning rate, linear in the batch size of one optimizer step."""
        return self.lr * self.batch_size * self.accumulate / self.lr_batch

    def replace(self, **changes: Any) -> Config:
        return dataclasses.replace(self, **changes)

    def to_yaml(self) -> str:
        """Return every value as the text of a file that `--config` accepts."""
        return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False)


WORDS = {
    bool: "true or false", int: "a whole number", float: "a number", str: "text",
    dict: "a mapping", types.NoneType: "null",
}  # fmt: skip
PLURAL = {int: "whole numbers", float: "finite numbers"}
FINITE = "a finite number"
KEYS = typing.get_type_hints(Config, include_extras=True)  # key: annotation, with its range
_TYPES = typing.get_type_hints(Config)

# The keys that commands use which train nothing; what --set says of others would be passed over.
EXPORT_KEYS = (
    "store", "model", "model_args", "stream", "frames", "test_clips", "feeder", "feeder_args",
)  # fmt: skip
PREDICT_KEYS = (*EXPORT_KEYS, "test_batch_size", "amp", "tf32", "benchmark")
TEST_KEYS = (
    *PREDICT_KEYS, "protocol", "fold", "training_list", "imbalance", "seed", "val_split", "val_by",
    "shots", "method", "tag",
)  # fmt: skip
AUGMENTATION = {each.name for each in dataclasses.fields(Augmentation)}  # of feeder_args


def check_used(overrides: Iterable[str], used: Collection[str], what: str) -> None:
    """Raise InputError for a word of --set whose key is not `used`, or is of the augmentation,
    which is of training clips."""
    for text in overrides:
        (key, *inner), value = _word(text)
        if key not in used:
            raise InputError(f"--set {text}: {what} does not use {key}; omit it")
        names = inner or (value if isinstance(value, dict) else ())
        if key == "feeder_args" and (augments := AUGMENTATION.intersection(names)):
            raise InputError(
                f"--set {text}: {what} does not use {min(augments)}, only training augments clips"
            )


class _Loader(yaml.SafeLoader):
    """YAML in which numbers are decimal and duplicate keys are errors.

    1e-3 is a number, which YAML 1.1 writes 1.0e-3, and 010 and 1:30 are none, which are 8 and 90
    there."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for place, (key, _) in enumerate(node.value):
            if key.value in keys[:place]:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key.value} is given twice", problem_mark=key.start_mark
                )
        return super().construct_mapping(node, deep)


NUMBERS = {
    "tag:yaml.org,2002:int": r"[-+]?(0|[1-9]\d*)",
    "tag:yaml.org,2002:float": (
        r"[-+]?((\d+\.\d*|\.\d+)([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(inf|Inf|INF))|\.(nan|NaN|NAN)"
    ),
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag not in NUMBERS]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in NUMBERS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(f"({_pattern})$"), list("-+.0123456789"))


def read_yaml(text: str) -> Any:
    """Return the value of a YAML text; yaml.YAMLError if it is not valid."""
    return yaml.load(text, _Loader)  # a SafeLoader


def load(
    files: Iterable[str | Path], overrides: Iterable[str] = (),
    below: Mapping[str, Any] | None = None, **values: Any,
) -> Config:  # fmt: skip
    """Resolve config files (later ones on top), then `a.b=value` overrides together with `values`.

    The files lie on the defaults, or on those with the values of `below`. Raises InputError naming
    the file and key that is unknown or of the wrong type.
    """
    layer = merge(dataclasses.asdict(Config()), below or {})
    for file in files:
        layer = merge(layer, read_file(file))
    overrides = list(overrides)
    resolved = from_mapping(override(layer, overrides, **values))
    given = {_word(text)[0] for text in overrides}
    if ("imbalance",) in given and "{imbalance}" not in (resolved.training_list or ""):
        raise InputError(
            f"--set imbalance: not used, as training_list is {resolved.training_list}; give a "
            "template, e.g. training_list=data/lists/NAME_{imbalance}.txt"
        )
    if ("second_stage_share",) in given and resolved.second_stage is not None:
        raise InputError(
            f"--set second_stage_share: not used, as second_stage is {resolved.second_stage}; add "
            "second_stage=null"
        )
    return resolved


def find(file: str | Path, folder: Path = Path()) -> Path:
    """Return a config file's path: from a folder, the working one, else from the project's.

    So `config/demo-lt/joint.yaml` names the project's own file wherever a command is started.
    """
    path, own = folder / file, CONFIG_ROOT.parent / file
    return own if not path.is_file() and own.is_file() else path


def from_mapping(values: Mapping[str, Any], where: str = "configuration") -> Config:
    """Build a Config from plain values, checking names, types, choices and ranges."""
    config = Config(**{key: _typed(key, value, where) for key, value in values.items()})
    for key in ("class_weights", "classifier", "auxiliary_loss"):
        if getattr(config, key) is None and getattr(config, f"{key}_args"):
            raise InputError(f"{where}: {key}_args: not used, because {key} is null; remove them")
    shots = config.shots
    if isinstance(shots, list) and not (len(shots) == 2 and shots[0] >= shots[1] >= 0):
        raise InputError(f"{where}: shots must be [many, few], falling, or auto, not {shots}")
    return config


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` overridden by `above`: mappings are merged, other values replaced."""
    merged = dict(below)
    for key, value in above.items():
        if key in OWN_ARGUMENTS and value != below.get(key):
            merged[f"{key}_args"] = {}
    for key, value in above.items():
        if isinstance(merged.get(key), Mapping):
            if value is None:  # all that was below it in the file is commented out
                continue
            if isinstance(value, Mapping):
                value = {**merged[key], **value}
        merged[key] = value
    return merged


def override(
    layer: Mapping[str, Any], overrides: Iterable[str] = (), **values: Any
) -> dict[str, Any]:
    """Override a layer by `key=value` and `key.inner=value` words (values in YAML) and by `values`.

    Their order does not matter: first keys replace values, including whole mappings, then inner
    keys are set in the result. `values` come from flags that stand for a key (None: flag not
    given). Raises InputError for a key with two different values.
    """
    given: dict[tuple[str, ...], tuple[Any, str]] = {}  # (key,) or (key, inner): value, its source

    def add(path: tuple[str, ...], value: Any, source: str) -> None:
        former, by = given.setdefault(path, (value, source))
        if repr(former) != repr(value):  # so that 1 is not true
            raise InputError(f"{by} and {source}: two values of {'.'.join(path)}; omit one")

    for key, value in values.items():
        if value is not None:
            flag = f"--{key.replace('_', '-')}"
            add((key,), _typed(key, value, flag), flag if value is True else f"{flag} {value}")
    for text in overrides:
        path, value = _word(text)
        add(path, value, f"--set {text}")
        if len(path) == 1 and isinstance(value, dict):
            for inner, each in value.items():
                add((*path, inner), each, f"--set {text}")
    whole = {path[0]: value for path, (value, _) in given.items() if len(path) == 1}
    result = merge(layer, whole) | whole
    for key, *inner in sorted(given):
        if inner:
            value, _ = given[key, *inner]
            result[key] = {**(result[key] or {}), inner[0]: value}
    return result


def _word(text: str) -> tuple[tuple[str, ...], Any]:
    """Return the key and value in a word of --set: ((key,) or (key, inner), value)."""
    path, separator, raw = text.partition("=")
    if not separator:
        raise InputError(f"--set {text}: expected key=value")
    key, *inner = path.strip().split(".")
    _check_name(key, f"--set {text}")
    try:
        value = read_yaml(raw)
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or "the value"
        raise InputError(f"--set {text}: the value is not YAML ({reason})") from None
    if len(inner) > 1 or (inner and _TYPES[key] is not dict):
        raise InputError(f"--set {text}: {key} has no inner key {'.'.join(inner)}")
    return (key, *inner), value if inner else _typed(key, value, f"--set {text}")


def read_file(
    file: str | Path, folder: Path = Path(), seen: tuple[Path, ...] = ()
) -> dict[str, Any]:
    """Return a config file's values on top of those of its parents (`base:`, relative to the file,
    or to the project); errors as of `load`."""
    path = find(file, folder)
    if path.resolve() in seen:
        raise InputError(f"{path}: `base` refers back to this file")
    try:
        values = read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = [str(p.relative_to(CONFIG_ROOT.parent)) for p in CONFIG_ROOT.rglob("*.yaml")]
        raise InputError(f"--config {path}: no such file{nearest(str(path), known)}") from None
    except IsADirectoryError:
        raise InputError(f"--config {path}: is a folder; name a file, e.g. joint.yaml") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"--config {path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', '')}") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected `key: value` lines")
    parents = values.pop("base", [])
    for key, value in values.items():
        _typed(key, value, str(path))
    layer: dict[str, Any] = {}
    parents = [parents] if isinstance(parents, str) else parents
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise InputError(f"{path}: base must name a file, or a list of files, not {parents!r}")
    for parent in parents:
        layer = merge(layer, read_file(parent, path.parent, (*seen, path.resolve())))
    return merge(layer, values)


def _check_name(key: str, where: str) -> None:
    if key not in KEYS:
        raise InputError(f"{where}: unknown key {key!r}{nearest(str(key), KEYS)}")


def _typed(key: str, value: Any, where: str) -> Any:
    """Return `value` as the key's type; InputError, which names `where`, for a key that does not
    exist and a value that its annotation excludes."""
    _check_name(key, where)
    kinds = (_TYPES[key], *typing.get_args(_TYPES[key]))
    if key == "amp" and value is False:
        value = "off"  # as YAML reads it
    elif key == "store" and isinstance(value, str) and value:
        value = str(Path(value))  # data/mine/ is data/mine
    elif dict in kinds and value is None:
        value = {}
    elif int in kinds and isinstance(value, float) and value.is_integer():
        value = int(value)
    elif float in kinds and type(value) is int:
        value = float(value)
    check_value(value, KEYS[key], f"{where}: {key}")
    return value


def check_value(value: Any, annotation: Any, name: str) -> None:
    """Raise InputError that begins with `name` for a value that an annotation excludes."""
    if rule := broken_rule(value, annotation):
        hint = nearest(str(value), _words(annotation))
        raise InputError(f"{name} must be {rule}, not {value!r}{hint}")


def broken_rule(value: Any, annotation: Any) -> str:
    """Return what a value from YAML must be by an annotation; "" if it is that.

    A whole number is a number, true and false are none. A number is finite, unless it has a range,
    which then says it. Annotations that YAML cannot fulfill, as those with classes, hold for all
    values.
    """
    arguments = typing.get_args(annotation)
    if hasattr(annotation, "__metadata__"):  # Annotated, with ranges
        ranges = [each for each in annotation.__metadata__ if isinstance(each, Range)]
        broken = " and ".join(str(each) for each in ranges if value not in each)
        rule = broken_rule(value, annotation.__origin__)
        return broken if ranges and rule in ("", FINITE) else rule
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        rules = [broken_rule(value, each) for each in arguments]
        return " or ".join(rules) if all(rules) else ""
    if typing.get_origin(annotation) is Literal:
        several = "one of " if len(arguments) > 1 else ""
        return "" if value in arguments else several + ", ".join(map(str, arguments))
    if typing.get_origin(annotation) in (list, tuple, Sequence) and {*arguments} <= PLURAL.keys():
        length = f"{len(arguments)} " if annotation.__origin__ is tuple else ""
        holds = isinstance(value, list | tuple) and not any(
            broken_rule(each, arguments[0]) for each in value
        )
        of_length = not length or (holds and len(value) == len(arguments))
        return "" if holds and of_length else f"a list of {length}{PLURAL[arguments[0]]}"
    kinds = (int, float) if annotation is float else (annotation,)
    if annotation in WORDS and type(value) not in kinds:
        return WORDS[annotation]
    return FINITE if annotation is float and not math.isfinite(value) else ""


def _words(annotation: Any) -> list[str]:
    """Return the words that an annotation allows, for a hint."""
    own = typing.get_origin(annotation) is Literal
    parts = typing.get_args(annotation)
    return [str(each) for part in parts for each in ([part] if own else _words(part))]


def benchmark_folder(name: str) -> Path:
    """Return the config folder of a benchmark: `ntu120/xset` and `ntu120-xset[-lt]` are the
    same."""
    flat = name.strip("/").replace("/", "-")
    for candidate in (flat, f"{flat}-lt"):
        if (CONFIG_ROOT / candidate / "base.yaml").is_file():
            return CONFIG_ROOT / candidate
    known = sorted(p.parent.name for p in CONFIG_ROOT.glob("*/base.yaml"))
    raise InputError(
        f"no benchmark {name!r}{nearest(flat, known)}; known: {', '.join(known) or 'none'}"
    )


def tag_of(names: Iterable[str], config: Config, own: Config) -> str:
    """Return the tag of a run with further config files (`names`) and values that differ from
    `own`."""
    parts = list(names)
    if config.imbalance != own.imbalance:
        parts.append(f"if{config.imbalance}")
    if config.fold != own.fold:
        parts.append(f"fold{config.fold}".replace("/", "of"))
    backbone = config.model.split(".")[-2] if "." in config.model else config.model
    if config.model != own.model and backbone not in parts:
        parts.append(backbone)
    if config.seed != own.seed:
        parts.append(f"seed{config.seed}")
    return "-".join(parts)


def folder_name(benchmark: str, tag: str | None) -> str:
    """Return the name of the folder for the runs of a benchmark with this tag."""
    return f"{benchmark}-{tag}" if tag else benchmark


def run_folder(config: Config, root: str | Path = "work_dir") -> Path:
    """Return `<root>/<benchmark>[-<tag>]/<stream>`."""
    return Path(root) / folder_name(config.benchmark, config.tag) / config.stream


def resolve(
    files: Iterable[str | Path],
    overrides: Iterable[str] = (),
    tag: str | None = None,
    below: Mapping[str, Any] | None = None,
    **values: Any,
) -> Config:
    """Resolve files and overrides as `load` does and fill in `benchmark` and `tag`.

    A run's own config.yaml contains both, and `below` the former; without it the first file is the
    benchmark's.
    """
    paths = [Path(file) for file in files]
    config = load(paths, overrides, below, **values)
    benchmark = config.benchmark or (paths[0].resolve().parent.name if paths else "run")
    if tag is None:
        own = [] if below else paths[:1]
        departs = tag_of([path.stem for path in paths[len(own) :]], config, load(own, below=below))
        tag = "-".join(filter(None, (config.tag, departs)))
    return config.replace(benchmark=benchmark, tag=tag)
