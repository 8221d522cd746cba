"""Export the network of a checkpoint to ONNX or torch.export, with dynamic batch size and number
of frames, and verify its logits.

python -m tools.export work_dir/ntu60-xsub-lt/joint/best.pt --format onnx
"""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

from engine import config
from engine.predict import InputSpec, LoadedNetwork
from errors import InputError, Parser, run_command
from files import check_output, replacing, write_text
from tools import preprocess

TOLERANCE = 1e-4  # on the difference from the network's logits, relative to the largest logit
TRACED = (2, 64)  # batch and frames of the traced input
CHECKED = ((1, 64), (3, 100), (2, 29))  # batch and frames of the inputs of the verification
ENDINGS = {"onnx": ".onnx", "torch": ".pt2"}
NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch": ()}

Run = Callable[[torch.Tensor], np.ndarray]


def shape_of(takes: InputSpec, batch: int, frames: int) -> tuple[int, ...]:
    return (batch, takes.persons, frames, takes.skeleton.num_joints, takes.channels)


def trace(model: nn.Module, takes: InputSpec) -> torch.export.ExportedProgram:
    """Return the network, in evaluation mode, as a program with dynamic batch size and frames."""
    example = torch.randn(shape_of(takes, *TRACED))
    dynamic = torch.export.Dim.DYNAMIC
    with torch.no_grad():
        return torch.export.export(model, (example,), dynamic_shapes=({0: dynamic, 2: dynamic},))


def to_torch(program: torch.export.ExportedProgram, notes: dict[str, str]) -> bytes:
    """Return the content of a .pt2 file for torch.export.load; `extra_files` has the notes."""
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={"notes.json": json.dumps(notes)})
    return file.getvalue()


def to_onnx(program: torch.export.ExportedProgram, notes: dict[str, str]) -> bytes:
    """Return the content of an .onnx file with input `clips`, output `logits` and the metadata."""
    exported = torch.onnx.export(
        program, dynamo=True, input_names=["clips"], output_names=["logits"], verbose=False
    )
    assert exported is not None  # with dynamo
    proto = exported.model_proto
    for key, value in notes.items():
        proto.metadata_props.add(key=key, value=value)
    return proto.SerializeToString()


def run_torch(file: bytes) -> Run:
    module = torch.export.load(io.BytesIO(file)).module()
    return lambda clips: module(clips).detach().numpy()


def run_onnx(file: bytes) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda clips: session.run(["logits"], {"clips": clips.numpy()})[0]


FORMATS = {"onnx": (to_onnx, run_onnx), "torch": (to_torch, run_torch)}


def describe(network: LoadedNetwork) -> dict[str, str]:
    """Return the metadata of the exported file."""
    takes, settings = network.takes, network.config
    return {
        "input": "clips (batch, persons, frames, joints, channels) float32, after normalization, "
        "stream and sampling of `frames` frames; absent persons are zero",
        "output": "logits (batch, classes); softmax over the classes gives probabilities",
        "layout": takes.skeleton.name,
        "joints": json.dumps(takes.skeleton.joints),
        "persons": str(takes.persons),
        "stream": settings.stream,
        "frames": str(settings.frames),
        "test_clips": str(settings.test_clips),
        "temperature": str(network.temperature),
        "threshold": str(network.threshold or 0.0),
        "normalization": takes.normalization,
        "feeder": settings.feeder,
        "feeder_args": json.dumps(settings.feeder_args),
        "class_names": json.dumps(takes.class_names),
        "model": settings.model,
    }


@torch.inference_mode()
def difference(model: nn.Module, run: Run, takes: InputSpec) -> float:
    """Return the largest difference from the model's logits, relative to the largest logit."""
    generator = torch.Generator().manual_seed(0)
    gaps = []
    for batch, frames in CHECKED:
        clips = torch.randn(shape_of(takes, batch, frames), generator=generator)
        expected = model(clips).numpy()
        gaps.append(np.abs(run(clips) - expected).max() / np.abs(expected).max())
    return float(np.max(gaps))  # NaN if one is


def export(network: LoadedNetwork, form: str, out: Path) -> float:
    """Export the network to the file `out`; return the `difference` of the logits.

    The file is not written if the difference exceeds TOLERANCE. InputError if the format requires a
    package that is not installed.
    """
    missing = [name for name in NEEDED[form] if not importlib.util.find_spec(name)]
    if missing:
        raise InputError(
            f"--format {form} requires {', '.join(missing)}: pip install {' '.join(missing)} "
            "(versions in constraints.txt)"
        )
    write, run = FORMATS[form]
    model = network.model.eval()
    with quiet_exporters():
        file = write(trace(model, network.takes), describe(network))
        gap = difference(model, run(file), network.takes)
    if gap <= TOLERANCE:
        with replacing(out) as target:
            target.write(file)
    return gap


def write_preprocessing(network: LoadedNetwork, out: Path) -> str:
    """Write preprocess.py beside an exported network, unless there is one of another network or of
    somebody's own; return what was done."""
    beside = out.with_name("preprocess.py")
    mark = preprocess.MARK.format(file=out.name)
    if beside.exists() and mark not in beside.read_text(encoding="utf-8", errors="replace"):
        return f"{beside} is not written: there is one that is not for {out.name}"
    try:
        write_text(beside, preprocess.script(network, out, beside.name))
    except InputError as error:
        return f"{beside} is not written: {error}"
    return f"{beside}: a recorded clip to the input, by NumPy; python {beside} clip.npy"


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """Suppress log messages and warnings of the exporters; errors are still raised."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(action="ignore"):
        try:
            yield
        finally:
            logging.disable(before)


def main(argv: list[str]) -> None:
    parser = Parser(prog="python -m tools.export", description=__doc__)
    add = parser.add_argument
    add("weights", type=Path, help="checkpoint")
    add("--format", choices=FORMATS, default="onnx", help="file format (default: onnx)")
    add("--out", type=Path, metavar="FILE", help="output file (default: next to the checkpoint)")
    add("--config", nargs="+", metavar="FILE", help="configuration, for a foreign checkpoint")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help=f"override one of the keys {', '.join(config.EXPORT_KEYS)}")  # fmt: skip
    options = parser.parse_args(argv)
    config.check_used(options.set, config.EXPORT_KEYS, "an export")
    out = options.out or options.weights.with_suffix(ENDINGS[options.format])
    check_output("--out", out, options.weights)
    settings = config.resolve(options.config, options.set) if options.config else None
    network = LoadedNetwork.load(options.weights, torch.device("cpu"), settings, options.set)
    if network.doubt:
        print(f"warning: {network.doubt}", file=sys.stderr)
    gap = export(network, options.format, out)
    figures = f"largest difference of the logits: {gap:.1e} of the largest logit"
    if not gap <= TOLERANCE:
        sys.exit(f"error: {out} is not written: {figures}, more than {TOLERANCE:.0e}")
    checked = ", ".join(f"{batch} x {frames}" for batch, frames in CHECKED)
    print(f"{out}: {figures} (clips x frames: {checked})")
    if options.format == "onnx":
        print(write_preprocessing(network, out))


if __name__ == "__main__":
    sys.exit(run_command(main))
