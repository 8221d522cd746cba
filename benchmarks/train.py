"""How fast the training loop is, and where a step's time goes: the trainer's own loop, timed.

python -m tools.benchmark train --plain
python -m tools.benchmark train --config config/ntu60-xsub-lt/joint.yaml --amp bf16 --compile
python -m tools.benchmark train --backbone stgcn ctrgcn --batch-size 16 128 --amp off bf16

Of several backbones, batches or amps each is measured with each, one after another.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import memory
from engine import config as configs
from engine.config import Config
from engine.distributed import World, choose_devices, free_memory
from engine.train import Progress, Trainer, takes_cuda_graphs
from errors import InputError, Parser, run_command
from feeders.skeleton import Batch
from files import write_json
from tools.benchmark_feed import made_up
from tools.benchmark_models import BACKBONES, alone, in_turns, peak_mib, synchronise
from tools.plain import UNITS

PARTS = ("feeding", "mixing", "forward", "backward", "optimiser")
SAMPLES = 1200  # of the made-up store; half of them train


@dataclass(frozen=True)
class Result:
    """The loop of one configuration; the plain network's rate is of the same run, in turns."""

    machine: str
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
    steps: int  # that a turn took
    run_steps: int  # of a whole training run on this data, and at this pace its
    run_minutes: float
    plain_clips_per_second: float | None = None
    times_plain: float | None = None


class Measured(Trainer):
    """The trainer, its epochs made of `steps` whole batches, over and over if there are fewer."""

    steps = 1

    @functools.cached_property
    def whole_batches(self) -> list[Batch]:
        batches = super().order(0)
        whole = [batch for batch in batches if len(batch.rows) == self.config.batch_size]
        if not whole:
            raise InputError(
                f"batch_size {self.config.batch_size}: an epoch has {len(self.sampling)} samples; "
                "--samples makes up more"
            )
        return whole

    def order(self, epoch: int) -> list[Batch]:
        chosen = itertools.islice(itertools.cycle(self.whole_batches), self.steps)
        return [Batch(each.rows, step, each.seed) for step, each in enumerate(chosen)]  # draw again

    def run_steps(self) -> None:
        self.progress = Progress()
        self.train_epoch()


class Timed:
    """Another object whose calls a clock counts as `part`."""

    def __init__(self, clock: Clock, part: str, target: Any) -> None:
        self.clock, self.part, self.target = clock, part, target

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        with self.clock.counting(self.part):
            return self.target(*args, **keywords)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.target, name)


class Clock:
    """Seconds within the parts of a trainer's loop; the device is waited for at each border."""

    def __init__(self, trainer: Trainer) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.device = trainer.device
        stepper = trainer.stepper
        trainer.feeder.batches = self.feeding(trainer.feeder.batches)
        trainer.mix = Timed(self, "mixing", trainer.mix)
        trainer.net = Timed(self, "forward", trainer.net)
        stepper.step = self.timed("backward", stepper.step)
        stepper.optimizer.step = self.timed("optimiser", stepper.optimizer.step)

    @contextmanager
    def counting(self, part: str) -> Iterator[None]:
        synchronise(self.device)
        start = time.perf_counter()
        yield
        synchronise(self.device)
        self.seconds[part] += time.perf_counter() - start

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **keywords: Any) -> Any:
            with self.counting(part):
                return function(*args, **keywords)

        return call

    def feeding(self, batches: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def iterate(*args: Any) -> Iterator[Any]:
            iterator = batches(*args)
            while True:
                with self.counting("feeding"):
                    batch = next(iterator, None)
                if batch is None:
                    return
                yield batch

        return iterate

    def shares(self, seconds: float) -> dict[str, float]:
        """Return each part's share of `seconds`; the optimiser's step is taken out of backward."""
        own = {**self.seconds, "backward": self.seconds["backward"] - self.seconds["optimiser"]}
        return {part: own[part] / seconds for part in PARTS}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `train` and `test` have in common."""
    parser.add_argument("--config", nargs="+", default=[], metavar="FILE", help="default: the "
                        "recipe on made-up data")  # fmt: skip
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    parser.add_argument("--plain", action="store_true", help="in turns with the plain network")
    parser.add_argument("--system-malloc", action="store_true", help="do not keep freed memory")
    parser.add_argument("--device", nargs=1, metavar="D", help="a GPU's index, or cpu")
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    parser.add_argument("--repeats", type=int, default=5, help="turns, after one to warm up")
    parser.add_argument(
        "--cpu-time", action="store_true", help="processor time: for a machine that is not idle"
    )
    parser.add_argument("--json", type=Path, help="write the result to this file too")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")


def prepare(
    options: argparse.Namespace, folder: Path, samples: int = SAMPLES, **values: Any
) -> tuple[Config, torch.device]:
    """Return the configuration that options and values name, on a made-up store if none."""
    if options.threads:
        torch.set_num_threads(options.threads)
    overrides = options.set
    if not options.config:
        if not (folder / "store").exists():
            made_up(folder / "store", samples)
        made = {"store": f"{folder}/store", "protocol": "given"}
        named = {word.partition("=")[0] for word in overrides}
        overrides = [*(f"{k}={made[k]}" for k in made.keys() - named), *overrides]
    settings = configs.resolve(options.config, overrides, **values)
    return settings, choose_devices(options.device, World())[0]


def plainly(settings: Config) -> Config:
    """Return the same run with the plain network: float32, nothing fused or compiled."""
    backbone = settings.model.split(".")[-2]
    if backbone not in UNITS:
        raise InputError(f"--plain: there is a plain form of {', '.join(UNITS)}, not of {backbone}")
    kept = {"num_class", "base_channels"} & settings.model_args.keys()
    model_args = {"backbone": backbone, **{key: settings.model_args[key] for key in kept}}
    return settings.replace(
        model="tools.plain.Plain", model_args=model_args, amp="off", compile=False
    )


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def training_peak(settings: Config, device: torch.device, folder: Path) -> float | None:
    """Return what a training step adds, in MiB."""
    trainer = Measured(settings, folder / "run", [device], World(), quiet=True)
    return peak_mib(trainer.run_steps, device)


def measure(
    settings: Config, options: argparse.Namespace, device: torch.device, folder: Path
) -> Result:
    """Time the loop as it is, in turns with the plain network's; then again with a clock in it."""
    runs = [settings, plainly(settings)] if options.plain else [settings]
    trainers = [Measured(run, folder / "run", [device], World(), quiet=True) for run in runs]
    own = trainers[0]
    for trainer in trainers[1:]:
        trainer.model.to(memory_format=torch.contiguous_format)  # as the field has it
    peak = alone(training_peak, settings, device, folder)
    if not options.system_malloc:
        memory.keep_freed()
    for trainer in trainers:
        trainer.steps = options.steps
    turns = [trainer.run_steps for trainer in trainers]
    seconds = in_turns(turns, options.repeats, device, options.cpu_time)
    rates = [options.steps * settings.batch_size / each for each in seconds]
    clock = Clock(own)
    start = time.perf_counter()
    own.run_steps()
    shares = clock.shares(time.perf_counter() - start)
    plain = (rates[1], rates[0] / rates[1]) if options.plain else ()
    run_steps = settings.num_epoch * math.ceil(len(own.sampling) / settings.batch_size)
    step = seconds[0] / options.steps
    graphs = settings.compile and takes_cuda_graphs(settings, device, World())
    return Result(
        machine(device), settings.model, settings.amp, settings.compile, graphs,
        settings.batch_size, own.feeder.where, 1000 * step, rates[0], shares, peak, options.steps,
        run_steps, run_steps * step / 60, *plain,
    )  # fmt: skip


def report(result: Result) -> str:
    shares = ", ".join(f"{part} {share:.1%}" for part, share in result.shares.items())
    peak = "unknown" if result.peak_mib is None else f"{result.peak_mib:.0f} MiB"
    lines = [
        f"{result.model}, batch {result.batch_size}, amp {result.amp}, "
        f"{'compiled' if result.compile else 'not compiled'}"
        f"{', CUDA graphs' if result.cuda_graphs else ''}; {result.machine}",
        f"{result.milliseconds_per_step:.1f} ms a step, {result.clips_per_second:.2f} clips/s; "
        f"a step adds {peak}; frames {result.frames}",
        f"of a step: {shares}, the rest {1 - sum(result.shares.values()):.1%}",
        f"at this pace the {result.run_steps:,} steps of a whole run take "
        f"{result.run_minutes:.1f} minutes",
    ]
    if result.times_plain is not None:
        lines.append(
            f"{result.times_plain:.2f} times the plain network's "
            f"{result.plain_clips_per_second:.2f} clips/s in the same run"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    parser = Parser(prog="python -m tools.benchmark train", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--backbone", nargs="+", choices=BACKBONES, help="default: the config's")
    parser.add_argument("--batch-size", nargs="+", type=int, metavar="N")
    parser.add_argument("--amp", nargs="+", choices=configs.choices("amp"))
    parser.add_argument("--compile", action="store_true", default=None)
    parser.add_argument("--steps", type=int, default=2, help="of each turn")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="made up, half of them train")
    options = parser.parse_args(argv)
    models = [f"model.{name}.Model" for name in options.backbone or ()] or [None]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for model, batch_size, amp in itertools.product(
            models, options.batch_size or [None], options.amp or [None]
        ):
            settings, device = prepare(
                options, Path(folder), options.samples, model=model, batch_size=batch_size,
                amp=amp, compile=options.compile,
            )  # fmt: skip
            results.append(measure(settings, options, device, Path(folder)))
            print(report(results[-1]), flush=True)
            free_memory()
    if options.json:
        write_json(options.json, [asdict(result) for result in results])


if __name__ == "__main__":
    sys.exit(run_command(main))
