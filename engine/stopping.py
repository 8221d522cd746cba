"""SIGTERM, deferred until a run can be saved."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from engine.distributed import World

CHECK_EVERY = 50  # steps between two exchanges with other ranks on GPUs: each one synchronizes


class StopRequest:
    """Whether this process or another rank has received SIGTERM."""

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
def deferred_sigterm(world: World) -> Iterator[StopRequest]:
    """Record SIGTERM in the returned request instead of ending the process."""
    request = StopRequest(world)
    previous = signal.signal(signal.SIGTERM, lambda *_: setattr(request, "received", True))
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, previous)
