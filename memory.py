"""Memory: keep what is freed within the process, and send tensors without waiting."""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the preparation of data does without torch
    import torch

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4  # malloc.h
KEEP = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1, M_TOP_PAD: 64 << 20}
RETURN = {  # where glibc begins
    M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 128 << 10, M_TRIM_THRESHOLD: 128 << 10, M_TOP_PAD: 0,
}  # fmt: skip


def keep_freed(keep: bool = True) -> bool:
    """Make malloc keep what is freed for the next tensor; return whether that could be set.

    By default glibc maps every large tensor anew and unmaps it when it dies, so that the system
    clears each of its pages again. With few cores that costs about as much as the arithmetic. The
    process does not shrink any more; a GPU's memory is not concerned. `keep=False` returns what is
    free, and from then on every large tensor that dies. No effect but on Linux with glibc.
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
    """Return a CPU tensor on the device, without waiting for what the device does now."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
