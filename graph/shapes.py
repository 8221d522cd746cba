"""The one check that clips fit a network: joints, channels and persons."""

from __future__ import annotations

from collections.abc import Sequence

import graph
from errors import InputError


def check_shape(
    source: str,
    shape: Sequence[int],
    skeleton: graph.Skeleton,
    channels: int | None = None,
    persons: int | None = None,
) -> None:
    """Raise InputError that names `source` and the key if clips of `shape` (M, V, C) do not fit.

    `source` is the file, store or argument that they come from; the others are those of the
    network. `channels` and `persons` are not checked if None.
    """
    M, V, C = shape
    if skeleton.num_joints != V:
        same = [name for name in graph.LAYOUTS if graph.load(name).num_joints == V]
        known = f" (as {same[0]} has)" if same else ""
        raise InputError(
            f"{source}: {V} joints{known}, but the network takes {skeleton.num_joints} "
            f"(model_args.graph={skeleton.name}); choose the graph of the data, or convert clips "
            "with python -m data.convert"
        )
    if channels is not None and channels != C:
        meanings = {
            2: ": x and y",
            3: ": x, y and a score" if skeleton.confidence else ": x, y and z",
        }
        meaning = meanings.get(channels, "")
        raise InputError(
            f"{source}: {C} channels, but the network takes {channels}"
            f"{meaning} (model_args.in_channels={channels})"
        )
    if persons is not None and persons != M:
        raise InputError(
            f"{source}: {M} persons per clip, but the network takes {persons} "
            f"(model_args.num_person={persons})"
            f"{f'; data.prepare custom --persons {persons} adds empty ones' if persons > M else ''}"
        )
