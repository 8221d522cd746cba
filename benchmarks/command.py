"""The command line of the benchmarks: each option once, and the configurations that it names."""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import memory
from benchmarks.timing import machine
from data.store import StoreWriter
from engine import config as configs
from engine.config import Config
from engine.distributed import World, choose_devices, free_memory
from errors import InputError, Parser
from files import write_json
from flags import AMPS

BACKBONES = ("stgcn", "stgcnpp", "aagcn", "ctrgcn", "msg3d", "dgstgcn", "protogcn", "infogcn")
CLASSES = 60  # of the synthetic store, as in NTU RGB+D 60


def positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


OPTIONS: dict[str, dict[str, Any]] = {
    "--config": {
        "nargs": "+", "default": [], "metavar": "FILE",
        "help": "YAML files, later ones on top (default: the recipe of NTU RGB+D 60)",
    },
    "--set": {
        "nargs": "+", "action": "extend", "default": [], "metavar": "KEY=VALUE",
        "dest": "overrides", "help": "override any key, also a.b=value",
    },
    "--backbone": {
        "nargs": "+", "choices": BACKBONES, "metavar": "NAME",
        "help": f"one or more of {', '.join(BACKBONES)}",
    },
    "--batch-size": {"nargs": "+", "type": positive, "metavar": "N", "help": "one or more"},
    "--amp": {
        "nargs": "+", "choices": AMPS, "metavar": "KIND",
        "help": f"one or more of {', '.join(AMPS)}",
    },
    "--compile": {"action": "store_true", "default": None, "help": "use torch.compile"},
    "--plain": {"action": "store_true", "help": "alternate with the plain network, in float32"},
    "--samples": {
        "type": positive, "metavar": "N",
        "help": "of the synthetic data, used without --config and store= (default: %(default)s)",
    },
    "--device": {"metavar": "D", "help": "GPU index, or cpu (default: GPU 0, else cpu)"},
    "--threads": {"type": positive, "metavar": "N", "help": "torch's threads on the CPU"},
    "--system-malloc": {"action": "store_true", "help": "return freed memory to the system"},
    "--repeats": {
        "type": positive, "default": 5, "metavar": "N",
        "help": "runs after the first, of which the median is taken (default: %(default)s)",
    },
    "--cpu-time": {"action": "store_true", "help": "measure CPU time: for a busy machine"},
    "--json": {"type": Path, "metavar": "FILE", "help": "write the results to this file too"},
}  # fmt: skip
CONFIGURATION = ("--config", "--set", "--backbone", "--batch-size", "--amp")
MACHINE = ("--device", "--threads", "--system-malloc", "--repeats", "--json")


def make_parser(name: str, description: str | None, *flags: str, **defaults: Any) -> Parser:
    """Return the parser of a benchmark with the options `flags`, some with other defaults."""
    parser = Parser(prog=f"python -m benchmarks {name}", description=description)
    for flag in flags:
        parser.add_argument(flag, **OPTIONS[flag])
    parser.set_defaults(**defaults)
    return parser


def use_device(options: argparse.Namespace) -> torch.device:
    """Prepare this process as main.py does, for the device and the threads that are asked for."""
    if options.threads:
        torch.set_num_threads(options.threads)
    device = choose_devices([options.device] if options.device else None, World())[0]
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif not options.system_malloc:
        memory.keep_freed()
    return device


def configurations(options: argparse.Namespace, folder: Path) -> Iterator[Config]:
    """Yield a configuration per backbone, batch size and amp that the options name.

    With `--samples`, and neither --config nor a store, it is of synthetic data in `folder`.
    """
    given, words = vars(options), list(options.overrides)
    named = options.config or any(word.startswith("store=") for word in words)
    if "samples" in given and not named:
        write_store(folder / "store", options.samples)
        words += [f"store={folder / 'store'}", "protocol=given"]
    grid = ([*(given.get(key) or [None])] for key in ("backbone", "batch_size", "amp"))
    for backbone, batch_size, amp in itertools.product(*grid):
        model = [f"model=model.{backbone}.Model"] if backbone else []
        yield configs.resolve(
            options.config, words + model, batch_size=batch_size, amp=amp,
            compile=given.get("compile"),
        )  # fmt: skip


def run(
    options: argparse.Namespace,
    measure: Callable[[Config, argparse.Namespace, torch.device], Iterable[Any]],
    report: Callable[[Any], str],
    head: str = "",
) -> None:
    """Measure each configuration; print and write to --json the results, which are dataclasses."""
    device, results = use_device(options), []
    print("\n".join(filter(None, (machine(device), head))))
    with tempfile.TemporaryDirectory() as folder:
        for config in configurations(options, Path(folder)):
            for result in measure(config, options, device):
                print(report(result), flush=True)
                results.append(asdict(result))
            free_memory()
    if options.json:
        write_json(options.json, {"machine": machine(device), "results": results})


def write_store(path: Path, samples: int) -> None:
    """Write a synthetic store like NTU's: 80 to 120 frames of 25 joints, one or two persons.

    The first half of the samples is for training (protocol `given`).
    """
    if samples < 2:
        raise InputError("--samples: at least 2 are needed, one of them to train on")
    random = np.random.default_rng(0)
    classes = [f"class{label}" for label in range(CLASSES)]
    with StoreWriter(path, "ntu_rgb_d", classes, (2, 25, 3)) as writer:
        for i in range(samples):
            shape = (random.integers(80, 121), random.integers(1, 3), 25, 3)
            joints = random.standard_normal(shape, dtype=np.float32)
            split = "train" if i < samples / 2 else "test"
            writer.add(f"sample{i}", i % CLASSES, joints, split=split)
