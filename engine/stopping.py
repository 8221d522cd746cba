"""SIGTERM, deferred to where a run can be saved."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from engine.distributed import World

CHECK_EVERY = 50  # steps between two questions to the other ranks on GPUs: each one synchronizes


class StopRequest:
    """Whether SIGTERM has come, to this process or to another rank."""

    def __init__(self, world: World) -> None:
        self.world, self.received = world, False

    def after_step(self, step: int, device: torch.device) -> bool:
        """Return whether to stop after step `step` of an epoch; all ranks return the same.

        Ranks on GPUs ask each other every CHECK_EVERY steps only.
        """
        if self.world.size == 1:
            return self.received
        asks = device.type == "cpu" or step % CHECK_EVERY == 0
        return asks and self.world.any(self.received)

    def alone(self) -> bool:
        """Return whether to stop where ranks cannot agree; with several ranks False.

        In an evaluation one rank may have no batch left while another has.
        """
        return self.world.size == 1 and self.received

    def together(self) -> bool:
        """Return whether to stop at a place that all ranks come to; all return the same."""
        return self.world.any(self.received)


@contextmanager
def deferred_sigterm(world: World) -> Iterator[StopRequest]:
    """Note SIGTERM instead of dying from it."""
    request = StopRequest(world)
    previous = signal.signal(signal.SIGTERM, lambda *_: setattr(request, "received", True))
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, previous)
