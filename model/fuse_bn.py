"""Networks for inference: batch norms fused into the convolutions before them."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Shift(nn.Module):
    """Adds a constant: the shift of a batch norm whose scale is fused into a convolution."""

    def __init__(self, value: Tensor):
        super().__init__()
        self.value = nn.Buffer(value)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.value.to(x.dtype)


class Affine(nn.Module):
    """Scales and shifts channels: a batch norm in evaluation that does not follow a convolution."""

    def __init__(self, scale: Tensor, shift: Tensor):
        super().__init__()
        self.scale = nn.Buffer(scale[:, None, None])
        self.shift = nn.Buffer(shift[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale.to(x.dtype) + self.shift.to(x.dtype)


def affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the scale and shift (C,) that a batch norm applies in evaluation."""
    assert isinstance(norm, nn.BatchNorm2d), "fused already"
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight.detach() * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias.detach() - norm.running_mean * scale


def scale_outputs(conv: nn.Conv2d, scale: Tensor, shift: Tensor) -> None:
    """Change a convolution so that it computes scale * conv(x) + shift."""
    bias = 0 if conv.bias is None else conv.bias.detach()
    conv.weight = nn.Parameter(conv.weight.detach() * scale[:, None, None, None])
    conv.bias = nn.Parameter(bias * scale + shift)


@torch.no_grad()
def fuse_bn(model: nn.Module) -> nn.Module:
    """Return a copy of `model` for inference with the same outputs up to rounding, but faster.

    A layer with a method `fuse_bn()` fuses its own batch norms; other layers are not changed. The
    copy can neither be trained nor saved as a checkpoint.
    """
    fused = copy.deepcopy(model).eval().requires_grad_(False)
    for layer in list(fused.modules()):
        fuse = getattr(layer, "fuse_bn", None)
        if fuse is not None:
            fuse()
    return fused.requires_grad_(False)
