"""A long-tail method is one object.

The loop (`engine/train.py`) calls, in order of time:

    method.prepare(model, samples)          once, before the first epoch
    method.begin_epoch(epoch)
    method.set_mode(net)                    training mode, or evaluation mode
    method.rows(generator, progress)        the rows of the samples in the epoch
    method.mix(net, clips, labels, generator)   of the batch of one optimizer step
    method.loss(net, clips, targets, count)     of some of its rows; parts are summed
    method.after_step(model)

The usual method, `Composed`, is built from the configuration keys: sampling + mixing + loss + class
weights, each with the stage in which it is used. Any other method is another subclass of `Method`
that overrides what it does otherwise, named by the key `objective`; docs/extending.md contains a
contrastive one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from errors import InputError
from longtail import losses
from longtail.auxiliary import AuxiliaryLoss
from longtail.classifiers import Classifier, Samples
from longtail.losses import CrossEntropy, Divisor
from longtail.mixing import Mixing, Plain
from longtail.sampling import InstanceSampling
from longtail.stages import Stages
from model.backbone import Output


@dataclass(frozen=True)
class Parts:
    """The objects that the configuration keys of a method name."""

    class_counts: Tensor  # (K,) int64, of the training list
    sampling: InstanceSampling
    mixing: Mixing
    stages: Stages  # the loss and the class weights, and the epochs in which they are used
    weigh_by: Divisor = "batch"  # see losses.label_weights
    classifier: Classifier | None = None  # how `model.fc` is changed in --phase classifier
    auxiliary_loss: AuxiliaryLoss | None = None  # of the network's other outputs


class Method(nn.Module):
    """A method made of its parts.

    Parameters of a method (such as a projection head) are trained with those of the network. Other
    state that a resumed run needs must be persistent buffers.
    """

    views = 1  # independent augmentations per sample
    refuses: tuple[str, ...] = ()  # keys of the parts that the method does not use
    trains = True  # False: `prepare` does everything, no epoch is run

    def __init__(self, parts: Parts, model: nn.Module) -> None:
        """Build from the parts; attributes of `model` (`num_class`, `fc`) are read, it is not
        stored. InputError if a part is given that this method `refuses`."""
        super().__init__()
        given = {
            "mixing": type(parts.mixing) is not Plain,
            "loss": type(parts.stages.second) is not CrossEntropy,
            "class_weights": parts.stages.weights is not None,
            "classifier": parts.classifier is not None,
        }
        for key in self.refuses:
            if given[key]:
                raise InputError(
                    f"{key}: objective={type(self).__module__}.{type(self).__qualname__} does not "
                    "use it; start from config/methods/cross-entropy.yaml, or choose another "
                    "objective"
                )
        self.num_class = len(parts.class_counts)
        self.sampling, self.mixing, self.stages = parts.sampling, parts.mixing, parts.stages
        self.weigh_by, self.auxiliary_loss = parts.weigh_by, parts.auxiliary_loss
        self.classifier_change = parts.classifier
        if parts.classifier is not None:
            self.trains = parts.classifier.trains
        self.epoch = 0

    def __len__(self) -> int:
        """Rows per epoch."""
        return len(self.sampling)

    def prepare(self, model: nn.Module, samples: Samples) -> None:
        """Freeze or replace parts of the network, with its weights loaded, before training."""
        if self.classifier_change is not None:
            self.classifier_change.prepare(model, samples)

    def summary(self) -> str:
        """Return a log line on what `prepare` did, or an empty string."""
        return "" if self.classifier_change is None else self.classifier_change.summary()

    def idle(self, batch: int) -> list[str]:
        """Return log lines on what has no effect in this run, with `batch` samples per step."""
        return [*self.stages.idle(), *self.mixing.idle(self.stages.num_epoch, batch)]

    def set_mode(self, net: nn.Module) -> None:
        """Set training mode for an epoch, or evaluation mode if only the classifier is trained."""
        net.train(self.classifier_change is None)

    def begin_epoch(self, epoch: int) -> None:
        """Called at the start of each epoch, counted from 0."""
        self.epoch = epoch
        self.mixing.begin_epoch(epoch)

    def rows(self, generator: torch.Generator | None, progress: float) -> Tensor:
        """Return the rows (len(self),) int64 of an epoch, at a share `progress` of training.

        Or (len(self), G): each row is a group of samples, as pairs that come from two samplings.
        """
        return self.sampling.epoch(generator, progress)

    def mix(
        self, net: nn.Module, clips: Tensor, labels: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Return the input of the network and its targets, with one row per clip.

        Here mixed clips (n, M, T, V, C), or with a further axis if the method has several views and
        no mixing, and targets (n, 2, K) as of `weigh`. A subclass may return others to its `loss`.

        Args:
            net: the network; `net(clips)` returns a `model.backbone.Output` in float32
            clips: (N, M, T, V, C) of one optimizer step; (N, G, views, M, T, V, C) for a method
                with groups of rows and several views, each axis only if the method uses it
            labels: (N,) int64, or (N, G)
            generator: for all random values, on the CPU; the same on every rank
        """
        self.mixing.observe(net, clips, labels, generator)
        clips, targets = self.mixing(clips, labels, generator)
        return clips, self.weigh(targets)

    def weigh(self, targets: Tensor) -> Tensor:
        """Return (n, 2, K), the label weights of targets (n, K) and each sample's soft label.

        Both as in `losses`: `label_weights`, with this epoch's class weights, and `soft_labels`.
        """
        weights = self.stages.class_weights(self.epoch)  # (K,)
        label_weights = losses.label_weights(targets, weights, self.weigh_by)
        return torch.stack([label_weights, losses.soft_labels(targets)], 1)

    def loss(self, net: nn.Module, clips: Tensor, targets: Tensor, count: int) -> Tensor:
        """Return the scalar part of some rows of a mixed batch in the loss of all `count` rows."""
        return self.part(net(clips), targets, count)

    def part(self, output: Output, targets: Tensor, count: int) -> Tensor:
        """Return the part of some rows in the loss; targets as of `weigh`."""
        label_weights, soft_labels = targets.unbind(1)
        criterion = self.stages.criterion(self.epoch)
        loss = criterion.part(output.logits, output.features, label_weights, count)
        return loss + self.auxiliary(output, soft_labels, count)

    def auxiliary(self, output: Output, labels: Tensor, count: int) -> Tensor | float:
        """Return the part of some rows in the auxiliary loss, 0 if there is none; labels (n, K)."""
        if self.auxiliary_loss is None:
            return 0.0
        return self.auxiliary_loss.part(output, labels, count)

    def after_step(self, model: nn.Module) -> None:
        """Called after each optimizer step."""
        if self.classifier_change is not None:
            self.classifier_change.after_step(model)


class Composed(Method):
    """The method that is the sum of its parts, the default of the key `objective`."""
