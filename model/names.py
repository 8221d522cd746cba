"""The names of the weights of each backbone in other projects.

Each known form, of `FORMS`, is a list of `Entry`: one of our tensors or layers, those of theirs
that it consists of, and how. What a network does not have (a projection, an attention, a bias) is
not asked for.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from model.layers import ConvNorm


@dataclass(frozen=True)
class Entry:
    """Tensor `ours` consists of the tensors `theirs`, joined along the first axis.

    `arrange`, a linear function, changes the joined tensor to our order of axes. Without it both
    may be layers, for all tensors of ours; the counters of joined batch norms are all the same.
    """

    ours: str
    theirs: tuple[str, ...]
    arrange: Callable[[Tensor], Tensor] | None = None


def entry(ours: str, *theirs: str, arrange: Callable[[Tensor], Tensor] | None = None) -> Entry:
    return Entry(ours, theirs, arrange)


# Parts of a block; names are relative to it


def conv_norm(ours: str, theirs: str, conv: str = "conv", norm: str = "bn") -> Iterator[Entry]:
    """A convolution and its norm."""
    yield entry(f"{ours}.conv", f"{theirs}.{conv}")
    yield entry(f"{ours}.norm", f"{theirs}.{norm}")


def graph_end(gcn: str) -> Iterator[Entry]:
    """The norm and the residual path of a graph convolution."""
    yield entry("graph.norm", f"{gcn}.bn")
    yield from conv_norm("graph.residual", f"{gcn}.down", "0", "1")


def subsets(*theirs: str, count: int) -> Iterator[Entry]:
    """G convolutions of x, (G C', C), as one convolution of the G gathered inputs, (C', G C)."""

    def gathered(weight: Tensor) -> Tensor:
        return weight.unflatten(0, (count, -1)).flatten(2).transpose(0, 1).flatten(1)

    yield entry("graph.conv.weight", *(f"{conv}.weight" for conv in theirs), arrange=gathered)
    yield entry("graph.bias", *(f"{conv}.bias" for conv in theirs))


def graphs(ours: str, theirs: str, count: int, target_first: bool) -> Entry:
    """G adjacency matrices, possibly stacked in one; ours are (G, source, target)."""

    def turned(matrix: Tensor) -> Tensor:
        return matrix.flatten(0, -2).unflatten(0, (count, -1)).transpose(1, 2)

    return entry(ours, theirs, arrange=turned if target_first else None)


def branches(ours: str, theirs: str, dilations: int, joint_norm: str = "") -> Iterator[Entry]:
    """Temporal branches. Each starts with a pointwise convolution and its norm; each ends in a norm
    of its own (CTR-GCN, MS-G3D), or all in one, `joint_norm` (ST-GCN++)."""
    *convs, pool, plain = (f"{theirs}.{number}" for number in range(dilations + 2))
    yield entry(f"{ours}.reduce.conv", *(f"{branch}.0" for branch in (*convs, pool)))
    yield entry(f"{ours}.reduce.norm", *(f"{branch}.1" for branch in (*convs, pool)))
    for number, branch in enumerate(convs):
        yield entry(f"{ours}.convs.{number}", f"{branch}.3.conv")
    if joint_norm:
        yield entry(f"{ours}.plain", plain)
        yield entry(f"{ours}.norm", joint_norm)
    else:
        yield entry(f"{ours}.plain", f"{plain}.0")
        norms = (*(f"{branch}.3.bn" for branch in convs), f"{pool}.4", f"{plain}.1")
        yield entry(f"{ours}.norm", *norms)


def multi_scale() -> Iterator[Entry]:
    """ST-GCN++'s mstcn: one norm over all branches, within `transform`."""
    yield from branches("temporal.branches", "tcn.branches", 4, joint_norm="tcn.transform.0")
    yield from conv_norm("temporal.merge", "tcn", "transform.2")


# A block in BRL's and PYSKL's names (mmcv), and in the originals'


def stgcn_pyskl(block: Any) -> Iterator[Entry]:
    """ST-GCN and ST-GCN++, which share their graph convolution (unit_gcn)."""
    yield entry("graph.adjacency", "gcn.A")  # adaptive 'init', else:
    yield entry("graph.skeleton", "gcn.A")
    yield entry("graph.edges", "gcn.PA")
    if block.graph.bias is None:
        yield entry("graph.conv", "gcn.conv")
    else:
        yield from subsets("gcn.conv", count=len(block.graph.bias))
    yield from graph_end("gcn")
    if isinstance(block.temporal, ConvNorm):
        yield from conv_norm("temporal", "tcn")
    else:
        yield from multi_scale()
    yield from conv_norm("residual", "residual")


def dgstgcn(block: Any) -> Iterator[Entry]:
    """DG-STGCN and the body of ProtoGCN."""
    yield entry("graph.adjacency", "gcn.A")
    yield entry("graph.alpha", "gcn.alpha")
    yield entry("graph.beta", "gcn.beta")
    yield entry("graph.relate", "gcn.conv1", "gcn.conv2")
    yield entry("graph.reduce", "gcn.pre.0")
    yield entry("graph.reduce_norm", "gcn.pre.1")
    yield entry("graph.conv", "gcn.post")
    yield from graph_end("gcn")
    # theirs has 25 entries for every layout, of which the first are used
    first = itemgetter(slice(len(block.temporal.branches.coefficient)))
    yield entry("temporal.branches.coefficient", "tcn.add_coeff", arrange=first)
    yield from multi_scale()
    yield from conv_norm("residual", "residual")


def stgcn_original(block: Any) -> Iterator[Entry]:
    yield entry("graph.edges", "edge_importance.{}")
    yield from subsets("st_gcn_networks.{}.gcn.conv", count=len(block.graph.bias))
    yield entry("graph.norm", "st_gcn_networks.{}.tcn.0")
    yield from conv_norm("temporal", "st_gcn_networks.{}.tcn", "2", "3")
    yield from conv_norm("residual", "st_gcn_networks.{}.residual", "0", "1")


def aagcn(block: Any, gcn: str, tcn: str, learned: str) -> Iterator[Entry]:
    """AAGCN (unit_aagcn) and 2s-AGCN (unit_gcn)."""
    count = block.graph.subsets
    yield entry("graph.adjacency", f"{gcn}.{learned}")  # similarity 'tanh'
    yield entry("graph.alpha", f"{gcn}.alpha")
    yield entry("graph.edges", f"{gcn}.{learned}")  # 'softmax'
    yield entry("graph.embed", *(f"{gcn}.conv_{ab}.{k}" for ab in "ab" for k in range(count)))
    yield from subsets(*(f"{gcn}.conv_d.{k}" for k in range(count)), count=count)
    yield from graph_end(gcn)
    yield entry("graph.attention.joints", f"{gcn}.conv_sa")
    yield entry("graph.attention.frames", f"{gcn}.conv_ta")
    yield entry("graph.attention.squeeze", f"{gcn}.fc1c")
    yield entry("graph.attention.excite", f"{gcn}.fc2c")
    yield from conv_norm("temporal", tcn)
    yield from conv_norm("residual", "residual")


def ctrgcn(block: Any, learned: str, target_first: bool = False) -> Iterator[Entry]:
    """unit_ctrgcn: conv1 and conv2 make the relation, conv3 the features, conv4 the refinement.

    The original writes its topologies (target, source), PYSKL (source, target): the relation, a
    tanh of a difference, then has the other sign, which goes into conv4.
    """
    count = block.graph.subsets
    convs = [f"gcn1.convs.{k}" for k in range(count)]
    source_target = (2, 1) if target_first else (1, 2)
    negate = torch.neg if target_first else None
    yield graphs("graph.adjacency", f"gcn1.{learned}", count, target_first)
    yield entry("graph.alpha", "gcn1.alpha")
    yield entry("graph.relate", *(f"{conv}.conv{n}" for n in source_target for conv in convs))
    yield entry("graph.conv", *(f"{conv}.conv3" for conv in convs))
    yield entry("graph.expand", *(f"{conv}.conv4.weight" for conv in convs), arrange=negate)
    yield entry("graph.expand_bias", *(f"{conv}.conv4.bias" for conv in convs))
    yield from graph_end("gcn1")
    yield from branches("temporal", "tcn1.branches", 2)
    yield from conv_norm("residual", "residual")


def msg3d(block: Any, learned: str, target_first: bool = False) -> Iterator[Entry]:
    """PYSKL keeps the graphs to which `learned` is added in the file, as `A`."""
    convs = {"factorised.0": (block.factorised[0], "sgcn{}.0")}
    for pathway, module in enumerate(block.windowed):
        windowed = f"gcn3d{{}}.gcn3d.{pathway}"
        convs[f"windowed.{pathway}"] = module, f"{windowed}.gcn3d.1"
        yield entry(f"windowed.{pathway}.collapse", f"{windowed}.out_conv")
        yield entry(f"windowed.{pathway}.collapse_norm", f"{windowed}.out_bn")
    for ours, (module, theirs) in convs.items():
        yield graphs(f"{ours}.edges", f"{theirs}.{learned}", len(module.edges), target_first)
        if learned == "PA":
            yield entry(f"{ours}.skeleton", f"{theirs}.A")
        yield entry(f"{ours}.conv", f"{theirs}.mlp.layers.0")
        yield entry(f"{ours}.norm", f"{theirs}.mlp.layers.1")
    temporal = {"factorised.1": "sgcn{}.1", "factorised.2": "sgcn{}.2", "temporal": "tcn{}"}
    for ours, theirs in temporal.items():
        yield from branches(f"{ours}.branches", f"{theirs}.branches", 4)
        yield from conv_norm(f"{ours}.residual", f"{theirs}.residual")


def infogcn(block: Any) -> Iterator[Entry]:
    """`to_qk` has the queries of all heads, then their keys, as ours."""
    heads = block.graph.heads
    yield entry("graph.topology", "agcn.shared_topology")
    yield entry("graph.embed_norm", "agcn.attn.ln")
    yield entry("graph.embed", "agcn.attn.to_qk")
    yield from subsets(*(f"agcn.conv_d.{head}" for head in range(heads)), count=heads)
    yield from graph_end("agcn")
    yield from branches("temporal", "tcn.branches", 2)
    yield from conv_norm("residual", "residual")


# What a network has besides its blocks, data norm and classifier

PROTOTYPES = (
    entry("prototypes.query", "backbone.prn.query_matrix"),
    entry("prototypes.memory", "backbone.prn.memory_matrix"),
    *conv_norm("prototypes.post", "backbone", "post"),
    entry("prototypes.embed", "cls_head.csc_loss.cl_fc"),
)
INFOGCN = (
    entry("position", "pos_embedding"),
    entry("embed", "to_joint_embedding"),
    entry("hidden", "fc"),
    entry("mean", "fc_mu"),
    entry("log_variance", "fc_logvar"),
)


def present_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with the names of 2s-AGCN's published code if it is one of its released
    files.

    These are older than that code (https://github.com/lshiwjx/2s-AGCN/issues/32): the
    projections were `conv_res`, blocks were `l1a`, and their graph convolution had no `gcn1`.
    """
    if not any(re.fullmatch(r"l1a?\.(gcn1\.)?conv_d\.0\.weight", key) for key in state):
        return state
    renamed = {}
    for key, value in state.items():
        key = re.sub(r"^(l\d+)a\.", r"\1.", key)
        key = re.sub(r"^(l\d+)\.(PA$|(conv_[abd]|conv_res|down|bn)\.)", r"\1.gcn1.\2", key)
        renamed[re.sub(r"^(l\d+\.gcn1)\.conv_res\.", r"\1.down.", key)] = value
    return renamed if len(renamed) == len(state) else state


# Forms


@dataclass(frozen=True)
class Form:
    """The names of one project for one backbone, and the keys that show its sizes."""

    name: str
    backbone: str  # module within this package
    block: str  # before the names of block {}
    block_names: Callable[[Any], Iterator[Entry]]  # of a block
    adjacency: str  # of the first block, (.., V)
    width: str  # a norm of block {}, with as many channels as the block's output
    conv: str  # the first block's graph convolution
    mark: str = ""  # a key that no form after this one in FORMS has; by default `conv`
    data_norm: str = "data_bn"
    fc: str = "fc"
    others: tuple[Entry, ...] = ()
    start: int = 0  # number of the first block
    per_subset: bool = False  # `conv` is that of one of the G subsets
    embedded: bool = False  # `data_norm` is after the embedding, as wide as the first block

    def names(self, model: Any) -> Iterator[Entry]:
        """Yield an entry for each tensor of a network of this backbone."""
        tensors = model.state_dict() | dict(model.named_buffers(remove_duplicate=False))
        leaves = defaultdict(list)  # of each layer
        for tensor in tensors:
            layer, _, leaf = tensor.rpartition(".")
            leaves[layer].append(leaf)
        for each in self.layers(model):
            if each.ours in tensors:
                yield each
            for leaf in leaves[each.ours]:
                theirs = (f"{their}.{leaf}" for their in each.theirs)
                yield entry(f"{each.ours}.{leaf}", *theirs)

    def layers(self, model: Any) -> Iterator[Entry]:
        """Yield the entries of layers and single tensors, also of those that `model` lacks."""
        yield entry("data_norm", self.data_norm)
        yield entry("fc", self.fc)
        yield from self.others
        for number, block in enumerate(model.blocks):
            for each in self.block_names(block):
                theirs = (f"{self.block}{name}".format(number + self.start) for name in each.theirs)
                yield entry(f"blocks.{number}.{each.ours}", *theirs, arrange=each.arrange)


PYSKL, ORIGINAL = "mmcv (BRL, PYSKL)", "original"
HEAD: dict[str, Any] = {"data_norm": "backbone.data_bn", "fc": "cls_head.fc_cls"}
GCN: dict[str, Any] = {
    "block": "backbone.gcn.{}.",
    "adjacency": "backbone.gcn.0.gcn.A",
    "width": "backbone.gcn.{}.gcn.bn.weight",
    "conv": "backbone.gcn.0.gcn.conv.weight",
    **HEAD,
}
DYNAMIC = GCN | {
    "block_names": dgstgcn, "conv": "backbone.gcn.0.gcn.down.0.weight", "per_subset": True,
}  # fmt: skip
UNITS: dict[str, Any] = {
    "block": "l{}.",
    "adjacency": "l1.gcn1.PA",
    "width": "l{}.gcn1.bn.weight",
    "start": 1,
    "per_subset": True,
}
FORMS = (
    Form(
        "mmcv (ProtoGCN)",
        "protogcn",
        mark="backbone.prn.query_matrix.weight",
        others=PROTOTYPES,
        **DYNAMIC,
    ),
    Form(PYSKL, "dgstgcn", mark="backbone.gcn.0.tcn.add_coeff", **DYNAMIC),
    Form(
        PYSKL,
        "stgcnpp",
        mark="backbone.gcn.0.tcn.transform.0.weight",
        block_names=stgcn_pyskl,
        **GCN,
    ),
    Form(
        PYSKL,
        "aagcn",
        block_names=partial(aagcn, gcn="gcn", tcn="tcn", learned="A"),
        **GCN | {"conv": "backbone.gcn.0.gcn.conv_d.0.weight", "per_subset": True},
    ),
    Form(PYSKL, "stgcn", block_names=stgcn_pyskl, **GCN),
    Form(
        PYSKL,
        "ctrgcn",
        block="backbone.net.{}.",
        block_names=partial(ctrgcn, learned="A"),
        adjacency="backbone.net.0.gcn1.A",
        width="backbone.net.{}.gcn1.bn.weight",
        conv="backbone.net.0.gcn1.convs.0.conv3.weight",
        per_subset=True,
        **HEAD,
    ),
    Form(
        PYSKL,
        "msg3d",
        block="backbone.",
        block_names=partial(msg3d, learned="PA"),
        adjacency="backbone.sgcn1.0.PA",
        width="backbone.sgcn{}.0.mlp.layers.1.weight",
        conv="backbone.sgcn1.0.mlp.layers.0.weight",
        start=1,
        **HEAD,
    ),
    Form(
        f"{ORIGINAL} (InfoGCN)",
        "infogcn",
        block_names=infogcn,
        others=INFOGCN,
        conv="to_joint_embedding.weight",
        fc="decoder",
        embedded=True,
        **UNITS | {"adjacency": "l1.agcn.shared_topology", "width": "l{}.agcn.bn.weight"},
    ),
    Form(
        f"{ORIGINAL} (CTR-GCN)",
        "ctrgcn",
        block_names=partial(ctrgcn, learned="PA", target_first=True),
        conv="l1.gcn1.convs.0.conv3.weight",
        **UNITS,
    ),
    Form(
        f"{ORIGINAL} (2s-AGCN)",
        "aagcn",
        block_names=partial(aagcn, gcn="gcn1", tcn="tcn1", learned="PA"),
        conv="l1.gcn1.conv_d.0.weight",
        **UNITS,
    ),
    Form(
        f"{ORIGINAL} (MS-G3D)",
        "msg3d",
        block="",
        block_names=partial(msg3d, learned="A_res", target_first=True),
        adjacency="sgcn1.0.A_res",
        width="sgcn{}.0.mlp.layers.1.weight",
        conv="sgcn1.0.mlp.layers.0.weight",
        start=1,
    ),
    Form(
        f"{ORIGINAL} (st-gcn)",
        "stgcn",
        block="",
        block_names=stgcn_original,
        others=(entry("blocks.0.graph.skeleton", "A"),),
        adjacency="A",
        width="st_gcn_networks.{}.tcn.0.weight",
        conv="st_gcn_networks.0.gcn.conv.weight",
        fc="fcn",
    ),
)
