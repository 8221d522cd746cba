"""How many CPU threads a run computes with: measured, since it depends on the size of its steps and
on what else the machine does.

Small steps gain little from a second thread, and OpenMP's threads wait for each other by spinning:
on a core that another process uses, two threads can take ten times as long as one
(docs/benchmarks.md).
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable

import torch

from engine.precision import Float32Outputs
from engine.rehearsal import unchanged
from engine.session import Training
from feeders.skeleton import Batch
from flags import cores

VARIABLE = "OMP_NUM_THREADS"  # its value, if set, is used
GAIN = 1.25  # twice the threads must be this much faster
SUMMING = 0.2  # seconds
REPEATS = 3  # steps whose mean counts, after one that does not


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
    threads, seconds = measure(step_of(training), cores())
    torch.set_num_threads(threads)
    why = "a step takes " + ", ".join(f"{value:.2g} s with {n}" for n, value in seconds.items())
    if threads == max(seconds) and 2 * threads <= cores():
        why += "; other processes use the cores"
    return f"{threads} CPU thread{'s' * (threads > 1)} ({why}); {VARIABLE} overrides"


def measure(step: Callable[[], object], most: int) -> tuple[int, dict[int, float]]:
    """Return the best number of threads, and the seconds of a step with 1, 2, 4, ... of them.

    There are at most `most`. A doubling is taken if it is faster by GAIN. The first one that is
    not ends the search, as does one for which there are no free cores.
    """
    best, threads = 1, 1
    found: dict[int, float] = {}
    while threads <= most and (threads == 1 or not is_crowded(threads)):
        torch.set_num_threads(threads)
        step()
        started = time.perf_counter()
        for _ in range(REPEATS):
            step()
        found[threads] = (time.perf_counter() - started) / REPEATS
        if threads > 1 and found[best] < GAIN * found[threads]:
            break
        best, threads = threads, 2 * threads
    return best, found


def is_crowded(threads: int) -> bool:
    """Return whether `threads` are slower than one in short sums, each of which they wait for.

    They are where other processes use a core; a training step has thousands of such waits, so that
    trying one could take a hundred times its usual time.
    """
    return sums_per_second(threads) < sums_per_second(1)


def sums_per_second(threads: int) -> float:
    torch.set_num_threads(threads)
    values = torch.ones(1 << 19)
    values.sum()
    count, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < SUMMING:
        values.sum()
        count += 1
    return count / passed


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
