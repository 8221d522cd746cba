"""Latency of one clip, from raw joints to class probabilities; on one CPU core by default.

python -m benchmarks predict
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks import command
from engine.build import make_model
from engine.config import Config
from engine.precision import amp_kind
from engine.predict import InputSpec, LoadedNetwork, Recognizer


@dataclass(frozen=True)
class Result:
    """Medians of single calls."""

    model: str
    amp: str
    clips: int  # per sample, as in testing
    milliseconds: float
    cpu_milliseconds: float
    fastest_milliseconds: float


def measure(config: Config, options: argparse.Namespace, device: torch.device) -> Iterator[Result]:
    """Time an untrained network (weights do not change the time) on a clip of one person."""
    for clips in (1, 10):
        own = config.replace(test_clips=clips)
        model = make_model(own).to(device)
        takes = InputSpec.of(model, {})
        recognizer = Recognizer([LoadedNetwork(Path("untrained"), own, model, takes)], device)
        shape = (options.frames, 1, takes.skeleton.num_joints, takes.channels)
        steps = np.random.default_rng(0).normal(size=shape)
        clip = (0.01 * steps).cumsum(axis=0).astype(np.float32)
        calls = []
        for _ in range(2 + options.repeats):  # two warm up
            started = time.perf_counter(), time.process_time()
            recognizer(clip)
            ended = time.perf_counter(), time.process_time()
            calls.append(1000 * np.subtract(ended, started))
        wall, cpu = np.transpose(calls[2:])
        yield Result(
            own.model, amp_kind(own.amp, device), clips,
            float(np.median(wall)), float(np.median(cpu)), float(wall.min()),
        )  # fmt: skip


def report(result: Result) -> str:
    return (
        f"{result.model}, amp {result.amp}, {result.clips:2d} test clips: median "
        f"{result.milliseconds:.0f} ms (fastest {result.fastest_milliseconds:.0f}), "
        f"CPU time {result.cpu_milliseconds:.0f} ms"
    )


def main(argv: list[str]) -> None:
    flags = ("--config", "--set", "--backbone", "--amp", *command.MACHINE)
    parser = command.make_parser("predict", __doc__, *flags, device="cpu", threads=1, repeats=20)
    parser.add_argument("--frames", type=command.positive, default=100, metavar="T",
        help="frames of the raw clip (default: %(default)s)")  # fmt: skip
    command.run(parser.parse_args(argv), measure, report)
