"""Values of a method's arguments outside their range are refused."""

import importlib
import inspect
import math
import pkgutil
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import graph
import longtail
from engine import build, config, recipe
from errors import InputError
from longtail import ranges
from longtail.mixing import Mixup
from longtail.ranges import NotNegative, Range

if TYPE_CHECKING:
    import nowhere

NW_UCLA = Path("config/nw-ucla-lt")
ALIASES = {name for name, value in vars(ranges).items() if hasattr(value, "__metadata__")}
CLASSES = [
    found
    for module in pkgutil.iter_modules(longtail.__path__)
    for found in vars(importlib.import_module(f"longtail.{module.name}")).values()
    if inspect.isclass(found) and found.__module__ == f"longtail.{module.name}"
]


@pytest.mark.parametrize(
    ("allowed", "within", "outside", "text"),
    [
        (Range(0, 1), (0, 0.5, 1), (-0.1, 1.1), "at least 0 and at most 1"),
        (Range(0, 1, below=True), (0, 0.999), (1, -1), "at least 0 and below 1"),
        (Range(0, above=True), (1e-9, math.inf), (0, -1), "above 0"),
        (Range(1), (1, 7, math.inf), (0.99,), "at least 1"),
    ],
)
def test_a_range_has_the_numbers_between_its_ends(allowed, within, outside, text):
    assert all(value in allowed for value in within) and str(allowed) == text
    assert not any(value in allowed for value in (*outside, math.nan, "1", True, None, [1]))


def parts(annotation):
    """What an annotation is made of: the metadata of Annotated, also in a union."""
    yield from getattr(annotation, "__metadata__", ())
    for each in typing.get_args(annotation):
        yield from parts(each)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_the_annotations_of_a_method_are_found_and_hold_for_its_defaults(cls):
    """An annotation that cannot be resolved would be passed over."""
    arguments = inspect.signature(cls).parameters
    written = {
        name for name, argument in arguments.items()
        if ALIASES & set(str(argument.annotation).replace("|", " ").split())
    }  # fmt: skip
    found, _ = build.arguments_of(cls)
    assert all(any(isinstance(each, Range) for each in parts(found[name])) for name in written)
    for name in written:
        default = arguments[name].default
        assert default is None or not config.broken_rule(default, found[name]), name


def test_the_values_of_the_method_files_are_in_range():
    checked = 0
    for file in (Path("config/released.yaml"), *recipe.method_files(NW_UCLA).values()):
        settings = config.load([NW_UCLA / "joint.yaml", file])
        for key in ("mixing", "loss", "class_weights", "sampling", "objective", "auxiliary_loss"):
            if not (path := getattr(settings, key)):
                continue
            found, _ = build.arguments_of(build.find_class(path, key))
            given = getattr(settings, f"{key}_args")
            for name in found.keys() & given.keys():
                assert not config.broken_rule(given[name], found[name]), (file, key, name)
                checked += 1
    assert checked > 30


COUNTS = torch.tensor([8, 4, 2])


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["mixing_args.ratio=5"], "mixing_args.ratio must be at least 0 and at most 1, not 5"),
        (["mixing_args.ratio=-0.1"], "mixing_args.ratio must be"),  # all but a tenth, unnoticed
        (["mixing_args.alpha=1.5"], "mixing_args.alpha must be"),
        (["mixing_args.threshold=0.5"], "mixing_args.threshold must be at least 1, not 0.5"),
        (["mixing_args.threshold=.nan"], "mixing_args.threshold must be at least 1, not nan"),
        (["class_weights_args.low=1"], "class_weights_args.low must be at least 0 and below 1"),
        (["class_weights=longtail.weights.EffectiveNumber", "class_weights_args.beta=1"],
         "class_weights_args.beta must be at least 0 and below 1, not 1"),
        (["class_weights_args.spread=0.02"], r"low \+ spread must be below 1, not 1.01"),
        (["loss=longtail.losses.Focal", "loss_args.gamma=-1"], "gamma must be at least 0, not -1"),
        (["loss=longtail.losses.Focal", "loss_args.gamma=two"], "must be a number, not 'two'"),
        (["mixing=longtail.mixing.Mixup", "mixing_args.alpha=0"], "must be above 0, not 0"),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused(words, error):
    settings = config.load([NW_UCLA / "joint.yaml"], words)
    skeleton = graph.load("nw_ucla")
    with pytest.raises(InputError, match=error):
        build.make(settings, "mixing", COUNTS, skeleton)
        build.make(settings, "loss", COUNTS)
        build.make(settings, "class_weights", COUNTS)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["loss=longtail.losses.Gumbel", "loss_args.softmax=None"],
         "loss_args.softmax must be true or false, not 'None'"),
        (["loss=longtail.losses.LogitAdjustment", "loss_args.tau=off"], "loss_args.tau must be"),
        (["mixing_args.walk=none"], "mixing_args.walk must be true or false, not 'none'"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused(words, error):
    """Any text is true, and false is the number 0."""
    settings = config.load([NW_UCLA / "joint.yaml"], words)
    with pytest.raises(InputError, match=error):
        build.make(settings, "mixing", COUNTS, graph.load("nw_ucla"))
        build.make(settings, "loss", COUNTS)


class Foreign:
    """An annotation that exists for a type checker alone hides the ranges, and fails nothing."""

    def __init__(self, gamma: "NotNegative" = 1.0, other: "nowhere.Thing | None" = None) -> None:
        pass


def test_a_class_whose_annotations_cannot_be_resolved_is_built_without_ranges():
    assert build.arguments_of(Foreign) == ({"gamma": Any, "other": Any}, False)
    assert set(build.arguments_of(print)[0].values()) == {Any}


@pytest.mark.parametrize(
    ("key", "path", "argument", "rule"),
    [
        ("classifier", "classifiers.MaxNorm", {"radius": 0}, "above 0 or null"),
        ("classifier", "classifiers.MaxNorm", {"radius": math.nan}, "above 0 or null"),
        ("classifier", "classifiers.TauNormalization", {"tau": True}, "a number or auto"),
        ("classifier", "classifiers.PostHocAdjustment", {"tau": math.nan}, "a finite number or"),
        ("class_weights", "weights.InverseFrequency", {"power": -1}, "at least 0"),
        ("class_weights", "weights.InverseFrequency", {"power": math.nan}, "at least 0"),
        ("loss", "losses.LogitAdjustment", {"tau": math.inf}, "a finite number"),
        ("loss", "losses.Equalization", {"masked": "haed"}, "one of tail, head, not 'haed'"),
        ("objective", "glmc.GLMC", {"label_weighting": math.nan}, "at least 0"),
        ("objective", "glmc.GLMC", {"resampling": -5}, "at least 0"),
        ("mixing", "mixing.ShapMix", {"segment": [0.5, "x"]}, "a list of 2 finite numbers"),
        ("sampling", "sampling.PowerSampling", {"power": math.nan}, "a finite number"),
    ],
)
def test_every_number_is_finite_and_in_range(key, path, argument, rule):
    cls = build.find_class(f"longtail.{path}", key)
    ((name, value),) = argument.items()
    with pytest.raises(InputError, match=f"{key}_args.{name} must be {rule}"):
        build.check_arguments(key, path, cls, {name: value})


def test_a_range_may_contain_infinity():
    """Remix's kappa: no class is so much larger."""
    build.check_arguments("mixing", "Mixup", Mixup, {"kappa": math.inf})


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["model_args.dropout=true"], "dropout must be a number, not True"),
        (["model_args.parent_edges=flase"], "parent_edges must be true or false, not 'flase'"),
        (["model_args.cosine=true"], "cosine must be a number"),
        (["model_args.adaptive=ofset"], r"not 'ofset' \(did you mean offset\?\)"),
        (["model_args.adaptiv=offset"], r"no such argument \(did you mean adaptive\?\)"),
        (["model_args.inflate=[a]"], "inflate must be a list of whole numbers"),
        (["model_args.width=-1"], "model_args.width: must be above 0"),
        (["model_args.backbone=model.aagcn.Model", "model_args.similarity=Tanh"],
         "similarity must be one of tanh, softmax"),
    ],
)  # fmt: skip
def test_experts_check_the_arguments_of_their_backbone(words, error):
    files = [NW_UCLA / "joint.yaml", Path("config/methods/ride.yaml")]
    with pytest.raises(InputError, match=error):
        build.make_model(config.load(files, words))
