"""SIGTERM and Ctrl-C, deferred until a run can be saved."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from engine.distributed import World

CHECK_EVERY = 50  # steps between two exchanges with other ranks on GPUs: each one synchronizes


class StopRequest:
    """Whether this process or another rank has been told to stop."""

    def __init__(self, world: World) -> None:
        self.world, self.received = world, False

    def after_step(self, step: int, device: torch.device) -> bool:
        """Return whether to stop after step `step` of an epoch; all ranks return the same.

        Ranks on GPUs exchange this only every CHECK_EVERY steps.
        """
        if self.world.size == 1:
            return self.received
        due = device.type == "cpu" or step % CHECK_EVERY == 0
        return due and self.world.any(self.received)

    def alone(self) -> bool:
        """Return whether to stop, in places that not all ranks reach; False with several ranks.

        In an evaluation one rank may have a batch left when another has none.
        """
        return self.world.size == 1 and self.received

    def together(self) -> bool:
        """Return whether to stop, in places that all ranks reach; all ranks return the same."""
        return self.world.any(self.received)


@contextmanager
def deferred_stop(world: World) -> Iterator[StopRequest]:
    """Record SIGTERM and SIGINT (Ctrl-C) in the returned request instead of ending the process.

    A second SIGINT interrupts at once, as usual.
    """
    request = StopRequest(world)
    interrupt = signal.getsignal(signal.SIGINT)

    def record(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and not request.received:
            print("stopping; Ctrl-C again to stop without saving", file=sys.stderr)
            signal.signal(signal.SIGINT, interrupt)
        request.received = True

    deferred = [signal.SIGTERM]
    if interrupt is signal.default_int_handler:  # else it is ignored, or someone else's
        deferred.append(signal.SIGINT)
    previous = {each: signal.signal(each, record) for each in deferred}
    try:
        yield request
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
