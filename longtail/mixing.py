"""Mixing of the samples of a batch, with soft targets.

All random values come from a CPU generator, so an epoch is the same on every device; the arithmetic
runs on the device of the clips, without synchronization. Inputs are not modified. BRL's mixing is
in brl.py; with `threshold: .inf` it is body-part CutMix with a fixed share.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from graph import Skeleton
from longtail.ranges import Epochs, Factor, Positive, Ratio, Share
from memory import send


class Mixing(nn.Module):
    """Base class: a batch and its labels to mixed clips and soft targets.

    The batch is that of one optimizer step. A subclass overrides `forward`; the base class does not
    mix. Constants are non-persistent buffers; state that a resumed run needs are persistent ones.
    """

    takes_positions = False  # True: of the stream joint only

    def __init__(self, class_counts: Tensor, skeleton: Skeleton | None = None) -> None:
        super().__init__()
        self.num_class = len(class_counts)
        self.counts = nn.Buffer(class_counts.double(), persistent=False)
        self.epoch = 0

    def begin_epoch(self, epoch: int) -> None:
        """Called at the start of each epoch, counted from 0."""
        self.epoch = epoch

    def idle(self, epochs: int, batch: int) -> list[str]:
        """Return lines on what never acts in a run of so many epochs and samples per batch."""
        return []

    def observe(
        self, net: nn.Module, clips: Tensor, labels: Tensor, generator: torch.Generator | None
    ) -> None:
        """Called with each batch before it is mixed; `net(clips)` returns an `Output`."""

    def forward(
        self, clips: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return mixed clips (N, M, T, V, C) and targets (N, K), drawing from a CPU generator."""
        return clips, one_hot(labels, self.num_class).float()


class Plain(Mixing):
    """No mixing: the clips as they are, one-hot targets (N, K)."""


class Mixup(Mixing):
    """Mixup: lam x_i + (1 - lam) x_j, lam ~ Beta(alpha, alpha) per batch, j from a permutation:
    Zhang et al., "mixup", ICLR 2018. With a finite kappa it is Remix (Chou et al., "Remix:
    Rebalanced Mixup", ECCV workshops 2020), which gives the label to the rarer class:

        share of y_i = 0      if n_i >= kappa n_j and lam < tau,
                       1      if n_j >= kappa n_i and 1 - lam < tau,
                       lam    otherwise.

    Remix has kappa 3 and tau 0.5.
    """

    def __init__(
        self,
        class_counts: Tensor,
        skeleton: Skeleton | None = None,
        alpha: Positive = 1.0,
        kappa: Ratio = float("inf"),
        tau: Share = 0.5,
    ) -> None:
        super().__init__(class_counts)
        self.alpha, self.kappa, self.tau = alpha, kappa, tau

    def forward(
        self, clips: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        partners = torch.randperm(len(clips), generator=generator)
        seed = int(torch.randint(2**62, (), generator=generator))
        lam = float(np.random.default_rng(seed).beta(self.alpha, self.alpha))
        return self.combine(clips, labels, partners, lam)

    def combine(
        self, clips: Tensor, labels: Tensor, partners: Tensor, lam: float
    ) -> tuple[Tensor, Tensor]:
        """Mix each row with its partner (CPU indices) at the share lam."""
        partners = send(partners, clips.device)
        share = self.shares(labels, labels[partners], lam)[:, None]
        own, other = (one_hot(y, self.num_class).float() for y in (labels, labels[partners]))
        return lam * clips + (1 - lam) * clips[partners], share * own + (1 - share) * other

    def shares(self, labels: Tensor, others: Tensor, lam: float) -> Tensor:
        """Return the share (N,) of the own label in the target."""
        own, other = self.counts[labels], self.counts[others]
        share = torch.full(own.shape, lam, device=own.device)
        if lam < self.tau:
            share = share.masked_fill(own >= self.kappa * other, 0.0)
        if 1 - lam < self.tau:
            share = share.masked_fill(other >= self.kappa * own, 1.0)
        return share


class ShapMix(Mixing):
    """Zhang et al., "Shap-Mix: Shapley Value Guided Mixing for Long-Tailed Skeleton Based Action
    Recognition", IJCAI 2024, arXiv 2407.12312.

    The body has five parts; S is one of the 20 subsets of two or three of them. The saliency V
    (K, 20) of parts S for class y is a moving average, with factor `memory`, of the gains

        ReLU(p_y(x_{S u R}) - p_y(x_R)) * 10 / joints(S),

    R a random coalition of the other parts (empty in the first `warm_up` epochs); absent parts are
    taken from the mean clip. The result is the clean and the mixed batch, (2N, ...), with targets
    whose rows sum to 2, so that the losses of both halves are added, as in the paper. With
    probability `mixup` the mixed half is plain mixup, lam ~ U(0, 1). Else a segment of the clip is
    pasted from sample j on some parts; its length, in steps of 4 frames, lies between the shares
    `segment` of the clip (28 to 44 of 64 frames); the donor's segment is as long or longer and is
    resized in time. If j's class is rarer, S ~ softmax(V[y_j] / temperature) is pasted; else S ~
    softmax(V[y_i] / temperature) is kept, and all other parts are pasted. lam is the pasted share
    of (T, V). In the first `warm_up` epochs S is uniform.

    `observe` must be called with each batch before it is mixed. The mean clip is the mean of the
    training clips so far. Up to and including epoch `warm_up` (from 0) V is the latest gain, as in
    the released code, so that the average does not start from zeros.
    """

    def __init__(
        self,
        class_counts: Tensor,
        skeleton: Skeleton,
        mixup: Share = 0.25,
        memory: Factor = 0.9,
        temperature: Positive = 0.2,
        warm_up: Epochs = 5,
        segment: tuple[float, float] = (7 / 16, 11 / 16),
    ) -> None:
        if len(skeleton.parts) != 5:
            raise ValueError(f"layout {skeleton.name} does not define five body parts")
        if not 0 < segment[0] <= segment[1] <= 1:
            raise ValueError(f"segment must be two increasing fractions of the clip, not {segment}")
        super().__init__(class_counts)
        joints = torch.arange(skeleton.num_joints)
        self.parts = torch.stack([torch.isin(joints, torch.tensor(p)) for p in skeleton.parts])
        # in lexicographic order: the complement of subset k is subset 19 - k
        self.subsets = [s for size in (2, 3) for s in combinations(range(5), size)]
        masks = torch.stack([self.parts[list(s)].any(0) for s in self.subsets])  # (20, V)
        self.masks = nn.Buffer(masks, persistent=False)
        self.saliency = nn.Buffer(torch.zeros(self.num_class, len(self.subsets)))
        self.mean_clip: Tensor = nn.Buffer(torch.zeros(()))  # (M, T, V, C) from the first batch on
        self.seen: Tensor = nn.Buffer(torch.zeros((), dtype=torch.int64))
        self.mixup, self.memory, self.temperature = mixup, memory, temperature
        self.warm_up, self.segment = warm_up, segment

    def idle(self, epochs: int, batch: int) -> list[str]:
        if epochs > self.warm_up:
            return []
        return [f"mixing_args.warm_up is {self.warm_up}: in {epochs} epochs no saliency is used"]

    def observe(
        self, net: nn.Module, clips: Tensor, labels: Tensor, generator: torch.Generator | None
    ) -> None:
        """Sample a Shapley value: what one random S adds to a random coalition R, on unmixed clips
        (N, M, T, V, C), with two passes of the network."""
        self.seen += len(clips)
        self.mean_clip = self.mean_clip + (clips - self.mean_clip).sum(0) / self.seen
        subset, coalition = self.draw_coalition(generator)
        kept = send(self.parts[coalition].any(0), clips.device)  # (V,)
        without = torch.where(kept[:, None], clips, self.mean_clip)
        with_subset = torch.where(self.masks[subset][:, None], clips, without)
        chances = probe(net, torch.cat([with_subset, without])).softmax(-1)  # (2N, K)
        gain = chances.gather(1, labels.repeat(2)[:, None]).view(2, -1)
        gain = (gain[0] - gain[1]).relu() * 10 / self.masks[subset].sum()
        self.update(subset, labels, gain)

    def draw_coalition(self, generator: torch.Generator | None) -> tuple[int, list[int]]:
        """Return the index of a random subset S, of size two or three, and the parts of R."""
        size = int(torch.randint(2, 4, (), generator=generator))
        order = torch.randperm(5, generator=generator).tolist()
        most = int(torch.randint(0, 6 - size, (), generator=generator))
        coalition = order[size : size + most] if self.epoch >= self.warm_up else []
        return self.subsets.index(tuple(sorted(order[:size]))), coalition

    def update(self, subset: int, labels: Tensor, gains: Tensor) -> None:
        """Update V[y_i, subset] with gains[i] (N,) in sequence: V <- memory V + (1 - memory)
        gain."""
        memory = self.memory if self.epoch > self.warm_up else 0.0
        later = (labels[:, None] == labels).triu(1).sum(1)  # following updates of the same class
        fresh = torch.zeros_like(self.saliency[:, subset])
        fresh.index_add_(0, labels, (1 - memory) * memory**later * gains)
        times = one_hot(labels, self.num_class).sum(0)
        self.saliency[:, subset] = memory**times * self.saliency[:, subset] + fresh

    def forward(
        self, clips: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the clean and the mixed batch (2N, M, T, V, C) and their targets (2N, K)."""
        mixed, partners, share = self.paste(clips, labels, generator)
        own, other = (one_hot(y, self.num_class).float() for y in (labels, labels[partners]))
        targets = (1 - share)[:, None] * own + share[:, None] * other
        return torch.cat([clips, mixed]), 2 * torch.cat([own, targets])

    def paste(
        self, clips: Tensor, labels: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return mixed clips, partners (N,) int64 of each, and the partners' pasted shares (N,)."""
        count, frames = len(clips), clips.shape[2]
        partners = self.draw_partners(count, generator)
        plain, lam = torch.rand(2, generator=generator).tolist()
        uniform = torch.rand(count, generator=generator)
        place = self.draw_segment(frames, generator)
        donor = self.draw_segment(frames, generator, shortest=place[1])

        partners = send(partners, clips.device)
        if plain < self.mixup:
            mixed = (1 - lam) * clips + lam * clips[partners]
            return mixed, partners, torch.full((count,), lam, device=clips.device)
        subset = self.choose(labels, labels[partners], send(uniform, clips.device))
        mixed, share = self.replace(clips, clips[partners], self.masks[subset], place, donor)
        return mixed, partners, share

    def draw_partners(self, count: int, generator: torch.Generator | None) -> Tensor:
        """Return the partner (N,) of each sample: all samples moved on by one number."""
        return (torch.arange(count) + between(1, max(count - 1, 1), generator)) % count

    def draw_segment(
        self, frames: int, generator: torch.Generator | None, shortest: int | None = None
    ) -> tuple[int, int]:
        """Return start and length of a segment in frames, in steps of 4.

        The length lies between the shares `segment` of the clip, or is at least `shortest`.
        """
        unit = min(4, frames)
        units = frames // unit
        low, high = (max(1, round(share * units)) for share in self.segment)
        if shortest is not None:
            low, high = shortest // unit, units
        length = between(low, high, generator)
        return unit * between(0, units - length, generator), unit * length

    def replace(
        self,
        clips: Tensor,
        others: Tensor,
        pasted: Tensor,
        place: tuple[int, int],
        donor: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        """Paste the joints `pasted` (N, V) of a segment of `others`; return clips and shares (N,).

        `place` and `donor` are segments as of `draw_segment`; the donor's is resized in time.
        """
        frames = clips.shape[2]
        (start, length), (donor_start, donor_length) = place, donor
        steps = torch.arange(length)
        source = torch.arange(frames)
        source[start + steps] = donor_start + steps * donor_length // length
        inside = send(torch.isin(torch.arange(frames), start + steps), clips.device)
        paste = (inside[:, None] & pasted[:, None])[:, None, :, :, None]  # (N, 1, T, V, 1)
        mixed = torch.where(paste, others[:, :, send(source, clips.device)], clips)
        return mixed, length * pasted.sum(1) / pasted.shape[1] / frames

    def choose(self, labels: Tensor, donors: Tensor, uniform: Tensor) -> Tensor:
        """Return the subset (N,) that is pasted for each sample; uniform (N,) in [0, 1)."""
        donor_is_rarer = self.counts[donors] < self.counts[labels]
        saliency = self.saliency[torch.where(donor_is_rarer, donors, labels)]  # (N, 20)
        if self.epoch < self.warm_up:
            saliency = torch.zeros_like(saliency)
        subset = self.draw_subset(saliency, uniform)
        return torch.where(donor_is_rarer, subset, len(self.subsets) - 1 - subset)

    def draw_subset(self, saliency: Tensor, uniform: Tensor) -> Tensor:
        """Return subsets (N,) ~ softmax(saliency (N, 20) / temperature); uniform (N,) in [0, 1)."""
        reached = (saliency / self.temperature).softmax(1).cumsum(1)
        return (reached <= uniform[:, None]).sum(1).clamp_max(len(self.subsets) - 1)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Load a mean clip of any shape."""
        self.mean_clip = self.mean_clip.new_zeros(state[f"{prefix}mean_clip"].shape)
        super()._load_from_state_dict(state, prefix, *rest)


@torch.no_grad()
def probe(net: nn.Module, clips: Tensor) -> Tensor:
    """Return the logits (N, K) of a network in evaluation mode, which it then leaves."""
    training = net.training
    logits = net.eval()(clips).logits.float()
    net.train(training)
    return logits


def between(low: int, high: int, generator: torch.Generator | None) -> int:
    """Draw an integer in low..high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))
