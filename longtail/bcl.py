"""Zhu et al., "Balanced Contrastive Learning for Long-Tailed Visual Recognition", CVPR 2022."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, normalize

from longtail.method import Method, Parts
from longtail.ranges import Count, NotNegative, Positive
from longtail.ranks import gather_over_ranks
from model.backbone import linear_classifier


def balanced_contrast(
    anchors: Tensor, labels: Tensor, keys: Tensor, key_labels: Tensor, own: Tensor, scale: float
) -> Tensor:
    """Return the balanced contrastive losses (A,) of anchors among keys.

    With s_ij = scale <z_i, z_j>, B_c the keys of class c without the anchor itself, and P = B_y of
    its own class (class averaging and class complement),

        L_i = -mean_{p in P} log( e^{s_ip} / sum_c mean_{j in B_c} e^{s_ij} ).

    Args:
        anchors: (A, D), unit vectors
        labels: (A, K), one-hot
        keys: (B, D), unit vectors, with at least one more of each anchor's class
        key_labels: (B, K), one-hot
        own: (A,) int64, the key that is the anchor itself
    """
    alike = (labels @ key_labels.t()).scatter(1, own[:, None], 0)  # (A, B): j in P(i)
    size = key_labels @ key_labels.sum(0) - alike  # (A, B): |B_c| of j's class c
    similarity = scale * anchors @ keys.t()
    averaged = (similarity - size.log()).scatter(1, own[:, None], -torch.inf)
    log_shares = similarity - averaged.logsumexp(1, keepdim=True)
    return -(alike * log_shares).sum(1) / alike.sum(1)


class BatchNorm(nn.BatchNorm1d):
    """Batch norm that uses its running statistics for a single row, which has no variance."""

    def forward(self, rows: Tensor) -> Tensor:
        if len(rows) > 1 or not self.training:
            return super().forward(rows)
        return batch_norm(
            rows, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


def head(width: int, size: int) -> nn.Sequential:
    """Return a projection: two linear layers with batch norm and relu between them."""
    return nn.Sequential(
        nn.Linear(width, width), BatchNorm(width), nn.ReLU(), nn.Linear(width, size)
    )


class BCL(Method):
    """The loss of a composition on one view, and `balanced_contrast` between two others.

        loss = classification L(view 1) + contrast mean_i L_i

    over views 2 and 3 of all samples. The keys are these views and one prototype per class, which a
    second head makes from the class vectors of `model.fc`: so every class is in every batch. The
    keys are those of a micro-batch of all ranks. The values are the authors' for ImageNet-LT, but
    for the `size` of the projections, 128 as for CIFAR. L is the balanced softmax of cosines times
    30 (`model_args.cosine`).
    """

    views = 3
    refuses = ("mixing", "classifier")

    def __init__(
        self,
        parts: Parts,
        model: nn.Module,
        size: Count = 128,
        temperature: Positive = 0.1,
        classification: NotNegative = 1.0,
        contrast: NotNegative = 0.35,
    ) -> None:
        super().__init__(parts, model)
        layer = linear_classifier(model)
        self.classifier_of_model = (layer,)  # a tuple: neither trained nor saved here as well
        self.projection = head(layer.in_features, size)
        self.prototypes = head(layer.in_features, size)
        self.temperature, self.classification = temperature, classification
        self.contrast = contrast

    def loss(self, net: nn.Module, clips: Tensor, targets: Tensor, count: int) -> Tensor:
        label_weights, labels = targets.unbind(1)
        output = net(clips.flatten(0, 1))
        logits, features = output.logits[::3], output.features[::3]
        criterion = self.stages.criterion(self.epoch)
        loss = self.classification * criterion.part(logits, features, label_weights, count)
        projected = normalize(self.projection(output.features)).unflatten(0, (-1, 3))
        losses = self.contrasted(projected[:, 1:].flatten(0, 1), labels.repeat_interleave(2, 0))
        loss = loss + self.contrast * losses.sum() / (2 * count)
        return loss + self.auxiliary(output, labels.repeat_interleave(3, 0), 3 * count)

    def contrasted(self, anchors: Tensor, labels: Tensor) -> Tensor:
        """Return the losses (A,) of anchors (A, D) with labels (A, K) among those of all ranks."""
        (layer,) = self.classifier_of_model
        prototypes = normalize(self.prototypes(layer.weight))  # (K, D)
        labels = labels.to(anchors.dtype)
        both, first = gather_over_ranks(torch.cat([anchors, labels], 1))
        keys, key_labels = both.split([anchors.shape[1], labels.shape[1]], 1)
        every = torch.eye(self.num_class, dtype=labels.dtype, device=labels.device)
        own = torch.arange(first, first + len(anchors), device=labels.device)
        return balanced_contrast(
            anchors, labels, torch.cat([keys, prototypes]), torch.cat([key_labels, every]), own,
            1 / self.temperature,
        )  # fmt: skip
