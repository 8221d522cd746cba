"""Speed of the training loop: steps of engine.train, and how a step's time divides.

python -m benchmarks train --plain
python -m benchmarks train --config config/ntu60-xsub-lt/joint.yaml --amp bf16 --compile
python -m benchmarks train --backbone stgcn ctrgcn --batch-size 16 128 --amp off bf16

Each combination of the backbones, batch sizes and amps is measured, one after another.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import command
from benchmarks.plain import plain_config
from benchmarks.timing import Clock, added_mib, alternate
from engine.config import Config
from engine.distributed import World
from engine.precision import amp_kind
from engine.session import build_training
from engine.state import Progress
from engine.train import epoch_batches, training_step
from engine.wrap import takes_cuda_graphs
from errors import InputError
from feeders.skeleton import Batch

PARTS = ("feeding", "mixing", "forward", "backward", "optimizer")


@dataclass(frozen=True)
class Result:
    """The training of one configuration; the plain network's speed is of the same run."""

    model: str
    amp: str
    compile: bool
    cuda_graphs: bool
    batch_size: int
    frames: str  # where the feeder has them
    milliseconds_per_step: float  # median
    clips_per_second: float
    shares: dict[str, float]  # of a step's time, by part; the rest is the loss and the loop
    peak_mib: float | None  # memory that a step adds
    steps: int  # per repeat
    run_steps: int  # of a whole training run on this data, and its time at this speed
    run_minutes: float
    plain_clips_per_second: float | None = None
    times_plain: float | None = None


class Steps:
    """The first `count` steps of a run, over its whole batches again and again if it has fewer."""

    def __init__(self, config: Config, device: torch.device, count: int) -> None:
        self.training = build_training(config, [device], World())
        self.batches = epoch_batches(self.training)
        samples = config.batch_size * config.accumulate
        whole = [batch for batch in self.batches if len(batch.rows) == samples]
        if not whole:
            raise InputError(
                f"batch_size {config.batch_size}: an epoch has {len(self.training.method)} samples;"
                " --samples makes the synthetic data larger"
            )
        self.chosen = list(itertools.islice(itertools.cycle(whole), count))

    def run(self) -> list[Tensor]:
        """Take the steps; return their losses, without synchronizing with the device."""
        training = self.training
        training.state.progress = Progress()
        training.method.begin_epoch(0)
        training.method.set_mode(training.net)
        batches = [Batch(each.rows, step, each.seed) for step, each in enumerate(self.chosen)]
        return [
            training_step(training, clips, labels, batch, len(self.batches))
            for clips, labels, batch in training.feeder.batches(batches)
        ]

    def shares(self) -> dict[str, float]:
        """Return the share of each of PARTS, and of the rest, in the time of the steps."""
        training = self.training
        clock = Clock(training.device, PARTS)
        clock.watch_iterator("feeding", training.feeder, "batches")
        clock.watch("mixing", training.method, "mix")
        clock.watch("forward", training.net, "forward")
        clock.watch("backward", training.state, "backward")
        clock.watch("optimizer", training.state.optimizer, "step")
        self.run()
        return clock.shares()


def one_step(config: Config, device: torch.device) -> Callable[[], object]:
    return Steps(config, device, 1).run


def measure(config: Config, options: argparse.Namespace, device: torch.device) -> Iterator[Result]:
    """Time the steps, alternating with those of the plain network; then divide their time."""
    runs = [config, plain_config(config)] if options.plain else [config]
    steps = [Steps(run, device, options.steps) for run in runs]
    for plain in steps[1:]:
        model: Any = plain.training.state.model  # torch's types do not know the next argument
        model.to(memory_format=torch.contiguous_format)  # as is usual
    turns = [each.run for each in steps]
    seconds = alternate(turns, options.repeats, device, options.cpu_time)
    rates = [options.steps * config.batch_size * config.accumulate / each for each in seconds]
    own, step = steps[0], seconds[0] / options.steps
    peak = added_mib(own.run, device, one_step, config, device)
    run_steps = config.num_epoch * len(own.batches)
    yield Result(
        config.model, amp_kind(config.amp, device), config.compile,
        config.compile and takes_cuda_graphs(config, device, World()), config.batch_size,
        own.training.feeder.where, 1000 * step, rates[0], own.shares(), peak,
        options.steps, run_steps, run_steps * step / 60,
        *([rates[1], rates[0] / rates[1]] if options.plain else []),
    )  # fmt: skip


def report(result: Result) -> str:
    shares = ", ".join(f"{part} {share:.1%}" for part, share in result.shares.items())
    peak = "unknown" if result.peak_mib is None else f"{result.peak_mib:.0f} MiB"
    lines = [
        f"{result.model}, batch {result.batch_size}, amp {result.amp}, "
        f"{'compiled' if result.compile else 'not compiled'}"
        f"{', CUDA graphs' if result.cuda_graphs else ''}",
        f"{result.milliseconds_per_step:.1f} ms per step, {result.clips_per_second:.2f} clips/s; "
        f"memory of a step {peak}; frames {result.frames}",
        f"shares of a step: {shares}",
        f"at this speed the {result.run_steps:,} steps of a whole run take "
        f"{result.run_minutes:.1f} minutes",
    ]
    if result.times_plain is not None:
        lines.append(
            f"{result.times_plain:.2f} times the plain network's "
            f"{result.plain_clips_per_second:.2f} clips/s in the same run"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    flags = (*command.CONFIGURATION, "--compile", "--plain", "--samples", *command.MACHINE)
    parser = command.make_parser("train", __doc__, *flags, "--cpu-time", samples=1200)
    parser.add_argument("--steps", type=command.positive, default=2, metavar="N",
        help="steps per repeat (default: %(default)s)")  # fmt: skip
    command.run(parser.parse_args(argv), measure, report)
