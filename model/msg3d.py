"""MS-G3D (Liu et al., CVPR 2020): disentangled multi-scale and windowed spatio-temporal graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from errors import check_word
from graph import adjacency
from model.backbone import Backbone, tensor
from model.fuse_bn import affine, scale_outputs
from model.layers import Branches, GraphConv, add_relu, aggregate_neighbors, product_dtype, shortcut

WINDOWS = (3, 5)  # frames of the two G3D pathways
NORMALIZE = {"column": adjacency.by_column, "symmetric": adjacency.symmetric}


def windows(x: Tensor, size: int, stride: int) -> Tensor:
    """Return (B, C, T', size V): the joints of the `size` frames around every stride-th frame."""
    length, reach = x.shape[2], size // 2
    frames = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, 0, reach, reach))  # (B, T + 2 reach, V, C)
    shifted = [frames[:, shift : shift + length : stride] for shift in range(size)]
    return torch.cat(shifted, dim=2).permute(0, 3, 1, 2)


class WindowConv(nn.Module):
    """One G3D pathway (figure 4b): a graph convolution on a window of frames, then a collapse of
    the window.

    The window graph has size^2 times as many entries, so it is applied on the side of the 1x1
    convolution with fewer channels: gather first if the input is narrow (the first block), else
    convolve first, on single frames, before the windows repeat them.
    """

    def __init__(
        self, channels: int, hidden: int, out: int, skeleton: Tensor, size: int, stride: int
    ):
        super().__init__()
        self.size, self.stride = size, stride
        self.skeleton = nn.Buffer(skeleton, persistent=False)
        self.edges = nn.Parameter(torch.empty_like(skeleton).uniform_(-1e-6, 1e-6))
        self.conv = nn.Conv2d(len(skeleton) * channels, hidden, 1)
        self.norm: nn.Module = nn.BatchNorm2d(hidden)
        self.collapse = nn.Conv2d(hidden, out, (size, 1), stride=(size, 1))
        self.collapse_norm: nn.Module = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.skeleton + self.edges
        if x.shape[1] * len(matrix) <= self.conv.out_channels:
            neighbors = aggregate_neighbors(windows(x, self.size, self.stride), matrix)
            out = self.conv(neighbors)
        else:
            out = self.convolve_first(x, matrix)
        out = F.relu(self.norm(out), inplace=True)  # (B, C', T', size V)
        frames = out.unflatten(3, (self.size, -1)).flatten(2, 3)  # (B, C', T' size, V)
        return self.collapse_norm(self.collapse(frames))

    def fuse_bn(self) -> None:
        scale_outputs(self.conv, *affine(self.norm))
        scale_outputs(self.collapse, *affine(self.collapse_norm))
        self.norm = self.collapse_norm = nn.Identity()

    def convolve_first(self, x: Tensor, matrix: Tensor) -> Tensor:
        subsets, sources, targets = matrix.shape
        weight = self.conv.weight.view(-1, subsets, x.shape[1]).transpose(0, 1).flatten(0, 1)
        mixed = windows(F.conv2d(x, weight[..., None, None]), self.size, self.stride)
        B, _, T, _ = mixed.shape
        rows = mixed.permute(0, 2, 3, 1).reshape(B * T, sources * subsets, -1)
        columns = matrix.to(product_dtype(x)).permute(2, 1, 0)
        columns = columns.reshape(1, targets, sources * subsets).expand(B * T, -1, -1)
        out = torch.baddbmm(self.conv.get_parameter("bias"), columns, rows)
        return out.view(B, T, targets, -1).permute(0, 3, 1, 2)


class ResidualBranches(nn.Module):
    """The multi-scale temporal convolution of MS-G3D (figure 3c): branches, residual and relu."""

    def __init__(self, channels: int, out: int, stride: int = 1, relu: bool = True):
        super().__init__()
        self.branches = Branches(channels, out, 3, stride, dilations=(1, 2, 3, 4), relu=False)
        self.residual = shortcut(channels, out, stride)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        out = self.branches(x).add_(self.residual(x))
        return F.relu(out, inplace=True) if self.relu else out


class Block(nn.Module):
    """Spatio-temporal block (figure 4a): the sum of the factorized and the G3D pathways, then a
    temporal convolution."""

    def __init__(
        self,
        channels: int,
        hidden: int,
        out: int,
        stride: int,
        scales: Tensor,
        windowed: list[Tensor],
    ):
        super().__init__()
        self.factorised = nn.Sequential(
            GraphConv(channels, hidden, scales, "offset", bias_first=False, residual=False),
            ResidualBranches(hidden, out, stride),
            ResidualBranches(out, out, relu=False),
        )
        self.windowed = nn.ModuleList(
            WindowConv(channels, hidden, out, skeleton, size, stride)
            for skeleton, size in zip(windowed, WINDOWS)
        )
        self.temporal = ResidualBranches(out, out)

    def forward(self, x: Tensor) -> Tensor:
        out = self.factorised(x)
        for pathway in self.windowed[:-1]:
            out = out.add_(pathway(x))
        return self.temporal(add_relu(out, self.windowed[-1](x)))


class Model(Backbone):
    """MS-G3D; (N, M, T, V, C) to logits (N, K).

    `normalize`: 'column' as PYSKL does (A D^-1), 'symmetric' as the original (D^-1/2 A D^-1/2).
    """

    def __init__(
        self,
        *,
        base_channels: int | Sequence[int] = 96,
        num_gcn_scales: int = 13,
        num_g3d_scales: int = 6,
        normalize: Literal["column", "symmetric"] = "column",
        norm_persons: bool = True,
        **common,
    ):
        super().__init__(norm_persons=norm_persons, **common)
        check_word("model_args.normalize", normalize, NORMALIZE)
        normalized = NORMALIZE[normalize]
        scales = tensor(adjacency.k_hop(self.skeleton, num_gcn_scales, normalized))
        windowed = [
            tensor(adjacency.windowed(self.skeleton, num_g3d_scales, size, normalized))
            for size in WINDOWS
        ]
        if isinstance(base_channels, int):
            base_channels = [base_channels, 2 * base_channels, 4 * base_channels]
        c1, c2, c3 = base_channels
        table = ((self.in_channels, c1, c1, 1), (c1, c1, c2, 2), (c2, c2, c3, 2))
        self.finish((Block(*widths, scales, windowed) for widths in table), channels=c3)
