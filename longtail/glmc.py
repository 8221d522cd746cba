"""GLMC: Du et al., "Global and Local Mixture Consistency Cumulative Learning for Long-tailed Visual
Recognitions", CVPR 2023, in a form for skeletons.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, one_hot

from longtail.method import Method, Parts
from longtail.ranges import NotNegative
from longtail.sampling import with_second
from longtail.weights import InverseFrequency
from memory import send
from model.backbone import Output, linear_classifier


def paste_box(lam: float, center: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """Return CutMix's box on two axes, a mask of these sizes: ceil(size sqrt(1 - lam)) around the
    center, clipped.

    Around the center means from it minus half the length, rounded down, to it plus as much.
    """
    inside = torch.zeros(*sizes, dtype=torch.bool)
    halves = [math.ceil(size * math.sqrt(1 - lam)) // 2 for size in sizes]
    rows, columns = (
        slice(max(middle - half, 0), middle + half) for middle, half in zip(center, halves)
    )
    inside[rows, columns] = True
    return inside


class GLMC(Method):
    """Two mixed views of pairs of samples, two classifiers, and consistency between the views.

    A row is a pair: a sample of the sampling, and one that is drawn with a weight n_y^-resampling
    (spread evenly over a class's members), in two augmentations each. With lam ~ U(0, 1), one for
    the batch,

        view 1 = lam x_1 + (1 - lam) x'_1,     view 2 = x_2 with a box of x'_2 pasted in,
        Y = lam onehot(y) + (1 - lam) onehot(y')     for both views.

    The box is an interval of frames times an interval of joints, in the order of the layout, for
    all persons (`paste_box`): limbs are numbered one after the other, so that it is about a limb or
    two. With the mean loss H(l, t) = sum_ik t_ik c_ik / N of the loss matrix c,
    alpha = 1 - (epoch / num_epoch)^2 and w_k = n_k^-label_weighting, scaled to sum K, the loss is

        alpha sum_v H(l_v, Y) + (1 - alpha) sum_v H(l'_v, w Y)
            + contrast_weight [-mean cos(p_1, sg z_2) - mean cos(p_2, sg z_1)]

    over the views v: l' are the logits of `model.fc`, which alone is tested, l those of a second
    classifier that this method owns, linear or of cosines as `model.fc`; z = P f and p = Q z are
    linear, half as wide as the features; sg means without gradient.

    The values are those of the authors' code for CIFAR-100-LT of imbalance 100. There each view is
    a batch of its own for the batch norms; here both views go through the network together.
    """

    views = 2
    refuses = ("mixing", "class_weights", "classifier")

    def __init__(
        self,
        parts: Parts,
        model: nn.Module,
        resampling: NotNegative = 0.0,
        label_weighting: NotNegative = 1.2,
        contrast_weight: NotNegative = 4.0,
    ) -> None:
        super().__init__(parts, model)
        self.resampling, self.contrast_weight = resampling, contrast_weight
        self.weighting = InverseFrequency(parts.class_counts, label_weighting)
        layer = linear_classifier(model)
        width = layer.in_features
        # of the same kind: a loss with margins takes cosines of one scale from both; on the CPU,
        # as every device then starts from the same values
        self.classifier = copy.deepcopy(layer).to_empty(device="cpu")
        self.classifier.reset_parameters()
        self.projection = nn.Linear(width, width // 2)
        self.prediction = nn.Linear(width // 2, width // 2)

    def rows(self, generator: torch.Generator | None, progress: float) -> Tensor:
        """Return pairs (len(self), 2)."""
        rows = super().rows(generator, progress)
        return with_second(rows, self.sampling, 1 - self.resampling, generator)

    def mix(
        self, net: nn.Module, clips: Tensor, labels: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """(N, 2 samples, 2 augmentations, M, T, V, C) to views (N, 2, M, T, V, C) and Y (N, K)."""
        sizes = clips.shape[4:6]
        lam = float(torch.rand((), generator=generator))
        center = [int(torch.randint(size, (), generator=generator)) for size in sizes]
        return self.combine(clips, labels, lam, center)

    def combine(
        self, clips: Tensor, labels: Tensor, lam: float, center: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Mix at the share lam, with a box around `center` (frame, joint)."""
        (x_1, x_2), (other_1, other_2) = (own.unbind(1) for own in clips.unbind(1))
        inside = send(paste_box(lam, center, clips.shape[4:6]), clips.device)  # (T, V)
        views = [lam * x_1 + (1 - lam) * other_1, torch.where(inside[..., None], other_2, x_2)]
        own, other = one_hot(labels, self.num_class).to(clips.dtype).unbind(1)
        return torch.stack(views, 1), lam * own + (1 - lam) * other

    def loss(self, net: nn.Module, clips: Tensor, targets: Tensor, count: int) -> Tensor:
        output, labels = net(clips.flatten(0, 1)), targets.repeat_interleave(2, 0)
        plain = self.classifier(output.features)
        projected = self.projection(output.features)
        predicted = self.prediction(projected)
        loss = self.total(output, plain, projected, predicted, labels, count)
        return loss + self.auxiliary(output, labels, 2 * count)

    def total(
        self, output: Output, plain: Tensor, projected: Tensor, predicted: Tensor,
        targets: Tensor, count: int,
    ) -> Tensor:  # fmt: skip
        """Return what some views, those of a pair one after the other, add to the loss.

        Args:
            output: of the network, with the logits l' (2n, K)
            plain: logits l (2n, K)
            projected: z (2n, D)
            predicted: p (2n, D)
            targets: Y (2n, K)
            count: pairs in the whole batch
        """
        criterion = self.stages.criterion(self.epoch)
        # cumulative learning, from l to l'
        alpha = 1 - (self.epoch / self.stages.num_epoch) ** 2
        weighted = self.weighting.weights * targets
        other = projected.detach().unflatten(0, (-1, 2)).flip(1).flatten(0, 1)  # sg z
        likeness = cosine_similarity(predicted, other, dim=-1).sum()
        return (
            alpha * criterion.part(plain, output.features, targets / count, count)
            + (1 - alpha) * criterion.part(output.logits, output.features, weighted / count, count)
            - self.contrast_weight * likeness / count
        )
