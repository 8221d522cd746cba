"""BRL in one file: Liu et al., "Balanced Representation Learning for Long-tailed Skeleton-based
Action Recognition", arXiv 2308.14024.

1. Rebalanced partial mixup (`PartialMixup`) and reverse sampling (`ReverseSampling`) balance what
   the network sees; 2. the detached action-aware schedule (`ActionAwareWeights` with
   `longtail.schedule.Stages`) balances what it is asked for; 3. the skip stream is in feeders/.

n_y is the training count of class y, K the number of classes, N the batch. The defaults are the
paper's. The released code departs from the paper; it is had by values of the same objects, which
`config/released.yaml` sets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from longtail.sampling import InstanceSampling
from longtail.weights import scaled
from memory import send


def formula_counts(class_counts: Tensor, imbalance: float | None) -> Tensor:
    """Return class_counts, or with an imbalance the counts int(n_max IF^(-c/(K-1))) (K,) float64.

    The released mixing and losses know no list: whatever is read, they count by IF 100, NW-UCLA 10.
    """
    counts = class_counts.cpu().double()
    if imbalance is None:
        return counts
    order = torch.arange(len(counts), dtype=torch.float64) / max(len(counts) - 1, 1)
    return (counts.max() * (1 / imbalance) ** order).trunc()


class PartialMixup:
    """Rebalanced partial mixup: the upper body of sample i, the lower body of sample j.

    int(N * ratio) samples i of a batch, without replacement, each with a partner j drawn uniformly
    from the other N - 1 and read from the unmixed batch; all frames and persons. With the body's
    share alpha = |upper| / V the target is

        alpha_i y_i + (1 - alpha_i) y_j,   alpha_i = 0      if n_i > threshold n_j,
                                                     1      if n_j > threshold n_i,
                                                     alpha  otherwise:

    where one class is that much the rarer, its label is the whole target. An infinite threshold
    keeps the share fixed (the paper's ablation). The released behaviour, by values:

    alpha            0.64 for every skeleton, also where the upper body is 11 of 20 joints
    permute_joints   mixed samples have their joints in the order [upper..., lower...]
    walk             the batch is walked by index in a list that loses each mixed sample, so the
                     index after a mixed one is passed over, and a mixed sample is no partner later
    batch_share      one share, the last mixed sample's, for the whole batch, and targets (2, N, K):
                     the label sets of i and of j, whose losses are normalised separately
    formula          the imbalance of the formula that counts come from (`formula_counts`)
    """

    def __init__(
        self,
        class_counts: Tensor,
        skeleton: Any,
        ratio: float = 1 / 16,
        alpha: float | None = None,
        threshold: float = 3.0,
        permute_joints: bool = False,
        walk: bool = False,
        batch_share: bool = False,
        formula: float | None = None,
    ) -> None:
        self.num_class = len(class_counts)
        self.counts = formula_counts(class_counts, formula)
        self.ratio, self.threshold = ratio, threshold
        self.walk, self.batch_share = walk, batch_share
        joints = torch.arange(skeleton.num_joints)
        upper = torch.isin(joints, torch.tensor(skeleton.upper))  # (V,)
        self.alpha = float(upper.double().mean()) if alpha is None else alpha
        # Slot v of a mixed sample takes joint order[v], its own where own[v], else its partner's.
        self.order = torch.cat([joints[upper], joints[~upper]]) if permute_joints else joints
        self.own = upper[self.order]

    def __call__(
        self, clips: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return mixed clips (N, M, T, V, C) and targets (N, K), or (2, N, K) with batch_share."""
        return self.apply(clips, labels, *self.draw(len(clips), generator))

    def draw(self, batch: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Return the rows i to mix and their partners j, both (int(N * ratio),) int64."""
        count = int(batch * self.ratio) if batch > 1 else 0
        rows = torch.randperm(batch, generator=generator)[:count]
        if self.walk:
            return shrinking_walk(
                batch,
                rows.tolist(),
                lambda pool: pool[int(torch.randint(len(pool), (), generator=generator))],
            )
        partners = torch.randint(max(batch - 1, 1), rows.shape, generator=generator)
        return rows, partners + (partners >= rows)

    def apply(
        self, clips: Tensor, labels: Tensor, rows: Tensor, partners: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return clips and targets with rows[k] mixed with partners[k] (indices on the CPU)."""
        self._follow(clips.device)
        source, mixed = torch.arange(len(clips)), torch.zeros(len(clips), dtype=torch.bool)
        source[rows], mixed[rows] = partners, True
        source, mixed = send(source, clips.device), send(mixed, clips.device)
        both = torch.where(
            self.own[:, None], clips[..., self.order, :], clips[source][..., self.order, :]
        )
        share = torch.where(mixed, self.shares(labels, labels[source]), 1.0)  # (N,)
        own, other = (one_hot(y, self.num_class).float() for y in (labels, labels[source]))
        clips = torch.where(mixed[:, None, None, None, None], both, clips)
        if self.batch_share:
            share = share[rows[-1]] if len(rows) else share[0]
            return clips, torch.stack([share * own, (1 - share) * other])
        return clips, share[:, None] * own + (1 - share)[:, None] * other

    def shares(self, labels: Tensor, others: Tensor) -> Tensor:
        """Return alpha_i (N,) of samples labelled `labels` with partners labelled `others`."""
        own, other = self.counts[labels], self.counts[others]
        share = torch.full(own.shape, self.alpha, device=own.device)
        share = share.masked_fill(own > self.threshold * other, 0.0)
        return share.masked_fill(other > self.threshold * own, 1.0)

    def _follow(self, device: torch.device) -> None:
        """Keep the constants where the clips are: they travel once, not with every batch."""
        if self.counts.device != device:
            self.counts, self.order, self.own = (
                constant.to(device) for constant in (self.counts, self.order, self.own)
            )


def shrinking_walk(
    batch: int, chosen: list[int], choose: Callable[[list[int]], int]
) -> tuple[Tensor, Tensor]:
    """Return rows and partners as the released loop finds them: it shortens the list it walks.

    `choose(pool)` draws a partner from the samples that are not mixed so far.
    """
    pool, place, pairs = list(range(batch)), 0, []
    while place < len(pool):
        row = pool[place]
        if row in chosen:
            pool.remove(row)
            pairs.append((row, choose(pool)))
        place += 1
    rows, partners = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
    return rows, partners


class ReverseSampling(InstanceSampling):
    """Reverse sampling: the tail third is shown as often as the most frequent class.

    Classes from place 2 int(K/3) on in the order by count, descending and stable, have
    repeat * n_max / n_c copies an epoch: whole copies, and int(fraction * n_c) distinct members
    drawn anew each epoch. All other classes have `repeat` copies.
    """

    def draws(self, progress: float) -> Tensor:
        counts, members = self.class_counts, self.members
        tail = torch.zeros(len(counts), dtype=torch.bool)
        tail[counts.argsort(descending=True, stable=True)[2 * (len(counts) // 3) :]] = True
        top, each = self.repeat * counts.max(), counts.clamp_min(1)
        # In integers: the whole copies, then the fraction (top % each) / each of the members.
        reversed_draws = top // each * members + top % each * members // each
        return torch.where(tail, reversed_draws, self.repeat * members)


class ActionAwareWeights:
    """Action-aware class weights of the second stage.

    beta_y = low + spread (n_y - n_min) / (n_max - n_min),
    w_y = (1 - beta_y) / (1 - beta_y^n_y), scaled to sum K.

    All ones if n_max = n_min. A class without samples weighs 0 and takes no part in n_min, n_max or
    K. `alternate`: the released loss overwrites its list of beta by 1 - beta each time it is
    refreshed, so every other epoch has nearly uniform weights; `formula` as in `formula_counts`.
    """

    def __init__(
        self,
        class_counts: Tensor,
        low: float = 0.99,
        spread: float = 0.0099,
        alternate: bool = False,
        formula: float | None = None,
    ) -> None:
        counts = formula_counts(class_counts, formula)
        least, most = counts[counts > 0].min(), counts.max()
        self.counts, self.uniform, self.alternate = counts, bool(least == most), alternate
        self.beta = low + spread * (counts - least) / (most - least).clamp_min(1)

    def __call__(self, stage_epoch: int) -> Tensor:
        """Return w (K,) float32 for an epoch, from 0, of the second stage."""
        if self.uniform:
            return (self.counts > 0).float()
        beta = 1 - self.beta if self.alternate and stage_epoch % 2 else self.beta
        return scaled((1 - beta) / (1 - beta ** self.counts.clamp_min(1)), self.counts)
