"""RIDE: Wang et al., "Long-Tailed Recognition by Routing Diverse Distribution-Aware Experts", ICLR
2021, without the router: experts that share the early blocks of any backbone, and their loss.

In training the network gives the logits of all experts, (N, E, K), and `Diversity` takes the loss
of each; in evaluation it gives their mean, (N, K), like any other network.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from errors import InputError, nearest
from longtail.losses import LDAM, expected_loss
from model.backbone import Backbone


class Model(nn.Module):
    """`experts` copies of a backbone (an import string) with the first blocks in common.

    `shared` blocks are common, by default two of five: what RIDE shares of a ResNet. The other
    blocks are an expert's own and `width` times as wide as the backbone's, as in the authors' code.
    All other arguments are the backbone's.
    """

    def __init__(
        self,
        backbone: str = "model.stgcnpp.Model",
        experts: int = 3,
        shared: int | None = None,
        width: float = 0.75,
        **arguments: Any,
    ) -> None:
        super().__init__()
        build = backbone_class(backbone)
        self.trunk = build(**arguments)
        blocks = len(self.trunk.blocks)
        shared = round(0.4 * blocks) if shared is None else shared
        if experts < 1 or not 0 <= shared < blocks:
            raise ValueError(f"{experts} experts that share {shared} of {blocks} blocks")
        if width != 1:
            widths = block_widths(self.trunk)
            own = [max(1, round(width * out)) for out in widths[shared:]]
            arguments |= {"base_channels": widths[:shared] + own}
        networks = [build(**arguments) for _ in range(experts)]
        self.skeleton = self.trunk.skeleton
        self.num_class, self.num_person = self.trunk.num_class, self.trunk.num_person
        self.in_channels = self.trunk.in_channels
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


@torch.no_grad()
def block_widths(network: Backbone) -> list[int]:
    """Return the channels that each block gives."""
    maps, widths = torch.zeros(1, network.in_channels, 8, network.skeleton.num_joints), []
    for block in network.eval().blocks:
        maps = block(maps)
        widths.append(maps.shape[1])
    network.train()
    return widths


def backbone_class(path: str) -> type[Backbone]:
    """Import the backbone that `model_args.backbone` names; InputError if it is not one."""
    module_name, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module_name), name)
        is_backbone = isinstance(found, type) and issubclass(found, Backbone)
    except (ImportError, AttributeError, ValueError):
        is_backbone = False
    if not is_backbone:
        known = [f"model.{m}.Model" for m in ("stgcnpp", "stgcn", "aagcn", "msg3d", "ctrgcn")]
        raise InputError(f"model_args.backbone: {path} is not a backbone{nearest(path, known)}")
    return found


class Diversity(LDAM):
    """sum_e [LDAM(z_e) - diversity T^2 KL(p_mean(T) || p_e(T))] over experts e.

    p(T) is the softmax of z_k / T_k, T_k in proportion to 1 - f + f K n_k / n with f `reweighting`
    and scaled to a maximum of 1, so that tail classes are told apart more sharply; T^2 stands for
    the square of their mean. In the first stage, before the classes are re-weighted, T = 1. As in
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
        if not 0 <= reweighting < 1:
            raise ValueError(f"reweighting must lie in [0, 1), not {reweighting}")
        super().__init__(class_counts, max_margin, scale)
        counts = class_counts.double()
        temperature = 1 - reweighting + reweighting * counts / counts.mean()
        self.register_buffer("temperature", (temperature / temperature.max()).float())
        self.diversity = diversity
        if reweighting:
            self.first_stage = Diversity(class_counts, max_margin, scale, diversity, reweighting=0)

    def part(self, logits: Tensor, label_weights: Tensor, count: int) -> Tensor:
        """logits (N, E, K), or (N, K) of one network."""
        if logits.ndim == 2:
            return super().part(logits, label_weights, count)
        losses = [expected_loss(self.loss_matrix(z), label_weights) for z in logits.unbind(1)]
        softened = logits / self.temperature
        mean = (logits.mean(1, keepdim=True) / self.temperature).detach()
        log_ratio = mean.log_softmax(-1) - softened.log_softmax(-1)  # (N, E, K)
        divergence = (mean.softmax(-1) * log_ratio).sum() / count
        return sum(losses) - self.diversity * self.temperature.mean() ** 2 * divergence
