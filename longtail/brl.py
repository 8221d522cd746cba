"""BRL in one file: Liu et al., "Balanced Representation Learning for Long-tailed Skeleton-based
Action Recognition", arXiv 2308.14024.

1. Rebalanced partial mixup (`PartialMixup`) and reverse sampling (`ReverseSampling`) balance the
   samples; 2. the detached action-aware schedule balances the loss: class weights
   (`ActionAwareWeights`) that are detached from the training of the representation, as they act
   only in the last epochs (`longtail.stages.Stages`); 3. the skip stream (each joint minus its
   grandparent) is in feeders/streams.py.

n_y is the training count of class y, K the number of classes, N the batch of one optimizer step.
The defaults are the paper's. The released code departs from the paper; `config/released.yaml` sets
values of the same objects that reproduce it. The mix of an upper and a lower body is that of
SkeletonMix: Xu et al., "Topology-Aware Convolutional Neural Network for Efficient Skeleton-Based
Action Recognition" (Ta-CNN), AAAI 2022.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from graph import Skeleton
from longtail.counts import last_third
from longtail.mixing import Mixing
from longtail.ranges import Factor, Ratio, Share
from longtail.sampling import InstanceSampling
from longtail.weights import Weighting, scaled
from memory import send


def formula_counts(class_counts: Tensor, imbalance: float | None) -> Tensor:
    """Return class_counts, or with an imbalance the counts int(n_max IF^(-c/(K-1))) (K,) float64.

    The released mixing and losses use IF 100 (NW-UCLA: 10) for every training list.
    """
    counts = class_counts.cpu().double()
    if imbalance is None:
        return counts
    order = torch.arange(len(counts), dtype=torch.float64) / max(len(counts) - 1, 1)
    return (counts.max() * (1 / imbalance) ** order).trunc()


class PartialMixup(Mixing):
    """Rebalanced partial mixup: the upper body of sample i, the lower body of sample j.

    int(N * ratio) samples i of a batch, without replacement, each with a partner j drawn uniformly
    from the other N - 1 and read from the unmixed batch; all frames and persons. With the body's
    share alpha = |upper| / V the target is

        alpha_i y_i + (1 - alpha_i) y_j,   alpha_i = 0      if n_i > threshold n_j,
                                                     1      if n_j > threshold n_i,
                                                     alpha  otherwise:

    if one class is rarer by this factor, its label is the whole target. An infinite threshold
    keeps the share fixed (the paper's ablation). Values for the released behavior:

    alpha            0.64 for every skeleton, also if the upper body is 11 of 20 joints
    permute_joints   mixed samples have their joints in the order [upper..., lower...]
    walk             the loop removes mixed samples from the list that it iterates over, so the
                     index after a mixed one is skipped, and mixed samples are not partners later
    batch_share      one share, the last mixed sample's, for the whole batch, and targets (2, N, K):
                     the label sets of i and of j, whose losses are normalized separately
    formula          imbalance of the formula for the counts (`formula_counts`)
    """

    def __init__(
        self,
        class_counts: Tensor,
        skeleton: Skeleton,
        ratio: Share = 1 / 16,
        alpha: Share | None = None,
        threshold: Ratio = 3.0,
        permute_joints: bool = False,
        walk: bool = False,
        batch_share: bool = False,
        formula: Ratio | None = None,
    ) -> None:
        super().__init__(formula_counts(class_counts, formula))
        self.ratio, self.threshold = ratio, threshold
        self.walk, self.batch_share = walk, batch_share
        joints = torch.arange(skeleton.num_joints)
        upper = torch.isin(joints, torch.tensor(skeleton.upper))  # (V,)
        self.alpha = float(upper.double().mean()) if alpha is None else alpha
        # Joint v of a mixed sample is its own joint order[v] if from_self[v], else its partner's.
        order = torch.cat([joints[upper], joints[~upper]]) if permute_joints else joints
        self.order = nn.Buffer(order, persistent=False)
        self.from_self = nn.Buffer(upper[order], persistent=False)

    def forward(
        self, clips: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return mixed clips (N, M, T, V, C) and targets (N, K), or (2, N, K) with batch_share."""
        rows, partners = self.draw(len(clips), generator)
        return self.combine(clips, labels, rows, send(partners, clips.device))

    def idle(self, epochs: int, batch: int) -> list[str]:
        if not self.ratio or int(batch * self.ratio):
            return []
        return [f"mixing_args.ratio is {self.ratio:g}: of a batch of {batch} no sample is mixed"]

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

    def combine(
        self, clips: Tensor, labels: Tensor, rows: Tensor, partners: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return clips and targets with rows[k], on the CPU, mixed with partners[k]."""
        own_rows = torch.arange(len(clips), device=clips.device)
        source = own_rows.index_put((send(rows, clips.device),), partners)
        mixed = source != own_rows
        both = self.graft(clips, clips[source])
        share = torch.where(mixed, self.shares(labels, labels[source]), 1.0)  # (N,)
        own, other = (one_hot(y, self.num_class).float() for y in (labels, labels[source]))
        clips = torch.where(mixed[:, None, None, None, None], both, clips)
        if self.batch_share:
            share = share[rows[-1]] if len(rows) else share[0]
            return clips, torch.stack([share * own, (1 - share) * other])
        return clips, share[:, None] * own + (1 - share)[:, None] * other

    def graft(self, clips: Tensor, others: Tensor) -> Tensor:
        """Return clips (N, M, T, V, C) with the lower bodies of others."""
        order = self.order
        return torch.where(self.from_self[:, None], clips[..., order, :], others[..., order, :])

    def shares(self, labels: Tensor, others: Tensor) -> Tensor:
        """Return alpha_i (N,) of samples labeled `labels` with partners labeled `others`."""
        own, other = self.counts[labels], self.counts[others]
        share = torch.full(own.shape, self.alpha, device=own.device)
        share = share.masked_fill(own > self.threshold * other, 0.0)
        return share.masked_fill(other > self.threshold * own, 1.0)


def shrinking_walk(
    batch: int, chosen: list[int], choose: Callable[[list[int]], int]
) -> tuple[Tensor, Tensor]:
    """Return rows and partners, both (n,) int64, of the released loop, which shortens its own list.

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
    """Reverse sampling: each class of the tail third is drawn as often as the most frequent class.

    Classes from place 2 int(K/3) on in the order by count, descending and stable, have
    repeat * n_max / n_c copies per epoch: whole copies, and int(fraction * n_c) distinct members,
    drawn again for each epoch. All other classes have `repeat` copies. Classes without
    samples have no place and do not count in K.
    """

    def draws(self, progress: float) -> Tensor:
        counts, members = self.class_counts, self.members
        top, each = round(self.repeat * int(counts.max())), counts.clamp_min(1)
        # In integers: whole copies, then the fraction (top % each) / each of the members.
        reversed_draws = top // each * members + top % each * members // each
        return torch.where(last_third(counts), reversed_draws, super().draws(progress))


class ActionAwareWeights(Weighting):
    """Action-aware class weights of the second stage.

    beta_y = low + spread (n_y - n_min) / (n_max - n_min),
    w_y = (1 - beta_y) / (1 - beta_y^n_y), scaled to sum K.

    All ones if n_max = n_min. A class without samples weighs 0 and takes no part in n_min, n_max or
    K. `alternate`: the released loss replaces its list of beta by 1 - beta whenever it is updated,
    so weights are nearly uniform in every other epoch; `formula` as in `formula_counts`.
    """

    def __init__(
        self,
        class_counts: Tensor,
        low: Factor = 0.99,
        spread: Factor = 0.0099,
        alternate: bool = False,
        formula: Ratio | None = None,
    ) -> None:
        if low + spread >= 1:
            raise ValueError(f"low + spread must be below 1, not {low + spread:g}")
        counts = formula_counts(class_counts, formula)
        present = counts > 0
        least, most = counts[present].min(), counts.max()
        beta = low + spread * (counts - least) / (most - least).clamp_min(1)
        turns = (beta, 1 - beta) if alternate else (beta,)
        tables = [scaled((1 - b) / (1 - b ** counts.clamp_min(1)), counts) for b in turns]
        super().__init__(torch.stack([present.float()] if least == most else tables))
        self.beta = nn.Buffer(beta, persistent=False)

    def forward(self, stage_epoch: int) -> Tensor:
        return self.weights[stage_epoch % len(self.weights)]
