"""Skeleton layouts: `load('ntu_rgb_d')`, or a layout file of your own in the same format."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from errors import InputError, nearest

FOLDER = Path(__file__).parent
LAYOUTS = tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))
SUFFIXES = (".yaml", ".yml")  # of layout files
EARLIER_KEYS = {"centre": "center"}  # still accepted in layout files
PARTS = ("left arm", "right arm", "left leg", "right leg", "torso")


@dataclass(frozen=True)
class Skeleton:
    """One layout of V joints, numbered from 0."""

    name: str
    joints: tuple[str, ...]  # (V,) names
    edges: tuple[tuple[int, int], ...]  # (child, parent), for the adjacency
    parent: tuple[int, ...]  # (V,) where each joint's bone starts; the root is its own parent
    flip: tuple[int, ...]  # (V,) x[flip] exchanges left and right
    upper: tuple[int, ...]  # joints of the upper body
    center: int  # ST-GCN's partition measures distances from this joint
    parts: tuple[tuple[int, ...], ...] = ()  # the joints of each of PARTS, or empty
    confidence: bool = False  # 2D data: the third channel is a score, not a coordinate

    @property
    def num_joints(self) -> int:
        return len(self.parent)

    @property
    def score(self) -> int | None:
        """The channel that is a score."""
        return 2 if self.confidence else None


def is_there(layout: str | Path) -> bool:
    """Return whether a layout is one of LAYOUTS or an existing file."""
    return str(layout) in LAYOUTS or Path(layout).is_file()


def load(layout: str | Path | Skeleton) -> Skeleton:
    """Return the layout with that name or in that YAML file, or a loaded one as it is; InputError
    if it is not valid."""
    if isinstance(layout, Skeleton):
        return layout
    path = FOLDER / f"{layout}.yaml" if str(layout) in LAYOUTS else Path(layout)
    if not path.is_file() or path.suffix not in SUFFIXES:
        raise InputError(
            f"graph {str(layout)!r} is not a known layout{nearest(str(layout), LAYOUTS)} or a YAML "
            f"file: give one of {', '.join(LAYOUTS)}, or a layout file like graph/ntu_rgb_d.yaml"
        )
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a YAML file: {' '.join(str(error).split())}") from None
    try:
        return _skeleton(table, path.stem)
    except ValueError as error:
        raise InputError(f"layout {path}: {error}") from None


def _skeleton(table: Any, stem: str) -> Skeleton:
    """Return the layout in a parsed file, validated; ValueError names the wrong key."""
    if not isinstance(table, dict):
        raise ValueError("expected keys such as edges, parent, flip, upper and center")
    for earlier, key in EARLIER_KEYS.items():
        if earlier in table and key not in table:
            table[key] = table.pop(earlier)
    known = [field.name for field in fields(Skeleton)]
    for key in table:
        if key not in known:
            raise ValueError(f"unknown key {key!r}{nearest(str(key), known)}")
    for key in ("edges", "parent", "flip", "upper", "center"):
        if key not in table:
            raise ValueError(f"the key {key!r} is missing")
    if not isinstance(table["parent"], list) or not table["parent"]:
        raise ValueError("parent must be a list with one joint number per joint")
    count = len(table["parent"])
    if not isinstance(table["edges"], list):
        raise ValueError("edges must be a list of [child, parent] pairs")
    names = table.get("joints") or [f"joint {v}" for v in range(count)]
    if not isinstance(names, list) or len(names) != count:
        raise ValueError(f"joints must name {count} joints, the length of parent")
    skeleton = Skeleton(
        name=str(table.get("name", stem)),
        joints=tuple(map(str, names)),
        edges=tuple(_edge(pair, count) for pair in table["edges"]),
        parent=_joints("parent", table["parent"], count),
        flip=_joints("flip", table["flip"], count, size=count),
        upper=_joints("upper", table["upper"], count, distinct=True),
        center=_joints("center", [table["center"]], count)[0],
        parts=_parts(table.get("parts"), count),
        confidence=table.get("confidence", False),
    )
    if not isinstance(skeleton.confidence, bool):
        raise ValueError(f"confidence must be true or false, not {skeleton.confidence!r}")
    if any(skeleton.flip[skeleton.flip[v]] != v for v in range(count)):
        raise ValueError("flip must exchange joints in pairs: flip[flip[v]] == v for each joint v")
    _check_hierarchy(skeleton.parent)
    _check_edges(skeleton)
    return skeleton


def _joints(
    key: str, values: Any, count: int, size: int | None = None, distinct: bool = False
) -> tuple[int, ...]:
    """Return `values` as a tuple of joint numbers below `count`."""
    if not isinstance(values, list) or (size is not None and len(values) != size):
        raise ValueError(f"{key} needs a list of {size or 'some'} joint numbers, not {values!r}")
    for value in values:
        if type(value) is not int or not 0 <= value < count:
            raise ValueError(f"{key} has {value!r}, but joints are numbered 0 to {count - 1}")
    if distinct and len(set(values)) != len(values):
        raise ValueError(f"{key} names a joint twice")
    return tuple(values)


def _edge(pair: Any, count: int) -> tuple[int, int]:
    child, parent = _joints("edges", pair, count, size=2)
    return child, parent


def _parts(table: Any, count: int) -> tuple[tuple[int, ...], ...]:
    """Return the joints of each of PARTS; together they must contain every joint once."""
    if table is None:
        return ()
    if not isinstance(table, dict) or set(table) != set(PARTS):
        raise ValueError(f"parts must have exactly the keys {', '.join(PARTS)}")
    parts = tuple(_joints(f"parts: {name}", table[name], count) for name in PARTS)
    if sorted(joint for part in parts for joint in part) != list(range(count)):
        raise ValueError(f"parts must contain each of the {count} joints once")
    return parts


def _check_hierarchy(parent: tuple[int, ...]) -> None:
    """Raise ValueError unless the parents form a tree with one root."""
    roots = [joint for joint, above in enumerate(parent) if above == joint]
    if len(roots) != 1:
        raise ValueError(f"parent needs one root, a joint that is its own parent, not {len(roots)}")
    for joint in range(len(parent)):
        above = joint
        for _ in parent:
            above = parent[above]
        if above != roots[0]:
            raise ValueError(f"parent has a cycle at joint {joint}")


def _check_edges(skeleton: Skeleton) -> None:
    """Raise ValueError for self loops, repeated edges and joints not connected to the center."""
    pairs = [frozenset(edge) for edge in skeleton.edges]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError("edges contains a self loop; self loops are added where needed")
    if len(set(pairs)) != len(pairs):
        raise ValueError("edges contains an edge twice")
    reached = {skeleton.center}
    while new := {joint for pair in pairs if pair & reached for joint in pair} - reached:
        reached |= new
    lost = [joint for joint in range(skeleton.num_joints) if joint not in reached]
    if lost:
        raise ValueError(f"edges do not connect joint {lost[0]} to the center {skeleton.center}")
