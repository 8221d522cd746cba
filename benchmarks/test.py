"""Speed of testing a split on several clips per sample, next to one sample at a time.

python -m benchmarks test --plain
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks import command
from benchmarks.plain import plain_config
from benchmarks.timing import alternate
from engine import evaluate
from engine.build import make_feeder, make_model, to_device
from engine.config import Config
from engine.precision import amp_kind, set_tf32
from engine.run_data import open_test_data
from model.fuse_bn import fuse_bn


@dataclass(frozen=True)
class Result:
    """Samples per second, medians of alternating runs."""

    model: str
    amp: str
    clips: int  # per sample
    together: float  # all clips of many samples in one batch: what --phase test does
    absent_too: float  # that, with each absent person computed, not one for all
    one_at_a_time: float  # the same network, the clips of one sample per batch
    plain_one_at_a_time: float | None = None  # the plain network in float32, not fused


class EveryBody(nn.Module):
    """A network outside of inference mode, where it computes each absent person."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(False), torch.no_grad():
            return self.net(clips)


def measure(config: Config, options: argparse.Namespace, device: torch.device) -> Iterator[Result]:
    set_tf32(config.tf32)
    model = to_device(make_model(config), device)
    data = open_test_data(config, model)
    rows = data.test_rows[: options.test_samples]
    feeder = make_feeder(config, data, rows, device, clips=config.test_clips)
    fused = fuse_bn(model)
    single = config.replace(test_batch_size=1)
    ways = [(fused, config), (EveryBody(fused), config), (fused, single)]
    if options.plain:
        plain = plain_config(config)
        ways.append((make_model(plain).to(device), plain.replace(test_batch_size=1)))

    def test(net: nn.Module, own: Config) -> Callable[[], object]:
        return lambda: evaluate.score(net, feeder, own, device)

    turns = [test(*way) for way in ways]
    seconds = alternate(turns, options.repeats, device, options.cpu_time)
    rates = [len(feeder) / each for each in seconds]
    yield Result(config.model, amp_kind(config.amp, device), config.test_clips, *rates)


def report(result: Result) -> str:
    def beside(what: str, rate: float) -> str:
        return f"{what}: {rate:.2f} samples/s; batched is {result.together / rate:.2f} times that"

    lines = [
        f"{result.model}, {result.clips} clips per sample, amp {result.amp}",
        f"batched: {result.together:.2f} samples/s",
        beside("absent persons computed, too", result.absent_too),
        beside("one sample at a time", result.one_at_a_time),
    ]
    if result.plain_one_at_a_time is not None:
        lines.append(beside("plain network, one at a time", result.plain_one_at_a_time))
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    flags = (*command.CONFIGURATION, "--plain", "--samples", *command.MACHINE, "--cpu-time")
    parser = command.make_parser("test", __doc__, *flags, samples=1200)
    parser.add_argument("--test-samples", type=command.positive, default=12, metavar="N",
        help="samples to test (default: %(default)s)")  # fmt: skip
    command.run(parser.parse_args(argv), measure, report)
