"""A step of training as one CUDA graph.

The network of a small recipe launches over a thousand kernels in a step, each of which runs for
less time than its launch takes. Captured once, they are launched together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from engine.config import Config
from engine.distributed import World
from engine.precision import amp_kind
from errors import InputError

EAGER_CALLS = 2  # before capture: what is made by the first calls, as momentum, must be there
Function = Callable[..., Tensor]


class Captured:
    """A function of tensors as a CUDA graph, with the memory that its inputs are copied to."""

    def __init__(self, function: Function, tensors: Sequence[Tensor], pool: Any) -> None:
        self.inputs = [torch.empty_like(tensor) for tensor in tensors]
        self.graph = torch.cuda.CUDAGraph()
        # thread_local: the thread that feeds may allocate meanwhile
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            self.output = function(*self.inputs)

    def __call__(self, *tensors: Tensor) -> Tensor:
        torch._foreach_copy_(self.inputs, list(tensors))
        self.graph.replay()
        return self.output.clone()  # the next replay overwrites it


class StepGraphs:
    """Calls a function of tensors, from its third call on as a CUDA graph, one per shapes.

    Within a `period`, an epoch, nothing but the tensors' values may change what the function does.
    It must be work of the device alone, change tensors in place, and draw from the device's
    generator. Each period has its own graphs.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self.calls: Counter[Hashable] = Counter()
        self.captured: dict[Hashable, Captured] = {}
        self.period = -1

    def __call__(self, period: int, function: Function, *tensors: Tensor) -> Tensor:
        shapes = tuple((tensor.shape, tensor.dtype) for tensor in tensors)
        if period != self.period or shapes not in self.captured:
            self.calls[shapes] += 1
            if self.calls[shapes] <= EAGER_CALLS:
                return self.eager(function, tensors)
            captured = self.capture(function, tensors)
            if period != self.period:
                self.captured.clear()
                self.period = period
            self.captured[shapes] = captured
        return self.captured[shapes](*tensors)

    def eager(self, function: Function, tensors: Sequence[Tensor]) -> Tensor:
        """Call on a stream that is not the default one, as capture does."""
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            output = function(*tensors)
        current.wait_stream(self.stream)
        return output

    def capture(self, function: Function, tensors: Sequence[Tensor]) -> Captured:
        """Capture in the memory of the graphs so far; InputError for what cannot be captured."""
        former = next(iter(self.captured.values()), None)
        try:
            return Captured(function, tensors, former and former.graph.pool())
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise InputError(
                f"step_graph: this step cannot be captured ({reason}); --set step_graph=false"
            ) from error


def make_step_graphs(
    config: Config, devices: Sequence[torch.device], world: World
) -> StepGraphs | None:
    """Return the graphs of `step_graph`; None without, and on the CPU, which has no such graphs.

    Raises InputError for what cannot be captured.
    """
    device = devices[0]
    if not config.step_graph or device.type != "cuda":
        return None
    for holds, reason in (
        (len(devices) == 1 and world.size == 1, "is for one GPU"),
        (amp_kind(config.amp, device) != "fp16", "cannot scale losses: use --amp bf16 or off"),
        (not (config.compile and config.cuda_graphs), "with --compile needs cuda_graphs=false"),
    ):
        if not holds:
            raise InputError(f"step_graph: {reason}")
    return StepGraphs(device)
