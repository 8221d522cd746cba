"""Describe a checkpoint, and convert it to this project's names.

python -m tools.weights j.pth
python -m tools.weights ntu60-ctrgcn.pt --out ctrgcn.pt
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

import model as models
from errors import InputError, Parser, run_command
from files import check_output, replacing
from model.upstream import VERSION, Checkpoint, is_own


def describe(checkpoint: Checkpoint, network: Any, given: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (property, value) pairs that describe a checkpoint and the network built from it."""
    name, arguments = models.network_of(checkpoint, given.get("graph"))
    in_words = bool(checkpoint.network[1])  # otherwise inferred from the weights
    layout = str({**arguments, **given}.get("graph", network.skeleton.name))
    layout += "" if in_words or "graph" in given else "?"
    persons = arguments.get("num_person", network.num_person if in_words else "any")
    said = ("graph", "num_class", "num_person", "in_channels")
    return [
        ("form", checkpoint.form.name if checkpoint.form else "own"),
        ("backbone", name),
        ("classes", str(network.num_class)),
        ("joints", f"{network.skeleton.num_joints} ({layout})"),
        ("channels", str(network.in_channels)),
        ("persons", str(persons)),
        ("tensors", str(len(checkpoint.state))),
        *((key, str(value)) for key, value in arguments.items() if key not in said),
    ]


def check_persons(checkpoint: Checkpoint, network: Any, given: int | None) -> None:
    """Raise InputError for another number of persons than a checkpoint says its network takes."""
    usual = models.defaults(type(network)) if is_own(checkpoint.content) else {}
    said = {**usual, **checkpoint.network[1]}.get("num_person")
    if None not in (given, said) and said != given:
        raise InputError(
            f"--num-person {given}: {checkpoint.path} says that its network takes {said}; omit it"
        )


def convert(checkpoint: Checkpoint, out: Path, network: Any, given: dict[str, Any]) -> None:
    """Write the weights with this project's names, and the model_args that rebuild the model."""
    name, arguments = models.network_of(checkpoint, given.get("graph"))
    content = {
        "format_version": VERSION,
        "model": name,
        "model_args": {**arguments, "num_person": network.num_person, **given},
        "state_dict": network.state_dict(),
    }
    with replacing(out) as file:
        torch.save(content, file)


def main(argv: list[str]) -> None:
    parser = Parser(prog="python -m tools.weights", description=__doc__)
    add = parser.add_argument
    add("file", type=Path, help="checkpoint of any supported project")
    add(
        "--out", type=Path, metavar="FILE", help="convert to this project's names and write to FILE"
    )
    add("--graph", help="layout (default: the known layout with the same number of joints)")
    add("--num-person", type=int, help="number of persons, if the weights fit any number")
    options = parser.parse_args(argv)
    given = {"graph": options.graph, "num_person": options.num_person}
    given = {key: value for key, value in given.items() if value is not None}
    if options.out:
        check_output("--out", options.out, options.file)
    network = models.from_checkpoint(options.file, **given)
    checkpoint = Checkpoint.read(options.file)
    check_persons(checkpoint, network, options.num_person)
    for what, value in describe(checkpoint, network, given):
        print(f"{what:<16} {value}")
    if options.out:
        convert(checkpoint, options.out, network, given)
        print(f"{'written':<16} {options.out}")


if __name__ == "__main__":
    sys.exit(run_command(main))
