"""ST-GCN++ in double precision: with float32, rounding makes two runs diverge within 20 steps.

With several processes its batch norms use the statistics of all of them, so that two ranks can
be compared with one; torch's own SyncBatchNorm needs GPUs.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model import stgcnpp
from model.backbone import Output


class Sum(torch.autograd.Function):
    """The sum of a tensor over all processes, differentiable."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return Sum.forward(ctx, grad.contiguous())


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch norm with the statistics of the batches of all processes."""

    def _check_input_dim(self, x: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        over = [axis for axis in range(x.ndim) if axis != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        count = x.new_full((1,), x.numel() / x.shape[1])
        count, total = Sum.apply(torch.cat([count, x.sum(over)])).split([1, x.shape[1]])
        mean = total / count
        centered = x - mean.view(shape)
        variance = Sum.apply(centered.square().sum(over)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked.add_(1)
        scale = (variance + self.eps).rsqrt() * self.weight
        return centered * scale.view(shape) + self.bias.view(shape)


def synchronize(model: nn.Module) -> nn.Module:
    """Convert the batch norms of `model` to the class above, keeping parameters and buffers."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.__class__ = SyncBatchNorm
    return model


class Model(stgcnpp.Model):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.double()
        if dist.is_initialized():
            synchronize(self)

    def forward(self, clips: Tensor, outputs: bool = False) -> Tensor | Output:
        return super().forward(clips.double(), outputs)
