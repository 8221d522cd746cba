"""Batches from a prepared store, made on the device: frame choice, streams, augmentation.

In a loop of one's own:

    feeder = Feeder(Store.open("data/ntu60"), rows, stream="bone", train=True, device="cuda")
    for clips, labels, _ in feeder.batches(torch.randperm(len(feeder)).split(16)):
        ...  # clips (N, M, T, V, C) and labels (N,) on the device

or as any Dataset: DataLoader(Feeder(store, rows, train=True), batch_size=16, num_workers=2).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad
from torch.utils.data import Dataset

import graph
from errors import InputError
from feeders import augment
from feeders.frames import Table, sample, uniform_sample
from feeders.source import Clips, Source, gather
from feeders.streams import Stream
from memory import send


@dataclass
class Batch:
    """Rows that are fed together, and the seed of all that is drawn for them."""

    rows: torch.Tensor  # (N,) int64, positions within the feeder
    step: int = 0
    seed: int | None = None

    @cached_property
    def generator(self) -> torch.Generator | None:
        """One generator for the feeder, then for the mixing; None (torch's own) without a seed."""
        return None if self.seed is None else torch.Generator().manual_seed(self.seed)


@dataclass(frozen=True)
class Draws:
    """What chance decides for a training batch; all else follows from it."""

    scale: torch.Tensor  # (N, 3) each axis is stretched by 1 + scale
    angles: torch.Tensor  # (N, 3) rotation about x, y and z, in radians
    flip: torch.Tensor  # (N,) bool: left and right exchanged
    frames: torch.Tensor  # (N, S, T + 3) uniform in [0, 1), see frames.sample


class Feeder(Dataset):
    """Clips of some rows of a store, in batches on the device; also a Dataset of single samples.

    Rows are positions within the feeder. In testing a batch depends on its rows alone, in training
    also on the generator; which device, and whether it holds the frames, changes nothing.
    """

    def __init__(
        self,
        store: Any,
        rows: np.ndarray,
        stream: str = "joint",
        frames: int = 64,
        clips: int = 1,
        train: bool = False,
        skeleton: graph.Skeleton | None = None,
        device: str | torch.device = "cpu",
        resident: bool | None = None,
        persons: int | None = None,
        scale: float = 0.1,
        rotate: float = 0.3,
        flip: float = 0.5,
        mirror: bool = False,
        p_interval: tuple[float, float] = (1, 1),
        sampled_motion: bool = False,
    ) -> None:
        """`frames` T of a clip, `clips` S of a sample, `persons` M of the network (None: stored).

        `resident` keeps the frames on the device (None: if there is room, see source.fits).
        In training each axis is stretched by 1 + up to `scale`, the body turned by up to `rotate`
        radians about each axis, and left and right exchanged with probability `flip`, where
        `mirror` (2D data) negates x too. A clip comes from a share of the sample's frames that
        lies in `p_interval`. `sampled_motion` takes a motion stream between the frames that were
        chosen, all clips of a sample in a row, as the released k400 recipe does.
        """
        self.frames, self.clips, self.train = frames, clips, train
        self.scale, self.rotate, self.flip, self.mirror = scale, rotate, flip, mirror
        self.p_interval = p_interval
        self.device = torch.device(device)
        self.skeleton = skeleton or graph.load(store.layout)
        self.extra_persons = self._check(store, rows, persons)
        self.channels = store.joints.shape[-1]
        self.planar = self.skeleton.confidence or self.channels == 2  # x, y and perhaps a score
        self.stream = Stream(stream, self.skeleton, self.channels, self.device)
        self.flip_order = torch.tensor(self.skeleton.flip, device=self.device)
        if train and flip and not self.stream.commutes_with(self.flip_order):
            raise InputError(
                f"feeder_args.flip: layout {self.skeleton.name} has other parents left than right, "
                f"so its {stream} stream cannot be flipped; set feeder_args.flip to 0, or mend "
                "parent or flip in the layout"
            )
        if train and mirror and store.meta.get("normalisation") == "pixels":
            raise InputError(
                f"feeder_args.mirror: {store.path} holds pixels, without a common axis to mirror "
                "about; prepare it without --pixels, or set feeder_args.mirror to false"
            )
        self.sampled_motion = sampled_motion and bool(self.stream.motion)
        rows = np.asarray(rows, np.int64)
        self.names: list[str] = store.names[rows].tolist()
        self.labels = torch.from_numpy(store.labels[rows])
        self.source = Source(store, rows, self.prepare, self.device, resident)
        self.table = None if train else Table(self.source.lengths, self.test_frames)

    def _check(self, store: Any, rows: np.ndarray, persons: int | None) -> int:
        """Return how many absent persons to add; InputError if store and network do not fit."""
        stored, joints, channels = store.joints.shape[1:]
        if joints != self.skeleton.num_joints:
            raise InputError(
                f"{store.path}: {joints} joints ({store.layout}), but model_args.graph="
                f"{self.skeleton.name} has {self.skeleton.num_joints}"
            )
        if channels not in (2, 3):
            raise InputError(f"{store.path}: {channels} channels, where 2 or 3 can be fed")
        if persons is not None and persons < stored:
            raise InputError(
                f"model_args.num_person: {persons}, but {store.path} has {stored} persons a clip"
            )
        if len(rows) == 0:
            raise InputError(
                f"{store.path}: this split has no samples; see protocol, training_list"
            )
        low, high = self.p_interval
        if not 0 < low <= high <= 1:
            raise InputError(f"feeder_args.p_interval: {low} to {high}, not within 0 to 1")
        for key, value in ("frames", self.frames), ("test_clips", self.clips):
            if value < 1:
                raise InputError(f"{key}: {value}; at least 1 is needed")
        return 0 if persons is None else persons - stored

    @property
    def where(self) -> str:
        """Where the frames lie, for the log."""
        return self.source.where

    def with_clips(self, clips: int) -> Feeder:
        """Return a test feeder of the same frames, not loaded again, with `clips` per sample."""
        other = copy.copy(self)
        other.clips = clips
        other.table = Table(self.source.lengths, other.test_frames)
        return other

    # --- batches ---

    def batches(
        self, batches: Iterable[Batch | torch.Tensor], generator: torch.Generator | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, Batch | torch.Tensor]]:
        """Yield (clips (N * S, M, T, V, C), labels (N,), the batch itself), on the device.

        A batch is a Batch, or rows (N,) for which `generator` draws. All draws are made here, in
        the order of the batches, whether or not threads read ahead.
        """
        plans = (self._plan(batch, generator) for batch in batches)
        for (rows, draws, batch), read in self.source.read_ahead(plans):
            yield self.make(rows, draws, read), self.targets(rows), batch

    def _plan(
        self, batch: Batch | torch.Tensor, generator: torch.Generator | None
    ) -> tuple[torch.Tensor, Draws | None, Batch | torch.Tensor]:
        if isinstance(batch, Batch):
            return batch.rows, self.draw(batch.rows, batch.generator), batch
        return batch, self.draw(batch, generator), batch

    def batch(self, rows: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Return the clips (N * S, M, T, V, C) float32 of rows (N,), those of a sample together."""
        return self.make(rows, self.draw(rows, generator))

    def targets(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the labels (N,) of `rows` on the device."""
        return send(self.labels[rows], self.device)

    # --- what a protocol defines ---

    def prepare(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return the frames (F, M, V, C) of whole clips as they are kept: the stream is taken."""
        return self.stream.relative(frames) if self.sampled_motion else self.stream(frames, lengths)

    def test_frames(self, length: int) -> np.ndarray:
        """Return the (S, T) frames that a clip of `length` frames is tested on."""
        return uniform_sample(length, self.frames, self.clips, self.p_interval)

    def draw(self, rows: torch.Tensor, generator: torch.Generator | None = None) -> Draws | None:
        """Draw for a training batch, on the CPU, so that every device sees the same epoch."""
        if not self.train:
            return None
        jitter = self.frames + 3
        drawn = torch.rand(len(rows), 7 + self.clips * jitter, generator=generator)
        scale, angles, flip, frames = drawn.split([3, 3, 1, self.clips * jitter], dim=1)
        return Draws(
            scale=(2 * scale - 1) * self.scale,
            angles=(2 * angles - 1) * self.rotate,
            flip=flip[:, 0] < self.flip,
            frames=frames.unflatten(1, (self.clips, jitter)),
        )

    def make(
        self, rows: torch.Tensor, draws: Draws | None, read: Clips | None = None
    ) -> torch.Tensor:
        """Return the batch that rows and draws determine; `read` where it was read ahead."""
        clips = self.source.finish(read or self.source.read(rows))
        if draws is None:
            return self.pad_persons(self.choose(clips, self.table[rows]))
        chosen = sample(clips.lengths, draws.frames, self.p_interval)
        batch = self.choose(clips, chosen)
        if self.flip:
            flipped = send(draws.flip.repeat_interleave(self.clips), self.device)
            batch = augment.exchange(batch, flipped, self.flip_order)
        if self.scale or self.rotate or self.mirror:
            mirrored = draws.flip if self.mirror else None
            matrices = augment.matrices(draws.scale, draws.angles, mirrored, self.planar)
            matrices = matrices[:, : self.channels, : self.channels].repeat_interleave(
                self.clips, 0
            )
            batch = augment.transform(batch, send(matrices, self.device))
        return self.pad_persons(batch)

    def choose(self, clips: Clips, chosen: torch.Tensor) -> torch.Tensor:
        """Return (N * S, M, T, V, C), the frames `chosen` (N, S, T); here a motion may be taken."""
        batch = gather(clips, chosen)
        if self.sampled_motion:
            following = chosen.flatten(1).roll(-1, dims=1).view_as(chosen)
            batch = self.stream.between(batch, gather(clips, following))
            batch.unflatten(0, chosen.shape[:2])[:, -1, :, -1] = 0  # nothing follows
        return batch

    def pad_persons(self, batch: torch.Tensor) -> torch.Tensor:
        """Add absent persons, zeros, up to as many as the network takes."""
        return pad(batch, (0, 0) * 3 + (0, self.extra_persons)) if self.extra_persons else batch

    # --- a Dataset of single samples ---

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        """Return (clip (M, T, V, C), label); (S, M, T, V, C) with several clips a sample."""
        return self.__getitems__([range(len(self))[row]])[0]

    def __getitems__(self, rows: list[int]) -> list[tuple[torch.Tensor, int]]:
        """Return the samples at `rows`: DataLoader asks for a whole batch this way."""
        rows = torch.tensor(rows)
        clips = self.batch(rows).unflatten(0, (len(rows), self.clips))
        clips = clips.squeeze(1) if self.clips == 1 else clips
        return list(zip(clips, self.labels[rows].tolist()))
