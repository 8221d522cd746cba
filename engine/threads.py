"""How many CPU threads a run computes with: measured, since it depends on the size of its steps and
on what else the machine does.

Small steps gain little from a second thread, and OpenMP's threads wait for each other by spinning:
on a core that another process uses, two threads can take ten times as long as one
(docs/benchmarks.md).
"""

from __future__ import annotations

import copy
import itertools
import os
import time
from collections.abc import Callable, Mapping

import torch

from engine.jobs import cores
from engine.precision import Float32Outputs
from engine.rehearsal import unchanged
from engine.session import Training
from feeders.skeleton import Batch

VARIABLE = "OMP_NUM_THREADS"  # its value, if set, is used
GAIN = 1.25  # twice the threads must be this much faster
REPEATS = 2


def settle(training: Training) -> str:
    """Set the number of threads of a run, and return a line for the log, '' if there is no choice.

    A resumed run computes with as many as before, because sums depend on it in their last bits.
    """
    if training.device.type != "cpu" or training.world.size > 1 or os.environ.get(VARIABLE):
        return ""
    if training.threads is not None:
        torch.set_num_threads(training.threads)
        return f"{training.threads} CPU threads, as before; {VARIABLE} overrides"
    if cores() == 1 or not training.method.trains:
        return ""
    seconds = measure(step_of(training), cores())
    threads = choose(seconds)
    torch.set_num_threads(threads)
    shown = ", ".join(f"{value:.2g} s with {n}" for n, value in seconds.items())
    return f"{threads} CPU thread{'s' * (threads > 1)} (a step takes {shown}); {VARIABLE} overrides"


def choose(seconds: Mapping[int, float]) -> int:
    """Return the number of threads, given the seconds of a step for 1, 2, 4, ... threads.

    Each doubling is taken if it is faster by GAIN; the first one that is not ends the search.
    """
    best, *more = sorted(seconds)
    for threads in more:
        if seconds[best] < GAIN * seconds[threads]:
            break
        best = threads
    return best


def measure(step: Callable[[], object], most: int) -> dict[int, float]:
    """Return the seconds of a step with 1, 2, 4, ... threads, at most `most`, up to the first
    doubling that does not pay."""
    found: dict[int, float] = {}
    for threads in itertools.takewhile(lambda n: n <= most, (2**k for k in itertools.count())):
        torch.set_num_threads(threads)
        times = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            step()
            times.append(time.perf_counter() - started)
        found[threads] = min(times)
        if choose(found) < threads:
            break
    return found


def step_of(training: Training) -> Callable[[], object]:
    """Return a function that takes the forward and backward pass of a training step, and leaves the
    run as it is."""
    config, model = training.config, training.state.model
    method, net = copy.deepcopy(training.method), Float32Outputs(model, config.amp)
    rows = method.rows(torch.Generator().manual_seed(0), 0.0)
    batch = Batch(rows[torch.arange(config.batch_size) % len(rows)], seed=0)
    ((clips, labels, _),) = training.feeder.batches([batch])
    parameters = [p for p in model.parameters() if p.requires_grad]
    method.begin_epoch(0)
    method.set_mode(net)

    def step() -> None:
        with unchanged(model), torch.random.fork_rng([]):
            method.set_mode(net)
            mixed, targets = method.mix(net, clips, labels, torch.Generator().manual_seed(0))
            loss = method.loss(net, mixed, targets, len(mixed))
            torch.autograd.grad(loss, parameters, allow_unused=True)

    return step
