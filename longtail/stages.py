"""The loss and the class weights of each epoch; losses themselves do not depend on epochs."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from errors import InputError
from longtail.losses import CrossEntropy
from longtail.weights import Weighting

From = Literal["start", "second_stage"]


class Stages(nn.Module):
    """The two stages of a run, of which the second may have another loss and class weights.

    The last `second_stage` of `num_epoch` epochs are stage 2 (None: a `share` of them, at least 1;
    0: no second stage). `criterion` and `weights` (a function of the epoch within its stage, or
    None) are used from the start or from the second stage on, see `loss_from` and `weights_from`;
    before that the loss is cross entropy and the weights are ones. If `criterion` has an attribute
    `first_stage`, this is the loss before stage 2. Epochs count from 0.
    """

    def __init__(
        self,
        num_epoch: int,
        second_stage: int | None,
        criterion: CrossEntropy,
        weights: Weighting | None,
        loss_from: From = "start",
        weights_from: From = "second_stage",
        share: float = 5 / 24,
    ) -> None:
        super().__init__()
        if second_stage is None:
            second_stage = max(1, round(num_epoch * share))
        if not 0 <= second_stage <= num_epoch:
            raise InputError(
                f"second_stage: {second_stage} is not within 0..num_epoch ({num_epoch})"
            )
        self.num_epoch, self.switch = num_epoch, num_epoch - second_stage
        self.loss_start = 0 if loss_from == "start" else self.switch
        self.weights_start = 0 if weights_from == "start" else self.switch
        ones = torch.ones(criterion.num_class)
        self.plain = CrossEntropy(ones)
        self.second = criterion
        self.first = getattr(criterion, "first_stage", criterion)
        self.weights = weights
        self.ones = nn.Buffer(ones, persistent=False)

    def stage(self, epoch: int) -> int:
        """Return 1 or 2."""
        return 2 if epoch >= self.switch else 1

    def criterion(self, epoch: int) -> CrossEntropy:
        """Return the loss of an epoch."""
        if epoch < self.loss_start:
            return self.plain
        return self.second if epoch >= self.switch else self.first

    def idle(self) -> list[str]:
        """Return a line on the loss or weights that no epoch has."""
        last = self.num_epoch - 1
        loss = type(self.second) is not CrossEntropy and self.criterion(last) is not self.second
        weights = self.weights is not None and last < self.weights_start
        parts = [key for key, unused in (("loss", loss), ("class_weights", weights)) if unused]
        no_epoch = "second_stage is 0: no epoch has its"
        return [f"{no_epoch} {' and '.join(parts)}"] if parts else []

    def class_weights(self, epoch: int) -> Tensor:
        """Return the class weights (K,) float32 of an epoch."""
        if self.weights is None or epoch < self.weights_start:
            return self.ones
        return self.weights(epoch - self.weights_start)
