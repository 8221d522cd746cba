"""Memory: keep freed memory in the process, and copy tensors to the device asynchronously."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # data preparation does not import torch
    import torch

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h
KEEP = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1, M_TOP_PAD: 64 << 20}


def keep_freed() -> None:
    """Make malloc keep freed memory for the next tensor. Only on Linux with glibc.

    By default glibc maps memory for every large tensor and unmaps it when the tensor is freed, so
    the system has to clear the pages each time. With few cores that takes about as long as the
    arithmetic. The process then never shrinks; GPU memory is not affected.
    """
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):  # another C library
            libc = ctypes.CDLL(None)
            for option, value in KEEP.items():
                libc.mallopt(option, value)


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a CPU tensor to the device without synchronizing with the device."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
