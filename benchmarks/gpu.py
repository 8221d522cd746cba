"""Everything that a GPU can show, in one call of less than ten minutes, as JSON.

python -m benchmarks gpu --json gpu.json
python -m benchmarks gpu --json gpu.json --resume
python -m benchmarks gpu --only 'losses/*' 'step/stgcnpp/*/16/bf16'
python -m benchmarks gpu --device cpu --quick

Measured: a training step of each backbone (eager, as one CUDA graph, compiled; batch 16 and 128;
float32, TF32, bf16) with its peak memory and the shares of its parts; feeding; the ten-clip test.
Compared with the CPU: logits and gradients of each backbone, and the losses of a short training.

Each measurement is one job in a worker process. A job that fails, crashes or hangs is recorded as
`error`, and the next one starts. Compilation takes most of the time: what --minutes do not suffice
for is recorded as not run, and --resume runs what is missing from the file.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import command, feed, models, test
from benchmarks.timing import alternate, machine, peak_mib
from benchmarks.train import Steps
from engine.build import make_model
from engine.config import Config
from engine.distributed import free_memory, synchronize
from engine.precision import has_arithmetic, set_tf32
from engine.run import code_version
from errors import InputError
from files import write_json

CPU = torch.device("cpu")
SPAWN = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
JOB_SECONDS = 240  # after which a job hangs
PRECISIONS = {
    "bf16": {"amp": "bf16", "tf32": True},
    "tf32": {"amp": "off", "tf32": True},
    "fp32": {"amp": "off", "tf32": False},
}
WAYS = {
    "eager": {"compile": False},
    "step-graph": {"compile": False, "step_graph": True},
    "graphs": {"compile": True, "cuda_graphs": True},
    "compiled": {"compile": True, "cuda_graphs": False},
    "compiled-step-graph": {"compile": True, "cuda_graphs": False, "step_graph": True},
}
# Differences from the CPU that rounding explains. After ten steps the losses of two trainings whose
# weights began 1e-7 apart differ by up to 0.5 % (ST-GCN++, 20 steps, on a CPU), in bf16 by no more.
TOLERANCES = {"network": 1e-3, "losses": 2e-2}


@dataclass(frozen=True)
class Size:
    """How much each job does."""

    words: tuple[str, ...]  # of --set
    batch_sizes: tuple[int, ...]
    steps: int  # per repeat, with the first batch size; fewer with larger ones
    curve_steps: int
    precisions: tuple[str, ...]  # of the steps that are timed
    compiled: tuple[str, ...]  # backbones that are compiled
    options: argparse.Namespace  # of `feed` and `test`


FULL = Size(
    (), (16, 128), 5, 20, tuple(PRECISIONS), command.BACKBONES,
    argparse.Namespace(
        samples=2048, repeats=3, test_samples=100, seconds=0.3, stream=["joint", "skip-motion"],
        plain=False, cpu_time=False,
    ),
)  # fmt: skip
QUICK = Size(
    ("model_args.base_channels=8", "frames=8", "test_clips=2"), (2,), 1, 2,
    ("fp32",), ("stgcn",),
    argparse.Namespace(
        samples=16, repeats=1, test_samples=2, seconds=0.01, stream=["joint"],
        plain=False, cpu_time=False,
    ),
)  # fmt: skip

# --- the jobs: functions that return what goes into the JSON ---


def facts(device: torch.device) -> dict[str, Any]:
    """Return what the speed of a device depends on."""
    found: dict[str, Any] = {
        "machine": machine(device), "bf16_arithmetic": has_arithmetic("bf16", device),
    }  # fmt: skip
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "memory_gib": properties.total_memory / 2**30,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return found


def network(config: Config, device: torch.device) -> dict[str, Any]:
    """Return a network's size, and how its logits and gradients differ from the CPU's in float32.

    In evaluation, where nothing is drawn at random: the two devices draw differently.
    """
    set_tf32(False)
    torch.manual_seed(0)
    model = make_model(config).eval()
    clips = models.clips_of(config.replace(batch_size=2), config.frames, CPU)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(clips)
    found = []
    for place in (CPU, device):
        model.zero_grad()
        logits = model.to(place)(clips.to(place))
        nn.functional.cross_entropy(logits, torch.arange(2, device=place)).backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        found.append((logits.detach().cpu(), torch.cat(gradients).cpu()))
    (cpu_logits, cpu_gradients), (own_logits, own_gradients) = found
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "flops_per_clip": counter.get_total_flops() / len(clips),
        "logits": difference(own_logits, cpu_logits, TOLERANCES["network"]),
        "gradients": difference(own_gradients, cpu_gradients, TOLERANCES["network"]),
    }


def curve(config: Config, device: torch.device, count: int) -> dict[str, Any]:
    """Return the losses of `count` steps on one batch, which the network learns by heart."""
    steps = Steps(config, device, count)
    steps.chosen = steps.chosen[:1] * count
    losses = torch.stack(steps.run())
    if not losses.isfinite().all():
        raise ArithmeticError(f"the losses are not finite: {losses.tolist()}")
    return {"losses": losses.tolist()}


def difference(values: Tensor, expected: Tensor, tolerance: float) -> dict[str, Any]:
    """Return the largest difference of some values, relative to the largest expected one."""
    if not values.isfinite().all():
        raise ArithmeticError("the values are not finite")
    largest = ((values - expected).abs().max() / expected.abs().max()).item()
    return {"difference": largest, "tolerance": tolerance, "equal": largest <= tolerance}


def step(config: Config, device: torch.device, count: int, repeats: int) -> dict[str, Any]:
    """Return the speed and the memory of a training step."""
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    steps = Steps(config, device, count)
    started = time.perf_counter()
    steps.run()
    synchronize(device)
    first = time.perf_counter() - started
    (seconds,) = alternate([steps.run], repeats, device)
    return {
        "milliseconds_per_step": 1000 * seconds / count,
        "clips_per_second": config.batch_size * count / seconds,
        "first_seconds": first,  # of the first `count` steps, compilation included
        "reserved_mib": torch.cuda.max_memory_reserved(device) / 2**20 if cuda else None,
        "step_adds_mib": peak_mib(steps.run, device) if cuda else None,  # but to CUDA graphs' pool
        "shares": steps.shares(),
    }


def rows(measure: Callable[..., Any], *args: Any) -> dict[str, Any]:
    """Return the results of another benchmark."""
    return {"results": [asdict(result) for result in measure(*args)]}


def plan(config: Config, device: torch.device, size: Size) -> dict[str, tuple[Any, ...]]:
    """Return {name: (function, its arguments)} of all jobs, the most informative ones first."""
    cuda = device.type == "cuda"
    precisions = [name for name in PRECISIONS if cuda or name != "tf32"]
    plain = [name for name in ("eager", "step-graph") if cuda or name == "eager"]
    compiled = [name for name in WAYS if name not in plain and (cuda or name == "compiled")]

    def variant(way: str, precision: str, backbone: str | None = None, **values: Any) -> Config:
        model = {} if backbone is None else {"model": f"model.{backbone}.Model"}
        return config.replace(**WAYS[way], **PRECISIONS[precision], **model, **values)

    jobs: dict[str, tuple[Any, ...]] = {"facts": (facts, device)}
    fp32 = variant("eager", "fp32", batch_size=size.batch_sizes[0])
    jobs["losses/cpu"] = (curve, fp32, CPU, size.curve_steps)
    for way, precision in (*itertools.product(plain, precisions), (compiled[0], "fp32")):
        own = variant(way, precision, batch_size=size.batch_sizes[0])
        jobs[f"losses/{way}/{precision}"] = (curve, own, device, size.curve_steps)
    for backbone in command.BACKBONES:
        jobs[f"network/{backbone}"] = (network, variant("eager", "fp32", backbone), device)
    jobs["feeding"] = (rows, feed.measure, config, size.options, device)
    for precision in precisions:
        own = variant("eager", precision)
        jobs[f"test/{precision}"] = (rows, test.measure, own, size.options, device)
    cells = size.batch_sizes, [name for name in precisions if name in size.precisions]
    at_once = itertools.product(*cells, plain, command.BACKBONES)
    after_minutes = itertools.product(*cells, compiled, size.compiled)
    for batch_size, precision, way, backbone in (*at_once, *after_minutes):
        own = variant(way, precision, backbone, batch_size=batch_size)
        name = f"step/{backbone}/{way}/{batch_size}/{precision}"
        count = max(1, size.steps * size.batch_sizes[0] // batch_size)
        jobs[name] = (step, own, device, count, size.options.repeats)
    return jobs


def compare_losses(results: dict[str, Any]) -> None:
    """Add to the losses of each job how they differ from the CPU's."""
    expected = results.get("losses/cpu", {}).get("losses")
    for name, result in results.items():
        if expected and "losses" in result and name != "losses/cpu":
            own, cpu = torch.tensor(result["losses"]), torch.tensor(expected)
            results[name] = result | {"from_cpu": difference(own, cpu, TOLERANCES["losses"])}


def differing(results: dict[str, Any]) -> list[str]:
    """Return the names of what differs from the CPU by more than its tolerance."""
    return [
        f"{name} ({key})"
        for name, result in results.items()
        for key, found in result.items()
        if isinstance(found, dict) and found.get("equal") is False
    ]


# --- running them ---


def serve(jobs: Connection, options: argparse.Namespace) -> None:
    """Run the jobs (function, *args) that arrive and send back what they return."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this process
    command.use_device(options)
    while True:
        try:
            function, *args = jobs.recv()
        except EOFError:  # the parent has ended
            return
        try:
            result = function(*args)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            result = {"error": reason[:500], "traceback": traceback.format_exc()}
        jobs.send(result)
        free_memory()


class Worker:
    """A process that runs jobs one after another; after an error another one takes its place."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.process: BaseProcess | None = None

    def run(self, job: tuple[Any, ...], seconds: float) -> dict[str, Any]:
        """Return what a job (function, *args) returns, or its error."""
        if self.process is None:
            self.jobs, theirs = SPAWN.Pipe()
            self.process = SPAWN.Process(target=serve, args=(theirs, self.options))
            self.process.start()
            theirs.close()
        try:
            self.jobs.send(job)
            if self.jobs.poll(seconds):
                result = self.jobs.recv()
            else:
                self.stop(patience=0)
                result = {"error": f"stopped after {seconds:.0f} seconds"}
        except (EOFError, OSError):
            self.process.join()
            result = {"error": f"the worker process ended with code {self.process.exitcode}"}
        if "error" in result:
            self.stop()
        return result

    def stop(self, patience: float = 30) -> None:
        """End the process: by itself within `patience` seconds, else killed."""
        if self.process is not None:
            self.jobs.close()
            self.process.join(patience)
            self.process.kill()
            self.process.join()
            self.process = None


def run_all(
    jobs: dict[str, tuple[Any, ...]], worker: Worker, deadline: float, content: dict[str, Any],
    path: Path | None,
) -> None:  # fmt: skip
    """Run what has no result in content["results"] yet; write `content` to the file after each."""
    results = content["results"]
    for name, job in jobs.items():
        if "error" not in results.get(name, {"error": None}):
            continue
        left = deadline - time.monotonic()
        if left > 0:
            results[name] = worker.run(job, min(JOB_SECONDS, left))
        else:
            results[name] = {"error": "not run: --minutes are over; --resume runs it"}
        compare_losses(results)
        print(f"{name}: {describe(results[name])}", flush=True)
        if path is not None:
            write_json(path, content)


def describe(result: dict[str, Any]) -> str:
    if "error" in result:
        return f"error: {result['error']}"
    if "milliseconds_per_step" in result:
        speed = f"{result['milliseconds_per_step']:.1f} ms per step"
        return f"{speed}, {result['clips_per_second']:.1f} clips/s"
    compared = {key: found for key, found in result.items() if isinstance(found, dict)}
    shown = [f"{key} {found['difference']:.0e}" for key, found in compared.items()]
    if shown:
        return f"difference from the CPU: {', '.join(shown)}"
    return result.get("machine", "done")


def begin(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Return what the file has so far; InputError if it is there and cannot be resumed."""
    fresh = {
        "machine": machine(device), "quick": options.quick, "config": list(options.config),
        "set": list(options.overrides), "code": code_version(), "results": {},
    }  # fmt: skip
    if options.json is None or not options.json.exists():
        return fresh
    if not options.resume:
        raise InputError(f"{options.json} exists; add --resume to complete it, or name another")
    try:
        former = json.loads(options.json.read_text(encoding="utf-8"))
        differing = [key for key in fresh if key != "results" and fresh[key] != former[key]]
        former["results"] = dict(former["results"])
    except (ValueError, TypeError, KeyError):
        raise InputError(f"{options.json}: is not a file of this benchmark") from None
    if differing:
        raise InputError(
            f"{options.json}: was measured with another {', '.join(differing)}; name another file"
        )
    return former


def main(argv: list[str]) -> None:
    machine_flags = [flag for flag in command.MACHINE if flag != "--repeats"]
    parser = command.make_parser("gpu", __doc__, "--config", "--set", *machine_flags)
    parser.add_argument("--quick", action="store_true", help="tiny networks, to try it out")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN",
        help="names of jobs, e.g. 'losses/*'")  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="run what is missing from --json")
    parser.add_argument("--minutes", type=float, default=9.0, metavar="M",
        help="start no job after, and stop the one that runs (default: %(default)s)")  # fmt: skip
    options = parser.parse_args(argv)
    if options.resume and options.json is None:
        raise InputError("--resume needs the --json FILE of the call that it completes")
    deadline = time.monotonic() + 60 * options.minutes
    device, size = command.use_device(options), QUICK if options.quick else FULL
    content, worker = begin(options, device), Worker(options)
    options.samples = size.options.samples
    options.overrides = [*options.overrides, *size.words]
    with tempfile.TemporaryDirectory() as folder:
        (config,) = command.configurations(options, Path(folder))
        jobs = {
            name: job for name, job in plan(config, device, size).items()
            if any(fnmatch(name, pattern) for pattern in options.only)
        }  # fmt: skip
        if not jobs:
            raise InputError(f"--only {' '.join(options.only)}: is the name of no job")
        try:
            run_all(jobs, worker, deadline, content, options.json)
        finally:
            worker.stop()
    failed = sum("error" in content["results"][name] for name in jobs)
    print(
        f"{len(jobs) - failed} of {len(jobs)} jobs done, {failed} failed or not run; "
        f"other values than the CPU's: {', '.join(differing(content['results'])) or 'none'}"
    )
