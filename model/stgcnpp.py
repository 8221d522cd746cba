"""ST-GCN++ (Duan et al., PYSKL, ACM MM 2022), the backbone of the paper."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from graph import adjacency
from model.backbone import Backbone, stages, tensor
from model.layers import Block, Branches, ConvNorm, GraphConv, shortcut


class MultiScaleTemporal(nn.Module):
    """Six temporal branches, merged by a 1x1 convolution (PYSKL, section 3.2)."""

    def __init__(self, channels: int, stride: int):
        super().__init__()
        self.branches = Branches(channels, channels, 3, stride, dilations=(1, 2, 3, 4))
        self.merge = ConvNorm(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(self.branches(x))


class Model(Backbone):
    """ST-GCN++; (N, M, T, V, C) to logits (N, K). The defaults are the released configuration.

    `adaptive`, `bias_first` and `graph_residual` are those of `layers.GraphConv`; `inflate` and
    `down` name the blocks, counted from 1, that double the channels and halve the frames.
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
        adaptive: str = "init",
        bias_first: bool = True,
        graph_residual: bool = True,
        norm_persons: bool = False,
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
                    GraphConv(channels, out, skeleton, adaptive, bias_first, graph_residual),
                    MultiScaleTemporal(out, stride),
                    shortcut(channels, out, stride) if number > 1 else None,
                )
                for number, (channels, out, stride) in enumerate(table, 1)
            ),
            channels=table[-1][1],
        )
