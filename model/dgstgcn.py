"""DG-STGCN (Duan et al., arXiv 2210.05895): learned graphs instead of the skeleton's."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from errors import InputError
from model.backbone import StackedBackbone
from model.fuse_bn import Shift, affine, scale_outputs
from model.layers import Branches, MergedBranches, add_relu, shortcut

SUBSETS = 8  # graphs per layer, each for an eighth of the channels
START = (0.04, 0.02)  # mean and deviation of the learned graphs before training


def mean_frame(x: Tensor) -> Tensor:
    """(B, C, T, V) to (B, C, V): torch's mean over time, as a matrix product of channels last."""
    frames = x.permute(0, 2, 3, 1)  # (B, T, V, C), in memory order
    shares = x.new_full((x.shape[0], 1, x.shape[2]), 1 / x.shape[2])
    return torch.bmm(shares, frames.flatten(2)).view(-1, *frames.shape[2:]).transpose(1, 2)


class DynamicGraphConv(nn.Module):
    """Graph convolution on a learned graph per subset plus one per sample and channel.

    With source and target embeddings s, t of the mean frame, the graph of channel c in subset g is
    A_g[u, v] + alpha tanh(s_c[u] - t_c[v]) + beta softmax_u(sum_c s_c[u] t_c[v]), summed over
    joints u. As in the released code, alpha and beta have one entry per subset, and the first is
    used for all subsets.

    Between the two 1x1 convolutions memory is contiguous as (B, C, T, V), for one product per
    channel with its graph.
    """

    def __init__(self, channels: int, out: int, start: Tensor):
        super().__init__()
        self.subsets = subsets = len(start)
        width = out // subsets * subsets
        if not width:
            raise InputError(f"model_args.base_channels must be at least {subsets}, not {out}")
        self.adjacency = nn.Parameter(start.clone())
        self.alpha = nn.Parameter(torch.zeros(subsets))
        self.beta = nn.Parameter(torch.zeros(subsets))
        self.relate = nn.Conv1d(channels, 2 * width, 1)
        self.reduce = nn.Conv2d(channels, width, 1)
        self.reduce_norm: nn.Module = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, out, 1)
        self.norm: nn.Module = nn.BatchNorm2d(out)
        self.residual = shortcut(channels, out)

    def relations(self, x: Tensor, shared: Tensor | float = 0.0) -> Tensor:
        """Return `shared` graphs plus those computed from x: (B, G, C / G, V, V).

        The last two axes are (source, target).
        """
        related = self.relate(mean_frame(x)).unflatten(1, (2, self.subsets, -1))
        related = related.to(torch.promote_types(related.dtype, torch.float32))
        source, target = related.unbind(1)  # (B, G, C / G, V)
        alike = torch.einsum("bgcu,bgcv->bguv", source, target).softmax(dim=-2)
        common = shared + self.beta[0] * alike - self.alpha[0]
        # tanh(d) = 2 sigmoid(2 d) - 1: torch's sigmoid is several times faster on a CPU
        unlike = torch.sigmoid((2 * source)[..., None] + (-2 * target)[..., None, :])
        return torch.addcmul(common[:, :, None], unlike, 2 * self.alpha[0])

    def convolve(self, x: Tensor, graphs: Tensor) -> Tensor:
        """Return the layer's output for x, given graphs (B, G, C / G, V, V)."""
        reduced = self.reduce_norm(self.reduce(x).contiguous())
        reduced = F.relu(reduced, inplace=True)  # (B, C, T, V)
        sums = torch.bmm(reduced.flatten(0, 1), graphs.flatten(0, 2).to(reduced.dtype))
        sums = sums.view_as(reduced).contiguous(memory_format=torch.channels_last)
        return add_relu(self.norm(self.conv(sums)), self.residual(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x, self.relations(x, self.adjacency))

    def fuse_bn(self) -> None:
        scale_outputs(self.reduce, *affine(self.reduce_norm))
        scale_outputs(self.conv, *affine(self.norm))
        self.reduce_norm = self.norm = nn.Identity()


class DynamicBranches(Branches):
    """Temporal branches with the mean of all joints as one more joint: joint v becomes
    y_v + coefficient_v y_mean before the norm (dynamic joint-skeleton fusion, section 3.3)."""

    def __init__(self, channels: int, stride: int, joints: int):
        super().__init__(channels, channels, 3, stride, dilations=(1, 2, 3, 4))
        self.coefficient = nn.Parameter(torch.zeros(joints))
        self.unshift: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        frames = x.permute(0, 2, 3, 1)  # (B, T, V, C), in memory order
        # a sum, then a division: the gradient of mean() would take one more pass over all joints
        body = frames.sum(2, keepdim=True) / frames.shape[2]
        frames = torch.cat([frames, body], dim=2)
        return super().forward(frames.permute(0, 3, 1, 2))

    def join(self, branches: list[Tensor]) -> Tensor:
        joints, body = super().join(branches).split([len(self.coefficient), 1], dim=3)
        return torch.addcmul(joints, self.unshift(body), self.coefficient.to(body.dtype))

    def fuse_bn(self) -> None:
        _, shift = affine(self.norm)  # each branch takes it in; of the mean joint it comes off
        self.unshift = Shift(-shift[:, None, None])
        super().fuse_bn()


class Model(StackedBackbone):
    """DG-STGCN; (N, M, T, V, C) to logits (N, K). Of the layout it uses the number of joints
    only."""

    def __init__(self, **common):
        super().__init__(**common)
        joints = self.skeleton.num_joints
        start = START[0] + START[1] * torch.randn(SUBSETS, joints, joints)
        self.stack(
            lambda channels, out, stride: (
                DynamicGraphConv(channels, out, start),
                MergedBranches(out, DynamicBranches(out, stride, joints)),
            )
        )
