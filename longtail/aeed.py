"""AEED, "Learning Dynamics as Feedback: An Adaptive Entropy Flow Dynamics Framework for Long-tailed
Human Action Recognition", AAAI 2026, as its authors' code has it: Shap-Mix with soft labels by what
the network sees in a mixed clip, and class weights by the flow (`drift`) of the entropy of its
predictions.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from errors import InputError
from longtail.method import Method, Parts
from longtail.mixing import ShapMix, probe
from longtail.ranges import Epochs, Factor, NotNegative, Positive
from memory import send

MARGIN = 0.01  # the least share of a sample in its mixed clip


def partner_share(own: Tensor, other: Tensor, mixed: Tensor, temperature: float = 1.0) -> Tensor:
    """Return a partner's share (N,) in a mixed clip, from the logits (N, K) of all three clips.

    With s_x = 1 / (KL(p_x || p_mixed) + 1e-6) it is s_other / (s_own + s_other), squeezed into
    [MARGIN, 1 - MARGIN]: the clip belongs to whom the network takes it for.
    """
    log_own, log_other, log_mixed = (
        (logits / temperature).log_softmax(1) for logits in (own, other, mixed)
    )
    near = [1 / ((each.exp() * (each - log_mixed)).sum(1) + 1e-6) for each in (log_own, log_other)]
    return near[1] / (near[0] + near[1]) * (1 - 2 * MARGIN) + MARGIN


def entropy(logits: Tensor) -> Tensor:
    """Return the entropies (N,) in nats of the predictions of logits (N, K)."""
    chances = logits.softmax(1)
    return -(chances * (chances + 1e-8).log()).sum(1)


class AlignedMix(ShapMix):
    """Shap-Mix's mixing as AEED has it: what is pasted keeps its place in time.

    In the first `warm_up` epochs half of the batches have one S, of two or three parts, for all
    samples, the others are plain mixup with a share ~ Beta(0.5, 0.5); then each sample has an S of
    its own, S ~ softmax(V[y_i] / temperature) of its own class, rare or not.
    """

    def paste(
        self, clips: Tensor, labels: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        count = len(clips)
        partners = send(self.draw_partners(count, generator), clips.device)
        place = self.draw_segment(clips.shape[2], generator)
        coin, uniform = torch.rand(1 + count, generator=generator).split([1, count])
        seed = int(torch.randint(2**62, (), generator=generator))
        if self.epoch >= self.warm_up:
            subset = self.draw_subset(self.saliency[labels], send(uniform, clips.device))
        elif coin > 0.5:
            subset = torch.full_like(labels, self.draw_coalition(generator)[0])
        else:
            lam = float(np.random.default_rng(seed).beta(0.5, 0.5))
            mixed = (1 - lam) * clips + lam * clips[partners]
            return mixed, partners, torch.full((count,), lam, device=clips.device)
        mixed, share = self.replace(clips, clips[partners], self.masks[subset], place, place)
        return mixed, partners, share


class AEED(Method):
    """A clean and a mixed half of each batch, of soft labels and weights that the network gives.

    A probe, in evaluation mode and without gradient, sees the clean and the mixed clips. The share
    lam of partner j in the mixed clip of i is `partner_share` of it (in the first epochs of the
    mixing, `mixing_args.warm_up`, ~ U(0, 1)); how much of the body was pasted does not matter. With
    the loss matrix c (logit adjustment, tau 1), clean x and mixed x',

        loss = mean_i w_y c(x)_iy + mean_i ((1 - lam) w_y + lam w_y') sum_k Y'_ik c(x')_ik,
        Y' = (1 - lam) onehot(y) + lam onehot(y').

    The class weights w start at 1. H_c is the mean entropy of the probe on the clean clips of class
    c in an epoch (0 for a class that did not occur), ' the epoch before; after each epoch from
    `warm_up` on

        D_c <- memory D_c + (1 - memory) (H_c - H'_c),    w_c <- clip(w_c exp(eta D_c), low, high),

    so that a class of which the network grows certain loses weight. eta 0 leaves the weights at 1.
    """

    refuses = ("class_weights", "classifier")
    mixing: ShapMix

    def __init__(
        self,
        parts: Parts,
        model: nn.Module,
        temperature: Positive = 1.0,
        warm_up: Epochs = 5,
        eta: NotNegative = 0.2,
        memory: Factor = 0.9,
        low: NotNegative = 0.1,
        high: Positive = 4.0,
    ) -> None:
        super().__init__(parts, model)
        if not isinstance(self.mixing, ShapMix):
            raise InputError("mixing: objective=longtail.aeed.AEED needs a longtail.mixing.ShapMix")
        self.temperature, self.warm_up = temperature, warm_up
        self.eta, self.memory, self.low, self.high = eta, memory, low, high
        self.entropy_sum: Tensor = nn.Buffer(torch.zeros(self.num_class))  # in the epoch `measured`
        self.seen: Tensor = nn.Buffer(torch.zeros(self.num_class))  # clean clips in it
        self.former: Tensor = nn.Buffer(torch.zeros(self.num_class))  # H'
        self.drift: Tensor = nn.Buffer(torch.zeros(self.num_class))  # D
        self.weights: Tensor = nn.Buffer(torch.ones(self.num_class))  # w
        self.measured: Tensor = nn.Buffer(torch.tensor(-1))  # -1 before the first epoch

    def begin_epoch(self, epoch: int) -> None:
        """Take the entropies of an epoch that has ended, unless they are of this one: a resumed."""
        super().begin_epoch(epoch)
        over = (self.measured >= 0) & (self.measured < epoch)
        moves = over & (self.measured >= self.warm_up)
        mean = self.entropy_sum / self.seen.clamp_min(1)
        drift = self.memory * self.drift + (1 - self.memory) * (mean - self.former)
        weights = (self.weights * (self.eta * drift).exp()).clamp(self.low, self.high)
        self.drift = torch.where(moves, drift, self.drift)
        self.weights = torch.where(moves, weights, self.weights)
        self.former = torch.where(over, mean, self.former)
        self.entropy_sum = self.entropy_sum.masked_fill(over, 0)
        self.seen = self.seen.masked_fill(over, 0)
        self.measured = torch.full_like(self.measured, epoch)

    def idle(self, batch: int) -> list[str]:
        lines, epochs = super().idle(batch), self.stages.num_epoch
        if self.eta and epochs <= self.warm_up + 1:  # the entropies of an epoch act in the next
            lines.append(
                f"objective_args.warm_up is {self.warm_up}: in {epochs} epochs all weights are 1"
            )
        return lines

    def mix(
        self, net: nn.Module, clips: Tensor, labels: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Return clean and mixed clips (2N, M, T, V, C) and their targets (2N, 2, K)."""
        self.mixing.observe(net, clips, labels, generator)
        mixed, partners, _ = self.mixing.paste(clips, labels, generator)
        both = torch.cat([clips, mixed])
        own, seen = probe(net, both).chunk(2)
        self.measure(own, labels)
        share = send(torch.rand(len(labels), generator=generator), clips.device)
        if self.epoch >= self.mixing.warm_up:
            share = partner_share(own, own[partners], seen, self.temperature)
        return both, torch.stack(self.targets(labels, labels[partners], share), 1)

    def measure(self, logits: Tensor, labels: Tensor) -> None:
        """Add the entropies of clean clips to those of their classes."""
        entropies = entropy(logits).to(self.entropy_sum.dtype)
        self.entropy_sum = self.entropy_sum.index_add(0, labels, entropies)
        self.seen = self.seen.index_add(0, labels, torch.ones_like(entropies))

    def targets(self, labels: Tensor, others: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """Return the label weights and the soft labels of both halves, (2N, K) each.

        labels and others, those of the partners, are (N,), and so is the partners' share.
        """
        own, other = (one_hot(y, self.num_class).to(share.dtype) for y in (labels, others))
        shares = torch.cat([own, (1 - share)[:, None] * own + share[:, None] * other])
        weights = shares @ self.weights.to(share.dtype)  # (2N,)
        return weights[:, None] * shares / len(labels), shares
