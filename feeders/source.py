"""The frames of a feeder: on the device as one tensor, or memory-mapped and read on demand."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from data.store import Store
from memory import send

CLIPS_PER_COPY = 1024  # clips per copy to the device: about 50 MB of NTU

THREADS = 2  # that read memory-mapped frames ahead
AHEAD = 4  # batches read ahead

# (frames (F, M, V, C) of whole clips, lengths (N,) of the clips) to frames of the same shape.
Prepare = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass
class Clips:
    """Clips of unequal length: clip i is frames[starts[i] : starts[i] + lengths[i]]."""

    frames: torch.Tensor  # (F, M, V, C)
    starts: torch.Tensor  # (N,) int64 on the CPU
    lengths: torch.Tensor  # (N,) int64 on the CPU

    def __getitem__(self, rows: torch.Tensor) -> Clips:
        """Return the clips at `rows`, within the same frames."""
        return Clips(self.frames, self.starts[rows], self.lengths[rows])

    def packed(self) -> Clips:
        """Return a copy with only the frames of these clips, end to end."""
        starts = self.lengths.cumsum(0) - self.lengths
        shift = (self.starts - starts).repeat_interleave(self.lengths)
        index = torch.arange(len(shift)) + shift
        frames = self.frames.index_select(0, send(index, self.frames.device))
        return Clips(frames, starts, self.lengths)


def take_frames(clips: Clips, chosen: torch.Tensor) -> torch.Tensor:
    """Return (N * S, M, T, V, C), the frames `chosen` (N, S, T) of the N clips."""
    frames = clips.frames
    _, M, V, C = frames.shape
    index = send(clips.starts[:, None, None] + chosen, frames.device)[:, :, None]  # (N, S, 1, T)
    index = index * M + torch.arange(M, device=frames.device)[:, None]  # (N, S, M, T)
    rows = frames.view(-1, V * C).index_select(0, index.flatten())
    return rows.view(-1, M, chosen.shape[-1], V, C)


def take_joints(frames: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Return frames[..., order, :] of frames (..., V, C); several times faster on the CPU."""
    V, C = frames.shape[-2:]
    columns = (order[:, None] * C + torch.arange(C, device=order.device)).flatten()
    return frames.reshape(-1, V * C).index_select(1, columns).view(frames.shape)


_shared: dict[Any, Clips] | None = None


@contextmanager
def shared_frames() -> Iterator[None]:
    """Read the frames of a store once for all streams: those that a device has memory for twice
    stay on it unprocessed, and every further Source of the same rows derives its own from them."""
    global _shared
    _shared = {}
    try:
        yield
    finally:
        _shared = None


class Source:
    """The clips of some rows of a store, processed by `prepare` (a stream; None: raw).

    Resident frames are processed once and kept on the device. Otherwise `read` copies whole clips
    from the memory map and `finish` processes them on the device; the values are the same.
    """

    def __init__(
        self,
        store: Store,
        rows: np.ndarray,
        prepare: Prepare | None,
        device: torch.device,
        resident: bool | None = None,
    ) -> None:
        """`resident=None`: see `fits`."""
        self.path, self.prepare, self.device = store.path, prepare, device
        starts, lengths = (torch.from_numpy(x[rows]) for x in (store.starts, store.lengths))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            frames = torch.from_numpy(store.joints)  # shares its memory, which is never written to
        self.lengths = lengths  # frames of each clip, (n,) int64
        self.mapped = Clips(frames, starts, lengths)
        self.nbytes = int(lengths.sum()) * self.mapped.frames[0].nbytes
        self.kept: Clips | None = None
        if fits(self.nbytes, device) if resident is None else resident:
            self.kept = self._load()

    @property
    def where(self) -> str:
        """Where the frames lie, for the log."""
        if self.kept is None:
            return f"memory-mapped, read ahead by {THREADS} threads"
        return f"on the device ({self.device}), {self.nbytes / 1e9:.2f} GB"

    def _load(self) -> Clips:
        """Copy the frames to the device, CLIPS_PER_COPY clips at a time, and process them there."""
        if _shared is None or not fits(2 * self.nbytes, self.device):
            return self._copy(self.mapped, self.prepare)
        key = self.path, str(self.device), self.mapped.starts.numpy().tobytes()
        if key not in _shared:
            _shared[key] = self._copy(self.mapped, None)
        if self.prepare is None:
            return _shared[key]
        return self._copy(_shared[key], self.prepare)

    def _copy(self, clips: Clips, prepare: Prepare | None) -> Clips:
        lengths = self.lengths
        starts = lengths.cumsum(0) - lengths
        shape = (int(lengths.sum()), *clips.frames.shape[1:])
        frames = torch.empty(shape, device=self.device)
        for rows in torch.arange(len(lengths)).split(CLIPS_PER_COPY):
            part = self._processed(clips[rows].packed(), prepare)
            first = int(starts[rows[0]])
            frames[first : first + len(part)] = part
        return Clips(frames, starts, lengths)

    def read(self, rows: torch.Tensor) -> Clips:
        """Return the clips at `rows`, unprocessed unless resident; thread-safe."""
        return self.mapped[rows].packed() if self.kept is None else self.kept[rows]

    def finish(self, clips: Clips) -> Clips:
        """Return the clips from `read`, processed and on the device."""
        if self.kept is not None:
            return clips
        return Clips(self._processed(clips, self.prepare), clips.starts, clips.lengths)

    def _processed(self, clips: Clips, prepare: Prepare | None) -> torch.Tensor:
        frames = send(clips.frames, self.device)
        return frames if prepare is None else prepare(frames, clips.lengths)

    def read_ahead(self, plans: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, Clips]]:
        """Yield each plan, a tuple that begins with rows, and the clips that `read` returns for
        them."""
        if self.kept is not None:
            for plan in plans:
                yield plan, self.read(plan[0])
            return
        ahead: deque[tuple[Any, Future[Clips]]] = deque()
        with ThreadPoolExecutor(THREADS) as pool:
            for plan in plans:
                ahead.append((plan, pool.submit(self.read, plan[0])))
                if len(ahead) > AHEAD:
                    plan, reading = ahead.popleft()
                    yield plan, reading.result()
            for plan, reading in ahead:
                yield plan, reading.result()


def fits(nbytes: int, device: torch.device) -> bool:
    """Return whether frames are kept on the device: half of a GPU's free memory, 1 GiB of RAM.

    For more RAM the page cache, which processes share, is as fast.
    """
    if device.type == "cuda":
        return nbytes < torch.cuda.mem_get_info(device)[0] / 2
    return device.type == "cpu" and nbytes < 2**30
