"""Backbones written as the field writes them, to measure the project's own against.

Contiguous (B, C, T, V) activations, one convolution per branch, a loop over the subsets or einsum
for the graph. Same sizes and the same arithmetic as the modules of `model` with these names.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import graph
from engine.config import Config
from errors import InputError
from graph import adjacency
from model.backbone import Output, stages


def unit_tcn(channels: int, out: int, kernel: int, stride: int = 1, dilation: int = 1, norm=True):
    padding = (kernel + (kernel - 1) * (dilation - 1) - 1) // 2
    conv = nn.Conv2d(channels, out, (kernel, 1), (stride, 1), (padding, 0), (dilation, 1))
    return nn.Sequential(conv, nn.BatchNorm2d(out)) if norm else conv


def pointwise(channels: int, out: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, out, 1), nn.BatchNorm2d(out), nn.ReLU()]


def residual(channels: int, out: int, stride: int = 1) -> nn.Module:
    return nn.Identity() if channels == out and stride == 1 else unit_tcn(channels, out, 1, stride)


class PlainGraphConv(nn.Module):
    """ST-GCN++: one convolution to K times the channels, then einsum with the adjacency."""

    def __init__(self, channels: int, out: int, matrix: Tensor):
        super().__init__()
        self.matrix = nn.Parameter(matrix.clone())
        self.conv = nn.Conv2d(channels, out * len(matrix), 1)
        self.norm = nn.BatchNorm2d(out)
        self.down = residual(channels, out)

    def forward(self, x: Tensor) -> Tensor:
        n, _, t, v = x.shape
        y = self.conv(x).view(n, len(self.matrix), -1, t, v)
        y = torch.einsum("nkctv,kvw->nctw", y, self.matrix).contiguous()
        return torch.relu(self.norm(y) + self.down(x))


class PlainMultiScale(nn.Module):
    """ST-GCN++: six branches, each with a pointwise convolution of its own."""

    def __init__(self, channels: int, stride: int):
        super().__init__()
        mid = channels // 6
        branches: list[nn.Module] = []
        for dilation in range(1, 5):
            c = channels - 5 * mid if dilation == 1 else mid
            conv = unit_tcn(c, c, 3, stride, dilation, norm=False)
            branches.append(nn.Sequential(*pointwise(channels, c), conv))
        pool = nn.MaxPool2d((3, 1), (stride, 1), (1, 0))
        branches.append(nn.Sequential(*pointwise(channels, mid), pool))
        branches.append(nn.Conv2d(channels, mid, 1, (stride, 1)))
        self.branches = nn.ModuleList(branches)
        self.transform = nn.Sequential(
            nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 1)
        )
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.transform(torch.cat([b(x) for b in self.branches], dim=1)))


class PlainRefinement(nn.Module):
    """CTR-GCN: one channel-wise refined topology."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        related = 8 if channels <= 16 else channels // 8
        self.conv1 = nn.Conv2d(channels, related, 1)
        self.conv2 = nn.Conv2d(channels, related, 1)
        self.conv3 = nn.Conv2d(channels, out, 1)
        self.conv4 = nn.Conv2d(related, out, 1)

    def forward(self, x: Tensor, matrix: Tensor, alpha: Tensor) -> Tensor:
        x1, x2, x3 = self.conv1(x).mean(-2), self.conv2(x).mean(-2), self.conv3(x)
        relation = torch.tanh(x1.unsqueeze(-1) - x2.unsqueeze(-2))
        topology = self.conv4(relation) * alpha + matrix[None, None]
        return torch.einsum("ncuv,nctu->nctv", topology, x3)


class PlainRefinedConv(nn.Module):
    """CTR-GCN: the subsets one after the other."""

    def __init__(self, channels: int, out: int, matrix: Tensor):
        super().__init__()
        self.matrix = nn.Parameter(matrix.clone())
        self.alpha = nn.Parameter(torch.zeros(1))
        self.convs = nn.ModuleList(PlainRefinement(channels, out) for _ in matrix)
        self.norm = nn.BatchNorm2d(out)
        self.down = residual(channels, out)

    def forward(self, x: Tensor) -> Tensor:
        y = 0
        for conv, matrix in zip(self.convs, self.matrix):
            y = y + conv(x, matrix, self.alpha)
        return torch.relu(self.norm(y) + self.down(x))


class PlainBranches(nn.Module):
    """CTR-GCN: four branches, each with norms of its own."""

    def __init__(self, channels: int, stride: int):
        super().__init__()
        c = channels // 4
        branches = [
            nn.Sequential(*pointwise(channels, c), unit_tcn(c, c, 5, stride, dilation))
            for dilation in (1, 2)
        ]
        pool = nn.MaxPool2d((3, 1), (stride, 1), (1, 0))
        branches.append(nn.Sequential(*pointwise(channels, c), pool, nn.BatchNorm2d(c)))
        branches.append(unit_tcn(channels, c, 1, stride))
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(torch.cat([branch(x) for branch in self.branches], dim=1))


class PlainDynamicConv(nn.Module):
    """DG-STGCN: a graph for every sample and channel."""

    def __init__(self, channels: int, out: int, matrix: Tensor, subsets: int = 8):
        super().__init__()
        joints, mid = matrix.shape[-1], out // 8 * subsets
        self.matrix = nn.Parameter(0.04 + 0.02 * torch.randn(subsets, joints, joints))
        self.alpha = nn.Parameter(torch.zeros(subsets))
        self.beta = nn.Parameter(torch.zeros(subsets))
        self.pre = nn.Sequential(*pointwise(channels, mid))
        self.post = nn.Conv2d(mid, out, 1)
        self.conv1 = nn.Conv2d(channels, mid, 1)
        self.conv2 = nn.Conv2d(channels, mid, 1)
        self.norm = nn.BatchNorm2d(out)
        self.down = residual(channels, out)

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = x.mean(-2, keepdim=True)
        return self.conv1(mean), self.conv2(mean)

    def relations(self, x: Tensor) -> Tensor:
        x1, x2 = (part.mean(-2).unflatten(1, (len(self.matrix), -1)) for part in self.embed(x))
        inter = torch.tanh(x1.unsqueeze(-1) - x2.unsqueeze(-2)) * self.alpha[0]
        intra = torch.einsum("nkcv,nkcw->nkvw", x1, x2).softmax(-2) * self.beta[0]
        return inter + intra[:, :, None]

    def forward(self, x: Tensor) -> Tensor:
        n, _, t, v = x.shape
        y = self.pre(x).reshape(n, len(self.matrix), -1, t, v)
        a = self.relations(x) + self.matrix[None, :, None]
        y = torch.einsum("nkctv,nkcvw->nkctw", y, a).contiguous()
        return torch.relu(self.norm(self.post(y.reshape(n, -1, t, v))) + self.down(x))


class PlainPrototypeConv(PlainDynamicConv):
    """ProtoGCN: the same, embedded in every frame and averaged after that; keeps its relations."""

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.conv1(x), self.conv2(x)

    def relations(self, x: Tensor) -> Tensor:
        self.related = super().relations(x)
        return self.related


class PlainDynamicTemporal(PlainMultiScale):
    """DG-STGCN: the branches of ST-GCN++ on the joints and their mean."""

    def __init__(self, channels: int, stride: int, joints: int = 25):
        super().__init__(channels, stride)
        self.coefficient = nn.Parameter(torch.zeros(joints))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, x.mean(-1, keepdim=True)], dim=-1)
        y = torch.cat([b(x) for b in self.branches], dim=1)
        local, mean = y[..., :-1], y[..., -1]
        y = local + torch.einsum("nct,v->nctv", mean, self.coefficient)
        return self.norm(self.transform(y))


class PlainAttentionConv(nn.Module):
    """InfoGCN: a graph per frame and head from self-attention, the heads one after the other."""

    def __init__(self, channels: int, out: int, matrix: Tensor, heads: int = 3):
        super().__init__()
        joints, width = matrix.shape[-1], channels // 8
        self.norm_in = nn.LayerNorm(channels)
        self.to_qk = nn.Linear(channels, 2 * heads * width)
        self.topology = nn.Parameter(torch.eye(joints).repeat(heads, 1, 1))
        self.convs = nn.ModuleList(nn.Conv2d(channels, out, 1) for _ in range(heads))
        self.norm = nn.BatchNorm2d(out)
        self.down = residual(channels, out)

    def forward(self, x: Tensor) -> Tensor:
        n, c, t, v = x.shape
        frames = x.permute(0, 2, 3, 1).reshape(n * t, v, c)
        qk = self.to_qk(self.norm_in(frames)).view(n * t, v, 2, len(self.convs), -1)
        q, k = qk.permute(2, 0, 3, 1, 4)  # (n t, heads, v, d)
        graphs = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) * self.topology
        y = 0
        for head, conv in enumerate(self.convs):
            z = (graphs[:, head] @ frames).view(n, t, v, c).permute(0, 3, 1, 2).contiguous()
            y = y + conv(z)
        return torch.relu(self.norm(y) + self.down(x))


class Block(nn.Module):
    def __init__(self, spatial: nn.Module, temporal: nn.Module, skip: nn.Module | None):
        super().__init__()
        self.spatial, self.temporal, self.skip = spatial, temporal, skip

    def forward(self, x: Tensor) -> Tensor:
        y = self.temporal(self.spatial(x))
        return torch.relu(y + self.skip(x) if self.skip is not None else y)


UNITS = {
    "stgcnpp": (PlainGraphConv, PlainMultiScale, False, 64),
    "ctrgcn": (PlainRefinedConv, PlainBranches, True, 64),
    "dgstgcn": (PlainDynamicConv, PlainDynamicTemporal, False, 64),
    "protogcn": (PlainPrototypeConv, PlainDynamicTemporal, False, 96),
    "infogcn": (PlainAttentionConv, PlainBranches, True, 64),
}


class Plain(nn.Module):
    """The plain network of the backbone `name` in UNITS, called as a `Backbone` is."""

    def __init__(self, name: str, num_class: int = 60, base_channels: int | None = None):
        super().__init__()
        spatial, temporal, self.norm_persons, width = UNITS[name]
        self.skeleton, self.num_class = graph.load("ntu_rgb_d"), num_class
        self.num_person, self.in_channels = 2, 3
        matrix = torch.as_tensor(adjacency.spatial(self.skeleton), dtype=torch.float32)
        self.data_norm = nn.BatchNorm1d(150 if self.norm_persons else 75)
        table = stages(3, base_channels or width)
        self.blocks = nn.Sequential(
            *(
                Block(
                    spatial(channels, out, matrix),
                    temporal(out, stride),
                    residual(channels, out, stride) if number else None,
                )
                for number, (channels, out, stride) in enumerate(table)
            )
        )
        self.fc = nn.Linear(table[-1][1], num_class)

    def forward(self, clips: Tensor, outputs: bool = False) -> Tensor | Output:
        n, m, t, v, c = clips.shape
        x = clips.permute(0, 1, 3, 4, 2)
        x = self.data_norm(x.reshape(n if self.norm_persons else n * m, -1, t))
        x = x.view(n, m, v, c, t).permute(0, 1, 3, 4, 2).reshape(n * m, c, t, v)
        features = self.blocks(x).mean((2, 3)).view(n, m, -1).mean(1)
        logits, extra = self.fc(features), self.extra(n)
        return Output(logits, features, extra) if outputs else logits

    def extra(self, clips: int) -> dict[str, Tensor]:
        return {}


class PlainProtoGCN(Plain):
    """ProtoGCN reconstructs the last graphs from its prototypes, asked for or not."""

    def __init__(self, name: str, num_class: int = 60, base_channels: int | None = None):
        super().__init__(name, num_class, base_channels)
        width, prototypes = self.fc.in_features, 400
        self.query = nn.Linear(width, prototypes, bias=False)
        self.memory = nn.Linear(prototypes, width, bias=False)
        self.dropout = nn.Dropout(0.1)
        self.post = nn.Sequential(*pointwise(width, width))
        self.embed = nn.Linear(25**2, 256)

    def extra(self, clips: int) -> dict[str, Tensor]:
        last = self.blocks[-1].spatial
        assert isinstance(last, PlainPrototypeConv)
        related = last.related.flatten(1, 2).unflatten(0, (clips, -1)).mean(1)
        n, c, v, _ = related.shape
        entries = self.query(related.view(n, c, -1).transpose(1, 2)).softmax(-1)
        entries = self.dropout(self.memory(entries)).transpose(1, 2).reshape(n, c, v, v)
        graphs = self.post(entries).mean(1).view(n, -1)
        return {"graph": graphs, "embedding": self.embed(graphs)}


class PlainInfoGCN(nn.Module):
    """InfoGCN around its blocks: bones, embedded with the joint's place, and the latent code."""

    def __init__(self, name: str, num_class: int = 60, base_channels: int | None = None):
        super().__init__()
        spatial, temporal, _, width = UNITS[name]
        width = base_channels or width
        self.skeleton, self.num_class = graph.load("ntu_rgb_d"), num_class
        self.num_person, self.in_channels = 2, 3
        joints = self.skeleton.num_joints
        self.parent = list(self.skeleton.parent)
        self.embed = nn.Linear(3, width)
        self.position = nn.Parameter(torch.randn(1, joints, width))
        self.data_norm = nn.BatchNorm1d(self.num_person * joints * width)
        matrix = torch.eye(joints)
        self.blocks = nn.Sequential(
            *(
                Block(
                    spatial(channels, out, matrix), temporal(out, stride),
                    residual(channels, out, stride),
                )
                for channels, out, stride in stages(width, width, 9, (4, 7), (4, 7))
            )
        )  # fmt: skip
        self.hidden, self.mean, self.log_variance = (
            nn.Linear(4 * width, 4 * width) for _ in range(3)
        )
        self.fc = nn.Linear(4 * width, num_class)

    def forward(self, clips: Tensor, outputs: bool = False) -> Tensor | Output:
        n, m, t, v, _ = clips.shape
        x = self.embed(clips - clips[..., self.parent, :]) + self.position
        x = self.data_norm(x.permute(0, 1, 3, 4, 2).reshape(n, -1, t))
        x = x.view(n * m, v, -1, t).permute(0, 2, 3, 1).contiguous()
        features = self.blocks(x).mean((2, 3)).view(n, m, -1).mean(1)
        hidden = torch.relu(self.hidden(features))
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        latent = mean
        if self.training:
            latent = mean + torch.randn_like(mean) * (0.5 * log_variance).exp().clamp(max=100)
        logits = self.fc(latent)
        return Output(logits, latent, {}) if outputs else logits


def plain_config(config: Config) -> Config:
    """Return the same run with the plain network: float32, nothing fused or compiled."""
    backbone = config.model.split(".")[-2]
    if backbone not in UNITS:
        raise InputError(f"--plain: there is a plain form of {', '.join(UNITS)}, not of {backbone}")
    kept = {"num_class", "base_channels"} & config.model_args.keys()
    model_args = {"name": backbone, **{key: config.model_args[key] for key in kept}}
    kind = {"protogcn": "PlainProtoGCN", "infogcn": "PlainInfoGCN"}.get(backbone, "Plain")
    return config.replace(
        model=f"benchmarks.plain.{kind}", model_args=model_args, amp="off", compile=False
    )
