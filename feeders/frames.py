"""Frame choice: the indices of the frames of a clip that the network is given.

`Uniform` (the default) and `Even` (NW-UCLA) are the two policies. In testing the choice depends
only on the length of the clip; in training it is drawn for the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from errors import InputError

TEST_SEED = 255
NUM_PICKS = 100  # NW-UCLA: copies of each frame in the urn that training draws from
TRIES = 4  # values drawn per chosen frame, because repeated members of the urn do not count


@dataclass(frozen=True)
class Uniform:
    """PYSKL's UniformSample: evenly spread frames with random jitter, over a fraction in
    `p_interval` of the clip."""

    p_interval: tuple[float, float] = (1, 1)

    def __post_init__(self) -> None:
        low, high = self.p_interval
        if not 0 < low <= high <= 1:
            raise InputError(f"feeder_args.p_interval: {low} to {high} is not within 0 to 1")

    def test(self, length: int, frames: int, clips: int) -> np.ndarray:
        """Return the (S, T) test frames of a clip of `length` frames."""
        return uniform_sample(length, frames, clips, self.p_interval)

    def num_draws(self, frames: int) -> int:
        """Return the number of uniform values that `train` uses per clip of T frames."""
        return frames + 3

    def train(self, lengths: torch.Tensor, drawn: torch.Tensor, frames: int) -> torch.Tensor:
        """Return (N, S, T) for clips of `lengths` (N,), as PYSKL's UniformSample draws them.

        `drawn` (N, S, T + 3), uniform in [0, 1): the fraction of the clip, its offset, and T + 1
        values for the jitter of the frames.
        """
        share, offset, jitter = drawn.split([1, 1, frames + 1], dim=-1)
        low, high = self.p_interval
        lengths = lengths[:, None, None]
        part = ((share.double() * (high - low) + low) * lengths).long().clamp(min=1)
        steps = torch.arange(frames + 1)
        # Shorter than T: consecutive frames from a random start, repeated by the modulo below.
        running = steps[:-1] + (jitter[..., :1] * part).long()
        # Shorter than 2 T: a random subset of the T + 1 gaps, those of lowest jitter, is skipped.
        skipped = torch.zeros_like(jitter, dtype=torch.int64)
        skipped.scatter_(-1, jitter.argsort(-1), (steps < part - frames).long())
        spaced = steps[:-1] + skipped.cumsum(-1)[..., :-1]
        # Longer: one frame of each of T equal blocks.
        bounds = steps * part // frames
        blocks = bounds[..., :-1] + (jitter[..., :-1] * bounds.diff()).long()
        chosen = torch.where(part < frames, running, torch.where(part < 2 * frames, spaced, blocks))
        return (chosen + (offset * (lengths - part + 1)).long()) % lengths


@dataclass(frozen=True)
class Even:
    """NW-UCLA's frames, with the methods of `Uniform`: equal steps over the clip in testing, a
    sorted draw without replacement in training."""

    def test(self, length: int, frames: int, clips: int) -> np.ndarray:
        if clips != 1:
            raise InputError(
                f"test_clips: {clips}, but all clips of a sample are equal with "
                "feeder_args.choice=even (NW-UCLA's protocol); set test_clips to 1"
            )
        return linspace(length, frames)

    def num_draws(self, frames: int) -> int:
        return TRIES * frames

    def train(self, lengths: torch.Tensor, drawn: torch.Tensor, frames: int) -> torch.Tensor:
        """Return sorted frames (N, S, T) from an urn with every frame of a clip NUM_PICKS times.

        The first T of the `drawn` (N, S, D) with distinct members of the urn are used, for which
        D = 4 T is enough.
        """
        lengths = lengths[:, None, None]
        member, order = (drawn * (NUM_PICKS * lengths)).long().sort(stable=True)
        again = torch.nn.functional.pad(member[..., 1:] == member[..., :-1], (1, 0))
        first = order.masked_fill(again, drawn.shape[-1]).argsort(stable=True)[..., :frames]
        return (member.gather(-1, first) % lengths).sort().values


FrameChoice = Uniform | Even
CHOICES: dict[str, type[FrameChoice]] = {"uniform": Uniform, "even": Even}


def uniform_sample(
    length: int, frames: int, clips: int = 1, p_interval: tuple[float, float] = (1, 1)
) -> np.ndarray:
    """Return the (S, T) test frames of a clip of `length` frames, spread evenly with random jitter.

    Values are drawn clip by clip, from the fixed seed and in the order of the released code
    (PYSKL's UniformSample).
    """
    random = np.random.RandomState(TEST_SEED)
    low, high = p_interval
    chosen = np.empty((clips, frames), np.int64)
    for clip in range(clips):
        part = int((random.rand() * (high - low) + low) * length)
        offset = random.randint(length - part + 1)
        if part < frames:
            chosen[clip] = np.arange(frames) + (clip if part < clips else clip * part // clips)
        elif part < 2 * frames:
            gaps = np.zeros(frames + 1, np.int64)
            gaps[random.choice(frames + 1, part - frames, replace=False)] = 1
            chosen[clip] = np.arange(frames) + gaps.cumsum()[:-1]
        else:
            bounds = np.arange(frames + 1) * part // frames
            chosen[clip] = bounds[:-1] + random.randint(np.diff(bounds))
        chosen[clip] += offset
    return chosen % length


def linspace(length: int, frames: int) -> np.ndarray:
    """Return (1, T) indices at equal steps from the first frame to the last (NW-UCLA's test)."""
    return np.linspace(0, length - 1, frames).astype(np.int64)[None]
