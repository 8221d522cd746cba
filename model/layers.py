"""Layers that several backbones share. Activations are (B, C, T, V) with B = N M, channels last.

Channels last in memory means (B, T, V, C): a 1x1 convolution is then one matrix product over all
joints and frames, and (B T, V, C) for the adjacency is a view.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.fold import Affine, Shift, affine, scale_outputs

SAFE = 16  # channels from which oneDNN keeps to its memory, see StridedPointwise


class StridedPointwise(nn.Conv2d):
    """1x1 convolution with a stride over frames, for few channels.

    In training it takes the frames first. That is slower, but oneDNN (torch 2.13, bf16 on a CPU)
    leaves the bounds of its memory where it takes the gradient of the weight with a stride.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        return F.conv2d(x[:, :, :: self.stride[0]], self.weight, self.bias)


def temporal_conv(
    channels: int, out: int, kernel: int = 1, stride: int = 1, dilation: int = 1
) -> nn.Conv2d:
    """Return a convolution over `kernel` frames that keeps T (but for the stride)."""
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

    def fold(self) -> None:
        scale_outputs(self.conv, *affine(self.norm))
        self.norm = nn.Identity()


def shortcut(channels: int, out: int, stride: int = 1) -> nn.Module:
    """Return the residual path: nothing to do where shapes agree, else a projection."""
    if channels == out and stride == 1:
        return nn.Identity()
    return ConvNorm(channels, out, stride=stride)


def add_relu(x: Tensor, residual: Tensor) -> Tensor:
    """Return relu(x + residual), written over `x`, which nothing else may need."""
    return F.relu(x.add_(residual), inplace=True)


def product_dtype(x: Tensor) -> torch.dtype:
    """Return the type in which a matrix product of x is computed: autocast's where it is on."""
    device = x.device.type
    if not torch.amp.is_autocast_available(device):  # the meta device
        return x.dtype
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def gather(x: Tensor, adjacency: Tensor) -> Tensor:
    """Return the K neighbourhood sums of every joint: out[k C + c, w] = sum_v A[k, v, w] x[c, v].

    (B, C, T, V) and (K, V, W), or (B, K, V, W) for a graph per sample, to (B, K C, T, W): one
    batched product, before the 1x1 convolution because that never has fewer outputs than inputs.
    """
    frames = x.permute(0, 2, 3, 1)  # (B, T, V, C), in memory order
    batch, length, joints, channels = frames.shape
    subsets, _, targets = adjacency.shape[-3:]
    # cast here: autocast would cast, and so make, each of the copies that expand stands for
    adjacency = adjacency.to(product_dtype(x))
    matrix = adjacency.movedim(-1, -3).reshape(-1, 1, targets * subsets, joints)
    matrix = matrix.expand(batch, length, -1, -1)
    matrix = matrix.reshape(batch * length, targets * subsets, joints)  # a view if graphs agree
    frames = frames.reshape(batch * length, joints, channels)
    # matmul would first copy both operands into another layout if the matrix needs a gradient
    sums = torch.bmm(matrix, frames)
    return sums.view(batch, length, targets, subsets * channels).permute(0, 3, 1, 2)


def pointwise(conv: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """Return a 1x1 convolution of x (B, C, ...) with channels outermost, (C', B, ...): one product.

    A topology of every channel needs the frames of a channel together.
    """
    rows = x.transpose(0, 1)
    bias = conv.get_parameter("bias")
    out = torch.addmm(bias[:, None], conv.weight.flatten(1), rows.flatten(1))
    return out.unflatten(1, rows.shape[1:])


class Branches(nn.Module):
    """Parallel temporal branches behind one shared pointwise convolution: norm(cat(branches(x))).

    One convolution of `kernel` frames per dilation, one max pooling over three frames, one plain
    1x1 convolution. The first branch takes the channels that do not divide. `relu` closes.
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

    def fold(self) -> None:
        widths = [*self.widths, self.plain.out_channels]
        *convs, pool, plain = zip(*(part.split(widths) for part in affine(self.norm)))
        for conv, (scale, shift) in zip([*self.convs, self.plain], [*convs, plain]):
            scale_outputs(conv, scale, shift)
        self.pool = nn.Sequential(self.pool, Affine(*pool))
        self.norm = nn.Identity()


class GraphConv(nn.Module):
    """Graph convolution over K subsets: relu(norm(sum_k A_k x W_k + b_k) + residual).

    `adaptive` 'init': the adjacency is a parameter that starts from the skeleton; 'offset': a
    parameter is added to the skeleton's; 'importance': it is multiplied by one (ST-GCN's edge
    importance). With `bias_first` each subset's bias passes through its adjacency, as when one
    convolves before gathering; else there is one bias at the end.
    """

    skeleton: Tensor

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
            self.bias: nn.Parameter | None = nn.Parameter(
                torch.empty(subsets, out).uniform_(-bound, bound)
            )
        else:
            self.bias = None
        self.norm: nn.Module = nn.BatchNorm2d(out)
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

    def fold(self) -> None:
        scale, shift = affine(self.norm)
        scale_outputs(self.conv, scale, shift)
        self.norm = nn.Identity()
        if self.bias is not None:  # what the biases make of the adjacency is a constant now
            through = torch.einsum("kvw,kc->cw", self.matrix(), self.bias)
            self.norm = Shift(through[:, None] * scale[:, None, None])
            self.bias = None


class Block(nn.Module):
    """relu(temporal(graph(x)) + residual(x)), the unit of ST-GCN and of most that came after it."""

    def __init__(self, graph: nn.Module, temporal: nn.Module, residual: nn.Module | None):
        super().__init__()
        self.graph = graph
        self.temporal = temporal
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        return self.after_graph(self.graph(x), x)

    def after_graph(self, hidden: Tensor, x: Tensor) -> Tensor:
        """Return what the block makes of x, whose graph module has given `hidden`."""
        out = self.temporal(hidden)
        if self.residual is None:
            return F.relu(out)
        return F.relu(out + self.residual(x), inplace=True)
