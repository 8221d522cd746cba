"""SIGTERM and Ctrl-C, deferred until a run can be saved."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from engine.distributed import World


class StopRequest:
    """Whether this process or another rank has been told to stop."""

    def __init__(self, world: World) -> None:
        self.world, self.received = world, False

    def requested(self, together: bool) -> bool:
        """Return whether to stop. Several ranks exchange this only where all of them ask, which the
        caller knows: `together`. Elsewhere it is False for them: in an evaluation one rank may have
        a batch left when another has none."""
        return (together or self.world.size == 1) and self.world.any(self.received)


@contextmanager
def handled(signals: Iterable[int], handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Call `handler(number, frame)` for these signals within the context."""
    former = {each: signal.signal(each, handler) for each in signals}
    try:
        yield
    finally:
        for each, own in former.items():
            signal.signal(each, own)


@contextmanager
def deferred_stop(world: World) -> Iterator[StopRequest]:
    """Record SIGTERM and SIGINT (Ctrl-C) in the returned request instead of ending the process.

    A second SIGINT interrupts at once, as usual.
    """
    request = StopRequest(world)
    interrupt = signal.getsignal(signal.SIGINT)

    def record(number: int, _: Any) -> None:
        if number == signal.SIGINT and not request.received:
            print("stopping; Ctrl-C again to stop without saving", file=sys.stderr)
            signal.signal(signal.SIGINT, interrupt)
        request.received = True

    deferred = [signal.SIGTERM]
    if interrupt is signal.default_int_handler:  # else it is ignored, or someone else's
        deferred.append(signal.SIGINT)
    with handled(deferred, record):
        yield request
