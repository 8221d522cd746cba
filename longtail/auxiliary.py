"""Losses on what a network gives besides its logits, added to the loss of any method.

An auxiliary loss belongs to a backbone that offers such an output, not to a method of the long
tail, and is named by a key of its own, `auxiliary_loss`. What it remembers are buffers, which are
saved with the run.
"""

from __future__ import annotations

from torch import Tensor, nn

from errors import InputError
from model.backbone import Backbone, Output


class AuxiliaryLoss(nn.Module):
    """Base class; built from the network, of which only attributes are read.

    `takes` is the output that it acts on: `features`, or a name of `Output.extra`.
    """

    takes = "features"

    def __init__(self, model: Backbone) -> None:
        super().__init__()
        self.num_class = model.num_class

    def forward(self, values: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar mean loss of some samples.

        Args:
            values: (N, D), the output named by `takes`
            logits: (N, K)
            labels: (N, K), the shares that a sample has in the classes; rows sum to 1
        """
        raise NotImplementedError

    def part(self, output: Output, labels: Tensor, count: int) -> Tensor:
        """Return the loss of some samples times their share of the `count` samples of a batch.

        Statistics (class means, a memory) are of the micro-batch, over all ranks.
        """
        named = {"features": output.features, **output.extra}
        if self.takes not in named:
            raise InputError(
                f"auxiliary_loss: {type(self).__name__} takes the output `{self.takes}`, but the "
                f"network gives {', '.join(named)}; choose another model, or null"
            )
        return len(labels) / count * self(named[self.takes], output.logits, labels)
