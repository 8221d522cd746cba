"""ST-GCN++ (Duan et al., PYSKL, ACM MM 2022), the backbone of the paper."""

from __future__ import annotations

from torch import Tensor, nn

from graph import adjacency
from model.backbone import StackedBackbone, tensor
from model.layers import Branches, ConvNorm, GraphConv


class MultiScaleTemporal(nn.Module):
    """Six temporal branches, merged by a 1x1 convolution (PYSKL, section 3.2)."""

    def __init__(self, channels: int, stride: int):
        super().__init__()
        self.branches = Branches(channels, channels, 3, stride, dilations=(1, 2, 3, 4))
        self.merge = ConvNorm(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(self.branches(x))


class Model(StackedBackbone):
    """ST-GCN++; (N, M, T, V, C) to logits (N, K). The defaults are the released configuration.

    `adaptive`, `bias_first` and `graph_residual` are those of `layers.GraphConv`.
    """

    def __init__(
        self,
        *,
        adaptive: str = "init",
        bias_first: bool = True,
        graph_residual: bool = True,
        **common,
    ):
        super().__init__(**common)
        skeleton = tensor(adjacency.spatial(self.skeleton))
        self.stack(
            lambda channels, out, stride: (
                GraphConv(channels, out, skeleton, adaptive, bias_first, graph_residual),
                MultiScaleTemporal(out, stride),
            )
        )
