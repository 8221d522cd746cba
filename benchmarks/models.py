"""How large and how fast the backbones are, on whatever device is there.

python -m tools.benchmark models
python -m tools.benchmark models --backbone stgcnpp ctrgcn --plain --amp bf16 --json models.json
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import memory
from errors import Parser, run_command
from files import write_json
from model.fold import fuse_bn
from tools.plain import UNITS, Plain

BACKBONES = ("stgcn", "stgcnpp", "aagcn", "ctrgcn", "msg3d", "dgstgcn", "protogcn", "infogcn")
TRAIN_FRAMES, INFER_FRAMES = 64, 100  # of the recipe, and of published inference speeds
PERSONS, JOINTS, CHANNELS, CLASSES = 2, 25, 3, 60
AMP = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Result:
    """One network. Times are medians; the plain networks' are of the same run, in turns."""

    backbone: str
    parameters: int
    flops: int  # of one clip of INFER_FRAMES, two per multiply-add
    peak_mib: float | None  # memory that a training step adds to the weights
    train_clips_per_second: float
    infer_clips_per_second: float
    plain_train_clips_per_second: float | None = None
    plain_infer_clips_per_second: float | None = None


def clips_of(batch: int, frames: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, PERSONS, frames, JOINTS, CHANNELS, generator=generator).to(device)


def training(model: nn.Module, clips: Tensor, amp: torch.dtype | None) -> Callable[[], None]:
    """Return one training step of the recipe: forward, cross entropy, backward, SGD."""
    labels = torch.arange(len(clips), device=clips.device) % CLASSES
    optimizer = torch.optim.SGD(
        model.parameters(), lr=1e-4, momentum=0.9, nesterov=True, weight_decay=5e-4
    )

    def step() -> None:
        with torch.autocast(clips.device.type, amp, enabled=amp is not None):
            logits = model(clips)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def inference(model: nn.Module, clips: Tensor, amp: torch.dtype | None) -> Callable[[], None]:
    def run() -> None:
        with (
            torch.inference_mode(),
            torch.autocast(clips.device.type, amp, enabled=amp is not None),
        ):
            model(clips)

    return run


def in_turns(
    runs: list[Callable[[], None]], repeats: int, device: torch.device, cpu_time: bool
) -> list[float]:
    """Return the median seconds of each, run one after the other `repeats` times: A B A B."""
    clock = time.process_time if cpu_time else time.perf_counter
    seconds: list[list[float]] = [[] for _ in runs]
    for repeat in range(repeats + 1):
        for run, taken in zip(runs, seconds):
            synchronise(device)
            start = clock()
            run()
            synchronise(device)
            if repeat:  # the first warms up
                taken.append(clock() - start)
    return [statistics.median(taken) for taken in seconds]


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def alone(function: Callable[..., Any], *args: Any) -> Any:
    """Return function(*args), called in a process of its own.

    Memory that others have freed there before would hide what it takes.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as pool:
        return pool.submit(function, *args).result()


def peak_mib(step: Callable[[], None], device: torch.device) -> float | None:
    """Return by how many MiB a step's memory exceeds what was held before; None if not known."""
    memory.keep_freed(False)
    step()
    gc.collect()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    before = resident("VmRSS")
    reset.write_text("5", encoding="utf-8")  # forget the highest so far
    step()
    return (resident("VmHWM") - before) / 2**10


def resident(entry: str) -> int:
    """Return an entry of this process's status in KiB (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{entry}:"))


def network(backbone: str) -> nn.Module:
    return import_module(f"model.{backbone}").Model()


def training_peak(backbone: str, options: argparse.Namespace, device: torch.device) -> float | None:
    """Return what a training step of the network adds, in MiB."""
    step = training(
        network(backbone).to(device).train(),
        clips_of(options.batch_size, TRAIN_FRAMES, device),
        AMP[options.amp],
    )
    return peak_mib(step, device)


def measure(backbone: str, options: argparse.Namespace, device: torch.device) -> Result:
    amp = AMP[options.amp]
    nets = [network(backbone)]
    if options.plain and backbone in UNITS:
        nets.append(Plain(backbone))
    nets = [net.to(device) for net in nets]
    batch = options.batch_size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        nets[0].eval()(clips_of(1, INFER_FRAMES, device))
    clips = clips_of(batch, TRAIN_FRAMES, device)
    peak = alone(training_peak, backbone, options, device)
    if not options.system_malloc:
        memory.keep_freed()
    # the plain networks run as the field runs them: float32, nothing folded, nothing compiled
    steps = [training(net.train(), clips, mode) for net, mode in zip(nets, (amp, None))]
    folded = fuse_bn(nets[0])
    if options.compile:
        nets[0].compile()
        folded.compile()
    train = in_turns(steps, options.repeats, device, options.cpu_time)
    clips = clips_of(batch, INFER_FRAMES, device)
    quick = [folded, *(net.eval() for net in nets[1:])]
    runs = [inference(net, clips, mode) for net, mode in zip(quick, (amp, None))]
    infer = in_turns(runs, options.repeats, device, options.cpu_time)
    plain = (batch / train[1], batch / infer[1]) if len(nets) > 1 else ()
    parameters = sum(parameter.numel() for parameter in nets[0].parameters())
    flops = counter.get_total_flops()
    return Result(backbone, parameters, flops, peak, batch / train[0], batch / infer[0], *plain)


HEAD = (
    f"{'backbone':<10}{'params M':>9}{'GFLOP/clip':>11}{'peak MiB':>9}"
    f"{'train clips/s':>18}{'infer clips/s':>18}"
)


def row(result: Result) -> str:
    """Return a line below HEAD; in brackets how many times the plain network's rate."""
    peak = "-" if result.peak_mib is None else f"{result.peak_mib:.0f}"
    rates = (
        (result.train_clips_per_second, result.plain_train_clips_per_second),
        (result.infer_clips_per_second, result.plain_infer_clips_per_second),
    )
    shown = [f"{r:.1f}" + (f" ({r / plain:.2f} x)" if plain else "") for r, plain in rates]
    sizes = f"{result.parameters / 1e6:>9.2f}{result.flops / 1e9:>11.2f}{peak:>9}"
    return f"{result.backbone:<10}{sizes}{shown[0]:>18}{shown[1]:>18}"


def main(argv: list[str]) -> None:
    parser = Parser(prog="python -m tools.benchmark models", description=__doc__)
    parser.add_argument("--backbone", nargs="+", choices=BACKBONES, default=BACKBONES)
    parser.add_argument("--plain", action="store_true", help="in turns with the plain networks")
    parser.add_argument("--amp", choices=AMP, default="no", help="autocast, not the plain ones")
    parser.add_argument("--compile", action="store_true", help="torch.compile, not the plain ones")
    parser.add_argument("--system-malloc", action="store_true", help="do not keep freed memory")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", help="default: the GPU if there is one")
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    parser.add_argument(
        "--cpu-time", action="store_true", help="processor time: for a machine that is not idle"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(argv)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if options.threads:
        torch.set_num_threads(options.threads)
    print(HEAD)
    results = []
    for backbone in options.backbone:
        results.append(measure(backbone, options, device))
        print(row(results[-1]), flush=True)
    if options.json:
        write_json(options.json, {"device": str(device), "results": [asdict(r) for r in results]})


if __name__ == "__main__":
    sys.exit(run_command(main))
