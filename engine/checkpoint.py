"""Checkpoints: written atomically, read without executing code from them."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

import model as models
from engine.build import find_class, make_model
from engine.config import Config, from_mapping, override
from errors import InputError
from files import replacing
from graph import Skeleton
from model import load_weights as load_weights
from model import upstream
from model.backbone import Network
from model.upstream import FORMAT, VERSION, Checkpoint, is_own


def save(path: str | Path, content: dict[str, Any]) -> None:
    """Write a checkpoint atomically; OSError, and the previous file is kept, if it cannot be
    written."""
    try:
        with replacing(path) as file:
            torch.save({"format": FORMAT, "format_version": VERSION, **content}, file)
    except (OSError, RuntimeError) as error:
        raise OSError(f"{path}: not saved, the previous checkpoint is kept: {error}") from None


def read(path: str | Path) -> dict[str, Any]:
    """Return one of this project's checkpoints.

    Raises InputError if the file does not exist, is damaged or would execute code, or if another
    project wrote it: such files contain only weights and need `--config`.
    """
    content = upstream.read(path)
    if not is_own(content):
        raise InputError(
            f"{path}: a foreign checkpoint does not contain a configuration; name one with --config"
        )
    return content


def weights_digest(weights: Mapping[str, torch.Tensor]) -> str:
    """Return the sha256 of named tensors: the same in every file that contains them."""
    found = hashlib.sha256()
    for name, value in sorted(weights.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        if not value.is_meta:
            found.update(
                value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            )
    return found.hexdigest()


# What a run's checkpoints and results say of the file with its initial weights: name, digest of the
# weights, and the method of their run if that followed its recipe.
ORIGIN = ("started_from", "started_from_digest", "started_from_method")


def facts_of(content: Any) -> dict[str, Any]:
    """Return what a run has written of itself in a checkpoint; {} of a foreign checkpoint."""
    return content if is_own(content) else {}


def trained_stream(facts: dict[str, Any]) -> str | None:
    """Return the stream that the network of a checkpoint takes; None if it does not say it."""
    return (facts.get("config") or {}).get("stream")


def check_stream(facts: dict[str, Any], given: Config, path: str | Path) -> None:
    """Raise InputError if a network is to be given another stream than it was trained on."""
    if (stream := trained_stream(facts)) not in (None, given.stream):
        raise InputError(
            f"{path}: was trained on stream {stream}, not {given.stream}; add --stream {stream} "
            f"(or --set stream={stream})"
        )


def changed_layout(facts: dict[str, Any], skeleton: Skeleton) -> list[str]:
    """Return in what a layout differs from that of a network's training, of what the weights do not
    show: the graph, where bones start, the exchange of left and right, a score."""
    then = facts.get("skeleton")
    used = ("edges", "parent", "flip", "center", "confidence")
    return [key for key in used if then and then.get(key) != getattr(skeleton, key)]


def check_skeleton(facts: dict[str, Any], skeleton: Skeleton, path: str | Path) -> None:
    """Raise InputError if a layout has changed since a network was trained on it."""
    if changed := changed_layout(facts, skeleton):
        raise InputError(
            f"{path}: was trained on another layout than {skeleton.name} is now (it differs in "
            f"{', '.join(changed)}); restore that file, or name it: --set model_args.graph=FILE"
        )


def other_input(facts: dict[str, Any], given: Config, skeleton: Skeleton, path: str | Path) -> str:
    """Return in what a run gives its network another input than that of the training of its first
    weights, "" if in nothing: it can learn to use it, but may begin worse than it might."""
    found = []
    if (stream := trained_stream(facts)) not in (None, given.stream):
        found.append(f"on stream {stream}, not {given.stream}")
    if changed := changed_layout(facts, skeleton):
        found.append(f"on joints of another layout (it differs in {', '.join(changed)})")
    trained = facts.get("config") or {}
    if trained.get("feeder") == given.feeder:
        then, now = (args.get("box", False) for args in (trained["feeder_args"], given.feeder_args))
        if then != now:  # clips scaled to [-1, 1]
            found.append(f"with feeder_args.box={str(then).lower()}, not {str(now).lower()}")
    return f"{path}: was trained {', '.join(found)}" if found else ""


def settings(
    content: dict[str, Any], path: str | Path, overrides: Iterable[str] = (), **usual: Any
) -> Config:
    """Return the configuration in a checkpoint, changed by `usual` values and then by overrides.

    Raises InputError if it names a model or feeder that is not a class of this project: a
    downloaded file must not decide what is imported, unless the user trusts it by --config.
    """
    own = from_mapping(content["config"], str(path)).replace(**usual)
    way_out = "give --config to say that you trust it"
    models.check_import(path, own.model, own.model_args, way_out)
    if own.feeder and not re.fullmatch(r"feeders\.[a-z]\w*\.[A-Z]\w*", own.feeder):
        raise InputError(f"{path}: its feeder is {own.feeder}, from outside feeders/; {way_out}")
    return from_mapping(override(dataclasses.asdict(own), overrides))


def complete(given: Config, checkpoint: Checkpoint, new_head: bool = False) -> Config:
    """Return a configuration whose model_args build the network of a checkpoint's weights.

    Arguments that `given` does not set are those in the checkpoint, or those that its weights
    show, except defaults; with `new_head` not those of the classification layers.
    """
    network: Any = find_class(given.model, "model")
    shown = models.shown_for(network, given.model, checkpoint, given.model_args)
    usual = models.defaults(network)
    needed = {k: v for k, v in shown.items() if k not in usual or not models.same(v, usual[k])}
    if new_head:
        needed = _without_classifier(needed)
    return given.replace(model_args={**needed, **given.model_args})


def load_network(
    path: str | Path, given: Config | None = None, overrides: Iterable[str] = (), **usual: Any
) -> tuple[Config, Network, dict[str, Any]]:
    """Return the configuration, the network on the CPU, and what a run has written (`facts_of`).

    All commands load networks by this function. Without `given`, the configuration is the
    checkpoint's own, changed by `usual` values and then by overrides; a foreign checkpoint has
    none. Raises InputError if the weights do not fit the network, or if the layout has changed.
    """
    content = read(path) if given is None else upstream.read(path)
    given = settings(content, path, overrides, **usual) if given is None else given
    config, model = _build(given, Checkpoint(path, content))
    facts = facts_of(content)
    check_skeleton(facts, model.skeleton, path)
    return config, model, facts


def _build(given: Config, checkpoint: Checkpoint) -> tuple[Config, Network]:
    config = complete(given, checkpoint)
    model = make_model(config.replace(model_args=models.with_layout(config.model_args, checkpoint)))
    models.fill(model, checkpoint, given.model_args)
    return config, model


def load_for_new_classes(path: str | Path, given: Config) -> tuple[Config, Network, dict[str, Any]]:
    """Return what `load_network` does, for classes other than those of the checkpoint.

    All weights are the checkpoint's except those of the classification layers, which are drawn;
    the classes are those of `given`. Raises InputError if the weights do not fit the rest of the
    network, or if it does not say which of its layers classify.
    """
    checkpoint = Checkpoint.read(path)
    theirs = given.replace(model_args=_without_classifier(given.model_args))
    _, trained = _build(theirs, checkpoint)  # the layout may be another
    config = complete(given, checkpoint, new_head=True)
    model = make_model(config)
    drawn = tuple(f"{name}." for name in models.classification_layers(model))
    weights = {k: v for k, v in trained.state_dict().items() if not k.startswith(drawn)}
    model.load_state_dict(model.state_dict() | weights)
    return config, model, facts_of(checkpoint.content)


def _without_classifier(args: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in args.items() if k not in models.OF_CLASSIFIER}
