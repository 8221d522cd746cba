"""Layers that several backbones share. Activations are (B, C, T, V) with B = N M, channels last;
the adjacency has G subsets, (G, V, V).

Channels last in memory means (B, T, V, C): a 1x1 convolution is then one matrix product over all
joints and frames, and (B T, V, C) for the adjacency is a view.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from errors import check_word
from model.fuse_bn import Affine, Shift, affine, scale_outputs

Adaptive = Literal["init", "offset", "importance"]  # see GraphConv
SAFE = 16  # channels from which oneDNN stays within its memory, see StridedPointwise


class StridedPointwise(nn.Conv2d):
    """1x1 convolution with a stride over frames, for few channels.

    In training the frames are selected first. That is slower, but oneDNN (torch 2.13, bf16 on a
    CPU) accesses memory out of bounds in the gradient of the weight of a strided convolution.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        return F.conv2d(x[:, :, :: self.stride[0]], self.weight, self.bias)


def temporal_conv(
    channels: int, out: int, kernel: int = 1, stride: int = 1, dilation: int = 1
) -> nn.Conv2d:
    """Return a convolution over `kernel` frames that keeps T (apart from the stride)."""
    padding = dilation * (kernel - 1) // 2
    narrow = kernel == 1 and stride > 1 and channels < SAFE
    factory = StridedPointwise if narrow else nn.Conv2d
    return factory(channels, out, (kernel, 1), (stride, 1), (padding, 0), (dilation, 1))


class ConvNorm(nn.Module):
    """Convolution over time (kernel x 1) then batch norm."""

    def __init__(
        self, channels: int, out: int, kernel: int = 1, stride: int = 1, dilation: int = 1
    ):
        super().__init__()
        self.conv = temporal_conv(channels, out, kernel, stride, dilation)
        self.norm: nn.Module = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))

    def fuse_bn(self) -> None:
        scale_outputs(self.conv, *affine(self.norm))
        self.norm = nn.Identity()


def shortcut(channels: int, out: int, stride: int = 1) -> nn.Module:
    """Return the residual path: the identity if shapes agree, else a projection."""
    if channels == out and stride == 1:
        return nn.Identity()
    return ConvNorm(channels, out, stride=stride)


def add_relu(x: Tensor, residual: Tensor) -> Tensor:
    """Return relu(x + residual), computed in place: the values of `x` are lost."""
    return F.relu(x.add_(residual), inplace=True)


def product_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which a matrix product of x is computed: that of autocast if enabled."""
    device = x.device.type
    if device == "meta":  # has no autocast
        return x.dtype
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def aggregate_neighbors(x: Tensor, adjacency: Tensor) -> Tensor:
    """Return the G neighborhood sums of every joint: out[g C + c, w] = sum_v A[g, v, w] x[c, v].

    (B, C, T, V) and (G, V, W), or (B, G, V, W) for a graph per sample, to (B, G C, T, W): one
    batched product, before the 1x1 convolution because that never has fewer outputs than inputs.
    """
    frames = x.permute(0, 2, 3, 1)  # (B, T, V, C), in memory order
    batch, length, joints, channels = frames.shape
    subsets, _, targets = adjacency.shape[-3:]
    # Cast here: autocast would cast, and so allocate, the expanded matrix.
    adjacency = adjacency.to(product_dtype(x))
    matrix = adjacency.movedim(-1, -3).reshape(-1, 1, targets * subsets, joints)
    matrix = matrix.expand(batch, length, -1, -1)  # reshaped, it is a view if samples share graphs
    matrix = matrix.reshape(batch * length, targets * subsets, joints)
    frames = frames.reshape(batch * length, joints, channels)
    # matmul would copy both operands into another layout if the matrix needs a gradient.
    sums = torch.bmm(matrix, frames)
    return sums.view(batch, length, targets, subsets * channels).permute(0, 3, 1, 2)


def pointwise(conv: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """Return a 1x1 convolution of x (B, C, ...) with channels outermost, (C', B, ...): one product.

    The frames of a channel are then contiguous, as a topology per channel needs them.
    """
    rows = x.transpose(0, 1)
    bias = conv.get_parameter("bias")
    out = torch.addmm(bias[:, None], conv.weight.flatten(1), rows.flatten(1))
    return out.unflatten(1, rows.shape[1:])


class Branches(nn.Module):
    """Parallel temporal branches behind one shared pointwise convolution: norm(cat(branches(x))).

    One convolution of `kernel` frames per dilation, one max pooling over three frames, one plain
    1x1 convolution. Channels are divided evenly, the first branch has the remainder. With `relu`,
    a relu follows.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: int,
        stride: int,
        dilations: Sequence[int],
        relu: bool = True,
    ):
        super().__init__()
        self.relu = relu
        width = out // (len(dilations) + 2)
        self.widths = [out - width * (len(dilations) + 1)] + [width] * len(dilations)
        self.reduce = ConvNorm(channels, out - width)
        self.convs = nn.ModuleList(
            temporal_conv(c, c, kernel, stride, dilation)
            for c, dilation in zip(self.widths[:-1], dilations)
        )
        self.pool: nn.Module = nn.MaxPool2d((3, 1), (stride, 1), (1, 0))
        self.plain = temporal_conv(channels, width, stride=stride)
        self.norm: nn.Module = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        *parts, pooled = F.relu(self.reduce(x), inplace=True).split(self.widths, dim=1)
        branches = [conv(part) for conv, part in zip(self.convs, parts)]
        branches += [self.pool(pooled), self.plain(x)]
        out = self.norm(self.join(branches))
        return F.relu(out, inplace=True) if self.relu else out

    def join(self, branches: list[Tensor]) -> Tensor:
        """Return the outputs of the branches as one, before the norm."""
        return torch.cat(branches, dim=1)

    def fuse_bn(self) -> None:
        widths = [*self.widths, self.plain.out_channels]
        *convs, pool, plain = zip(*(part.split(widths) for part in affine(self.norm)))
        for conv, (scale, shift) in zip([*self.convs, self.plain], [*convs, plain]):
            scale_outputs(conv, scale, shift)
        self.pool = nn.Sequential(self.pool, Affine(*pool))
        self.norm = nn.Identity()


class MergedBranches(nn.Module):
    """Temporal branches merged by a 1x1 convolution (PYSKL, section 3.2)."""

    def __init__(self, channels: int, branches: Branches):
        super().__init__()
        self.branches = branches
        self.merge = ConvNorm(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(self.branches(x))


class GraphConv(nn.Module):
    """Graph convolution over G subsets: relu(norm(sum_g A_g (x W_g + b_g)) + residual).

    `adaptive` 'init': the adjacency is a parameter, initialized with the skeleton's; 'offset': a
    parameter is added to the skeleton's; 'importance': it is multiplied by a parameter (ST-GCN's
    edge importance). With `bias_first` each subset has a bias, which its adjacency multiplies, as
    written; else one bias is added after the sum.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        skeleton: Tensor,
        adaptive: Adaptive = "init",
        bias_first: bool = True,
        residual: bool = True,
    ):
        super().__init__()
        check_word("model_args.adaptive", adaptive, get_args(Adaptive))
        subsets = len(skeleton)
        self.adaptive = adaptive
        if adaptive == "init":
            self.adjacency = nn.Parameter(skeleton.clone())
        else:
            self.skeleton = nn.Buffer(skeleton, persistent=False)
            learned = torch.ones_like(skeleton)
            if adaptive == "offset":
                learned.uniform_(-1e-6, 1e-6)
            self.edges = nn.Parameter(learned)
        self.conv = nn.Conv2d(subsets * channels, out, 1, bias=not bias_first)
        self.bias: nn.Parameter | None = None
        if bias_first:
            bound = channels**-0.5  # as for the G convolutions of x that this one replaces
            nn.init.uniform_(self.conv.weight, -bound, bound)
            self.bias = nn.Parameter(torch.empty(subsets, out).uniform_(-bound, bound))
        self.norm: nn.Module = nn.BatchNorm2d(out)
        self.residual = shortcut(channels, out) if residual else None

    def matrix(self) -> Tensor:
        """Return the adjacency used now, (G, V, V)."""
        if self.adaptive == "init":
            return self.adjacency
        if self.adaptive == "offset":
            return self.skeleton + self.edges
        return self.skeleton * self.edges

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.matrix()
        out = self.conv(aggregate_neighbors(x, matrix))
        if self.bias is not None:
            out = out.add_(torch.einsum("gvw,gc->cw", matrix, self.bias)[:, None])
        out = self.norm(out)
        if self.residual is None:
            return F.relu(out, inplace=True)
        return add_relu(out, self.residual(x))

    def fuse_bn(self) -> None:
        scale, shift = affine(self.norm)
        scale_outputs(self.conv, scale, shift)
        self.norm = nn.Identity()
        if self.bias is not None:  # biases times adjacency: a constant in evaluation
            through = torch.einsum("gvw,gc->cw", self.matrix(), self.bias)
            self.norm = Shift(through[:, None] * scale[:, None, None])
            self.bias = None


class Block(nn.Module):
    """relu(temporal(graph(x)) + residual(x)), the block of ST-GCN and of most later networks."""

    def __init__(self, graph: nn.Module, temporal: nn.Module, residual: nn.Module | None):
        super().__init__()
        self.graph = graph
        self.temporal = temporal
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        return self.after_graph(self.graph(x), x)

    def after_graph(self, hidden: Tensor, x: Tensor) -> Tensor:
        """Return the output of the block for input x, given the output `hidden` of its graph
        module."""
        out = self.temporal(hidden)
        if self.residual is None:
            return F.relu(out)
        return F.relu(out + self.residual(x), inplace=True)
