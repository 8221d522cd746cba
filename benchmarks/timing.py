"""Time and memory of calls on a device."""

from __future__ import annotations

import functools
import gc
import multiprocessing
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from engine.distributed import synchronize

Step = Callable[[], object]


def machine(device: torch.device) -> str:
    """Return the name of the device, with a processor's vector units, and torch's version."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    units = torch.backends.cpu.get_cpu_capability()
    threads = torch.get_num_threads()
    return f"{platform.machine()} {units}, {threads} threads, torch {torch.__version__}"


def alternate(
    runs: Sequence[Step], repeats: int, device: torch.device, cpu_time: bool = False
) -> list[float]:
    """Return the median seconds of each, called one after another `repeats` times: A B A B."""
    clock = time.process_time if cpu_time else time.perf_counter
    seconds: list[list[float]] = [[] for _ in runs]
    for repeat in range(repeats + 1):
        for run, taken in zip(runs, seconds):
            synchronize(device)
            start = clock()
            run()
            synchronize(device)
            if repeat:  # the first warms up
                taken.append(clock() - start)
    return [statistics.median(taken) for taken in seconds]


class Clock:
    """Divides time between parts. It always runs for one: what a nested part takes is its own.

    The device is synchronized at each border.
    """

    def __init__(self, device: torch.device, parts: Iterable[str], rest: str = "rest") -> None:
        self.device, self.part = device, rest
        self.seconds = dict.fromkeys((*parts, rest), 0.0)
        self.since = time.perf_counter()

    def switch(self, part: str) -> str:
        """Begin to count for `part`; return the one before it."""
        synchronize(self.device)
        now = time.perf_counter()
        self.seconds[self.part] += now - self.since
        before, self.part, self.since = self.part, part, now
        return before

    @contextmanager
    def counting(self, part: str) -> Iterator[None]:
        before = self.switch(part)
        yield
        self.switch(before)

    def watch(self, part: str, owner: Any, name: str) -> None:
        """Count the calls of an object's method for `part`."""
        method = getattr(owner, name)

        @functools.wraps(method)
        def call(*args: Any, **keywords: Any) -> Any:
            with self.counting(part):
                return method(*args, **keywords)

        setattr(owner, name, call)

    def watch_iterator(self, part: str, owner: Any, name: str) -> None:
        """Count for `part` what the iterator that an object's method returns takes per item."""
        method = getattr(owner, name)

        def iterate(*args: Any) -> Iterator[Any]:
            iterator = iter(method(*args))
            while True:
                with self.counting(part):
                    item = next(iterator, None)
                if item is None:
                    return
                yield item

        setattr(owner, name, iterate)

    def shares(self) -> dict[str, float]:
        """Return each part's share of the time since the clock was made."""
        self.switch(self.part)
        total = sum(self.seconds.values())
        return {part: seconds / total for part, seconds in self.seconds.items()}


def added_mib(
    step: Step, device: torch.device, make: Callable[..., Step], *args: Any
) -> float | None:
    """Return by how many MiB a step exceeds what was held before it; None if not known.

    On a CPU it is the step make(*args) in a process of its own: memory that others have freed in
    this one would hide what it takes.
    """
    if device.type == "cuda":
        return peak_mib(step, device)
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(128 << 10)  # glibc returns what is freed at once
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as pool:
        return pool.submit(_added_here, device, make, args).result()


def _added_here(device: torch.device, make: Callable[..., Step], args: Any) -> float | None:
    return peak_mib(make(*args), device)


def peak_mib(step: Step, device: torch.device) -> float | None:
    """Return by how many MiB a second call of `step` exceeds what was held before it."""
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
    before = process_memory()["VmRSS"]
    reset.write_text("5", encoding="utf-8")  # forget the highest so far
    step()
    return (process_memory()["VmHWM"] - before) / 2**20


def process_memory(pid: int | str = "self") -> dict[str, int]:
    """Return what Linux says of a process's memory, in bytes; {} of one that has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return {}
    return {name: 1024 * int(kib) for name, kib in re.findall(r"(\w+):\s+(\d+) kB", status)}
