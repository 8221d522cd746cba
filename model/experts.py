"""The network of RIDE and SADE: experts that share the early blocks of any backbone. Wang et al.,
"Long-Tailed Recognition by Routing Diverse Distribution-Aware Experts", ICLR 2021, without the
router.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from errors import InputError
from model import stgcnpp
from model.backbone import Backbone, Network, Output


class Model(Network):
    """`experts` copies of a backbone that share its first blocks; used like a `Backbone`.

    The first `shared` blocks are common, by default two fifths, the share of a ResNet's stages in
    RIDE. Each expert has the other blocks of its own, `width` times as wide as the backbone's, as
    in the authors' code. All other arguments are the backbone's. In training the logits are those
    of each expert, (N, E, K), in evaluation their mean, (N, K); the features are the experts' mean.

    Raises InputError for a backbone with outputs of its own (`features_and_extra`), such as
    InfoGCN.
    """

    classifiers = ("heads",)

    def __init__(
        self,
        backbone: type[Backbone] = stgcnpp.Model,
        experts: int = 3,
        shared: int | None = None,
        width: float = 0.75,
        **arguments: Any,
    ) -> None:
        super().__init__()
        if not (isinstance(backbone, type) and issubclass(backbone, Backbone)):
            raise InputError(f"model_args.backbone: {backbone} is not a backbone")
        if backbone.features_and_extra is not Backbone.features_and_extra:
            raise InputError(
                f"model_args.backbone: {backbone.__module__} has outputs of its own, which its "
                "experts would not have"
            )
        self.trunk = backbone(**arguments)
        blocks = len(self.trunk.blocks)
        shared = round(0.4 * blocks) if shared is None else shared
        if experts < 1 or not 0 <= shared < blocks:
            raise ValueError(f"{experts} experts cannot share {shared} of {blocks} blocks")
        if not width > 0:
            raise InputError(f"model_args.width: must be above 0, not {width}")
        if width != 1:
            widths = block_widths(self.trunk)
            own = [max(1, round(width * out)) for out in widths[shared:]]
            arguments |= {"base_channels": widths[:shared] + own}
        networks = [backbone(**arguments) for _ in range(experts)]
        self.skeleton = self.trunk.skeleton
        self.num_class, self.num_person = self.trunk.num_class, self.trunk.num_person
        self.in_channels = self.trunk.in_channels
        self.branches = nn.ModuleList(network.blocks[shared:] for network in networks)
        self.heads = nn.ModuleList(network.fc for network in networks)
        self.trunk.blocks = nn.Sequential(*list(self.trunk.blocks)[:shared])
        del self.trunk.fc

    def forward(self, clips: Tensor, outputs: bool = False) -> Tensor | Output:
        """(N, M, T, V, C) to logits, or with `outputs` to an `Output`."""
        maps = self.trunk.blocks(self.trunk.normalize(clips))
        features = [self.trunk.over_persons(branch(maps).mean((2, 3))) for branch in self.branches]
        dropout = self.trunk.dropout
        logits = torch.stack([head(dropout(own)) for head, own in zip(self.heads, features)], 1)
        logits = logits if self.training else logits.mean(1)
        return Output(logits, torch.stack(features).mean(0), {}) if outputs else logits


@torch.no_grad()
def block_widths(network: Backbone) -> list[int]:
    """Return the output channels of each block."""
    maps, widths = torch.zeros(1, network.in_channels, 8, network.skeleton.num_joints), []
    for block in network.eval().blocks:
        maps = block(maps)
        widths.append(maps.shape[1])
    network.train()
    return widths
