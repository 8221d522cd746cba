"""The backbones, and networks built to fit a checkpoint: `from_checkpoint(path)`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

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
    found = upstream.describe(state)
    layout = graph or layout_of(found.num_joints)
    joints = graphs.load(layout).num_joints
    for what, given, there in (
        ("joints", joints, found.num_joints),
        ("classes (num_class)", num_class, found.num_class),
        ("persons (num_person)", num_person, found.num_person),
    ):
        if None not in (given, there) and given != there:
            raise InputError(f"{path} is for {there} {what}, not {given}")
    model = import_module(f"model.{found.backbone}").Model(
        graph=layout,
        num_class=found.num_class,
        num_person=num_person or found.num_person or 2,
        in_channels=found.in_channels,
        **{**found.model_args, **upstream.saved_args(checkpoint)},
    )
    model.load_state_dict(upstream.translate(state, model))
    return model.eval()


def layout_of(num_joints: int) -> str:
    """Return the name of the layout that has so many joints."""
    for name in graphs.LAYOUTS:
        if graphs.load(name).num_joints == num_joints:
            return name
    raise InputError(f"no known layout has {num_joints} joints: give graph= a layout file")
