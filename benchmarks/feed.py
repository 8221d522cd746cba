"""How fast the feeders are: samples per second of one core, beside the released pipeline.

python -m tools.benchmark feed --made-up 2000
python -m tools.benchmark feed --store data/ntu60 --stream skip-motion --batch-size 64
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from data.store import Store, StoreWriter
from errors import Parser, run_command
from feeders.skeleton import Feeder
from feeders.streams import NAMES
from files import write_json

# Samples per second of one process of the released per-sample pipeline (joint stream, NTU-like
# samples of 80 to 120 frames), median, on a core of a 2-core AMD EPYC.
RELEASED = {"train": 276.0, "test": 267.6}
TEST_CLIPS = 10


@dataclass(frozen=True)
class Rate:
    """What one way of feeding reached."""

    mode: str  # train (one clip, augmented) or test (ten clips)
    frames: str  # where they lie
    stream: str
    samples_per_second: float  # of wall time
    samples_per_core_second: float  # of processor time, all threads together
    times_released: float  # the latter, beside RELEASED


def feed(
    store: Store,
    stream: str = "joint",
    batch_size: int = 16,
    seconds: float = 1.0,
    repeats: int = 5,
    device: str | torch.device = "cpu",
    resident: bool | None = None,
    rows: np.ndarray | None = None,
) -> list[Rate]:
    """Return the rates of training and of ten-clip testing, each the median of `repeats` runs."""
    rows = np.arange(len(store)) if rows is None else rows
    rates = []
    for mode, settings in (("train", {"train": True}), ("test", {"clips": TEST_CLIPS})):
        feeder = Feeder(store, rows, stream, device=device, resident=resident, **settings)
        generator = torch.Generator().manual_seed(0)
        run(feeder, batch_size, generator, seconds / 4)  # warm up
        runs = [run(feeder, batch_size, generator, seconds) for _ in range(repeats)]
        wall, core = (statistics.median(column) for column in zip(*runs))
        rates.append(Rate(mode, feeder.where, stream, wall, core, core / RELEASED[mode]))
    return rates


def run(
    feeder: Feeder, batch_size: int, generator: torch.Generator, seconds: float
) -> tuple[float, float]:
    """Feed for so long; return samples per second of wall time and of processor time."""
    cuda = feeder.device.type == "cuda"
    samples, wall, core = 0, time.perf_counter(), time.process_time()
    while True:
        order = torch.randperm(len(feeder), generator=generator)
        for _, labels, _ in feeder.batches(order.split(batch_size), generator):
            samples += len(labels)
            if time.perf_counter() - wall > seconds:
                if cuda:
                    torch.cuda.synchronize()
                return (
                    samples / (time.perf_counter() - wall),
                    samples / (time.process_time() - core),
                )


def made_up(path: Path, samples: int) -> Store:
    """Write and open a store like NTU's: 80 to 120 frames of 25 joints, one or two persons.

    The samples go round 60 classes, the first half is for training (protocol `given`).
    """
    random = np.random.default_rng(0)
    classes = [f"class{label}" for label in range(60)]
    with StoreWriter(path, "ntu_rgb_d", classes, (2, 25, 3)) as writer:
        for i in range(samples):
            shape = (random.integers(80, 121), random.integers(1, 3), 25, 3)
            joints = random.standard_normal(shape, dtype=np.float32)
            split = "train" if i < samples / 2 else "test"
            writer.add(f"sample{i}", i % len(classes), joints, split=split)
    return Store.open(path)


def table(rates: list[Rate]) -> str:
    """Return the rates as a Markdown table."""
    lines = [
        "| mode | stream | frames | samples/s, wall | samples/s a core | released |",
        "|---|---|---|---:|---:|---:|",
    ]
    for rate in rates:
        lines.append(
            f"| {rate.mode} | {rate.stream} | {rate.frames} | {rate.samples_per_second:,.0f} | "
            f"{rate.samples_per_core_second:,.0f} | {rate.times_released:.0f}x |"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    parser = Parser(prog="python -m tools.benchmark feed", description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--store", type=Path, help="a prepared store")
    source.add_argument("--made-up", type=int, metavar="N", help="N made-up NTU-like samples")
    parser.add_argument("--stream", nargs="+", default=["joint", "skip-motion"], choices=NAMES)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of torch (1: one core's speed)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each of the repeats")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the rates to this file too")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        if args.store:
            store = Store.open(args.store)
        else:
            store = made_up(Path(folder) / "made-up", args.made_up)
        rates = [
            rate
            for stream in args.stream
            for resident in (True, False)
            for rate in feed(
                store, stream, args.batch_size, args.seconds, args.repeats, args.device, resident
            )
        ]
    print(table(rates))
    if args.json:
        write_json(args.json, [asdict(rate) for rate in rates])


if __name__ == "__main__":
    sys.exit(run_command(main))
