"""ST-GCN++ (Duan et al., PYSKL, ACM MM 2022), the backbone of the paper."""

from __future__ import annotations

from graph import adjacency
from model.backbone import StackedBackbone, tensor
from model.layers import Adaptive, Branches, GraphConv, MergedBranches


class Model(StackedBackbone):
    """ST-GCN++; (N, M, T, V, C) to logits (N, K). The defaults are the released configuration.

    `adaptive`, `bias_first` and `graph_residual` are those of `layers.GraphConv`.
    """

    def __init__(
        self,
        *,
        adaptive: Adaptive = "init",
        bias_first: bool = True,
        graph_residual: bool = True,
        **common,
    ):
        super().__init__(**common)
        skeleton = tensor(adjacency.spatial(self.skeleton))
        self.stack(
            lambda channels, out, stride: (
                GraphConv(channels, out, skeleton, adaptive, bias_first, graph_residual),
                MergedBranches(out, Branches(out, out, 3, stride, dilations=(1, 2, 3, 4))),
            )
        )
