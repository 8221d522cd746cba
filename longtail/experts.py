"""RIDE: Wang et al., "Long-Tailed Recognition by Routing Diverse Distribution-Aware Experts", ICLR
2021, without the router: experts that share the early blocks of any backbone, and their loss.

In training the network gives the logits of all experts, (N, E, K), and `Diversity` judges them one
by one; in evaluation it gives their mean, (N, K), like any other network.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from longtail.losses import LDAM, expectation


class Model(nn.Module):
    """`experts` copies of a backbone (an import string) with the first blocks in common.

    `shared` blocks are common, by default two of five: what RIDE shares of a ResNet. All other
    arguments are the backbone's; base_channels makes the experts narrower, as RIDE's are.
    """

    def __init__(
        self,
        backbone: str = "model.stgcnpp.Model",
        experts: int = 3,
        shared: int | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        module, _, name = backbone.rpartition(".")
        build = getattr(import_module(module), name)
        networks = [build(**arguments) for _ in range(experts)]
        self.trunk = networks[0]
        self.skeleton = self.trunk.skeleton
        self.num_class, self.num_person = self.trunk.num_class, self.trunk.num_person
        self.in_channels = self.trunk.in_channels
        shared = round(0.4 * len(self.trunk.blocks)) if shared is None else shared
        self.branches = nn.ModuleList(network.blocks[shared:] for network in networks)
        self.heads = nn.ModuleList(network.fc for network in networks)
        self.trunk.blocks = self.trunk.blocks[:shared]
        del self.trunk.fc

    def forward(self, clips: Tensor) -> Tensor:
        """(N, M, T, V, C) to logits (N, E, K) in training, else to their mean (N, K)."""
        maps = self.trunk.blocks(self.trunk.normalise(clips))
        persons = self.trunk.num_person
        logits = []
        for branch, head in zip(self.branches, self.heads):
            features = branch(maps).mean((2, 3)).unflatten(0, (-1, persons)).mean(1)  # (N, D)
            logits.append(head(self.trunk.dropout(features)))
        stacked = torch.stack(logits, 1)
        return stacked if self.training else stacked.mean(1)


class Diversity(LDAM):
    """sum_e [LDAM(z_e) - diversity T^2 KL(p_mean(T) || p_e(T))] over experts e.

    p(T) is the softmax of s z_k / T_k, temperatures T_k = 1 - reweighting K (n_max - n_k) / n, so
    that tail classes are told apart more sharply; T^2 stands for the square of their mean. As in
    the authors' code the experts are compared with their mean, not pair by pair. (The gradients
    that go through the mean add up to zero and are left out.)
    """

    def __init__(
        self,
        class_counts: Tensor,
        max_margin: float = 0.5,
        scale: float = 30.0,
        diversity: float = 0.2,
        reweighting: float = 0.05,
    ) -> None:
        super().__init__(class_counts, max_margin, scale)
        counts = class_counts.double()
        lack = (counts.max() - counts) / counts.mean()
        self.register_buffer("temperature", (1 - reweighting * lack).float())
        self.diversity = diversity

    def forward(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the scalar loss of logits (N, E, K), or (N, K) of one network."""
        if logits.ndim == 2:
            return super().forward(logits, targets, weights)
        loss = sum(expectation(self.costs(expert), targets, weights) for expert in logits.unbind(1))
        softened = self.scale * logits / self.temperature
        mean = (self.scale * logits.mean(1, keepdim=True) / self.temperature).detach()
        log_ratio = mean.log_softmax(-1) - softened.log_softmax(-1)  # (N, E, K)
        divergence = (mean.softmax(-1) * log_ratio).sum((1, 2)).mean()
        return loss - self.diversity * self.temperature.mean() ** 2 * divergence
