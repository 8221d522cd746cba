"""AAGCN, also MS-AAGCN (Shi et al., TIP 2020), and with other values 2s-AGCN (CVPR 2019)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from errors import check_word
from graph import adjacency
from model.backbone import StackedBackbone, tensor
from model.fuse_bn import affine
from model.layers import ConvNorm, add_relu, aggregate_neighbors, shortcut
from model.stgcn import KERNEL

Similarity = Literal["tanh", "softmax"]  # see AdaptiveGraphConv
EMBED = 4  # the embeddings of a block have this many times fewer channels than its output


class Attention(nn.Module):
    """The three attentions of AAGCN in sequence (TIP 2020, section III-D), each y (1 + a).

    All three gates are computed from averages of y, so that y itself is scaled only once.
    """

    def __init__(self, channels: int, joints: int):
        super().__init__()
        width = joints if joints % 2 else joints - 1
        self.joints = nn.Conv1d(channels, 1, width, padding=width // 2)
        self.frames = nn.Conv1d(channels, 1, 9, padding=4)
        self.squeeze = nn.Linear(channels, channels // 2)
        self.excite = nn.Linear(channels // 2, channels)
        nn.init.xavier_normal_(self.joints.weight)
        for layer in (self.frames, self.excite):
            nn.init.zeros_(layer.weight)
        for layer in (self.joints, self.frames, self.excite):
            nn.init.zeros_(layer.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        joints = 1 + torch.sigmoid(self.joints(x.mean(2)))  # (B, 1, V)
        over_joints = torch.einsum("bctv,bv->bct", x, joints[:, 0]) / x.shape[3]
        frames = 1 + torch.sigmoid(self.frames(over_joints))  # (B, 1, T)
        over_frames = (over_joints * frames).mean(2)
        channels = 1 + torch.sigmoid(self.excite(F.relu(self.squeeze(over_frames))))  # (B, C)
        return x * (frames[..., None] * joints[:, :, None]) * channels[..., None, None]


class AdaptiveGraphConv(nn.Module):
    """Graph convolution on a learned graph plus one computed from each sample (eq. 2 and 3).

    `similarity` 'tanh': the sample's graph is scaled by a learned alpha; the learned graph is
    initialized with the skeleton (AAGCN). 'softmax': it is not scaled; the learned graph is added
    to the skeleton (2s-AGCN).
    """

    def __init__(
        self, channels: int, out: int, skeleton: Tensor, similarity: Similarity, attention: bool
    ):
        super().__init__()
        check_word("model_args.similarity", similarity, get_args(Similarity))
        self.subsets = subsets = len(skeleton)
        self.similarity = similarity
        if similarity == "tanh":
            self.adjacency = nn.Parameter(skeleton.clone())
            self.alpha = nn.Parameter(torch.zeros(1))
        else:
            self.skeleton = nn.Buffer(skeleton, persistent=False)
            self.edges = nn.Parameter(torch.full_like(skeleton, 1e-6))
        self.embed = nn.Conv2d(channels, 2 * subsets * (out // EMBED), 1)
        self.conv = nn.Conv2d(subsets * channels, out, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(subsets, out))  # of each subset, as in the papers
        self.norm: nn.Module = nn.BatchNorm2d(out)
        self.residual = shortcut(channels, out)
        self.attention = Attention(out, skeleton.shape[-1]) if attention else nn.Identity()
        nn.init.normal_(self.embed.weight, std=(2 / (out // EMBED)) ** 0.5)
        nn.init.zeros_(self.embed.get_parameter("bias"))
        nn.init.normal_(self.conv.weight, std=(2 / (out * channels * subsets)) ** 0.5)
        nn.init.constant_(self.norm.weight, 1e-6)  # at the start a block is its residual

    def graph(self, x: Tensor) -> Tensor:
        """Return the adjacency of each sample, (B, G, V, V)."""
        source, target = self.embed(x).unflatten(1, (2, self.subsets, -1)).unbind(1)
        alike = torch.einsum("bgctv,bgctw->bgvw", source, target) / (source.shape[2] * x.shape[2])
        if self.similarity == "tanh":
            return self.adjacency + self.alpha * torch.tanh(alike)
        return self.skeleton + self.edges + torch.softmax(alike, dim=-2)

    def forward(self, x: Tensor) -> Tensor:
        out = F.conv2d(aggregate_neighbors(x, self.graph(x)), self.conv.weight, self.bias.sum(0))
        return self.attention(add_relu(self.norm(out), self.residual(x)))

    def fuse_bn(self) -> None:
        scale, shift = affine(self.norm)
        self.conv.weight = nn.Parameter(self.conv.weight * scale[:, None, None, None])
        self.bias = nn.Parameter((self.bias.sum(0) * scale + shift)[None])
        self.norm = nn.Identity()


class Model(StackedBackbone):
    """AAGCN; (N, M, T, V, C) to logits (N, K).

    2s-AGCN is `similarity='softmax', attention=False`.
    """

    def __init__(
        self,
        *,
        similarity: Similarity = "tanh",
        attention: bool = True,
        norm_persons: bool = True,
        **common,
    ):
        super().__init__(norm_persons=norm_persons, **common)
        skeleton = tensor(adjacency.spatial(self.skeleton))
        self.stack(
            lambda channels, out, stride: (
                AdaptiveGraphConv(channels, out, skeleton, similarity, attention),
                ConvNorm(out, out, KERNEL, stride),
            )
        )
