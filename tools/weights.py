"""Say what a checkpoint is, and convert it to this project's names.

python -m tools.weights j.pth
python -m tools.weights ntu60-ctrgcn.pt --out ctrgcn.pt
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import model as models
from errors import Parser, run_command
from files import replacing
from model import upstream


def describe(path: Path, graph: str | None, num_person: int | None) -> list[tuple[str, str]]:
    """Return what there is to say of a checkpoint, line by line; InputError if it is none."""
    checkpoint = upstream.read(path)
    state = upstream.weights(checkpoint, path)
    found = upstream.describe(state)
    arguments = models.arguments(checkpoint, path, graph, num_person=num_person)
    said = ("graph", "num_class", "num_person", "in_channels")
    return [
        ("form", found.form),
        ("backbone", f"model.{found.backbone}.Model"),
        ("classes", str(found.num_class)),
        ("joints", f"{found.num_joints} ({arguments['graph']}?)"),
        ("channels", str(found.in_channels)),
        ("persons", str(found.num_person or "any")),
        ("tensors", str(len(state))),
        *((key, str(value)) for key, value in arguments.items() if key not in said),
    ]


def convert(path: Path, out: Path, graph: str | None, num_person: int | None) -> None:
    """Write the weights under this project's names, with the model_args that rebuild the model."""
    arguments = models.arguments(upstream.read(path), path, graph, num_person=num_person)
    model = models.from_checkpoint(path, graph, num_person=num_person)
    with replacing(out) as file:
        torch.save({"model_args": arguments, "state_dict": model.state_dict()}, file)


def main(argv: list[str]) -> None:
    parser = Parser(prog="python -m tools.weights", description=__doc__)
    parser.add_argument("file", type=Path, help="a checkpoint of any known form")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write it under our names")
    parser.add_argument("--graph", help="its layout, if not the known one with as many joints")
    parser.add_argument("--num-person", type=int, help="its persons, if the weights fit any number")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(argv)
    for what, value in describe(options.file, options.graph, options.num_person):
        print(f"{what:<16} {value}")
    if options.out:
        convert(options.file, options.out, options.graph, options.num_person)
        print(f"{'written':<16} {options.out}")


if __name__ == "__main__":
    sys.exit(run_command(main))
