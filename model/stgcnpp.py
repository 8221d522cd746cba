"""ST-GCN++ (Duan et al., PYSKL, ACM MM 2022), the backbone of the paper."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graph import adjacency
from model.backbone import Backbone, stages
from model.layers import GraphConv, MultiScaleTemporal, add_relu, shortcut


class Block(nn.Module):
    """Graph convolution, multi-scale temporal convolution, residual; the frames by `stride`."""

    def __init__(
        self,
        channels: int,
        out: int,
        stride: int,
        skeleton: Tensor,
        residual: bool,
        graph_args: dict,
    ):
        super().__init__()
        self.graph = GraphConv(channels, out, skeleton, **graph_args)
        self.temporal = MultiScaleTemporal(out, out, stride)
        self.residual = shortcut(channels, out, stride) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.temporal(self.graph(x))
        if self.residual is None:
            return out.relu_()
        return add_relu(out, self.residual(x))


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
        dropout: float = 0.0,
    ):
        super().__init__(graph, num_class, num_person, in_channels, norm_persons, dropout)
        skeleton = torch.as_tensor(adjacency.spatial(self.skeleton), dtype=torch.float32)
        table = stages(in_channels, base_channels, num_blocks, inflate, down)
        graph_args = {"adaptive": adaptive, "bias_first": bias_first, "residual": graph_residual}
        self.finish(
            nn.Sequential(
                *(
                    Block(channels, out, stride, skeleton, number > 1, graph_args)
                    for number, (channels, out, stride) in enumerate(table, 1)
                )
            ),
            channels=table[-1][1],
        )
