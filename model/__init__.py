"""The backbones, and networks built to fit a checkpoint: `from_checkpoint(path)`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import graph as graphs
from errors import InputError
from model import upstream
from model.backbone import Backbone


def from_checkpoint(
    path: str | Path,
    graph: str | Path | None = None,
    num_class: int | None = None,
    num_person: int | None = None,
) -> Backbone:
    """Return the network, its variant included, that a checkpoint of any known form needs, loaded.

    What is not given is read from the weights; what is given must agree with them. The network is
    in evaluation mode. InputError for a file that is no checkpoint or of no known form.
    """
    checkpoint = upstream.read(path)
    state = upstream.weights(checkpoint, path)
    backbone = upstream.describe(state).backbone
    args = arguments(checkpoint, path, graph, num_class, num_person)
    model = import_module(f"model.{backbone}").Model(**args)
    model.load_state_dict(upstream.translate(state, model))
    return model.eval()


def arguments(
    checkpoint: Any,
    path: str | Path,
    graph: str | Path | None = None,
    num_class: int | None = None,
    num_person: int | None = None,
) -> dict[str, Any]:
    """Return the arguments of the network that a checkpoint, as it was read, needs.

    What the weights do not tell, the layout and how many persons, is what a checkpoint of this
    project says, else the known layout with as many joints, and two.
    """
    found = upstream.describe(upstream.weights(checkpoint, path))
    saved = upstream.saved_args(checkpoint)
    layout = graph or saved.get("graph") or layout_of(found.num_joints)
    for what, given, there in (
        ("joints", graphs.load(layout).num_joints, found.num_joints),
        ("classes (num_class)", num_class, found.num_class),
        ("persons (num_person)", num_person, found.num_person),
    ):
        if None not in (given, there) and given != there:
            raise InputError(f"{path} is for {there} {what}, not {given}")
    return {
        **found.model_args,
        **saved,
        "graph": layout,
        "num_class": found.num_class,
        "num_person": num_person or found.num_person or saved.get("num_person", 2),
        "in_channels": found.in_channels,
    }


def layout_of(num_joints: int) -> str:
    """Return the name of the layout that has so many joints."""
    for name in graphs.LAYOUTS:
        if graphs.load(name).num_joints == num_joints:
            return name
    raise InputError(f"no known layout has {num_joints} joints: give graph= a layout file")
