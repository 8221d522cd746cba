"""Two-stage methods: the classifier is replaced or trained again on a frozen backbone.

Each changes `model.fc`, which remains a linear layer: `prepare(model, samples)` freezes the other
parameters, then the usual loop (with its own loss, sampling and weights) trains the rest, with the
backbone in evaluation mode and a call of `after_step(model)` after each optimizer step. If `trains`
is False, `prepare` does everything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from errors import InputError, check_word
from longtail.losses import log_prior
from longtail.ranges import Positive
from model.backbone import linear_classifier

Tau = float | Literal["auto"]
TAUS = [step / 20 for step in range(41)]  # candidates of `tau: auto`, 0 to 2


@dataclass(frozen=True)
class Samples:
    """Functions that compute, on demand, outputs of the trained network for training samples."""

    # logits (n, K) and labels (n,) of samples that it was not trained on
    held_out: Callable[[], tuple[Tensor, Tensor]]
    # features (n, D) and labels (n,) of those that it is trained on, a clip each, not augmented
    features: Callable[[], tuple[Tensor, Tensor]]


class Classifier(nn.Module):
    """Base class of two-stage methods; does not change the network."""

    trains = False

    def __init__(self, class_counts: Tensor) -> None:
        super().__init__()
        self.absent = nn.Buffer(class_counts == 0, persistent=False)  # (K,)

    def prepare(self, model: nn.Module, samples: Samples) -> None:
        """Change the classifier `model.fc` before training."""

    def after_step(self, model: nn.Module) -> None:
        """Apply the constraint of the method to the classifier, if there is one."""

    def summary(self) -> str:
        """Return a log line on the change of the classifier."""
        return type(self).__name__

    def biased(self, model: nn.Module) -> nn.Linear:
        """Return the classifier; InputError for a cosine classifier, which has no bias."""
        layer = linear_classifier(model, "classifier")
        if layer.bias is None:
            raise InputError(
                f"classifier: {type(self).__name__} needs a linear classifier with a bias, which "
                "model_args.cosine does not have"
            )
        return layer


class Retraining(Classifier):
    """cRT: the classifier is initialized again and trained with class-balanced sampling: Kang et
    al., "Decoupling Representation and Classifier for Long-Tailed Recognition", ICLR 2020, section
    4.

    fresh False: training continues from the given classifier.
    """

    trains = True

    def __init__(self, class_counts: Tensor, fresh: bool = True) -> None:
        super().__init__(class_counts)
        self.fresh = fresh

    def prepare(self, model: nn.Module, samples: Samples) -> None:
        """Freeze everything except `model.fc`, which is initialized again if `fresh`."""
        layer = linear_classifier(model, "classifier")
        model.requires_grad_(False)
        layer.requires_grad_(True)
        if self.fresh:
            layer.reset_parameters()


class ScaledLinear(nn.Linear):
    """A linear layer whose vectors and biases are those of another one, scaled by f_k: w_k = f_k
    v_k. The factors f are the only parameter that is trained.

    The state is that of a plain linear layer: `update` writes f_k v_k and f_k b_k to it. The
    outputs are computed from these, so that an average of the states is a layer as well.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.requires_grad_(False)
        self.factors = nn.Parameter(torch.ones_like(layer.bias))  # f (K,)
        self.directions = nn.Buffer(layer.weight.detach().clone(), persistent=False)  # v (K, D)
        self.start_bias = nn.Buffer(layer.bias.detach().clone(), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        change = self.factors - self.factors.detach()  # 0: of it there is only the gradient
        weight = self.weight + change[:, None] * self.directions
        return F.linear(features, weight, self.bias + change * self.start_bias)

    @torch.no_grad()
    def update(self) -> None:
        self.weight.copy_(self.factors[:, None] * self.directions)
        self.bias.copy_(self.factors * self.start_bias)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        del destination[f"{prefix}factors"]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *others: Any) -> None:
        known = {**state_dict, f"{prefix}factors": self.factors.detach()}
        super()._load_from_state_dict(known, prefix, *others)


class LearnableScaling(Retraining):
    """LWS: each class's logit is scaled by a factor that is learned, z_k <- f_k z_k: Kang et al.,
    ICLR 2020, section 4. In their code the factor scales the bias as well as the class vector."""

    def __init__(self, class_counts: Tensor) -> None:
        super().__init__(class_counts, fresh=False)

    def prepare(self, model: nn.Module, samples: Samples) -> None:
        layer = self.biased(model)
        super().prepare(model, samples)
        model.fc = ScaledLinear(layer)
        self.layer = (model.fc,)  # in a tuple: its parameters are the network's

    def after_step(self, model: nn.Module) -> None:
        self.layer[0].update()

    def get_extra_state(self) -> Tensor:
        """Return what a resumed run needs besides the network: the factors (K,)."""
        return self.layer[0].factors.detach()

    @torch.no_grad()
    def set_extra_state(self, state: Tensor) -> None:
        self.layer[0].factors.copy_(state)


class MaxNorm(Retraining):
    """The classifier is trained further, each class vector within a ball: w_k <- w_k min(1, r /
    |w_k|) after each step: Alshammari et al., "Long-Tailed Recognition via Weight Balancing", CVPR
    2022, combined with the class-balanced loss and a strong weight decay.

    radius None is min + 0.1 (max - min) of the class vectors' lengths at the start, as in the
    authors' code.
    """

    def __init__(self, class_counts: Tensor, radius: Positive | None = None) -> None:
        super().__init__(class_counts, fresh=False)
        self.radius = radius

    def prepare(self, model: nn.Module, samples: Samples) -> None:
        layer = self.biased(model)
        super().prepare(model, samples)
        lengths = row_lengths(layer.weight)[:, 0]
        low = torch.where(self.absent, torch.inf, lengths).min()
        high = torch.where(self.absent, 0.0, lengths).max()
        limit = low + 0.1 * (high - low) if self.radius is None else low.new_tensor(self.radius)
        self.limit = nn.Buffer(limit, persistent=False)
        self.after_step(model)

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        weight = linear_classifier(model, "classifier").weight
        weight.mul_((self.limit / row_lengths(weight)).clamp_max(1))


class ChosenTau(Classifier):
    """A change of the classifier by a number tau. `tau: auto` selects from TAUS the one with the
    highest mean class accuracy on held-out training samples; ties are broken by the lowest mean
    negative log-likelihood per class.
    """

    def __init__(self, class_counts: Tensor, tau: Tau = "auto") -> None:
        super().__init__(class_counts)
        if isinstance(tau, str):
            check_word("classifier_args.tau", tau, ["auto"])
        self.tau, self.chosen = tau, tau == "auto"

    def summary(self) -> str:
        chosen = " (the best on held-out training samples)" if self.chosen else ""
        return f"{type(self).__name__}, tau {self.tau:g}{chosen}"

    def adjust(self, layer: nn.Linear, tau: float) -> tuple[Tensor, Tensor]:
        """Return factors (K,) of the class vectors and the new biases (K,)."""
        raise NotImplementedError

    @torch.no_grad()
    def prepare(self, model: nn.Module, samples: Samples) -> None:
        """Change the classifier once, by the given tau or the best one."""
        layer = self.biased(model)
        tau = self.tau
        if isinstance(tau, str):
            tau = self.tau = self.choose(layer, *samples.held_out())
        factors, bias = self.adjust(layer, tau)
        layer.weight.mul_(factors[:, None])
        layer.bias.copy_(bias)

    def choose(self, layer: nn.Linear, logits: Tensor, labels: Tensor) -> float:
        """Return the best of TAUS for the logits (n, K) of the unchanged layer and labels (n,)."""
        present = labels.unique()
        members = (labels == present[:, None]).double()
        members /= members.sum(1, keepdim=True)  # (classes, n)
        ranking = []
        for tau in TAUS:
            factors, bias = self.adjust(layer, tau)
            adjusted = factors * (logits - layer.bias) + bias
            right = (adjusted.argmax(1) == labels).double()
            nll = F.cross_entropy(adjusted, labels, reduction="none").double()
            ranking.append((-float((members @ right).mean()), float((members @ nll).mean()), tau))
        return min(ranking)[2]


class TauNormalization(ChosenTau):
    """w_k <- w_k / |w_k|^tau, without a bias: Kang et al., ICLR 2020, section 4. Nothing is
    trained; tau 0 only removes the bias, tau 1 normalizes all class vectors to length 1. The
    authors select tau on validation samples.

    A class without training samples keeps its negative bias, scaled like its vector: the training
    has lowered it.
    """

    def adjust(self, layer: nn.Linear, tau: float) -> tuple[Tensor, Tensor]:
        factors = row_lengths(layer.weight)[:, 0] ** -tau
        return factors, torch.where(self.absent, factors * layer.bias.clamp_max(0), 0.0)


class NearestClassMean(Classifier):
    """NCM: the class whose mean training feature is nearest in angle: Kang et al., ICLR 2020,
    section 4. Nothing is trained.

    w_k is the mean feature of class k, divided by its length, and there is no bias: for a given
    clip the logits are in the order of the cosines. A class without training samples is never the
    answer.
    """

    @torch.no_grad()
    def prepare(self, model: nn.Module, samples: Samples) -> None:
        layer = self.biased(model)
        features, labels = samples.features()
        sums = torch.zeros_like(layer.weight, dtype=torch.float64)
        sums.index_add_(0, labels, features.double())
        layer.weight.copy_(F.normalize(sums))
        layer.bias.copy_(torch.where(self.absent, -1e4, 0.0))  # finite also in half precision


class PostHocAdjustment(ChosenTau):
    """z_k - tau log(n_k / n), as a shift of the bias, for a model trained with plain cross entropy:
    Menon et al., "Long-Tail Learning via Logit Adjustment", ICLR 2021, eq. 9, tau 1 or the best on
    validation samples.

    A class without training samples is shifted like the most frequent one.
    """

    def __init__(self, class_counts: Tensor, tau: Tau = "auto") -> None:
        super().__init__(class_counts, tau)
        prior = log_prior(class_counts)
        prior = torch.where(self.absent, prior.max(), prior)
        self.prior = nn.Buffer(prior, persistent=False)

    def adjust(self, layer: nn.Linear, tau: float) -> tuple[Tensor, Tensor]:
        return torch.ones_like(layer.bias), layer.bias - tau * self.prior


def row_lengths(weight: Tensor) -> Tensor:
    """Return the lengths (K, 1) of class vectors (K, D), never 0."""
    return weight.detach().norm(dim=1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
