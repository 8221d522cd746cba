"""Chu et al., "Feature Space Augmentation for Long-Tailed Data" (FSA), ECCV 2020, in a form for
features that are averaged over the clip."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from errors import InputError
from longtail.classifiers import Samples
from longtail.counts import last_third
from longtail.method import Method, Parts
from longtail.ranges import NotNegative, Share
from model.backbone import linear_classifier


class FSA(Method):
    """The second stage: the classifier is trained on features of the frozen network, and on tail
    features that borrow what they lack from confusing head samples.

    With the classifier w of the first stage, channel c of a feature f contributes a_c = w_yc f_c
    to its class y; a is scaled to [0, 1] over the channels. Channels with a_c >= `specific` are
    specific of the class, those with a_c < `generic` generic. For each sample i of a tail class
    (the last third by count), j is the sample of another third in the micro-batch that the
    network takes most for y_i, and

        z_c = f_ic   if c is specific of i, or not generic in j
              f_jc   otherwise

    has the label y_i. Its loss is added with the factor `weight`.

    In the paper a is a class activation map, over positions of the last feature map, and later
    layers are trained too; here the features have no positions left. Its confusing classes are
    found once, here j is found in each micro-batch. The thresholds are this project's.
    """

    refuses = ("mixing",)

    def __init__(
        self,
        parts: Parts,
        model: nn.Module,
        specific: Share = 0.6,
        generic: Share = 0.4,
        weight: NotNegative = 1.0,
    ) -> None:
        super().__init__(parts, model)
        if parts.classifier is None:  # it would train on features that are random
            raise InputError(
                "objective=longtail.fsa.FSA: is a second stage; it needs --phase classifier, "
                "--weights of a trained network, and a classifier, as config/methods/fsa.yaml has"
            )
        self.specific, self.generic, self.weight = specific, generic, weight
        self.tail = nn.Buffer(last_third(parts.class_counts), persistent=False)  # (K,) bool
        layer = linear_classifier(model)
        self.first_stage = nn.Buffer(layer.weight.detach().clone())  # (K, D)
        self.layer = (layer,)  # in a tuple: not a submodule of this method

    def prepare(self, model: nn.Module, samples: Samples) -> None:
        self.first_stage.copy_(linear_classifier(model).weight.detach())
        super().prepare(model, samples)
        self.layer = (linear_classifier(model),)

    def loss(self, net: nn.Module, clips: Tensor, targets: Tensor, count: int) -> Tensor:
        output = net(clips)
        label_weights, soft_labels = targets.unbind(1)
        features, usable = self.augment(
            output.features.detach(), output.logits.detach(), soft_labels.argmax(1)
        )
        weights = label_weights * (self.weight * usable)[:, None]
        logits = self.layer[0](features)
        augmented = self.stages.criterion(self.epoch).part(logits, features, weights, count)
        return self.part(output, targets, count) + augmented

    def augment(self, features: Tensor, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return z (n, D) of features (n, D) with logits (n, K) and labels (n,), and which rows,
        bool (n,), are of a tail class, if the batch has others."""
        chances = logits.softmax(1)[:, labels].T  # (n, n): of the class of i, for sample j
        head = ~self.tail[labels]  # (n,)
        partner = chances.masked_fill(~head, -1).argmax(1)
        share = self.first_stage[labels] * features
        low, high = share.amin(1, keepdim=True), share.amax(1, keepdim=True)
        share = (share - low) / (high - low).clamp_min(torch.finfo(share.dtype).tiny)
        borrowed = (share < self.specific) & (share[partner] < self.generic)
        mixed = torch.where(borrowed, features[partner], features)
        return mixed, ~head & head.any()
