"""Batches from a prepared store, computed on the device: frame choice, streams, augmentation.

In your own loop:

    feeder = Feeder(Store.open("data/ntu60"), rows, stream="bone", train=True, device="cuda")
    for clips, labels, _ in feeder.batches(torch.randperm(len(feeder)).split(16)):
        ...  # clips (N, M, T, V, C) and labels (N,) on the device
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

import graph
from data.store import Store
from errors import InputError
from feeders import augment
from feeders.augment import Augmentation
from feeders.frames import FrameChoice, Uniform
from feeders.source import Clips, Source, take_frames
from feeders.streams import Stream
from graph.shapes import check_shape
from memory import send


@dataclass
class Batch:
    """The rows of a batch, and the seed of its random values."""

    rows: torch.Tensor  # (N,) int64, positions within the feeder; or (N, G), groups of samples
    step: int = 0
    seed: int | None = None

    @cached_property
    def generator(self) -> torch.Generator | None:
        """The generator of the feeder, then of the mixing; None (torch's default) without a
        seed."""
        return None if self.seed is None else torch.Generator().manual_seed(self.seed)


@dataclass(frozen=True)
class Draws:
    """The random values of a training batch, which determine it together with the rows."""

    scale: torch.Tensor  # (N, 3) each axis is multiplied by 1 + scale
    angles: torch.Tensor  # (N, 3) rotation about x, y and z, in radians
    flip: torch.Tensor  # (N,) bool: left and right exchanged
    frames: torch.Tensor  # (N, S, D) uniform in [0, 1), for the frame choice


class Feeder:
    """Clips of some rows of a store, in batches on the device.

    Rows are positions within the feeder. In testing a batch depends only on its rows, in training
    also on the generator; it does not depend on the device or on where the frames are stored.
    """

    def __init__(
        self,
        store: Store,
        rows: np.ndarray,
        stream: str = "joint",
        frames: int = 64,
        clips: int = 1,
        train: bool = False,
        *,
        choice: FrameChoice | None = None,
        augmentation: Augmentation | None = None,
        box: bool = False,
        sampled_motion: bool = False,
        views: int = 1,
        skeleton: graph.Skeleton | None = None,
        device: str | torch.device = "cpu",
        resident: bool | None = None,
    ) -> None:
        """`frames` T of a clip, `clips` S of a sample.

        Two policies define the clips: the `choice` of frames (default: `frames.Uniform()`) and, in
        training, the `augmentation` (default: `Augmentation()`), of which `views` independent draws
        are made per sample. With `box` each axis of a clip is scaled, after the rotation, to
        [-1, 1] over all its frames (NW-UCLA). `sampled_motion` computes a motion stream between the
        chosen frames, over all clips of a sample in sequence, as the released k400 recipe does.
        `resident` keeps the frames on the device (None: if they fit, see source.fits).
        """
        self.frames, self.clips, self.train, self.views = frames, clips, train, views
        self.choice, self.augmentation = choice or Uniform(), augmentation or Augmentation()
        self.box, self.device = box, torch.device(device)
        self.skeleton = skeleton or graph.load(store.layout)
        self.channels = store.joints.shape[-1]
        self._check(store, rows)
        self.planar = self.skeleton.confidence or self.channels == 2  # x, y and perhaps a score
        self.stream = Stream(stream, self.skeleton, self.channels, self.device)
        self.flip_order = torch.tensor(self.skeleton.flip, device=self.device)
        self.sampled_motion = sampled_motion and bool(self.stream.motion)
        if train:
            self._check_augmentation(store)
        rows = np.asarray(rows, np.int64)
        self.names: list[str] = store.names[rows].tolist()
        self.labels = torch.from_numpy(store.labels[rows])
        # Sampled motion is computed later, between the chosen frames.
        kind = self.stream.kind if self.sampled_motion else stream
        self.process = Stream(kind, self.skeleton, self.channels, self.device)
        self.source = Source(store, rows, None if box else self.process, self.device, resident)
        self.where = self.source.where  # the frames are stored, for the log
        self.table = None if train else self._table()

    def _check(self, store: Store, rows: np.ndarray) -> None:
        """Raise InputError for a store, rows or sizes that cannot be fed."""
        check_shape(str(store.path), store.joints.shape[1:], self.skeleton)
        if self.channels not in (2, 3):
            raise InputError(f"{store.path}: {self.channels} channels, but a feeder takes 2 or 3")
        if len(rows) == 0:
            raise InputError(
                f"{store.path}: this split has no samples; check protocol and training_list"
            )
        for key, value in ("frames", self.frames), ("test_clips", self.clips):
            if value < 1:
                raise InputError(f"{key}: {value}, but it must be at least 1")

    def _check_augmentation(self, store: Store) -> None:
        """Raise InputError for an augmentation that is wrong for the data or has no effect."""
        wanted = self.augmentation
        if wanted.flip and not self.stream.commutes_with(self.flip_order):
            raise InputError(
                f"feeder_args.flip: parents in layout {self.skeleton.name} are not symmetric, so "
                f"its {self.stream.name} stream cannot be flipped; set feeder_args.flip to 0, or "
                "correct parent or flip in the layout"
            )
        if wanted.mirror and store.normalization == "pixels":
            raise InputError(
                f"feeder_args.mirror: {store.path} contains pixels, which have no common axis to "
                "mirror about; prepare it without --pixels, or set feeder_args.mirror to false"
            )
        for key in ("scale", "mirror"):
            if self.box and getattr(wanted, key):
                raise InputError(
                    f"feeder_args.{key}: feeder_args.box scales every clip to [-1, 1] afterwards; "
                    f"set {key} to {'0' if key == 'scale' else 'false'}"
                )

    def _table(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the test frames (L, S, T) of each distinct length, and each clip's entry (n,)."""
        lengths, entry = self.source.lengths.unique(return_inverse=True)
        chosen = [self.choice.test(length, self.frames, self.clips) for length in lengths.tolist()]
        return torch.from_numpy(np.stack(chosen)), entry

    def with_clips(self, clips: int) -> Feeder:
        """Return a test feeder of the same frames, not loaded again, with `clips` per sample."""
        other = copy.copy(self)
        other.clips = clips
        other.table = other._table()
        return other

    def batches(
        self, batches: Iterable[Batch | torch.Tensor], generator: torch.Generator | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, Batch]]:
        """Yield (clips (N * S, M, T, V, C), labels (N,), batch), tensors on the device.

        With several views: clips (N, views * S, M, T, V, C). Groups (N, G) of samples give labels
        (N, G), and clips with an axis G after N. A batch is a Batch, or rows with `generator` for
        the random values, which are drawn in the order of the batches.
        """

        def plans() -> Iterator[tuple[torch.Tensor, Draws | None, Batch]]:
            for batch in batches:
                batch = batch if isinstance(batch, Batch) else Batch(batch)
                rows = batch.rows.flatten().repeat_interleave(self.views)
                yield rows, self.draw(rows, batch.generator or generator), batch

        for (rows, draws, batch), read in self.source.read_ahead(plans()):
            clips, labels = self.make(rows, draws, read), self.labels_of(batch.rows)
            if self.views > 1 or labels.ndim > 1:
                views = (-1,) if self.views > 1 else ()
                clips = clips.unflatten(0, (*labels.shape, *views))
            yield clips, labels, batch

    def batch(self, rows: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Return clips (N * S, M, T, V, C) float32 of rows (N,); those of a sample are adjacent."""
        return self.make(rows, self.draw(rows, generator))

    def labels_of(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the labels of `rows`, of their shape, on the device."""
        return send(self.labels[rows], self.device)

    def draw(self, rows: torch.Tensor, generator: torch.Generator | None = None) -> Draws | None:
        """Draw the random values of a training batch, on the CPU: the same for every device."""
        if not self.train:
            return None
        count = self.choice.num_draws(self.frames)
        drawn = torch.rand(len(rows), 7 + self.clips * count, generator=generator)
        scale, angles, flip, frames = drawn.split([3, 3, 1, self.clips * count], dim=1)
        return Draws(
            scale=(2 * scale - 1) * self.augmentation.scale,
            angles=(2 * angles - 1) * self.augmentation.largest_angles,
            flip=flip[:, 0] < self.augmentation.flip,
            frames=frames.unflatten(1, (self.clips, count)),
        )

    def make(
        self, rows: torch.Tensor, draws: Draws | None, read: Clips | None = None
    ) -> torch.Tensor:
        """Return the batch of rows and draws; `read` contains its clips if they were read ahead."""
        clips = self.source.finish(read or self.source.read(rows))
        if draws is None:
            assert self.table is not None, "draws are needed in training"
            indices, entry = self.table
            chosen = indices[entry[rows]]  # (N, S, T)
        else:
            chosen = self.choice.train(clips.lengths, draws.frames, self.frames)
        if self.box:
            clips = self.boxed(clips.packed(), draws)
        batch = self.choose(clips, chosen)
        return batch if draws is None else self.augmented(batch, draws)

    def boxed(self, clips: Clips, draws: Draws | None) -> Clips:
        """Return whole clips, rotated, scaled to their boxes, and converted to the stream.

        The rotation acts on row vectors, as in the field's NW-UCLA feeders: hence the transpose.
        2D poses are rotated in their plane, and a score is not scaled.
        """
        frames, count = clips.frames, len(clips.lengths)
        owner = send(torch.arange(count).repeat_interleave(clips.lengths), self.device)  # (F,)
        if draws is not None:
            matrices = augment.matrices(draws.scale, draws.angles, planar=self.planar).mT
            frames = augment.transform(frames, send(matrices, self.device)[owner])
        positions, score = frames.tensor_split([2 if self.planar else 3], dim=-1)
        frames = torch.cat([augment.box(positions, owner, count), score], dim=-1)
        return Clips(self.process(frames, clips.lengths), clips.starts, clips.lengths)

    def choose(self, clips: Clips, chosen: torch.Tensor) -> torch.Tensor:
        """Return (N * S, M, T, V, C), the frames `chosen` (N, S, T), or the motion between them."""
        batch = take_frames(clips, chosen)
        if self.sampled_motion:
            following = chosen.flatten(1).roll(-1, dims=1).view_as(chosen)
            batch = self.stream.between(batch, take_frames(clips, following))
            batch.unflatten(0, chosen.shape[:2])[:, -1, :, -1] = 0  # nothing follows
        return batch

    def augmented(self, batch: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Flip, scale, rotate and mirror (N * S, M, T, V, C); boxed clips are already rotated."""
        wanted = self.augmentation
        if wanted.flip:
            flipped = send(draws.flip.repeat_interleave(self.clips), self.device)
            batch = augment.exchange(batch, flipped, self.flip_order)
        if not self.box and (wanted.scale or wanted.rotate or wanted.mirror):
            mirrored = draws.flip if wanted.mirror else None
            matrices = augment.matrices(draws.scale, draws.angles, mirrored, self.planar)
            matrices = matrices.repeat_interleave(self.clips, 0)
            batch = augment.transform(batch, send(matrices, self.device))
        return batch

    def __len__(self) -> int:
        return len(self.names)
