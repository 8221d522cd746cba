"""Independent runs side by side, each a process of main.py.

Each run has a slot: one device, and its part of the CPU's cores. What it prints goes to files of
its own. A run that fails is named in the end, and the others go on; SIGINT (Ctrl-C), SIGTERM and
SIGHUP let every run save and end, and the same call continues them. A run that another process is
working on is awaited.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from engine.config import Config
from engine.run import RunFolder
from errors import BAD_INPUT, RESUMABLE, Stopped
from files import last_line

MAIN = Path(__file__).resolve().parents[1] / "main.py"
POLL = 0.2  # seconds between two looks at the processes
AUTO = "auto"
TERMINATED = (RESUMABLE, -signal.SIGTERM)  # the latter before a run has anything to save


@dataclass(frozen=True, eq=False)
class Job:
    """One run: what it is called, what main.py is told, its folder, and the run it starts from."""

    name: str
    arguments: tuple[str, ...]
    place: RunFolder
    settings: Config
    needs: Job | None = None
    overwrite: bool = False  # also a run that is finished is made


@dataclass(frozen=True)
class Slot:
    """Where one run at a time goes: words for --device, CPU threads (None: torch decides)."""

    device: tuple[str, ...] = ()
    threads: int | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a run; what the user says about threads holds.

        Threads that spin while they wait take the cores of the runs beside them: at 2 cores, one of
        them busy, a step was measured at 2.7 s in place of 0.2.
        """
        if self.threads is None:
            return dict(os.environ)
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        ours = dict.fromkeys(names, str(self.threads)) | {"OMP_WAIT_POLICY": "PASSIVE"}
        return ours | os.environ


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def number(text: str) -> int | str:
    """Return what `--jobs` says; for argparse."""
    if text == AUTO:
        return text
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, at least 1, or {AUTO}")
    return int(text)


def make_slots(jobs: int | str, devices: Sequence[str] | None, runs: int) -> list[Slot]:
    """Return the slots for `runs` runs, `jobs` at a time.

    `devices` are the words of --device, None: every GPU there is, else the CPU. Several slots are
    dealt to the devices in turn and share the cores evenly; one slot has all devices. auto: one run
    per GPU, on the CPU one per core.
    """
    gpus = [str(index) for index in range(torch.cuda.device_count())]
    names = list(devices or gpus or ["cpu"])
    count = jobs
    if count == AUTO:
        count = cores() if names == ["cpu"] else len(names)
    count = max(1, min(int(count), runs))
    if count == 1:
        return [Slot(tuple(devices or ()))]
    threads = max(1, cores() // count)
    return [Slot((names[place % len(names)],), threads) for place in range(count)]


class Process:
    """A run under way. Its output and its errors go to `<log>.out` and `<log>.err`."""

    def __init__(self, job: Job, slot: Slot, logs: Path) -> None:
        self.job, self.started = job, time.monotonic()
        log = logs / f"{job.place.path.parent.name}-{job.place.path.name}"
        self.output, self.errors = (log.with_name(f"{log.name}.{kind}") for kind in ("out", "err"))
        logs.mkdir(parents=True, exist_ok=True)
        device = ("--device", *slot.device) if slot.device else ()
        with self.output.open("wb") as output, self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(MAIN), *job.arguments, *device],
                stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env=slot.environment,
                start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on
            )  # fmt: skip

    def verdict(self) -> str | None:
        """Return None for a run that has succeeded, else what went wrong."""
        code = self.process.returncode
        if code == 0:
            return None
        if code in TERMINATED:
            return "was stopped; the same call continues it"
        reason = last_line(self.errors).removeprefix("error: ") or "it left no message"
        return f"exit code {code}: {reason} ({self.errors})"

    @property
    def was_late(self) -> bool:
        """Whether the run ended because another process had begun it just before."""
        return self.process.returncode == BAD_INPUT and self.job.place.is_locked


class Display:
    """A line per run under way on a terminal; elsewhere a line where a run begins or ends."""

    def __init__(self, slots: int, total: int, quiet: bool) -> None:
        self.total, self.quiet = total, quiet
        on_terminal = sys.stderr.isatty() and not quiet
        self.bars = [
            tqdm(bar_format="{desc}", position=place, leave=False, dynamic_ncols=True)
            for place in range(slots if on_terminal else 0)
        ]

    def say(self, text: str) -> None:
        if not self.quiet:
            tqdm.write(text)
            sys.stdout.flush()

    def show(self, running: Mapping[int, Process]) -> None:
        """Show the last line that each run has printed."""
        for place, bar in enumerate(self.bars):
            run = running.get(place)
            text = "" if run is None else f"{run.job.name}: {last_line(run.output)}"
            if text != bar.desc:
                bar.set_description_str(text)

    def close(self) -> None:
        for bar in self.bars:
            bar.close()


def run_all(
    jobs: Sequence[Job], slots: Sequence[Slot], logs: Path, quiet: bool = False
) -> dict[Job, str]:
    """Make every run that is not finished; return what went wrong with which, {} if nothing.

    Jobs that they need are made first. Raises Stopped once all have ended after a signal.
    """
    pool = Pool(in_order(jobs), slots, logs, quiet)
    with noted_signals() as signals:
        try:
            while pool.is_busy and not signals:
                pool.collect()
                pool.fill()
                time.sleep(POLL if pool.is_busy else 0)
        finally:
            ended = pool.end()
    if signals:
        raise Stopped(f"{ended} runs were ended; the same call continues")
    return pool.failures


def in_order(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs, each once, after the job that it needs."""
    order: dict[Job, None] = {}
    for job in jobs:
        chain = [job]
        while (needed := chain[-1].needs) is not None:
            chain.append(needed)
        order |= dict.fromkeys(reversed(chain))
    return list(order)


class Pool:
    """The runs that wait, those under way by their slot, and what has become of the others."""

    def __init__(
        self, waiting: list[Job], slots: Sequence[Slot], logs: Path, quiet: bool = False
    ) -> None:
        self.waiting, self.slots, self.logs = waiting, slots, logs
        self.running: dict[int, Process] = {}
        self.done: set[Job] = set()
        self.failures: dict[Job, str] = {}
        self.display = Display(len(slots), len(waiting), quiet)
        self.is_awaiting = False

    @property
    def is_busy(self) -> bool:
        return bool(self.waiting or self.running)

    def collect(self) -> None:
        """Note how the runs ended that have ended since the last look."""
        for place, run in list(self.running.items()):
            if run.process.poll() is None:
                continue
            del self.running[place]
            if run.was_late:
                self.waiting.append(run.job)
            elif reason := run.verdict():
                self.failures[run.job] = reason
                self.say(f"{run.job.name}: {reason}")
            else:
                self.done.add(run.job)
                minutes = (time.monotonic() - run.started) / 60
                self.say(f"{run.job.name}: done in {minutes:.1f} min")

    def fill(self) -> None:
        """Begin runs in the free slots, and show how far all are."""
        for place, slot in enumerate(self.slots):
            if place not in self.running and (job := self.next()) is not None:
                self.running[place] = Process(job, slot, self.logs)
                self.say(f"{job.name}: begins in {job.place}")
        if self.waiting and not self.running and not self.is_awaiting:
            self.is_awaiting = True
            self.say("waiting for runs that another process is working on")
        self.display.show(self.running)

    def next(self) -> Job | None:
        """Take the first job off the list that can begin; what is finished, or cannot, goes too."""
        for job in list(self.waiting):
            if job.needs in self.failures:
                self.failures[job] = f"needs {job.needs.name}, which failed"
            elif job.place.is_finished(job.settings) and not job.overwrite:
                self.done.add(job)
            elif (job.needs is not None and job.needs not in self.done) or job.place.is_locked:
                continue
            else:
                self.waiting.remove(job)
                return job
            self.waiting.remove(job)
        return None

    def say(self, text: str) -> None:
        self.display.say(f"[{len(self.done)}/{self.display.total}] {text}")

    def end(self) -> int:
        """Let the runs under way save and end; return how many there were."""
        self.display.close()
        for run in self.running.values():
            run.process.terminate()
        for run in self.running.values():
            run.process.wait()
        return len(self.running)


@contextmanager
def noted_signals() -> Iterator[list[int]]:
    """Yield a list that the signals which end a process go to; ignored ones stay ignored."""
    noted: list[int] = []
    former = {}
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(each) != signal.SIG_IGN:
            former[each] = signal.signal(each, lambda number, _: noted.append(number))
    try:
        yield noted
    finally:
        for each, handler in former.items():
            signal.signal(each, handler)


def check(failures: Mapping[Job, str]) -> None:
    """Raise ChildProcessError that names each run that failed, with the reason."""
    if failures:
        named = "; ".join(f"{job.name}: {reason}" for job, reason in failures.items())
        raise ChildProcessError(f"{len(failures)} runs failed: {named}")
