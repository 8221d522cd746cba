"""CTR-GCN (Chen et al., ICCV 2021): one topology per channel, refined from a shared one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from graph import adjacency
from model.backbone import StackedBackbone, tensor
from model.fuse_bn import Shift, affine, scale_outputs
from model.layers import Branches, add_relu, pointwise, shortcut


def aggregate(features: Tensor, relations: Tensor, weights: Tensor) -> Tensor:
    """Sum features (G, C B, T, V) over subsets and joints on refined topologies: (C B, T, V).

    The topology of a channel is a weighted sum of the relations (G, R, B, V, V), weights (G, C, R).
    """
    rows = torch.bmm(weights, relations.flatten(2))
    topologies = rows.unflatten(2, relations.shape[2:]).flatten(1, 2)  # (G, C B, V, V)
    first, *others = zip(features, topologies)
    sums = torch.bmm(*first)
    for subset, topology in others:  # in place, instead of G results to be added
        sums = sums.baddbmm_(subset, topology)
    return sums


def recomputed(features: Tensor, relations: Tensor, weights: Tensor) -> Tensor:
    """`aggregate`, which computes the topologies again in the backward pass instead of storing
    them.

    Per channel they are V times as large as a frame: storing them would take most of the memory,
    computing them takes R products per entry.
    """
    if not torch.is_grad_enabled():
        return aggregate(features, relations, weights)
    return checkpoint(
        aggregate, features, relations, weights, use_reentrant=False, preserve_rng_state=False
    )


class RefinedGraphConv(nn.Module):
    """G channel-wise topology refinement graph convolutions (figure 2), norm, residual, relu.

    With source and target embeddings s, t of the mean frame, R channels each, the topology of
    channel c is A[u, v] + alpha (sum_r E[c, r] tanh(s_r[u] - t_r[v]) + b_c), summed over joints u.
    """

    def __init__(self, channels: int, out: int, skeleton: Tensor, reduction: int = 8):
        super().__init__()
        self.subsets = subsets = len(skeleton)
        related = 8 if channels <= 16 else channels // reduction
        self.adjacency = nn.Parameter(skeleton.clone())
        self.alpha = nn.Parameter(torch.zeros(1))
        self.relate = nn.Conv1d(channels, 2 * subsets * related, 1)
        self.expand = nn.Parameter(torch.empty(subsets, out, related))
        self.expand_bias = nn.Parameter(torch.zeros(subsets, out))
        self.conv = nn.Conv2d(channels, subsets * out, 1)
        self.norm: nn.Module = nn.BatchNorm2d(out)
        self.residual = shortcut(channels, out)
        nn.init.normal_(self.relate.weight, std=(2 / related) ** 0.5)
        nn.init.normal_(self.expand, std=(2 / out) ** 0.5)
        nn.init.normal_(self.conv.weight, std=(2 / out) ** 0.5)
        for layer in (self.relate, self.conv):
            nn.init.zeros_(layer.get_parameter("bias"))
        nn.init.constant_(self.norm.weight, 1e-6)  # at the start a block is its residual

    def topology(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return relations (G, R + 2, B, V, V) and their weights in each channel (G, C, R + 2).

        The last two axes are (source, target). The R relations of eq. 2 are followed by ones, with
        the bias as their weight, and by the shared topology, with weight 1: eq. 3 is one product.
        """
        related = pointwise(self.relate, x.mean(2)).unflatten(0, (2, self.subsets, -1))
        source, target = related.unbind()  # (G, R, B, V)
        relations = torch.tanh(source[..., None] - target[..., None, :])
        shared = self.adjacency[:, None, None].to(relations.dtype).expand_as(relations[:, :1])
        relations = torch.cat([relations, torch.ones_like(shared), shared], dim=1)
        refined = self.alpha * torch.cat([self.expand, self.expand_bias[..., None]], dim=2)
        weights = torch.cat([refined, torch.ones_like(refined[..., :1])], dim=2)
        return relations, weights.to(relations.dtype)

    def forward(self, x: Tensor) -> Tensor:
        B, _, T, V = x.shape
        features = pointwise(self.conv, x).view(self.subsets, -1, T, V)  # (G, C B, T, V)
        out = recomputed(features, *self.topology(x)).view(-1, B, T, V).transpose(0, 1)
        out = out.contiguous(memory_format=torch.channels_last)
        return add_relu(self.norm(out), self.residual(x))

    def fuse_bn(self) -> None:
        scale, shift = affine(self.norm)
        scale_outputs(self.conv, scale.repeat(self.subsets), torch.zeros(()))
        self.norm = Shift(shift[:, None, None])


class Model(StackedBackbone):
    """CTR-GCN; (N, M, T, V, C) to logits (N, K).

    PYSKL's version has a relu after the temporal branches (`relu_branches`), the original has none.
    """

    def __init__(self, *, relu_branches: bool = True, norm_persons: bool = True, **common):
        super().__init__(norm_persons=norm_persons, **common)
        skeleton = tensor(adjacency.spatial(self.skeleton))
        self.stack(
            lambda channels, out, stride: (
                RefinedGraphConv(channels, out, skeleton),
                Branches(out, out, 5, stride, dilations=(1, 2), relu=relu_branches),
            )
        )
