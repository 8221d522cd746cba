"""Checkpoints: written whole or not at all, read without executing anything."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import model as models
from engine import config
from engine.build import find_class, make_model
from engine.config import Config
from errors import InputError
from files import replacing
from model import upstream
from model.upstream import FORMAT, VERSION, is_own


def save(path: str | Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; on a full disk the one that was there stays as it is."""
    try:
        with replacing(path) as file:
            torch.save({"format": FORMAT, "format_version": VERSION, **state}, file)
    except (OSError, RuntimeError) as error:
        raise OSError(f"{path}: not saved, the former checkpoint is kept: {error}") from None


def read(path: str | Path) -> dict[str, Any]:
    """Return one of this project's checkpoints.

    Raises InputError if the file is absent, damaged, would execute code, or is foreign: those hold
    weights only and need `--config`.
    """
    state = upstream.read(path)
    if not is_own(state):
        raise InputError(
            f"{path}: a foreign checkpoint holds no configuration; name one with --config"
        )
    return state


def settings(
    state: dict[str, Any], path: str | Path, overrides: Iterable[str] = (), **usual: Any
) -> Config:
    """Return the configuration inside a checkpoint, `usual` values and then overrides on top.

    A file from elsewhere must not choose what is imported: InputError if it names another model or
    feeder than a class of this project's; --config vouches for it.
    """
    own = config.from_written(state["config"], path).replace(**usual)
    way_out = "give --config to say that you trust it"
    models.check_import(path, own.model, own.model_args, way_out)
    if own.feeder and not re.fullmatch(r"feeders\.[a-z]\w*\.[A-Z]\w*", own.feeder):
        raise InputError(f"{path}: its feeder is {own.feeder}, from outside feeders/; {way_out}")
    return config.from_mapping(config.override(dataclasses.asdict(own), overrides))


def complete(given: Config, path: str | Path, state: Any = None) -> Config:
    """Return a configuration whose model_args build the network of a checkpoint's weights.

    What `given` does not say is what the checkpoint says or its weights show. `state` is what was
    read from the checkpoint, if it was.
    """
    state = upstream.read(path) if state is None else state
    network = find_class(given.model, "model")
    args = models.completed(network, given.model, given.model_args, state, path)
    return given.replace(model_args=args)


def load_network(
    path: str | Path, given: Config | None = None, overrides: Iterable[str] = (), **usual: Any
) -> tuple[Config, nn.Module, dict[str, Any]]:
    """Return the configuration, the network on the CPU, and the content of a checkpoint.

    Every command comes this way. A configuration that is not given is the checkpoint's own, with
    `usual` values and then overrides on top; a foreign checkpoint has none. Raises InputError if
    the weights do not fit it.
    """
    state = read(path) if given is None else upstream.read(path)
    given = settings(state, path, overrides, **usual) if given is None else given
    resolved = complete(given, path, state)
    model = make_model(resolved)
    model.load_state_dict(models.fitted(model, state, path, given.model_args))
    return resolved, model, state


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load the weights of any known checkpoint form, strictly: all of them, or none.

    Raises InputError listing what is missing, left over or of another shape, or naming the
    arguments in which the network is another variant than the weights are of.
    """
    models.load_into(model, path)


def load_strictly(model: nn.Module, weights: dict[str, torch.Tensor], where: str) -> None:
    """Copy a run's own weights into `model`, or on any difference nothing: InputError."""
    own = {"format": FORMAT, "state_dict": weights}
    model.load_state_dict(models.fitted(model, own, where, {}))


def trained_with(path: str | Path) -> dict[str, Any]:
    """Return the configuration values that a checkpoint was trained with; {} of a foreign one."""
    state = upstream.read(path)
    return state["config"] if is_own(state) else {}
