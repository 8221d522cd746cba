"""Size and speed of the backbones by themselves: a step of cross entropy, and inference.

python -m benchmarks models
python -m benchmarks models --backbone stgcnpp ctrgcn --plain --amp bf16 --json models.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import command
from benchmarks.plain import UNITS, plain_config
from benchmarks.timing import added_mib, alternate
from engine.build import make_model
from engine.config import Config
from engine.precision import amp_kind, autocast, set_tf32
from model.fuse_bn import fuse_bn

INFER_FRAMES = 100  # of published inference speeds


@dataclass(frozen=True)
class Result:
    """One network. Times are medians; the plain networks' are of the same run, alternating."""

    model: str
    amp: str
    batch_size: int
    parameters: int
    flops: int  # of one clip of INFER_FRAMES, two per multiply-add
    peak_mib: float | None  # memory that a training step adds to the weights
    train_clips_per_second: float
    infer_clips_per_second: float
    plain_train_clips_per_second: float | None = None
    plain_infer_clips_per_second: float | None = None


def clips_of(config: Config, frames: int, device: torch.device) -> Tensor:
    """Return a batch of random clips (N, M, T, V, C), N = config.batch_size."""
    model = make_model(config)
    shape = (model.num_person, frames, model.skeleton.num_joints, model.in_channels)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(config.batch_size, *shape, generator=generator).to(device)


def training(net: nn.Module, clips: Tensor, amp: str) -> Callable[[], None]:
    """Return one training step of the recipe: forward, cross entropy, backward, SGD.

    The mean of each extra output is part of the loss, so that these are trained too.
    """
    optimizer = torch.optim.SGD(
        net.parameters(), lr=1e-4, momentum=0.9, nesterov=True, weight_decay=5e-4
    )

    def step() -> None:
        with autocast(amp, clips.device):
            logits, _, extra = net(clips, outputs=True)
        labels = torch.arange(len(clips), device=clips.device) % logits.shape[1]
        loss = F.cross_entropy(logits.float(), labels)
        loss = sum((value.float().mean() for value in extra.values()), loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def inference(net: nn.Module, clips: Tensor, amp: str) -> Callable[[], None]:
    def infer() -> None:
        with torch.inference_mode(), autocast(amp, clips.device):
            net(clips)

    return infer


def one_step(config: Config, device: torch.device) -> Callable[[], None]:
    net = make_model(config).to(device).train()
    return training(net, clips_of(config, config.frames, device), config.amp)


def measure(config: Config, options: argparse.Namespace, device: torch.device) -> Iterator[Result]:
    set_tf32(config.tf32)
    runs = [config]
    if options.plain and config.model.split(".")[-2] in UNITS:
        runs.append(plain_config(config))
    nets = [make_model(run).to(device) for run in runs]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        nets[0].eval()(clips_of(config.replace(batch_size=1), INFER_FRAMES, device))
    fused = fuse_bn(nets[0])
    if config.compile:
        nets[0].compile()
        fused.compile()
    clips = clips_of(config, config.frames, device)
    steps = [training(net.train(), clips, run.amp) for net, run in zip(nets, runs)]
    train = alternate(steps, options.repeats, device, options.cpu_time)
    peak = added_mib(steps[0], device, one_step, config, device)
    clips = clips_of(config, INFER_FRAMES, device)
    quick = [fused, *(net.eval() for net in nets[1:])]
    infer = alternate(
        [inference(net, clips, run.amp) for net, run in zip(quick, runs)],
        options.repeats, device, options.cpu_time,
    )  # fmt: skip
    parameters = sum(parameter.numel() for parameter in nets[0].parameters())
    rates = [config.batch_size / each for pair in zip(train, infer) for each in pair]
    yield Result(
        config.model, amp_kind(config.amp, device), config.batch_size, parameters,
        counter.get_total_flops(), peak, *rates,
    )  # fmt: skip


HEAD = (
    f"{'backbone':<10}{'batch':>6}{'amp':>5}{'params M':>9}{'GFLOP/clip':>11}{'peak MiB':>9}"
    f"{'train clips/s':>18}{'infer clips/s':>18}"
)


def report(result: Result) -> str:
    """Return a line below HEAD; in parentheses how many times the plain network's rate."""
    peak = "-" if result.peak_mib is None else f"{result.peak_mib:.0f}"
    rates = (
        (result.train_clips_per_second, result.plain_train_clips_per_second),
        (result.infer_clips_per_second, result.plain_infer_clips_per_second),
    )
    shown = [f"{r:.1f}" + (f" ({r / plain:.2f} x)" if plain else "") for r, plain in rates]
    sizes = f"{result.parameters / 1e6:>9.2f}{result.flops / 1e9:>11.2f}{peak:>9}"
    name = result.model.split(".")[-2]
    return f"{name:<10}{result.batch_size:>6}{result.amp:>5}{sizes}{shown[0]:>18}{shown[1]:>18}"


def main(argv: list[str]) -> None:
    flags = (*command.CONFIGURATION, "--compile", "--plain", *command.MACHINE, "--cpu-time")
    parser = command.make_parser("models", __doc__, *flags, backbone=command.BACKBONES)
    command.run(parser.parse_args(argv), measure, report, HEAD)
