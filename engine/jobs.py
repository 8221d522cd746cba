"""Independent runs side by side, each a process of main.py.

Each run has a slot: one device and its share of the CPU cores. Its output goes to files of its own.
A run that fails is named at the end, and the others finish. SIGINT (Ctrl-C), SIGTERM and SIGHUP let
every run save and end; the same call resumes them. A run that another process is working on is
awaited.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from engine.config import Config
from engine.distributed import World, choose_devices
from engine.run import RunFolder
from engine.stopping import handled
from errors import BAD_INPUT, RESUMABLE, Stopped
from files import last_line
from flags import AUTO, cores

MAIN = Path(__file__).resolve().parents[1] / "main.py"
MARGIN, CONTEXT = 1.25, 0.8  # of the memory of a run on a GPU: a factor, and GB of CUDA's own
POLL = 0.2  # seconds between two looks at the processes
TERMINATED = (RESUMABLE, -signal.SIGTERM)  # the latter before a run has anything to save


@dataclass(frozen=True)
class Job:
    """One run: its name, the arguments of main.py, its folder, and the run that it starts from,
    which needs none itself."""

    name: str
    arguments: tuple[str, ...]
    place: RunFolder = field(compare=False)
    settings: Config = field(compare=False)
    needs: Job | None = None
    overwrite: bool = False  # run it even if it is finished

    @property
    def is_finished(self) -> bool:
        return self.place.is_finished(self.settings)


@dataclass(frozen=True)
class Slot:
    """A place for one run at a time: words for --device, CPU threads (None: torch decides)."""

    device: tuple[str, ...] = ()
    threads: int | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a run; variables that the user has set are kept.

        Waiting threads must not spin, because that takes the cores of other runs: with two threads
        on two cores, one of them busy, a training step took 2.7 s instead of 0.2.
        """
        if self.threads is None:
            return dict(os.environ)
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        ours = dict.fromkeys(names, str(self.threads)) | {"OMP_WAIT_POLICY": "PASSIVE"}
        return ours | os.environ


def make_slots(
    jobs: int | str, devices: Sequence[str] | None, several: Sequence[Job]
) -> list[Slot]:
    """Return the slots for `several` runs, `jobs` at a time.

    `devices` are the words of --device (None: all GPUs, else the CPU). Several slots take the
    devices in turn and share the cores evenly; a single slot has all devices. auto: one run per
    core on the CPU; as many as a GPU has memory for, and at most one per core. Raises InputError
    for a device that does not exist.
    """
    choose_devices(list(devices or ()), World())
    gpus = [str(index) for index in range(torch.cuda.device_count())]
    names = list(devices or gpus or ["cpu"])
    count = jobs
    if count == AUTO and names == ["cpu"]:
        count = cores()
    elif count == AUTO:
        fitting = runs_per_gpu(several[0], names[0]) if len(several) > len(names) else 1
        count = min(fitting * len(names), max(cores(), len(names)))
    count = max(1, min(int(count), len(several)))
    if count == 1:
        return [Slot(tuple(devices or ()))]
    threads = max(1, cores() // count)
    return [Slot((names[place % len(names)],), threads) for place in range(count)]


def runs_per_gpu(job: Job, gpu: str) -> int:
    """Return how many runs like `job` a GPU has memory for, by some steps of one (--check).

    It is 1 if these fail: the run itself then says why.
    """
    job = job.needs or job  # a classifier has no weights to start from yet
    words = [word for word in job.arguments if word not in ("--resume", "--overwrite")]
    done = subprocess.run(
        [sys.executable, str(MAIN), *words, "--check", "--device", gpu],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    used = re.search(r"([\d.]+) GB$", done.stdout.strip())
    if done.returncode or used is None:
        return 1
    free, _ = torch.cuda.mem_get_info(int(gpu))
    return max(1, int(free / 1e9 // (MARGIN * float(used[1]) + CONTEXT)))


class Process:
    """A run under way. Its output and its errors go to files in the folder `logs`."""

    def __init__(self, job: Job, slot: Slot, logs: Path) -> None:
        self.job, self.started = job, time.monotonic()
        name = f"{job.place.path.parent.name}-{job.place.path.name}"
        self.output, self.errors = logs / f"{name}.out", logs / f"{name}.err"
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
            return "was stopped before its end"
        reason = last_line(self.errors).removeprefix("error: ") or "it left no message"
        return f"exit code {code}: {reason} ({self.errors})"

    @property
    def was_late(self) -> bool:
        """Whether the run was refused because another process had begun it just before."""
        is_made = self.job.place.is_locked or self.job.is_finished
        return self.process.returncode == BAD_INPUT and is_made and not self.job.overwrite


def run_all(
    jobs: Sequence[Job],
    slots: Sequence[Slot],
    logs: Path,
    quiet: bool = False,
    resume: str = "the same call",
) -> dict[Job, str]:
    """Make every run that is not finished, after the ones that it needs.

    Returns the reason for each that failed. After a signal, once all have ended, raises Stopped,
    which says that `resume` resumes them.
    """
    needed = dict.fromkeys(each for job in jobs for each in (job.needs, job) if each is not None)
    pool = Pool(list(needed), slots, logs, quiet)
    signals: list[int] = []
    several = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    heeded = [each for each in several if signal.getsignal(each) != signal.SIG_IGN]
    with handled(heeded, lambda number, _: signals.append(number)):
        try:
            while pool.is_busy and not signals:
                pool.collect()
                pool.fill()
                time.sleep(POLL if pool.is_busy else 0)
        finally:
            ended = pool.end()
    if signals:
        raise Stopped(f"unfinished runs: {ended}; {resume} resumes them")
    return pool.failures


class Pool:
    """The runs that wait, those under way by their slot, and what has become of the others.

    Each run under way has a line on a terminal; elsewhere a line says where it begins or ends.
    """

    def __init__(
        self, waiting: list[Job], slots: Sequence[Slot], logs: Path, quiet: bool = False
    ) -> None:
        self.waiting, self.slots, self.logs = waiting, slots, logs
        self.running: dict[int, Process] = {}
        self.done: set[Job] = set()
        self.failures: dict[Job, str] = {}
        self.is_awaiting = False
        self.total, self.quiet = len(waiting), quiet
        bars = [
            tqdm(bar_format="{desc}", position=place, leave=False, dynamic_ncols=True,
                 disable=quiet or None)
            for place in range(len(slots))
        ]  # fmt: skip
        self.bars = [bar for bar in bars if not bar.disable]

    @property
    def is_busy(self) -> bool:
        return bool(self.waiting or self.running)

    def collect(self) -> None:
        """Note how runs have ended."""
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
        """Begin runs in free slots, and show the progress of all."""
        for place, slot in enumerate(self.slots):
            if place not in self.running and (job := self.next()) is not None:
                self.running[place] = Process(job, slot, self.logs)
                self.say(f"{job.name}: begins in {job.place}")
        if self.waiting and not self.running and not self.is_awaiting:
            self.is_awaiting = True
            self.say("waiting for runs that another process is working on")
        for place, bar in enumerate(self.bars):
            run = self.running.get(place)
            text = "" if run is None else f"{run.job.name}: {last_line(run.output)}"
            if text != bar.desc:
                bar.set_description_str(text)

    def next(self) -> Job | None:
        """Take the first job off the list that can begin, and all that are finished or cannot."""
        for job in list(self.waiting):
            if job.needs in self.failures:
                self.failures[job] = f"needs {job.needs.name}, which failed"
            elif job.is_finished and not job.overwrite:
                self.done.add(job)
            elif (job.needs is not None and job.needs not in self.done) or job.place.is_locked:
                continue
            else:
                self.waiting.remove(job)
                return job
            self.waiting.remove(job)
        return None

    def say(self, text: str) -> None:
        if not self.quiet:
            tqdm.write(f"[{len(self.done)}/{self.total}] {text}")
            sys.stdout.flush()

    def end(self) -> int:
        """Let the runs under way save and end; return how many there were."""
        for bar in self.bars:
            bar.close()
        for run in self.running.values():
            run.process.terminate()
        for run in self.running.values():
            run.process.wait()
        return len(self.running)


def check(failures: Mapping[Job, str]) -> None:
    """Raise ChildProcessError that names each run that failed, with the reason."""
    if failures:
        named = "; ".join(f"{job.name}: {reason}" for job, reason in failures.items())
        raise ChildProcessError(f"failed runs: {len(failures)}; {named}")
