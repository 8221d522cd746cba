"""The names of the weights of each backbone in other projects.

Each known form, of `FORMS`, is a list of `Entry`: one of our tensors, the tensors of theirs that it
consists of, and how.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from model.layers import ConvNorm


@dataclass(frozen=True)
class Entry:
    """Tensor `ours` consists of the tensors `theirs`, joined along the first axis.

    `arrange`, a linear function, changes the joined tensor to our order of axes.
    """

    ours: str
    theirs: tuple[str, ...]
    arrange: Callable[[Tensor], Tensor] | None = None


# Parts of the lists


def same(ours: str, *theirs: str, leaves: tuple[str, ...] = ("weight", "bias")) -> Iterator[Entry]:
    """A convolution or linear layer joined from several along its outputs."""
    for leaf in leaves:
        yield Entry(f"{ours}.{leaf}", tuple(f"{name}.{leaf}" for name in theirs))


def norm(ours: str, *theirs: str) -> Iterator[Entry]:
    """A batch norm joined from several; their counters of batches are all the same."""
    leaves = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    yield from same(ours, *theirs, leaves=leaves)


def conv_norm(
    module: Any, ours: str, theirs: str, conv: str = "conv", batch_norm: str = "bn"
) -> Iterator[Entry]:
    """A convolution and its norm; nothing for a residual path that is the identity."""
    if isinstance(module, ConvNorm):
        yield from same(f"{ours}.conv", f"{theirs}.{conv}")
        yield from norm(f"{ours}.norm", f"{theirs}.{batch_norm}")


def norm_and_residual(module: Any, ours: str, theirs: str) -> Iterator[Entry]:
    """The end of a graph convolution."""
    yield from norm(f"{ours}.norm", f"{theirs}.bn")
    yield from conv_norm(module.residual, f"{ours}.residual", f"{theirs}.down", "0", "1")


def subsets(ours: str, *theirs: str, count: int) -> Iterator[Entry]:
    """G convolutions of x, (G C', C), as one convolution of the G gathered inputs, (C', G C)."""
    yield Entry(
        f"{ours}.conv.weight",
        tuple(f"{conv}.weight" for conv in theirs),
        arrange=lambda weight: (
            weight.unflatten(0, (count, -1)).flatten(2).transpose(0, 1).flatten(1)
        ),
    )
    yield Entry(f"{ours}.bias", tuple(f"{conv}.bias" for conv in theirs))


def graphs(ours: str, *theirs: str, count: int, target_first: bool) -> Entry:
    """G adjacency matrices, possibly stacked in one; ours are (G, source, target)."""
    if not target_first:
        return Entry(ours, theirs)
    return Entry(
        ours,
        theirs,
        arrange=lambda matrix: matrix.flatten(0, -2).unflatten(0, (count, -1)).transpose(1, 2),
    )


def branches(module: Any, ours: str, theirs: str, joint_norm: str = "") -> Iterator[Entry]:
    """Temporal branches. Each starts with a pointwise convolution and its norm; each ends in a norm
    of its own (CTR-GCN, MS-G3D), or all in one, `joint_norm` (ST-GCN++)."""
    *convs, pool, plain = (f"{theirs}.{number}" for number in range(len(module.widths) + 1))
    yield from same(f"{ours}.reduce.conv", *(f"{branch}.0" for branch in (*convs, pool)))
    yield from norm(f"{ours}.reduce.norm", *(f"{branch}.1" for branch in (*convs, pool)))
    for number, branch in enumerate(convs):
        yield from same(f"{ours}.convs.{number}", f"{branch}.3.conv")
    if joint_norm:
        yield from same(f"{ours}.plain", plain)
        yield from norm(f"{ours}.norm", joint_norm)
    else:
        yield from same(f"{ours}.plain", f"{plain}.0")
        norms = (*(f"{branch}.3.bn" for branch in convs), f"{pool}.4", f"{plain}.1")
        yield from norm(f"{ours}.norm", *norms)


def multi_scale(module: Any, ours: str, theirs: str) -> Iterator[Entry]:
    """ST-GCN++'s mstcn: one norm over all branches, within `transform`."""
    all_branches, joint_norm = f"{theirs}.branches", f"{theirs}.transform.0"
    yield from branches(module.branches, f"{ours}.branches", all_branches, joint_norm)
    yield from conv_norm(module.merge, f"{ours}.merge", theirs, "transform.2")


# A block of a network, in BRL's and PYSKL's names (mmcv), and in the originals'


def stgcn_pyskl(block: Any, ours: str, theirs: str) -> Iterator[Entry]:
    """ST-GCN and ST-GCN++, which share their graph convolution (unit_gcn)."""
    graph, gcn = f"{ours}.graph", f"{theirs}.gcn"
    if block.graph.adaptive == "init":
        yield Entry(f"{graph}.adjacency", (f"{gcn}.A",))
    else:
        yield Entry(f"{graph}.edges", (f"{gcn}.PA",))
        yield Entry(f"{graph}.skeleton", (f"{gcn}.A",))
    if block.graph.bias is None:
        yield from same(f"{graph}.conv", f"{gcn}.conv")
    else:
        yield from subsets(graph, f"{gcn}.conv", count=len(block.graph.bias))
    yield from norm_and_residual(block.graph, graph, gcn)
    if isinstance(block.temporal, ConvNorm):
        yield from conv_norm(block.temporal, f"{ours}.temporal", f"{theirs}.tcn")
    else:
        yield from multi_scale(block.temporal, f"{ours}.temporal", f"{theirs}.tcn")
    yield from conv_norm(block.residual, f"{ours}.residual", f"{theirs}.residual")


def dgstgcn(block: Any, ours: str, theirs: str) -> Iterator[Entry]:
    """DG-STGCN and the body of ProtoGCN."""
    graph, gcn = f"{ours}.graph", f"{theirs}.gcn"
    yield Entry(f"{graph}.adjacency", (f"{gcn}.A",))
    yield Entry(f"{graph}.alpha", (f"{gcn}.alpha",))
    yield Entry(f"{graph}.beta", (f"{gcn}.beta",))
    yield from same(f"{graph}.relate", f"{gcn}.conv1", f"{gcn}.conv2")
    yield from same(f"{graph}.reduce", f"{gcn}.pre.0")
    yield from norm(f"{graph}.reduce_norm", f"{gcn}.pre.1")
    yield from same(f"{graph}.conv", f"{gcn}.post")
    yield from norm_and_residual(block.graph, graph, gcn)
    joints = len(block.temporal.branches.coefficient)
    yield Entry(
        f"{ours}.temporal.branches.coefficient",
        (f"{theirs}.tcn.add_coeff",),
        # theirs has 25 entries for every layout, of which the first are used
        arrange=itemgetter(slice(joints)),
    )
    yield from multi_scale(block.temporal, f"{ours}.temporal", f"{theirs}.tcn")
    yield from conv_norm(block.residual, f"{ours}.residual", f"{theirs}.residual")


def stgcn_original(block: Any, ours: str, theirs: str) -> Iterator[Entry]:
    graph = f"{ours}.graph"
    edges = theirs.replace("st_gcn_networks", "edge_importance")
    yield Entry(f"{graph}.edges", (edges,))
    yield from subsets(graph, f"{theirs}.gcn.conv", count=len(block.graph.bias))
    yield from norm(f"{graph}.norm", f"{theirs}.tcn.0")
    yield from conv_norm(block.temporal, f"{ours}.temporal", f"{theirs}.tcn", "2", "3")
    yield from conv_norm(block.residual, f"{ours}.residual", f"{theirs}.residual", "0", "1")


def aagcn(block: Any, ours: str, theirs: str, gcn: str, tcn: str, learned: str) -> Iterator[Entry]:
    """AAGCN (unit_aagcn) and 2s-AGCN (unit_gcn)."""
    module, graph, gcn = block.graph, f"{ours}.graph", f"{theirs}.{gcn}"
    if module.similarity == "tanh":
        yield Entry(f"{graph}.adjacency", (f"{gcn}.{learned}",))
        yield Entry(f"{graph}.alpha", (f"{gcn}.alpha",))
    else:
        yield Entry(f"{graph}.edges", (f"{gcn}.{learned}",))
    each = range(module.subsets)
    yield from same(f"{graph}.embed", *(f"{gcn}.conv_{ab}.{k}" for ab in "ab" for k in each))
    yield from subsets(graph, *(f"{gcn}.conv_d.{k}" for k in each), count=module.subsets)
    yield from norm_and_residual(module, graph, gcn)
    if not isinstance(module.attention, nn.Identity):
        names = {"joints": "conv_sa", "frames": "conv_ta", "squeeze": "fc1c", "excite": "fc2c"}
        for name, original in names.items():
            yield from same(f"{graph}.attention.{name}", f"{gcn}.{original}")
    yield from conv_norm(block.temporal, f"{ours}.temporal", f"{theirs}.{tcn}")
    yield from conv_norm(block.residual, f"{ours}.residual", f"{theirs}.residual")


def ctrgcn(
    block: Any, ours: str, theirs: str, learned: str, target_first: bool = False
) -> Iterator[Entry]:
    """unit_ctrgcn: conv1 and conv2 make the relation, conv3 the features, conv4 the refinement.

    The original writes its topologies (target, source), PYSKL (source, target): the relation, a
    tanh of a difference, then has the other sign, which goes into conv4.
    """
    graph, gcn, count = f"{ours}.graph", f"{theirs}.gcn1", block.graph.subsets
    convs = [f"{gcn}.convs.{k}" for k in range(count)]
    source_target = (2, 1) if target_first else (1, 2)
    negate = torch.neg if target_first else None
    expand = tuple(f"{conv}.conv4.weight" for conv in convs)
    yield graphs(f"{graph}.adjacency", f"{gcn}.{learned}", count=count, target_first=target_first)
    yield Entry(f"{graph}.alpha", (f"{gcn}.alpha",))
    yield from same(f"{graph}.relate", *(f"{c}.conv{n}" for n in source_target for c in convs))
    yield from same(f"{graph}.conv", *(f"{conv}.conv3" for conv in convs))
    yield Entry(f"{graph}.expand", expand, arrange=negate)
    yield Entry(f"{graph}.expand_bias", tuple(f"{conv}.conv4.bias" for conv in convs))
    yield from norm_and_residual(block.graph, graph, gcn)
    yield from branches(block.temporal, f"{ours}.temporal", f"{theirs}.tcn1.branches")
    yield from conv_norm(block.residual, f"{ours}.residual", f"{theirs}.residual")


def msg3d(
    block: Any, ours: str, theirs: str, learned: str, constant: str = "", target_first: bool = False
) -> Iterator[Entry]:
    """`theirs` lacks the module: `backbone.{}1`; `constant` names the graphs that PYSKL keeps in
    the file and the original does not."""
    spatial, windowed = theirs.format("sgcn"), f"{theirs.format('gcn3d')}.gcn3d"
    convs = {f"{ours}.factorised.0": (block.factorised[0], f"{spatial}.0")}
    for pathway, module in enumerate(block.windowed):
        name = f"{ours}.windowed.{pathway}"
        convs[name] = module, f"{windowed}.{pathway}.gcn3d.1"
        yield from same(f"{name}.collapse", f"{windowed}.{pathway}.out_conv")
        yield from norm(f"{name}.collapse_norm", f"{windowed}.{pathway}.out_bn")
    for name, (module, conv) in convs.items():
        order: dict[str, Any] = {"count": len(module.edges), "target_first": target_first}
        yield graphs(f"{name}.edges", f"{conv}.{learned}", **order)
        if constant:
            yield graphs(f"{name}.skeleton", f"{conv}.{constant}", **order)
        yield from same(f"{name}.conv", f"{conv}.mlp.layers.0")
        yield from norm(f"{name}.norm", f"{conv}.mlp.layers.1")
    for name, module, temporal in (
        (f"{ours}.factorised.1", block.factorised[1], f"{spatial}.1"),
        (f"{ours}.factorised.2", block.factorised[2], f"{spatial}.2"),
        (f"{ours}.temporal", block.temporal, theirs.format("tcn")),
    ):
        yield from branches(module.branches, f"{name}.branches", f"{temporal}.branches")
        yield from conv_norm(module.residual, f"{name}.residual", f"{temporal}.residual")


def infogcn(block: Any, ours: str, theirs: str) -> Iterator[Entry]:
    """`to_qk` has the queries of all heads, then their keys, as ours."""
    graph, agcn, heads = f"{ours}.graph", f"{theirs}.agcn", block.graph.heads
    yield Entry(f"{graph}.topology", (f"{agcn}.shared_topology",))
    yield from same(f"{graph}.embed_norm", f"{agcn}.attn.ln")
    yield from same(f"{graph}.embed", f"{agcn}.attn.to_qk")
    yield from subsets(graph, *(f"{agcn}.conv_d.{head}" for head in range(heads)), count=heads)
    yield from norm_and_residual(block.graph, graph, agcn)
    yield from branches(block.temporal, f"{ours}.temporal", f"{theirs}.tcn.branches")
    yield from conv_norm(block.residual, f"{ours}.residual", f"{theirs}.residual")


# What a network has besides its blocks, data norm and classifier


def prototypes(model: Any) -> Iterator[Entry]:
    if model.prototypes is None:
        return
    yield Entry("prototypes.query.weight", ("backbone.prn.query_matrix.weight",))
    yield Entry("prototypes.memory.weight", ("backbone.prn.memory_matrix.weight",))
    yield from conv_norm(model.prototypes.post, "prototypes.post", "backbone", "post")
    yield from same("prototypes.embed", "cls_head.csc_loss.cl_fc")


def common_graph(model: Any) -> Iterator[Entry]:
    """ST-GCN's skeleton, which all blocks share."""
    yield Entry("blocks.0.graph.skeleton", ("A",))


def embedding_and_code(model: Any) -> Iterator[Entry]:
    """InfoGCN's embedding of the joints and its latent code."""
    yield Entry("position", ("pos_embedding",))
    yield from same("embed", "to_joint_embedding")
    yield from same("hidden", "fc")
    yield from same("mean", "fc_mu")
    yield from same("log_variance", "fc_logvar")


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
    mark: str  # a key that no form after this one in FORMS has
    block: str  # a block, by its number
    block_names: Callable[[Any, str, str], Iterator[Entry]]  # of a block, its name and theirs
    adjacency: str  # of the first block, (.., V)
    width: str  # a norm of block {}, with as many channels as the block's output
    conv: str  # the first block's graph convolution
    data_norm: str = "data_bn"
    fc: str = "fc"
    other_names: Callable[[Any], Iterable[Entry]] = lambda model: ()  # of a network
    start: int = 0  # number of the first block
    per_subset: bool = False  # `conv` is that of one of the G subsets
    embedded: bool = False  # `data_norm` is after the embedding, as wide as the first block

    def names(self, model: Any) -> Iterator[Entry]:
        """Yield the entries of a network of this backbone."""
        yield from norm("data_norm", self.data_norm)
        yield from same("fc", self.fc)
        yield from self.other_names(model)
        for number, block in enumerate(model.blocks):
            theirs = self.block.format(number + self.start)
            yield from self.block_names(block, f"blocks.{number}", theirs)


PYSKL, ORIGINAL = "mmcv (BRL, PYSKL)", "original"
HEAD: dict[str, Any] = {"data_norm": "backbone.data_bn", "fc": "cls_head.fc_cls"}
GCN: dict[str, Any] = {
    "block": "backbone.gcn.{}",
    "adjacency": "backbone.gcn.0.gcn.A",
    "width": "backbone.gcn.{}.gcn.bn.weight",
    "conv": "backbone.gcn.0.gcn.conv.weight",
    **HEAD,
}
DYNAMIC = GCN | {
    "block_names": dgstgcn, "conv": "backbone.gcn.0.gcn.down.0.weight", "per_subset": True,
}  # fmt: skip
UNITS: dict[str, Any] = {
    "block": "l{}",
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
        other_names=prototypes,
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
        mark="backbone.gcn.0.gcn.conv_d.0.weight",
        block_names=partial(aagcn, gcn="gcn", tcn="tcn", learned="A"),
        **GCN | {"conv": "backbone.gcn.0.gcn.conv_d.0.weight", "per_subset": True},
    ),
    Form(PYSKL, "stgcn", mark="backbone.gcn.0.gcn.conv.weight", block_names=stgcn_pyskl, **GCN),
    Form(
        PYSKL,
        "ctrgcn",
        mark="backbone.net.0.gcn1.convs.0.conv1.weight",
        block="backbone.net.{}",
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
        mark="backbone.sgcn1.0.PA",
        block="backbone.{{}}{}",
        block_names=partial(msg3d, learned="PA", constant="A"),
        adjacency="backbone.sgcn1.0.PA",
        width="backbone.sgcn{}.0.mlp.layers.1.weight",
        conv="backbone.sgcn1.0.mlp.layers.0.weight",
        start=1,
        **HEAD,
    ),
    Form(
        f"{ORIGINAL} (InfoGCN)",
        "infogcn",
        mark="l1.agcn.shared_topology",
        block_names=infogcn,
        other_names=embedding_and_code,
        conv="to_joint_embedding.weight",
        fc="decoder",
        embedded=True,
        **UNITS | {"adjacency": "l1.agcn.shared_topology", "width": "l{}.agcn.bn.weight"},
    ),
    Form(
        f"{ORIGINAL} (CTR-GCN)",
        "ctrgcn",
        mark="l1.gcn1.convs.0.conv1.weight",
        block_names=partial(ctrgcn, learned="PA", target_first=True),
        conv="l1.gcn1.convs.0.conv3.weight",
        **UNITS,
    ),
    Form(
        f"{ORIGINAL} (2s-AGCN)",
        "aagcn",
        mark="l1.gcn1.conv_d.0.weight",
        block_names=partial(aagcn, gcn="gcn1", tcn="tcn1", learned="PA"),
        conv="l1.gcn1.conv_d.0.weight",
        **UNITS,
    ),
    Form(
        f"{ORIGINAL} (MS-G3D)",
        "msg3d",
        mark="sgcn1.0.A_res",
        block="{{}}{}",
        block_names=partial(msg3d, learned="A_res", target_first=True),
        adjacency="sgcn1.0.A_res",
        width="sgcn{}.0.mlp.layers.1.weight",
        conv="sgcn1.0.mlp.layers.0.weight",
        start=1,
    ),
    Form(
        f"{ORIGINAL} (st-gcn)",
        "stgcn",
        mark="st_gcn_networks.0.gcn.conv.weight",
        block="st_gcn_networks.{}",
        block_names=stgcn_original,
        other_names=common_graph,
        adjacency="A",
        width="st_gcn_networks.{}.tcn.0.weight",
        conv="st_gcn_networks.0.gcn.conv.weight",
        fc="fcn",
    ),
)
