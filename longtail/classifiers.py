"""Two-stage methods: a classifier that is made or trained anew on a frozen backbone.

Each works on `model.fc`, a linear layer that stays one: `prepare(model)` freezes what is not to
learn, after which the usual loop (its own loss, sampling and weights) trains what is left, with the
backbone in evaluation mode and `after_step(model)` behind each optimiser step. Where `trains` is
False, `prepare` is all there is to do.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from longtail.losses import log_prior


class Retraining:
    """cRT: the classifier is drawn anew and trained under class-balanced sampling: Kang et al.,
    "Decoupling Representation and Classifier for Long-Tailed Recognition", ICLR 2020, section 4.

    fresh False goes on from the classifier that is there.
    """

    trains = True

    def __init__(self, class_counts: Tensor, fresh: bool = True) -> None:
        self.fresh = fresh

    def prepare(self, model: nn.Module) -> None:
        """Freeze all but `model.fc`, and draw that anew."""
        model.requires_grad_(False)
        model.fc.requires_grad_(True)
        if self.fresh:
            model.fc.reset_parameters()

    def after_step(self, model: nn.Module) -> None:
        """Impose nothing on the classifier."""


class LearnableScaling(Retraining):
    """LWS: the class vectors keep their directions and learn their lengths, w_k = f_k v_k: Kang et
    al., ICLR 2020, section 4.

    The gradient of w_k becomes <g, v_k> v_k: gradient descent on f_k, momentum and weight decay
    included, with no parameter more. The bias stays.
    """

    def __init__(self, class_counts: Tensor) -> None:
        super().__init__(class_counts, fresh=False)

    def prepare(self, model: nn.Module) -> None:
        super().prepare(model)
        model.fc.bias.requires_grad_(False)
        directions = model.fc.weight.detach().clone()  # (K, D)
        model.fc.weight.register_hook(
            lambda grad: (grad * directions).sum(1, keepdim=True) * directions
        )


class MaxNorm(Retraining):
    """The classifier is trained further, each class vector within a ball: w_k <- w_k min(1, r /
    |w_k|) after each step: Alshammari et al., "Long-Tailed Recognition via Weight Balancing", CVPR
    2022, which joins it with the class-balanced loss and a strong weight decay.

    radius None is the mean length at the start.
    """

    def __init__(self, class_counts: Tensor, radius: float | None = None) -> None:
        super().__init__(class_counts, fresh=False)
        self.radius = radius

    def prepare(self, model: nn.Module) -> None:
        super().prepare(model)
        lengths = model.fc.weight.detach().norm(dim=1)
        self.limit = lengths.mean() if self.radius is None else lengths.new_tensor(self.radius)
        self.after_step(model)

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        """Put class vectors that left the ball back on it."""
        weight = model.fc.weight
        lengths = weight.norm(dim=1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
        weight.mul_((self.limit / lengths).clamp_max(1))


class TauNormalisation:
    """w_k <- w_k / |w_k|^tau, without a bias: Kang et al., ICLR 2020, section 4. Nothing is
    trained; tau 0 only drops the bias, tau 1 makes all class vectors as long."""

    trains = False

    def __init__(self, class_counts: Tensor, tau: float = 1.0) -> None:
        self.tau = tau

    @torch.no_grad()
    def prepare(self, model: nn.Module) -> None:
        weight = model.fc.weight
        lengths = weight.norm(dim=1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
        weight.div_(lengths**self.tau)
        model.fc.bias.zero_()


class PostHocAdjustment:
    """z_k - tau log(n_k / n), as a shift of the bias, for a model trained with plain cross entropy:
    Menon et al., "Long-Tail Learning via Logit Adjustment", ICLR 2021, eq. 9."""

    trains = False

    def __init__(self, class_counts: Tensor, tau: float = 1.0) -> None:
        self.shift = tau * log_prior(class_counts)

    @torch.no_grad()
    def prepare(self, model: nn.Module) -> None:
        model.fc.bias.sub_(self.shift.to(model.fc.bias.device))
