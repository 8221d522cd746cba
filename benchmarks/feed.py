"""Speed of the feeders in samples/s of one core, next to the released pipeline.

python -m benchmarks feed --samples 2000
python -m benchmarks feed --set store=data/ntu --stream skip-motion --batch-size 64
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

import graph
from benchmarks import command
from data.store import Store
from engine.build import feeder_of
from engine.config import Config
from engine.distributed import synchronize
from feeders.skeleton import Feeder
from flags import STREAMS

# Samples per second of one process of the released per-sample pipeline (joint stream, NTU-like
# samples of 80 to 120 frames), median, on a core of a 2-core AMD EPYC.
RELEASED = {"train": 276.0, "test": 267.6}


@dataclass(frozen=True)
class Rate:
    """The speed of one way of feeding, medians."""

    mode: str  # train (one clip, augmented) or test (all clips of a sample)
    frames: str  # where they lie
    stream: str
    samples_per_second: float  # of wall time
    samples_per_core_second: float  # of processor time, all threads together
    times_released: float  # the latter, relative to RELEASED


def measure(config: Config, options: argparse.Namespace, device: torch.device) -> Iterator[Rate]:
    """Yield the rates on all samples of the store, whatever its protocol."""
    store = Store.open(config.store)
    rows, skeleton = np.arange(len(store)), graph.load(store.layout)
    for stream in options.stream:
        for resident in (True, False):
            for mode, how in (("train", {"train": True}), ("test", {"clips": config.test_clips})):
                args = {**config.feeder_args, "resident": resident}
                own = config.replace(stream=stream, feeder_args=args)
                feeder = feeder_of(own, store, skeleton, rows, device, **how)
                generator = torch.Generator().manual_seed(0)
                feed(feeder, config.batch_size, generator, options.seconds / 4)  # warm up
                runs = [
                    feed(feeder, config.batch_size, generator, options.seconds)
                    for _ in range(options.repeats)
                ]
                wall, core = (statistics.median(column) for column in zip(*runs))
                yield Rate(mode, feeder.where, stream, wall, core, core / RELEASED[mode])


def feed(
    feeder: Feeder, batch_size: int, generator: torch.Generator, seconds: float
) -> tuple[float, float]:
    """Feed for that many seconds; return samples per second of wall time and of CPU time."""
    samples, wall, core = 0, time.perf_counter(), time.process_time()
    while True:
        order = torch.randperm(len(feeder), generator=generator)
        for _, labels, _ in feeder.batches(order.split(batch_size), generator):
            samples += len(labels)
            if time.perf_counter() - wall > seconds:
                synchronize(feeder.device)
                return (
                    samples / (time.perf_counter() - wall),
                    samples / (time.process_time() - core),
                )


HEAD = """| mode | stream | frames | samples/s, wall | samples/s per core | released |
|---|---|---|---:|---:|---:|"""


def report(rate: Rate) -> str:
    return (
        f"| {rate.mode} | {rate.stream} | {rate.frames} | {rate.samples_per_second:,.0f} | "
        f"{rate.samples_per_core_second:,.0f} | {rate.times_released:.0f}x |"
    )


def main(argv: list[str]) -> None:
    flags = ("--config", "--set", "--batch-size", "--samples", *command.MACHINE)
    parser = command.make_parser("feed", __doc__, *flags, samples=2000, device="cpu", threads=1)
    parser.add_argument(
        "--stream", nargs="+", default=["joint", "skip-motion"], choices=STREAMS, metavar="NAME",
        help=f"one or more of {', '.join(STREAMS)} (default: joint skip-motion)",
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S",
        help="of each repeat (default: %(default)s)")  # fmt: skip
    command.run(parser.parse_args(argv), measure, report, HEAD)
