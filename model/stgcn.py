"""ST-GCN (Yan et al., AAAI 2018)."""

from __future__ import annotations

from graph import adjacency
from model.backbone import StackedBackbone, tensor
from model.layers import ConvNorm, GraphConv

KERNEL = 9  # frames per temporal convolution


class Model(StackedBackbone):
    """ST-GCN; (N, M, T, V, C) to logits (N, K).

    Distance partition (section 3.3), learnable edge importance (section 3.4), 9-frame convolutions.
    The original's network and PYSKL's are the same.
    """

    def __init__(self, **common):
        super().__init__(**common)
        skeleton = tensor(adjacency.distance(self.skeleton))
        self.stack(
            lambda channels, out, stride: (
                GraphConv(channels, out, skeleton, "importance", residual=False),
                ConvNorm(out, out, KERNEL, stride),
            )
        )
