"""Park et al., "The Majority Can Help the Minority: Context-rich Minority Oversampling for
Long-tailed Classification" (CMO), CVPR 2022, in a form for skeletons."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from longtail.glmc import paste_box
from longtail.method import Method, Parts
from longtail.ranges import Epochs, NotNegative, Share
from longtail.sampling import with_second
from memory import send


class CMO(Method):
    """A part of a rare sample is pasted on a sample of the usual sampling, as in CutMix.

    A row is a pair: a sample of the sampling, the background x with label y, and one that is drawn
    with a weight n_y'^-power (spread evenly over a class's members), the foreground x'. With
    probability `share` a batch is mixed: lam ~ U(0, 1), a box of x' (`glmc.paste_box`: an interval
    of frames times an interval of joints) replaces that of x, and with a the part of the clip that
    is left of x,

        target = a onehot(y) + (1 - a) onehot(y').

    Else, and in the first and the last `plain` epochs, it is x with y. The loss and the class
    weights are those of the composition. The values are the authors' for CIFAR-100-LT.
    """

    refuses = ("mixing", "classifier")

    def __init__(
        self,
        parts: Parts,
        model: nn.Module,
        power: NotNegative = 1.0,
        share: Share = 0.5,
        plain: Epochs = 3,
    ) -> None:
        super().__init__(parts, model)
        self.power, self.share, self.plain = power, share, plain

    def idle(self, batch: int) -> list[str]:
        lines, epochs = super().idle(batch), self.stages.num_epoch
        if self.share and epochs <= 2 * self.plain:
            lines.append(
                f"objective_args.plain is {self.plain}: in {epochs} epochs nothing is mixed"
            )
        return lines

    def rows(self, generator: torch.Generator | None, progress: float) -> Tensor:
        """Return pairs (len(self), 2): background and foreground."""
        rows = super().rows(generator, progress)
        return with_second(rows, self.sampling, 1 - self.power, generator)

    def mix(
        self, net: nn.Module, clips: Tensor, labels: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """(N, 2, M, T, V, C), labels (N, 2) to clips (N, M, T, V, C) and what `loss` takes."""
        sizes = clips.shape[-3:-1]
        chance, lam = torch.rand(2, generator=generator).tolist()
        center = [int(torch.randint(size, (), generator=generator)) for size in sizes]
        mixes = self.plain <= self.epoch < self.stages.num_epoch - self.plain
        lam = lam if mixes and chance < self.share else 1.0
        clips, targets = self.combine(clips, labels, lam, center)
        return clips, self.weigh(targets)

    def combine(
        self, clips: Tensor, labels: Tensor, lam: float, center: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Return clips (N, M, T, V, C) with a box around `center` (frame, joint) of the second of
        each pair, and targets (N, K); lam 1 pastes nothing."""
        background, foreground = clips.unbind(1)
        inside = paste_box(lam, center, clips.shape[-3:-1])  # (T, V)
        left = 1 - float(inside.double().mean())
        own, other = one_hot(labels, self.num_class).float().unbind(1)
        clips = torch.where(send(inside, clips.device)[..., None], foreground, background)
        return clips, left * own + (1 - left) * other
