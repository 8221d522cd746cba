"""InfoGCN (Chi et al., CVPR 2022): self-attention as the graph, a latent code as the feature."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from errors import InputError
from model.backbone import StackedBackbone, stages, tensor
from model.fuse_bn import affine
from model.layers import Branches, add_relu, product_dtype, shortcut

REDUCTION = 8  # input channels per channel of a head's queries and keys
LARGEST = 100.0  # upper limit of the factor that scales the noise


def hung_from(parent: tuple[int, ...], root: int) -> list[int]:
    """Return the parents (V,) of the same tree with another root; the root is its own parent."""
    tree = list(parent)
    joint, above = root, parent[root]
    tree[root] = root
    while joint != above:
        joint, above, tree[above] = above, parent[above], joint
    return tree


def ancestor_difference(parent: list[int], k: int) -> np.ndarray:
    """Return the matrix (V, V) that subtracts from each joint its k-th ancestor (section 3.5).

    A joint that is fewer than k steps below the root has none and is not changed.
    """
    joints = len(parent)
    above = np.zeros((joints, joints))
    for child, joint in enumerate(parent):
        above[child, joint] = child != joint
    return np.eye(joints) - np.linalg.matrix_power(above, k)


class AttentionGraphConv(nn.Module):
    """Graph convolution over heads whose graph is self-attention times a learned topology (eq. 6).

    Per frame and head h: B_h[u, v] = topology_h[u, v] softmax_v(q_h[u] k_h[v] / sqrt(d)), then
    relu(norm(sum_h W_h sum_v B_h[u, v] x[v] + b_h) + residual).
    """

    def __init__(self, channels: int, out: int, joints: int, heads: int):
        super().__init__()
        self.heads = heads
        self.width = max(1, channels // REDUCTION)
        self.embed_norm = nn.LayerNorm(channels)
        self.embed = nn.Linear(channels, 2 * heads * self.width)
        self.topology = nn.Parameter(torch.eye(joints).repeat(heads, 1, 1))
        self.conv = nn.Conv2d(heads * channels, out, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(heads, out))
        self.norm: nn.Module = nn.BatchNorm2d(out)
        self.residual = shortcut(channels, out)
        nn.init.normal_(self.embed.weight)
        nn.init.normal_(self.conv.weight, std=(2 / (out * channels * heads)) ** 0.5)
        nn.init.constant_(self.norm.weight, 1e-6)  # at the start a layer is its residual

    def attention(self, frames: Tensor) -> Tensor:
        """(B, T, V, C) to graphs per frame, (B, T, V, H, V): entries (target, head, source)."""
        embedded = self.embed(self.embed_norm(frames)).unflatten(-1, (2, self.heads, self.width))
        query, key = embedded.unbind(-3)  # (B, T, V, H, d)
        alike = torch.einsum("btuhd,btvhd->btuhv", query * self.width**-0.5, key)
        return alike.softmax(-1).to(product_dtype(frames)) * self.topology.transpose(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.permute(0, 2, 3, 1)  # (B, T, V, C), in memory order
        B, T, V, C = frames.shape
        graphs = self.attention(frames).reshape(B * T, V * self.heads, V)
        sums = torch.bmm(graphs.to(product_dtype(x)), frames.reshape(B * T, V, C))
        sums = sums.view(B, T, V, self.heads * C).permute(0, 3, 1, 2)
        out = F.conv2d(sums, self.conv.weight, self.bias.sum(0))
        return add_relu(self.norm(out), self.residual(x))

    def fuse_bn(self) -> None:
        scale, shift = affine(self.norm)
        self.conv.weight = nn.Parameter(self.conv.weight * scale[:, None, None, None])
        self.bias = nn.Parameter((self.bias.sum(0) * scale + shift)[None])
        self.norm = nn.Identity()


class Model(StackedBackbone):
    """InfoGCN; (N, M, T, V, C) to logits (N, K).

    The network sees x minus its k-th ancestor, joint by joint: k=1 bones, a large k the joints. The
    tree hangs from joint `root`: 1, the middle of the spine, which NTU's clips are centered on.

    The features are the latent code z (N, D), on which the MMD of `longtail.latent_prior` acts: in
    training mean + noise * min(exp(noise_ratio * log_variance), 100), noise drawn from torch's
    default generator, else the mean. `extra` of the outputs has both, `mean` and `log_variance`.
    """

    def __init__(
        self,
        *,
        num_blocks: int = 9,
        inflate: Sequence[int] = (4, 7),
        down: Sequence[int] = (4, 7),
        num_head: int = 3,
        k: int = 1,
        root: int = 1,
        noise_ratio: float = 0.5,
        norm_persons: bool = True,
        **common,
    ):
        super().__init__(
            num_blocks=num_blocks, inflate=inflate, down=down, norm_persons=norm_persons, **common,
        )  # fmt: skip
        joints = self.skeleton.num_joints
        if k < 1:
            raise InputError(f"model_args.k is {k}: must be at least 1 (0 would give zeros only)")
        if not 0 <= root < joints:
            raise InputError(f"model_args.root is {root}: must be a joint, 0 to {joints - 1}")
        self.noise_ratio = noise_ratio
        difference = ancestor_difference(hung_from(self.skeleton.parent, root), k)
        self.difference = nn.Buffer(tensor(difference), persistent=False)
        embedded = stages(self.in_channels, *self.sizes)[0][1]  # channels of the first block
        self.embed = nn.Linear(self.in_channels, embedded)
        columns = joints * embedded
        self.data_norm = nn.BatchNorm1d(columns * self.num_person if norm_persons else columns)
        self.position = nn.Parameter(torch.randn(1, joints, embedded))
        self.stack(
            lambda channels, out, stride: (
                AttentionGraphConv(channels, out, joints, num_head),
                Branches(out, out, 5, stride, dilations=(1, 2)),
            ),
            embedded=embedded,
        )
        width = self.fc.in_features
        self.hidden, self.mean, self.log_variance = (nn.Linear(width, width) for _ in range(3))
        for layer in (self.hidden, self.mean, self.log_variance):
            nn.init.xavier_uniform_(layer.weight, gain=2**0.5)
        if not self.cosine:
            nn.init.normal_(self.fc.weight, std=(2 / self.num_class) ** 0.5)

    def normalize(self, clips: Tensor) -> Tensor:
        """(N, M, T, V, C) to embedded and batch-normed (N M, D, T, V), channels last in memory."""
        self.check(clips)
        if self.norm_persons:  # the order of its rows, (m, v, d): the embedding is in it already
            clips = clips.transpose(1, 2)
        x = self.embed(torch.einsum("uv,...vc->...uc", self.difference, clips)) + self.position
        return self.norm_bodies(x.transpose(1, 2) if self.norm_persons else x)

    def features(self, clips: Tensor) -> Tensor:
        return self.features_and_extra(clips)[0]

    def features_and_extra(self, clips: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        hidden = F.relu(self.hidden(super().features(clips)))
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        latent = mean
        if self.training:
            # clamped before exp: a clamp after it would have the gradient infinity times 0
            spread = (self.noise_ratio * log_variance).clamp(max=math.log(LARGEST)).exp()
            latent = mean + spread * torch.randn_like(spread)
        return latent, {"mean": mean, "log_variance": log_variance}
