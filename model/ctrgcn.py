"""CTR-GCN (Chen et al., ICCV 2021): a topology for every channel, refined from a shared one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from graph import adjacency
from model.backbone import Backbone, stages, tensor
from model.fold import Shift, affine, scale_outputs
from model.layers import Block, Branches, add_relu, shortcut


def refine(shared: Tensor, relation: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the topologies (B, K, C, V V) of every channel (eq. 2 and 3).

    The shared (K, V V), plus a 1x1 convolution, weight (K, C, R) and bias (K, C), of the relation
    (B, K, R, V V).
    """
    return torch.matmul(weight, relation) + (bias[..., None] + shared[:, None])


class Aggregate(torch.autograd.Function):
    """Sum features over subsets and joints on refined topologies, (B, K, C, T, V) to (B, C, T, V).

    The topologies, V times the size of a frame for every channel, are made again for backward
    instead of kept: that costs R products an entry, where keeping them is most of the memory.
    """

    @staticmethod
    def forward(ctx, features: Tensor, *parts: Tensor) -> Tensor:
        ctx.save_for_backward(features, *parts)
        return aggregate(features, *parts)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        features, shared, relation, weight, bias = ctx.saved_tensors
        topology = refine(shared, relation, weight, bias)
        B, K, C, T, V = features.shape
        grad = grad[:, None].expand(-1, K, -1, -1, -1).reshape(B * K * C, T, V)
        topology = topology.view(B * K * C, V, V)
        grad_features = torch.bmm(grad, topology.transpose(1, 2)).view(features.shape)
        grad_topology = torch.bmm(features.view(B * K * C, T, V).transpose(1, 2), grad)
        grad_topology = grad_topology.view(B, K, C, V * V)
        return (
            grad_features,
            grad_topology.sum((0, 2)),
            torch.matmul(weight.transpose(1, 2), grad_topology),
            torch.matmul(grad_topology, relation.transpose(2, 3)).sum(0),
            grad_topology.sum((0, 3)),
        )


def aggregate(features: Tensor, *parts: Tensor) -> Tensor:
    """What `Aggregate` computes, for inference and export."""
    B, K, C, T, V = features.shape
    topology = refine(*parts).view(B * K * C, V, V)
    sums = torch.bmm(features.reshape(B * K * C, T, V), topology)
    return sums.view(B, K, C, T, V).sum(1)


class RefinedGraphConv(nn.Module):
    """K channel-wise topology refinement graph convolutions (figure 2), norm, residual, relu."""

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
        self.norm = nn.BatchNorm2d(out)
        self.residual = shortcut(channels, out)
        nn.init.normal_(self.relate.weight, std=(2 / related) ** 0.5)
        nn.init.normal_(self.expand, std=(2 / out) ** 0.5)
        nn.init.normal_(self.conv.weight, std=(2 / out) ** 0.5)
        for layer in (self.relate, self.conv):
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.norm.weight, 1e-6)  # a block starts as its residual

    def topology(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return what `refine` makes the topologies of; an entry is (source, target)."""
        related = self.relate(x.mean(2)).unflatten(1, (2, self.subsets, -1))
        source, target = related.unbind(1)  # (B, K, R, V)
        relation = torch.tanh(source[..., None] - target[..., None, :]).flatten(3)
        weight, bias = self.alpha * self.expand, self.alpha * self.expand_bias
        return self.adjacency.flatten(1), relation, weight, bias

    def forward(self, x: Tensor) -> Tensor:
        B, C, T, V = x.shape
        # the convolution as one product that leaves T and V innermost, as the topologies need them
        weight = self.conv.weight.view(1, -1, C).expand(B, -1, -1)
        rows = x.flatten(2)
        features = torch.baddbmm(self.conv.bias[:, None], weight, rows)
        features = features.view(B, self.subsets, -1, T, V)
        parts = [part.to(features.dtype) for part in self.topology(x)]
        run = Aggregate.apply if torch.is_grad_enabled() else aggregate
        out = run(features, *parts).contiguous(memory_format=torch.channels_last)
        return add_relu(self.norm(out), self.residual(x))

    def fold(self) -> None:
        scale, shift = affine(self.norm)
        scale_outputs(self.conv, scale.repeat(self.subsets), torch.zeros(()))
        self.norm = Shift(shift[:, None, None])


class Model(Backbone):
    """CTR-GCN; (N, M, T, V, C) to logits (N, K).

    PYSKL's version has a relu after the temporal branches (`relu_branches`), the original has none.
    """

    def __init__(
        self,
        graph="ntu_rgb_d",
        num_class: int = 60,
        num_person: int = 2,
        in_channels: int = 3,
        base_channels: int = 64,
        num_blocks: int = 10,
        inflate: Sequence[int] = (5, 8),
        down: Sequence[int] = (5, 8),
        relu_branches: bool = True,
        norm_persons: bool = True,
        parent_edges: bool = False,
        dropout: float = 0.0,
        cosine: bool = False,
    ):
        super().__init__(
            graph, num_class, num_person, in_channels, norm_persons, parent_edges, dropout, cosine
        )
        skeleton = tensor(adjacency.spatial(self.skeleton))
        table = stages(in_channels, base_channels, num_blocks, inflate, down)
        self.finish(
            (
                Block(
                    RefinedGraphConv(channels, out, skeleton),
                    Branches(out, out, 5, stride, dilations=(1, 2), relu=relu_branches),
                    shortcut(channels, out, stride) if number > 1 else None,
                )
                for number, (channels, out, stride) in enumerate(table, 1)
            ),
            channels=table[-1][1],
        )
