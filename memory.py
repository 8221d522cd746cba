"""Memory: keep freed memory in the process, and copy tensors to the device asynchronously."""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # data preparation does not import torch
    import torch

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4  # malloc.h
KEEP = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1, M_TOP_PAD: 64 << 20}
RETURN = {  # glibc's defaults
    M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 128 << 10, M_TRIM_THRESHOLD: 128 << 10, M_TOP_PAD: 0,
}  # fmt: skip


def keep_freed(keep: bool = True) -> bool:
    """Make malloc keep freed memory for the next tensor; return whether that succeeded.

    By default glibc maps memory for every large tensor and unmaps it when the tensor is freed, so
    the system has to clear the pages each time. With few cores that takes about as long as the
    arithmetic. With `keep` the process never shrinks; GPU memory is not affected. `keep=False`
    restores the defaults and returns free memory to the system. Only on Linux with glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL(None)
        done = [libc.mallopt(option, value) for option, value in (KEEP if keep else RETURN).items()]
        if not keep:
            libc.malloc_trim(0)
    except (OSError, AttributeError):  # another C library
        return False
    return all(done)


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a CPU tensor to the device without synchronizing with the device."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
