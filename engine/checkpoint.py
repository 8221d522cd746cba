"""Checkpoints: written whole or not at all, read without executing anything."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine import config
from engine.config import Config
from errors import InputError
from files import replacing
from model import upstream

FORMAT = "brl-checkpoint"


def save(path: str | Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; on a full disk the one that was there stays as it is."""
    try:
        with replacing(path) as file:
            torch.save({"format": FORMAT, **state}, file)
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


# RIDE's network, which imports the backbone that its arguments name.
EXPERTS = "longtail.experts.Model"


def settings(state: dict[str, Any], path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Return the configuration inside a checkpoint, with overrides on top.

    A file from elsewhere must not choose what is imported: InputError if it names another model or
    feeder than a class of this project's; --config vouches for it.
    """
    own = config.from_mapping(state["config"], str(path))
    model = own.model_args.get("backbone", "") if own.model == EXPERTS else own.model
    for key, named, room in (("model", model, "model"), ("feeder", own.feeder, "feeders")):
        # a class in a module of the room: nothing else that can be found there may be called
        if named and not re.fullmatch(rf"{room}\.[a-z]\w*\.[A-Z]\w*", str(named)):
            raise InputError(
                f"{path}: its {key} is {named}, from outside {room}/; "
                "give --config to say that you trust it"
            )
    return config.from_mapping(config.override(dataclasses.asdict(own), overrides))


def is_own(state: dict[str, Any]) -> bool:
    return isinstance(state, dict) and state.get("format") == FORMAT


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load the weights of any known checkpoint form, strictly: all of them, or none.

    Raises InputError listing what is missing, left over or of another shape.
    """
    state = upstream.read(path)
    weights = upstream.weights(state, path)
    if not is_own(state):
        try:
            weights = upstream.translate(weights, model)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    load_strictly(model, weights, str(path))


def load_strictly(model: nn.Module, weights: dict[str, torch.Tensor], where: str) -> None:
    """Copy `weights` into `model`; on any difference nothing is loaded and InputError lists it."""
    own = model.state_dict()
    problems = [f"missing {name}" for name in own.keys() - weights.keys()]
    problems += [f"unknown {name}" for name in weights.keys() - own.keys()]
    problems += [
        f"{name} is {tuple(weights[name].shape)}, not {tuple(own[name].shape)}"
        for name in own.keys() & weights.keys()
        if weights[name].shape != own[name].shape
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:6])
        more = f"; and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise InputError(
            f"{where}: does not fit {type(model).__module__}.{type(model).__name__} "
            f"(see model and model_args): {shown}{more}"
        )
    model.load_state_dict(weights)
