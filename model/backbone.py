"""Base classes of the backbones: clips to features averaged over persons, one linear classifier."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graph as graphs
from errors import InputError
from graph.shapes import check_shape
from model.layers import Block, shortcut


class Output(NamedTuple):
    """The outputs of a network for a method; every tensor has one row per clip, so that
    DataParallel can join them.

    The docstring of a backbone lists its `extra` outputs; most have none.
    """

    logits: Tensor  # (N, K)
    features: Tensor  # (N, D), input of the classifier, before dropout
    extra: dict[str, Tensor]  # each (N, ...)


class CosineClassifier(nn.Linear):
    """Logits are `scale` times the cosines of features and class vectors, as LDAM's margins assume:
    Cao et al., NeurIPS 2019, section 4. Class vectors are initialized with random directions and
    length 1."""

    def __init__(self, channels: int, num_class: int, scale: float):
        self.scale = scale
        super().__init__(channels, num_class, bias=False)

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.weight.copy_(F.normalize(self.weight.uniform_(-1, 1)))

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(features), F.normalize(self.weight))


class Network(nn.Module):
    """The attributes of a built network that other packages read."""

    skeleton: graphs.Skeleton
    num_class: int
    num_person: int
    in_channels: int
    classifiers: tuple[str, ...] = ("fc",)  # attributes with the layers whose outputs are classes


class Backbone(Network):
    """Base class; a backbone passes its blocks and the channels of the last one to `finish`.

    `model(clips)` with clips (N, M, T, V, C) gives logits (N, K), `model(clips, outputs=True)` an
    `Output`, also through every wrapper (DataParallel, DDP, torch.compile). `features` and
    `classify` are the two steps of this. T can have any value.

    Args:
        graph: name of a layout, or a layout file
        num_class: K
        num_person: M
        in_channels: C
        norm_persons: the data batch norm has separate statistics per person (as in 2s-AGCN,
            CTR-GCN and MS-G3D); else persons share them (as in ST-GCN)
        parent_edges: the graph consists of the layout's bones (`parent`), which is how the original
            code of all these networks links NTU's hands; PYSKL's layout (`edges`) differs
        dropout: probability, before the classifier
        cosine: logits are this number times the cosines of features and class vectors (0: linear)

    Attributes: `skeleton` (the layout), `num_class`, `num_person`, `in_channels`, and `arguments`,
    the arguments that were given explicitly.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Backbone:
        model = super().__new__(cls)
        names = list(inspect.signature(cls.__init__).parameters)[1:]  # without self
        model.__dict__["arguments"] = dict(zip(names, args)) | kwargs
        return model

    def __init__(
        self,
        *,
        graph: str | Path = "ntu_rgb_d",
        num_class: int = 60,
        num_person: int = 2,
        in_channels: int = 3,
        norm_persons: bool = False,
        parent_edges: bool = False,
        dropout: float = 0.0,
        cosine: float = 0.0,
    ):
        super().__init__()
        if cosine < 0:  # the most probable class would be the one least alike
            raise InputError(f"model_args.cosine: must be at least 0, not {cosine}")
        self.skeleton = graphs.load(graph)
        if parent_edges:
            bones = ((child, above) for child, above in enumerate(self.skeleton.parent))
            edges = tuple(bone for bone in bones if bone[0] != bone[1])
            self.skeleton = replace(self.skeleton, edges=edges)
        self.num_class = num_class
        self.num_person = num_person
        self.in_channels = in_channels
        self.norm_persons = norm_persons
        columns = self.skeleton.num_joints * in_channels
        self.data_norm = nn.BatchNorm1d(columns * num_person if norm_persons else columns)
        self.dropout = nn.Dropout(dropout)
        self.cosine = cosine

    def finish(self, blocks: Iterable[nn.Module], channels: int) -> None:
        """Set the blocks, whose output is (B, channels, T', V), and create the classifier."""
        self.blocks = nn.Sequential(*blocks)
        if self.cosine:
            self.fc: nn.Linear = CosineClassifier(channels, self.num_class, float(self.cosine))
        else:
            self.fc = nn.Linear(channels, self.num_class)
            nn.init.normal_(self.fc.weight, std=0.01)
            nn.init.zeros_(self.fc.bias)

    def forward(self, clips: Tensor, outputs: bool = False) -> Tensor | Output:
        """(N, M, T, V, C) to logits (N, K), or with `outputs` to an `Output`."""
        if not outputs:
            return self.classify(self.features(clips))
        features, extra = self.features_and_extra(clips)
        return Output(self.classify(features), features, extra)

    def features(self, clips: Tensor) -> Tensor:
        """(N, M, T, V, C) to features (N, D): the mean over frames, joints and persons.

        In inference mode the absent persons, all zeros, are computed once for all clips. Finding
        them synchronizes with the device, so training and compiled code skip this.
        """
        bodies = self.normalize(clips)  # (N M, C, T, V)
        synchronizes = not self.training and not torch.compiler.is_compiling()
        if synchronizes and torch.is_inference_mode_enabled():
            rows, places = distinct_bodies(clips)
            return self.over_persons(self.blocks(bodies[rows]).mean((2, 3))[places])
        return self.over_persons(self.blocks(bodies).mean((2, 3)))

    def features_and_extra(self, clips: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the features (N, D) and the extra outputs of this backbone, each (N, ...)."""
        return self.features(clips), {}

    def over_persons(self, bodies: Tensor) -> Tensor:
        """(N M, ...) to the mean over persons, (N, ...)."""
        return bodies.unflatten(0, (-1, self.num_person)).mean(1)

    def classify(self, features: Tensor) -> Tensor:
        """(N, D) to logits (N, K)."""
        return self.fc(self.dropout(features))

    def normalize(self, clips: Tensor) -> Tensor:
        """(N, M, T, V, C) to batch-normed (N M, C, T, V), channels last in memory."""
        self.check(clips)
        return self.norm_bodies(clips)

    def norm_bodies(self, clips: Tensor) -> Tensor:
        """Apply the data batch norm to clips or their embeddings: as `normalize`."""
        N, M, T, V, C = clips.shape
        if self.norm_persons:
            rows = clips.transpose(1, 2).reshape(N * T, M * V * C)
            x = self.data_norm(rows).view(N, T, M, V, C).transpose(1, 2)
        else:
            x = self.data_norm(clips.reshape(N * M * T, V * C))
        return x.reshape(N * M, T, V, C).permute(0, 3, 1, 2)

    def check(self, clips: Tensor) -> None:
        """Raise InputError for clips that do not fit this network; it names the model argument."""
        if clips.ndim != 5:
            raise InputError(f"clips must be (N, M, T, V, C), not of shape {tuple(clips.shape)}")
        _, M, _, V, C = clips.shape
        check_shape("clips", (M, V, C), self.skeleton, self.in_channels, self.num_person)


class StackedBackbone(Backbone):
    """A backbone of similar blocks, each a graph and a temporal module, created by `stack`.

    `inflate` lists the blocks, numbered from 1, that double the channels, `down` those that halve
    the frames.
    """

    def __init__(
        self,
        *,
        base_channels: int | Sequence[int] = 64,
        num_blocks: int = 10,
        inflate: Sequence[int] = (5, 8),
        down: Sequence[int] = (5, 8),
        **common,
    ):
        super().__init__(**common)
        self.sizes = (base_channels, num_blocks, inflate, down)

    def stack(
        self,
        unit: Callable[[int, int, int], tuple[nn.Module, nn.Module]],
        embedded: int | None = None,
    ) -> None:
        """Create the blocks; `unit(channels, out, stride)` gives the graph and the temporal module
        of one.

        The residual path of a block goes around both. The first block has one only if its input is
        embedded; `embedded` is then the number of these channels (None: coordinates).
        """
        table = stages(embedded or self.in_channels, *self.sizes)
        self.finish(
            (
                Block(*unit(*sizes), shortcut(*sizes) if number or embedded else None)
                for number, sizes in enumerate(table)
            ),
            channels=table[-1][1],
        )


def distinct_bodies(clips: Tensor) -> tuple[Tensor, Tensor]:
    """Return which bodies of clips (N, M, T, V, C) to compute, (U,), and for each of the N M bodies
    the position of its result among these, (N M,).

    An absent body, all zeros, has the result of the first clip in which the same person is absent:
    the data batch norm may have separate statistics per person.
    """
    N, M = clips.shape[:2]
    own = torch.arange(N * M, device=clips.device).view(N, M)
    absent = ~clips.flatten(2).any(2)
    first = own.gather(0, absent.long().argmax(0, keepdim=True))  # (1, M)
    return torch.where(absent, first, own).flatten().unique(return_inverse=True)


def tensor(matrix: np.ndarray) -> Tensor:
    """Return an adjacency as a float32 tensor."""
    return torch.as_tensor(matrix, dtype=torch.float32)


def linear_classifier(model: nn.Module, key: str = "objective") -> nn.Linear:
    """Return the classifier `fc` of a network.

    InputError, which begins with the key that needs it, for a network with several, as RIDE's.
    """
    layer = getattr(model, "fc", None)
    if not isinstance(layer, nn.Linear):
        raise InputError(
            f"{key}: needs a network with one linear classifier `fc`, which "
            f"{type(model).__module__}.{type(model).__name__} does not have"
        )
    return layer


def stages(
    in_channels: int,
    base_channels: int | Sequence[int],
    num_blocks: int = 10,
    inflate: Sequence[int] = (5, 8),
    down: Sequence[int] = (5, 8),
) -> list[tuple[int, int, int]]:
    """Return (channels in, channels out, stride) of each block; blocks count from 1.

    The first block has `base_channels` outputs, blocks in `inflate` double the channels, blocks in
    `down` halve the frames; of a shorter network the numbers after its last block have no effect.
    If `base_channels` is a list, it contains the channels of each block. ValueError for a number
    below 1.
    """
    if num_blocks < 1:
        raise ValueError(f"num_blocks must be at least 1, not {num_blocks}")
    if min((*inflate, *down), default=1) < 1:
        raise ValueError(f"blocks count from 1: inflate {inflate}, down {down}")
    table, channels = [], in_channels
    for block in range(1, num_blocks + 1):
        if isinstance(base_channels, int):
            out = base_channels * 2 ** sum(number <= block for number in inflate)
        else:
            out = base_channels[block - 1]
        table.append((channels, out, 2 if block in down else 1))
        channels = out
    return table
