"""How fast a split is tested on several clips a sample, beside one sample at a time.

python -m tools.benchmark test --plain
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

import memory
from engine import config as configs
from engine import evaluate
from engine.build import make_feeder, make_model, open_data
from engine.config import Config
from errors import Parser, run_command
from files import write_json
from model.fold import fuse_bn
from tools.benchmark_models import in_turns
from tools.benchmark_train import add_arguments, machine, plainly, prepare


@dataclass(frozen=True)
class Result:
    """Samples per second, medians of one run in turns."""

    machine: str
    model: str
    amp: str
    clips: int  # of a sample
    together: float  # all clips of many samples in one batch: what --phase test does
    absent_too: float  # that, with each absent person computed, not one for all
    one_at_a_time: float  # the same network, the clips of one sample a batch
    plain_one_at_a_time: float | None = None  # the plain network in float32, nothing folded


class EveryBody(nn.Module):
    """A network outside of inference mode, where it spares no absent person."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(False), torch.no_grad():
            return self.net(clips)


def measure(settings: Config, options: argparse.Namespace, device: torch.device) -> Result:
    data = open_data(settings, training=False)
    feeder = make_feeder(
        settings, data, data.test_rows[: options.samples], device, clips=settings.test_clips
    )
    model = make_model(settings).to(device, memory_format=torch.channels_last)
    folded = fuse_bn(model)
    ways = [(folded, settings, None), (EveryBody(folded), settings, None), (folded, settings, 1)]
    if options.plain:
        plain = plainly(settings)
        ways.append((make_model(plain).to(device), plain, 1))

    def turn(net: nn.Module, own: Config, at_once: int | None) -> Callable[[], object]:
        return lambda: evaluate.score(net, feeder, own, device, clips_at_once=at_once)

    if not options.system_malloc:
        memory.keep_freed()
    turns = [turn(*way) for way in ways]
    seconds = in_turns(turns, options.repeats, device, options.cpu_time)
    rates = [len(feeder) / each for each in seconds]
    return Result(machine(device), settings.model, settings.amp, settings.test_clips, *rates)


def report(result: Result) -> str:
    def beside(what: str, rate: float) -> str:
        return f"{what}: {rate:.2f} samples/s; together is {result.together / rate:.2f} times that"

    lines = [
        f"{result.model}, {result.clips} clips a sample, amp {result.amp}; {result.machine}",
        f"many samples together: {result.together:.2f} samples/s",
        beside("absent persons computed, too", result.absent_too),
        beside("one sample at a time", result.one_at_a_time),
    ]
    if result.plain_one_at_a_time is not None:
        lines.append(beside("plain network, one at a time", result.plain_one_at_a_time))
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    parser = Parser(prog="python -m tools.benchmark test", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--amp", choices=configs.choices("amp"))
    parser.add_argument("--samples", type=int, default=12)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        settings, device = prepare(options, Path(folder), amp=options.amp)
        result = measure(settings, options, device)
    print(report(result))
    if options.json:
        write_json(options.json, asdict(result))


if __name__ == "__main__":
    sys.exit(run_command(main))
