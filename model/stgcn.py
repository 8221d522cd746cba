"""ST-GCN (Yan et al., AAAI 2018)."""

from __future__ import annotations

from collections.abc import Sequence

from graph import adjacency
from model.backbone import Backbone, stages, tensor
from model.layers import Block, ConvNorm, GraphConv, shortcut

KERNEL = 9  # frames that a temporal convolution sees


class Model(Backbone):
    """ST-GCN; (N, M, T, V, C) to logits (N, K).

    Distance partition (section 3.3), learnable edge importance (section 3.4), 9-frame convolutions.
    The original's network and PYSKL's are the same.
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
        norm_persons: bool = False,
        parent_edges: bool = False,
        dropout: float = 0.0,
        cosine: bool = False,
    ):
        super().__init__(
            graph, num_class, num_person, in_channels, norm_persons, parent_edges, dropout, cosine
        )
        skeleton = tensor(adjacency.distance(self.skeleton))
        table = stages(in_channels, base_channels, num_blocks, inflate, down)
        self.finish(
            (
                Block(
                    GraphConv(channels, out, skeleton, "importance", residual=False),
                    ConvNorm(out, out, KERNEL, stride),
                    shortcut(channels, out, stride) if number > 1 else None,
                )
                for number, (channels, out, stride) in enumerate(table, 1)
            ),
            channels=table[-1][1],
        )
