"""ProtoGCN (Liu et al., CVPR 2025): DG-STGCN with prototypes of the last layer's graphs."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from model import dgstgcn
from model.layers import Block, ConvNorm

DROPOUT = 0.1  # of the sums of prototypes
EMBED = 256  # width of the embedding that the contrastive loss compares


class Prototypes(nn.Module):
    """Reconstruct the graphs of a clip from P learned prototypes and embed them.

    Each entry of the graphs, a vector q of C channels, becomes W_m softmax(W_q q); a 1x1
    convolution, batch norm, relu and the mean over channels then give one graph.
    """

    def __init__(self, channels: int, joints: int, count: int):
        super().__init__()
        self.query = nn.Linear(channels, count, bias=False)
        self.memory = nn.Linear(count, channels, bias=False)
        self.dropout = nn.Dropout(DROPOUT)
        self.post = ConvNorm(channels, channels)
        self.embed = nn.Linear(joints**2, EMBED)

    def forward(self, graphs: Tensor) -> dict[str, Tensor]:
        """(N, C, V, V) to `graph` (N, V V) and its `embedding` (N, EMBED)."""
        entries = graphs.permute(0, 2, 3, 1)  # (N, V, V, C)
        entries = self.dropout(self.memory(self.query(entries).softmax(-1)))
        graph = F.relu(self.post(entries.permute(0, 3, 1, 2))).mean(1).flatten(1)
        return {"graph": graph, "embedding": self.embed(graph)}


class Model(dgstgcn.Model):
    """ProtoGCN; (N, M, T, V, C) to logits (N, K).

    `extra` of the outputs has the clip's reconstructed `graph` (N, V V) and its `embedding`
    (N, 256); the loss `longtail.class_contrast` trains the prototypes on them. The logits do not
    depend on prototypes: num_prototype=0 omits them, for training without that loss.
    """

    def __init__(self, *, base_channels: int = 96, num_prototype: int = 400, **common):
        super().__init__(base_channels=base_channels, **common)
        self.prototypes: Prototypes | None = None
        if num_prototype:
            width = self.fc.in_features // dgstgcn.SUBSETS * dgstgcn.SUBSETS  # of the last graphs
            self.prototypes = Prototypes(width, self.skeleton.num_joints, num_prototype)

    def features_and_extra(self, clips: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if self.prototypes is None:
            return super().features_and_extra(clips)
        *blocks, last = self.blocks
        assert isinstance(last, Block) and isinstance(last.graph, dgstgcn.DynamicGraphConv)
        x = self.normalize(clips)
        for block in blocks:
            x = block(x)
        relations = last.graph.relations(x)  # (N M, G, C / G, V, V)
        hidden = last.graph.convolve(x, relations + last.graph.adjacency[:, None])
        features = self.over_persons(last.after_graph(hidden, x).mean((2, 3)))
        return features, self.prototypes(self.over_persons(relations.flatten(1, 2)))
