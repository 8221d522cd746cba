"""Layers that several backbones share. Activations are (B, C, T, V) with B = N M, channels last.

Channels last in memory means (B, T, V, C): a 1x1 convolution is then one matrix product over all
joints and frames, and (B T, V, C) for the adjacency is a view.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvNorm(nn.Module):
    """Convolution over time (kernel x 1) then batch norm."""

    def __init__(
        self, channels: int, out: int, kernel: int = 1, stride: int = 1, dilation: int = 1
    ):
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        self.conv = nn.Conv2d(channels, out, (kernel, 1), (stride, 1), (padding, 0), (dilation, 1))
        self.norm = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


def shortcut(channels: int, out: int, stride: int = 1) -> nn.Module:
    """Return the residual path: nothing to do where shapes agree, else a projection."""
    if channels == out and stride == 1:
        return nn.Identity()
    return ConvNorm(channels, out, stride=stride)


def add_relu(x: Tensor, residual: Tensor) -> Tensor:
    """Return relu(x + residual), written over `x`, which nothing else may need."""
    return F.relu(x.add_(residual), inplace=True)


def gather(x: Tensor, adjacency: Tensor) -> Tensor:
    """Return the K neighbourhood sums of every joint: out[k C + c, w] = sum_v A[k, v, w] x[c, v].

    (B, C, T, V) and (K, V, W) to (B, K C, T, W). One batched product with the (W K, V) matrix,
    contracted before the 1x1 convolution where C is smaller than what the convolution makes of it.
    """
    frames = x.permute(0, 2, 3, 1)  # (B, T, V, C), in memory order
    batch, length, joints, channels = frames.shape
    subsets, _, targets = adjacency.shape
    matrix = adjacency.permute(2, 0, 1).reshape(targets * subsets, joints)
    frames = frames.reshape(batch * length, joints, channels)
    # matmul would first copy both operands into another layout if the matrix needs a gradient
    sums = torch.bmm(matrix.expand(batch * length, -1, -1), frames)
    return sums.view(batch, length, targets, subsets * channels).permute(0, 3, 1, 2)


class MultiScaleTemporal(nn.Module):
    """Parallel temporal branches behind one shared pointwise convolution (ST-GCN++, figure 2).

    Branches: one 3x1 convolution per dilation, one 3x1 max pooling, one plain 1x1 convolution. The
    first takes the channels that do not divide. What the branches give is merged by a 1x1
    convolution with batch norm before and after.
    """

    def __init__(
        self, channels: int, out: int, stride: int = 1, dilations: Sequence[int] = (1, 2, 3, 4)
    ):
        super().__init__()
        width = out // (len(dilations) + 2)
        first = out - width * (len(dilations) + 1)
        self.widths = [first] + [width] * len(dilations)  # the last of these is pooled
        self.reduce = ConvNorm(channels, out - width)
        self.convs = nn.ModuleList(
            nn.Conv2d(c, c, (3, 1), (stride, 1), (dilation, 0), (dilation, 1))
            for c, dilation in zip(self.widths[:-1], dilations)
        )
        self.pool = nn.MaxPool2d((3, 1), (stride, 1), (1, 0))
        self.plain = nn.Conv2d(channels, width, 1, (stride, 1))
        self.norm = nn.BatchNorm2d(out)
        self.merge = ConvNorm(out, out)

    def forward(self, x: Tensor) -> Tensor:
        *parts, pooled = F.relu(self.reduce(x), inplace=True).split(self.widths, dim=1)
        branches = [conv(part) for conv, part in zip(self.convs, parts)]
        branches += [self.pool(pooled), self.plain(x)]
        return self.merge(F.relu(self.norm(torch.cat(branches, dim=1)), inplace=True))


class GraphConv(nn.Module):
    """Graph convolution over K subsets: relu(norm(sum_k A_k x W_k + b_k) + residual).

    `adaptive` 'init': the adjacency is a parameter that starts from the skeleton; 'offset': a
    parameter is added to the skeleton's; 'importance': it is multiplied by one (ST-GCN's edge
    importance). With `bias_first` each subset's bias passes through its adjacency, as when one
    convolves before gathering; else there is one bias at the end.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        skeleton: Tensor,
        adaptive: str = "init",
        bias_first: bool = True,
        residual: bool = True,
    ):
        super().__init__()
        subsets = len(skeleton)
        self.adaptive = adaptive
        if adaptive == "init":
            self.adjacency = nn.Parameter(skeleton.clone())
        else:
            self.register_buffer("skeleton", skeleton, persistent=False)
            learnt = torch.ones_like(skeleton)
            if adaptive == "offset":
                learnt.uniform_(-1e-6, 1e-6)
            self.edges = nn.Parameter(learnt)
        self.conv = nn.Conv2d(subsets * channels, out, 1, bias=not bias_first)
        if bias_first:
            bound = channels**-0.5  # as for the K convolutions of x that this one stands for
            nn.init.uniform_(self.conv.weight, -bound, bound)
            self.bias = nn.Parameter(torch.empty(subsets, out).uniform_(-bound, bound))
        else:
            self.bias = None
        self.norm = nn.BatchNorm2d(out)
        self.residual = shortcut(channels, out) if residual else None

    def matrix(self) -> Tensor:
        """Return the adjacency in force, (K, V, V)."""
        if self.adaptive == "init":
            return self.adjacency
        if self.adaptive == "offset":
            return self.skeleton + self.edges
        return self.skeleton * self.edges

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.matrix()
        out = self.conv(gather(x, matrix))
        if self.bias is not None:
            out = out.add_(torch.einsum("kvw,kc->cw", matrix, self.bias)[:, None])
        out = self.norm(out)
        if self.residual is None:
            return F.relu(out, inplace=True)
        return add_relu(out, self.residual(x))
