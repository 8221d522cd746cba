"""The backbones, and the network that a checkpoint needs.

A checkpoint contains the import string and arguments of its network (in the configuration of a run,
or as `model_args`), or they are derived from the names and shapes of its weights; values set by the
user override them. `from_checkpoint(path)` builds and loads the network; the commands, which build
from a configuration, use the same functions through `engine.checkpoint`.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

import graph as graphs
from errors import InputError, nearest
from model import upstream
from model.backbone import Backbone
from model.upstream import Checkpoint

# Arguments that cannot be derived from names and shapes of the weights.
UNSEEN = ("relu_branches", "parent_edges", "normalize")
# Arguments of the classification layer alone.
OF_CLASSIFIER = ("num_class", "cosine", "dropout")


def from_checkpoint(
    path: str | Path,
    graph: str | Path | None = None,
    num_class: int | None = None,
    num_person: int | None = None,
    **model_args: Any,
) -> nn.Module:
    """Return the network of a checkpoint of any known form, in the right variant, with its weights.

    Args:
        path: a checkpoint of this project or of another one.
        graph, num_class, num_person, model_args: arguments of the network; by default those in the
            checkpoint, else those derived from its weights.

    The network is in evaluation mode. Raises InputError if the file is not a checkpoint of a known
    form, or if its weights do not fit the arguments given.
    """
    checkpoint = Checkpoint.read(path)
    given = {"graph": graph, "num_class": num_class, "num_person": num_person}
    given = {key: value for key, value in given.items() if value is not None} | model_args
    name, shown = network_of(checkpoint, graph)
    check_import(path, name, shown, "build it, then engine.checkpoint.load_weights fills it")
    args = {**shown, **given}
    try:
        network = find(name)
        known = {**defaults(network), **shown}
        for key in given.keys() - known:
            if issubclass(network, Backbone):  # experts pass theirs to one
                raise TypeError(f"it does not take {key}{nearest(key, known)}")
        model = network(**with_classes(with_layout(args, checkpoint)))
    except (TypeError, ValueError, ArithmeticError) as error:
        raise InputError(f"{path}: {name} cannot be built with {args}: {error}") from error
    fill(model, checkpoint, given)
    return model.eval()


def network_of(
    checkpoint: Checkpoint, graph: str | Path | None = None
) -> tuple[str, dict[str, Any]]:
    """Return the import string and the arguments of the network that a checkpoint needs.

    Arguments that are missing have their defaults. For weights with the names of another project,
    arguments in the checkpoint override those that the weights show. Weights only show the number
    of joints of the layout: it is `graph` if that has as many, else the known one. Raises
    InputError if the checkpoint does not name its network and its weights have no known form or
    layout.
    """
    name, args = checkpoint.network
    if name is not None and name != checkpoint.form_network:
        return name, args
    try:
        backbone, joints, shown = upstream.infer_network(checkpoint.state)
        layout = args.get("graph") or layout_of(joints, graph)
    except InputError as error:
        raise InputError(f"{checkpoint.path}: {error}") from None
    return f"model.{backbone}.Model", {"graph": layout, **shown, **args}


def shown_for(
    network: type, name: str, checkpoint: Checkpoint, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of class `network` that a checkpoint contains or its weights show.

    {} for a network other than the checkpoint's, or for weights of no known form.
    """
    its_name, args = checkpoint.network
    if its_name is None:
        return {}
    derived = not foreign(its_name, args) and issubclass(network, find(its_name))
    if name != its_name and not derived:
        return {}
    return network_of(checkpoint, given.get("graph"))[1]


# What to do about an argument in which weights differ from what is wanted, {} theirs
HINTS = {
    "num_class": " (to train other classes: --new-head)",
    "num_person": " (set it to that, and prepare clips of as many: --persons {})",
}


def fitted(model: nn.Module, checkpoint: Checkpoint, given: Mapping[str, Any]) -> upstream.State:
    """Return all weights of a checkpoint under the names of `model`.

    Raises InputError if one is NaN or infinite, or if they do not fit; it first names the `given`
    arguments that contradict them.
    """
    if broken := [key for key, value in checkpoint.state.items() if not value.isfinite().all()]:
        raise InputError(
            f"{checkpoint.path}: {upstream.some(broken)}: NaN or infinite; its training diverged, "
            "or the file is damaged: use another checkpoint"
        )
    try:
        return upstream.translate(checkpoint.state, model)
    except InputError as error:
        shown = shown_for(type(model), import_string(model), checkpoint, given)
        wrong = "".join(
            f"model_args.{key} is {value}, but the weights have {shown[key]}"
            f"{HINTS.get(key, '').format(shown[key])}; "
            for key, value in given.items()
            if key in shown and not agree(key, value, shown[key])
        )
        details = textwrap.shorten(str(error), 160, placeholder=" ...") if wrong else error
        raise InputError(f"{checkpoint.path}: {wrong}{details}") from None


def fill(model: nn.Module, checkpoint: Checkpoint, given: Mapping[str, Any]) -> None:
    """Load the weights of a checkpoint into the network that was built for it with the `given`
    arguments; InputError, and no change, if they do not fit."""
    model.load_state_dict(fitted(model, checkpoint, given))


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a checkpoint of any known form into a network that was built independently of it.

    Raises InputError, and loads nothing, if the weights do not fit (it lists those that are
    missing, left over or of another shape), or if they belong to another variant of the network.
    """
    checkpoint = Checkpoint.read(path)
    state = fitted(model, checkpoint, getattr(model, "arguments", {}))
    if variant := other_variant(model, checkpoint):
        shown = ", ".join(f"{key}={value}" for key, value in variant.items())
        raise InputError(
            f"{path}: the weights are of {import_string(model)} with {shown}, which this network "
            "was not built with; model.from_checkpoint builds it"
        )
    model.load_state_dict(state)


def other_variant(model: nn.Module, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the arguments of a checkpoint's network that differ from those of `model`.

    Arguments given explicitly when `model` was built do not count, nor those that strict loading
    checks: the shapes, and the graph if it is among the weights.
    """
    given = getattr(model, "arguments", None)
    if given is None:
        return {}
    shown = shown_for(type(model), import_string(model), checkpoint, given)
    if not checkpoint.network[1]:
        shown = {key: shown[key] for key in UNSEEN if key in shown}
    if not any(key.endswith("skeleton") for key, _ in model.named_buffers()):
        shown = {k: v for k, v in shown.items() if k not in ("graph", "parent_edges")}
    usual = defaults(type(model))
    return {
        key: value
        for key, value in shown.items()
        if key in usual and key not in given and not same(value, usual[key])
    }


def classification_layers(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the attributes whose outputs are classes; InputError if a network does
    not say them."""
    layers = getattr(model, "classifiers", None)
    if layers is None:
        raise InputError(
            f"model={import_string(model)}: does not say which of its layers classify; give it the "
            'attribute classifiers, e.g. ("fc",)'
        )
    return tuple(layers)


def import_string(model: nn.Module) -> str:
    return f"{type(model).__module__}.{type(model).__qualname__}"


def foreign(name: str, args: Mapping[str, Any]) -> list[str]:
    """Return what a checkpoint names that may not be imported: its network, and a backbone among
    the arguments, must be classes in a module of model/. Nothing else may be called."""
    named = map(str, (name, *([args["backbone"]] if "backbone" in args else [])))
    return [each for each in named if not re.fullmatch(r"model\.[a-z]\w*\.[A-Z]\w*", each)]


def check_import(path: str | Path, name: str, args: Mapping[str, Any], way_out: str) -> None:
    """Raise InputError, ending with `way_out`, if a checkpoint names a network outside model/.

    A downloaded file must not decide what is imported.
    """
    for each in foreign(name, args):
        raise InputError(f"{path}: its model is {each}, from outside model/; {way_out}")


def find(name: str) -> type[nn.Module]:
    """Return the class of a trusted import string; InputError if it does not exist."""
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError):
        raise InputError(f"there is no network {name}") from None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise InputError(f"{name} is not a network")
    return found


def with_classes(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments in which the import string of a backbone is replaced by its class."""
    if isinstance(args.get("backbone"), str):
        return {**args, "backbone": find(args["backbone"])}
    return dict(args)


def with_layout(args: Mapping[str, Any], checkpoint: Checkpoint) -> dict[str, Any]:
    """Return arguments in which the layout file of a run, if it is not there, is replaced by what
    the run has written of it in its checkpoint: that is used on other machines, too."""
    named = checkpoint.network[1].get("graph")
    written = checkpoint.content.get("skeleton") if upstream.is_own(checkpoint.content) else None
    if written and named and args.get("graph") == named and not graphs.is_there(named):
        return {**args, "graph": graphs.Skeleton(**written)}
    return dict(args)


def defaults(network: type) -> dict[str, Any]:
    """Return the arguments of a class that have a default, including those passed to its bases."""
    found: dict[str, Any] = {}
    for base in reversed(network.__mro__):
        signature = inspect.signature(base.__init__)  # type: ignore[misc]  # of each base's own
        for key, argument in signature.parameters.items():
            if argument.default is not argument.empty:
                found[key] = argument.default
    return found


def same(one: Any, other: Any) -> bool:
    """Return whether two values of an argument are equal; lists equal tuples, and paths equal text,
    because they come from YAML."""
    one, other = (list(v) if isinstance(v, tuple) else v for v in (one, other))
    return one == other or str(one) == str(other)


def agree(key: str, given: Any, shown: Any) -> bool:
    """Return whether a given argument fits the weights, which show only the number of joints of a
    layout."""
    if key == "graph":
        return graphs.load(given).num_joints == graphs.load(shown).num_joints
    return same(given, shown)


def layout_of(num_joints: int, given: str | Path | None = None) -> str | Path:
    """Return the given layout if it has `num_joints` joints, else the name of the known one that
    has."""
    for layout in (*([] if given is None else [given]), *graphs.LAYOUTS):
        if graphs.load(layout).num_joints == num_joints:
            return layout
    raise InputError(f"no known layout has {num_joints} joints: set graph to a layout file")
