"""Before a run: everything that is missing, in one message; with --check what the run will take."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import torch

from data import long_tail
from data.store import Store
from engine.config import Config
from engine.distributed import synchronize
from engine.evaluate import clips_at_once
from engine.run_data import listed_rows
from engine.session import Training
from engine.train import epoch_batches, training_step
from errors import InputError

Found = TypeVar("Found")
TIMED_STEPS = 3  # after one that is not timed


class Findings(list[str]):
    """What attempts have found missing, in their order."""

    def attempt(self, step: Callable[..., Found], *args: object) -> Found | None:
        """Return what a call returns; None if it raises InputError, whose message is kept."""
        try:
            return step(*args)
        except InputError as error:
            if str(error) not in self:
                self.append(str(error))
            return None

    def refuse(self) -> None:
        """Raise InputError with all messages, if there are any."""
        if len(self) > 1:
            numbered = (f"  {number}. {line}" for number, line in enumerate(self, start=1))
            raise InputError("\n".join((f"{len(self)} things to mend first:", *numbered)))
        if self:
            raise InputError(self[0])


def check_data(settings: Config) -> None:
    """Raise InputError if the store cannot be opened, or the training list is not there.

    The list of a template is generated when the run begins, and is not looked for.
    """
    store = Store.open(settings.store)
    listed = settings.training_list
    if listed is not None and "{imbalance}" in listed:
        path = long_tail.list_path(listed, settings.imbalance, settings.fold, settings.seed)
        if not path.is_file():
            return
    listed_rows(store, settings)


def estimate(training: Training) -> str:
    """Take some steps, and test some clips; return how long the whole run takes, in one line.

    The network has then been changed: nothing of it may be saved.
    """
    config, device = training.config, training.device
    batches = epoch_batches(training)
    training.method.begin_epoch(0)
    training.method.set_mode(training.net)
    seconds = []
    chosen = (batches * (TIMED_STEPS + 1))[: TIMED_STEPS + 1]
    feeder = iter(training.feeder.batches(chosen))
    for _ in chosen:
        started = time.perf_counter()
        clips, labels, batch = next(feeder)
        training_step(training, clips, labels, batch, len(batches))
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    step = statistics.median(seconds[1:])
    count = config.num_epoch * len(batches)
    test = time_of_test(training)
    return (
        f"{count:,} steps, {step:.2g} s each: {duration(count * step)}; {config.num_epoch} "
        f"validations and the test of two checkpoints: {duration(test)}; {memory(device):.1f} GB"
    )


@torch.no_grad()
def time_of_test(training: Training) -> float:
    """Return the seconds of all validations and of the test, from a batch of clips."""
    config, feeder = training.config, training.val_feeder
    rows = torch.arange(min(len(feeder), clips_at_once(training.config, training.device)))
    training.eval_net.eval()
    ((clips, _, _),) = feeder.batches([rows])
    started = time.perf_counter()
    training.eval_net(clips)
    synchronize(training.device)
    each = (time.perf_counter() - started) / len(rows)
    tested = 2 * len(training.data.test_rows) * config.test_clips
    return each * (config.num_epoch * len(feeder) + tested)


def memory(device: torch.device) -> float:
    """Return the largest memory so far in GB, that of the GPU or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def duration(seconds: float) -> str:
    """Return a time as people say it: 40 s, 12 min, 3.7 h, 2.1 days."""
    for unit, size, limit, digits in (("s", 1, 90, 0), ("min", 60, 90, 0), ("h", 3600, 48, 1)):
        if seconds < limit * size:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds / 86400:.1f} days"
