"""The names of the weights of each backbone in other projects.

Each known form is a list of `Entry`: one of our tensors, the tensors of theirs that it consists of,
and how.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
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


def conv_norm(module: Any, ours: str, conv: str, batch_norm: str) -> Iterator[Entry]:
    """A convolution and its norm; nothing for a residual path that is the identity."""
    if isinstance(module, ConvNorm):
        yield from same(f"{ours}.conv", conv)
        yield from norm(f"{ours}.norm", batch_norm)


def subsets(ours: str, *theirs: str, count: int) -> Entry:
    """G convolutions of x, (G C', C), as one convolution of the G gathered inputs, (C', G C)."""
    return Entry(
        ours,
        theirs,
        arrange=lambda weight: (
            weight.unflatten(0, (count, -1)).flatten(2).transpose(0, 1).flatten(1)
        ),
    )


def graphs(ours: str, *theirs: str, count: int, target_first: bool) -> Entry:
    """G adjacency matrices, possibly stacked in one; ours are (G, source, target)."""
    if not target_first:
        return Entry(ours, theirs)
    return Entry(
        ours,
        theirs,
        arrange=lambda matrix: matrix.flatten(0, -2).unflatten(0, (count, -1)).transpose(1, 2),
    )


def branches(module: Any, ours: str, theirs: str) -> Iterator[Entry]:
    """Temporal branches that each end in a norm of their own (CTR-GCN, MS-G3D)."""
    *convs, pool = (f"{theirs}.{number}" for number in range(len(module.widths)))
    plain = f"{theirs}.{len(module.widths)}"
    yield from reduced(ours, *convs, pool)
    for number, branch in enumerate(convs):
        yield from same(f"{ours}.convs.{number}", f"{branch}.3.conv")
    yield from same(f"{ours}.plain", f"{plain}.0")
    yield from norm(f"{ours}.norm", *(f"{b}.3.bn" for b in convs), f"{pool}.4", f"{plain}.1")


def reduced(ours: str, *theirs: str) -> Iterator[Entry]:
    """The pointwise convolution and norm with which every branch starts."""
    yield from same(f"{ours}.reduce.conv", *(f"{branch}.0" for branch in theirs))
    yield from norm(f"{ours}.reduce.norm", *(f"{branch}.1" for branch in theirs))


# BRL's and PYSKL's names (mmcv), and the originals'


def stgcn_pyskl(model: Any) -> Iterator[Entry]:
    """ST-GCN and ST-GCN++, which share their graph convolution (unit_gcn)."""
    yield from norm("data_norm", "backbone.data_bn")
    yield from same("fc", "cls_head.fc_cls")
    for number, block in enumerate(model.blocks):
        ours, theirs = f"blocks.{number}", f"backbone.gcn.{number}"
        graph, gcn = f"{ours}.graph", f"{theirs}.gcn"
        if block.graph.adaptive == "init":
            yield Entry(f"{graph}.adjacency", (f"{gcn}.A",))
        else:
            yield Entry(f"{graph}.edges", (f"{gcn}.PA",))
            yield Entry(f"{graph}.skeleton", (f"{gcn}.A",))
        if block.graph.bias is None:
            yield from same(f"{graph}.conv", f"{gcn}.conv")
        else:
            count = len(block.graph.bias)
            yield subsets(f"{graph}.conv.weight", f"{gcn}.conv.weight", count=count)
            yield Entry(f"{graph}.bias", (f"{gcn}.conv.bias",))
        yield from norm(f"{graph}.norm", f"{gcn}.bn")
        down = f"{gcn}.down"
        yield from conv_norm(block.graph.residual, f"{graph}.residual", f"{down}.0", f"{down}.1")
        tcn = f"{theirs}.tcn"
        if isinstance(block.temporal, ConvNorm):
            yield from conv_norm(block.temporal, f"{ours}.temporal", f"{tcn}.conv", f"{tcn}.bn")
        else:
            yield from multi_scale(block.temporal, f"{ours}.temporal", tcn)
        yield from unit_tcn(block.residual, f"{ours}.residual", f"{theirs}.residual")


def multi_scale(module: Any, ours: str, theirs: str) -> Iterator[Entry]:
    """ST-GCN++'s mstcn: one norm over all branches, within `transform`."""
    count, ours_branches = len(module.branches.widths), f"{ours}.branches"
    names = [f"{theirs}.branches.{number}" for number in range(count)]
    yield from reduced(ours_branches, *names)
    for number, branch in enumerate(names[:-1]):
        yield from same(f"{ours_branches}.convs.{number}", f"{branch}.3.conv")
    yield from same(f"{ours_branches}.plain", f"{theirs}.branches.{count}")
    yield from norm(f"{ours_branches}.norm", f"{theirs}.transform.0")
    yield from conv_norm(module.merge, f"{ours}.merge", f"{theirs}.transform.2", f"{theirs}.bn")


def unit_tcn(module: Any, ours: str, theirs: str) -> Iterator[Entry]:
    yield from conv_norm(module, ours, f"{theirs}.conv", f"{theirs}.bn")


def dgstgcn(model: Any) -> Iterator[Entry]:
    """DG-STGCN and the body of ProtoGCN."""
    yield from norm("data_norm", "backbone.data_bn")
    yield from same("fc", "cls_head.fc_cls")
    for number, block in enumerate(model.blocks):
        ours, theirs = f"blocks.{number}", f"backbone.gcn.{number}"
        graph, gcn = f"{ours}.graph", f"{theirs}.gcn"
        yield Entry(f"{graph}.adjacency", (f"{gcn}.A",))
        yield Entry(f"{graph}.alpha", (f"{gcn}.alpha",))
        yield Entry(f"{graph}.beta", (f"{gcn}.beta",))
        yield from same(f"{graph}.relate", f"{gcn}.conv1", f"{gcn}.conv2")
        yield from same(f"{graph}.reduce", f"{gcn}.pre.0")
        yield from norm(f"{graph}.reduce_norm", f"{gcn}.pre.1")
        yield from same(f"{graph}.conv", f"{gcn}.post")
        yield from norm(f"{graph}.norm", f"{gcn}.bn")
        down = f"{gcn}.down"
        yield from conv_norm(block.graph.residual, f"{graph}.residual", f"{down}.0", f"{down}.1")
        temporal, tcn = f"{ours}.temporal", f"{theirs}.tcn"
        joints = len(block.temporal.branches.coefficient)
        yield Entry(
            f"{temporal}.branches.coefficient",
            (f"{tcn}.add_coeff",),
            # theirs has 25 entries for every layout, of which the first are used
            arrange=itemgetter(slice(joints)),
        )
        yield from multi_scale(block.temporal, temporal, tcn)
        yield from unit_tcn(block.residual, f"{ours}.residual", f"{theirs}.residual")


def protogcn(model: Any) -> Iterator[Entry]:
    yield from dgstgcn(model)
    if model.prototypes is None:
        return
    yield Entry("prototypes.query.weight", ("backbone.prn.query_matrix.weight",))
    yield Entry("prototypes.memory.weight", ("backbone.prn.memory_matrix.weight",))
    yield from conv_norm(model.prototypes.post, "prototypes.post", "backbone.post", "backbone.bn")
    yield from same("prototypes.embed", "cls_head.csc_loss.cl_fc")


def stgcn_original(model: Any) -> Iterator[Entry]:
    yield from norm("data_norm", "data_bn")
    yield from same("fc", "fcn")
    yield Entry("blocks.0.graph.skeleton", ("A",))
    for number, block in enumerate(model.blocks):
        ours, theirs = f"blocks.{number}", f"st_gcn_networks.{number}"
        count = len(block.graph.bias)
        yield Entry(f"{ours}.graph.edges", (f"edge_importance.{number}",))
        yield subsets(f"{ours}.graph.conv.weight", f"{theirs}.gcn.conv.weight", count=count)
        yield Entry(f"{ours}.graph.bias", (f"{theirs}.gcn.conv.bias",))
        yield from norm(f"{ours}.graph.norm", f"{theirs}.tcn.0")
        tcn, residual = f"{theirs}.tcn", f"{theirs}.residual"
        yield from conv_norm(block.temporal, f"{ours}.temporal", f"{tcn}.2", f"{tcn}.3")
        yield from conv_norm(block.residual, f"{ours}.residual", f"{residual}.0", f"{residual}.1")


def aagcn(
    model: Any, head: str, fc: str, block: str, gcn: str, tcn: str, learned: str
) -> Iterator[Entry]:
    """AAGCN and 2s-AGCN; `block` names a block by its number from 0, {}, or from 1, {next}."""
    yield from norm("data_norm", head)
    yield from same("fc", fc)
    for number, unit in enumerate(model.blocks):
        ours = f"blocks.{number}"
        theirs = block.format(number, next=number + 1)
        yield from adaptive(unit.graph, f"{ours}.graph", f"{theirs}.{gcn}", learned)
        yield from unit_tcn(unit.temporal, f"{ours}.temporal", f"{theirs}.{tcn}")
        yield from unit_tcn(unit.residual, f"{ours}.residual", f"{theirs}.residual")


def adaptive(module: Any, ours: str, theirs: str, learned: str) -> Iterator[Entry]:
    """unit_aagcn, and the unit_gcn of 2s-AGCN."""
    if module.similarity == "tanh":
        yield Entry(f"{ours}.adjacency", (f"{theirs}.{learned}",))
        yield Entry(f"{ours}.alpha", (f"{theirs}.alpha",))
    else:
        yield Entry(f"{ours}.edges", (f"{theirs}.{learned}",))
    each = range(module.subsets)
    yield from same(f"{ours}.embed", *(f"{theirs}.conv_{ab}.{k}" for ab in "ab" for k in each))
    convs = [f"{theirs}.conv_d.{k}" for k in each]
    yield subsets(f"{ours}.conv.weight", *(f"{c}.weight" for c in convs), count=module.subsets)
    yield Entry(f"{ours}.bias", tuple(f"{conv}.bias" for conv in convs))
    yield from norm(f"{ours}.norm", f"{theirs}.bn")
    yield from conv_norm(
        module.residual, f"{ours}.residual", f"{theirs}.down.0", f"{theirs}.down.1"
    )
    if not isinstance(module.attention, nn.Identity):
        names = {"joints": "conv_sa", "frames": "conv_ta", "squeeze": "fc1c", "excite": "fc2c"}
        for name, original in names.items():
            yield from same(f"{ours}.attention.{name}", f"{theirs}.{original}")


def ctrgcn(
    model: Any, head: str, fc: str, block: str, learned: str, target_first: bool = False
) -> Iterator[Entry]:
    yield from norm("data_norm", head)
    yield from same("fc", fc)
    for number, unit in enumerate(model.blocks):
        ours, theirs = f"blocks.{number}", block.format(number, next=number + 1)
        gcn = f"{theirs}.gcn1"
        yield from refined(unit.graph, f"{ours}.graph", gcn, learned, target_first)
        yield from branches(unit.temporal, f"{ours}.temporal", f"{theirs}.tcn1.branches")
        yield from unit_tcn(unit.residual, f"{ours}.residual", f"{theirs}.residual")


def refined(
    module: Any, ours: str, theirs: str, learned: str, target_first: bool
) -> Iterator[Entry]:
    """unit_ctrgcn: conv1 and conv2 make the relation, conv3 the features, conv4 the refinement.

    The original writes its topologies (target, source), PYSKL (source, target): the relation, a
    tanh of a difference, then has the other sign, which goes into conv4.
    """
    count = module.subsets
    convs = [f"{theirs}.convs.{k}" for k in range(count)]
    source_target = (2, 1) if target_first else (1, 2)
    negate = torch.neg if target_first else None
    expand = tuple(f"{conv}.conv4.weight" for conv in convs)
    yield graphs(f"{ours}.adjacency", f"{theirs}.{learned}", count=count, target_first=target_first)
    yield Entry(f"{ours}.alpha", (f"{theirs}.alpha",))
    yield from same(f"{ours}.relate", *(f"{c}.conv{n}" for n in source_target for c in convs))
    yield from same(f"{ours}.conv", *(f"{conv}.conv3" for conv in convs))
    yield Entry(f"{ours}.expand", expand, arrange=negate)
    yield Entry(f"{ours}.expand_bias", tuple(f"{conv}.conv4.bias" for conv in convs))
    yield from norm(f"{ours}.norm", f"{theirs}.bn")
    down = f"{theirs}.down"
    yield from conv_norm(module.residual, f"{ours}.residual", f"{down}.0", f"{down}.1")


def msg3d(
    model: Any,
    prefix: str,
    fc: str,
    learned: str,
    constant: str | None = None,
    target_first: bool = False,
) -> Iterator[Entry]:
    """`constant` names the graphs that PYSKL keeps in the file and the original does not."""
    yield from norm("data_norm", f"{prefix}data_bn")
    yield from same("fc", fc)
    for number, block in enumerate(model.blocks):
        ours, spatial = f"blocks.{number}", f"{prefix}sgcn{number + 1}"
        windowed = f"{prefix}gcn3d{number + 1}.gcn3d"
        convs = {f"{ours}.factorised.0": (block.factorised[0], f"{spatial}.0")}
        for pathway, module in enumerate(block.windowed):
            name = f"{ours}.windowed.{pathway}"
            convs[name] = module, f"{windowed}.{pathway}.gcn3d.1"
            yield from same(f"{name}.collapse", f"{windowed}.{pathway}.out_conv")
            yield from norm(f"{name}.collapse_norm", f"{windowed}.{pathway}.out_bn")
        for name, (module, theirs) in convs.items():
            order: dict[str, Any] = {"count": len(module.edges), "target_first": target_first}
            yield graphs(f"{name}.edges", f"{theirs}.{learned}", **order)
            if constant:
                yield graphs(f"{name}.skeleton", f"{theirs}.{constant}", **order)
            yield from same(f"{name}.conv", f"{theirs}.mlp.layers.0")
            yield from norm(f"{name}.norm", f"{theirs}.mlp.layers.1")
        temporal = {
            f"{ours}.factorised.1": (block.factorised[1], f"{spatial}.1"),
            f"{ours}.factorised.2": (block.factorised[2], f"{spatial}.2"),
            f"{ours}.temporal": (block.temporal, f"{prefix}tcn{number + 1}"),
        }
        for name, (module, theirs) in temporal.items():
            yield from branches(module.branches, f"{name}.branches", f"{theirs}.branches")
            yield from unit_tcn(module.residual, f"{name}.residual", f"{theirs}.residual")


def infogcn(model: Any) -> Iterator[Entry]:
    """The original; `to_qk` has the queries of all heads, then their keys, as ours."""
    yield from norm("data_norm", "data_bn")
    yield Entry("position", ("pos_embedding",))
    for ours, theirs in (
        ("embed", "to_joint_embedding"), ("hidden", "fc"), ("mean", "fc_mu"),
        ("log_variance", "fc_logvar"), ("fc", "decoder"),
    ):  # fmt: skip
        yield from same(ours, theirs)
    for number, unit in enumerate(model.blocks):
        ours, theirs = f"blocks.{number}", f"l{number + 1}"
        graph, agcn = f"{ours}.graph", f"{theirs}.agcn"
        count = unit.graph.heads
        yield Entry(f"{graph}.topology", (f"{agcn}.shared_topology",))
        yield from same(f"{graph}.embed_norm", f"{agcn}.attn.ln")
        yield from same(f"{graph}.embed", f"{agcn}.attn.to_qk")
        convs = [f"{agcn}.conv_d.{head}" for head in range(count)]
        yield subsets(f"{graph}.conv.weight", *(f"{c}.weight" for c in convs), count=count)
        yield Entry(f"{graph}.bias", tuple(f"{conv}.bias" for conv in convs))
        yield from norm(f"{graph}.norm", f"{agcn}.bn")
        down = f"{agcn}.down"
        yield from conv_norm(unit.graph.residual, f"{graph}.residual", f"{down}.0", f"{down}.1")
        yield from branches(unit.temporal, f"{ours}.temporal", f"{theirs}.tcn.branches")
        yield from unit_tcn(unit.residual, f"{ours}.residual", f"{theirs}.residual")


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
    adjacency: str  # of the first block, (.., V)
    width: str  # a norm of block {}, with as many channels as the block's output
    conv: str  # the first block's graph convolution
    names: Callable[[Any], Iterator[Entry]]  # of a network of this backbone
    data_norm: str
    fc: str = "fc.weight"
    start: int = 0  # number of the first block
    per_subset: bool = False  # `conv` is that of one of the G subsets
    embedded: bool = False  # `data_norm` is after the embedding, as wide as the first block


PYSKL, ORIGINAL = "mmcv (BRL, PYSKL)", "original"
HEAD: dict[str, Any] = {"data_norm": "backbone.data_bn.weight", "fc": "cls_head.fc_cls.weight"}
UNITS: dict[str, Any] = {
    "adjacency": "l1.gcn1.PA",
    "width": "l{}.gcn1.bn.weight",
    "data_norm": "data_bn.weight",
    "fc": "fc.weight",
    "start": 1,
    "per_subset": True,
}
PYSKL_NAMES: dict[str, Any] = {"head": "backbone.data_bn", "fc": "cls_head.fc_cls", "learned": "A"}
ORIGINAL_NAMES: dict[str, Any] = {
    "head": "data_bn",
    "fc": "fc",
    "block": "l{next}",
    "learned": "PA",
}

GCN: dict[str, Any] = {
    "adjacency": "backbone.gcn.0.gcn.A",
    "width": "backbone.gcn.{}.gcn.bn.weight",
    "conv": "backbone.gcn.0.gcn.conv.weight",
    **HEAD,
}
DYNAMIC: dict[str, Any] = {
    **GCN, "conv": "backbone.gcn.0.gcn.down.0.weight", "per_subset": True,
}  # fmt: skip
FORMS = (
    Form(
        "mmcv (ProtoGCN)",
        "protogcn",
        mark="backbone.prn.query_matrix.weight",
        names=protogcn,
        **DYNAMIC,
    ),
    Form(PYSKL, "dgstgcn", mark="backbone.gcn.0.tcn.add_coeff", names=dgstgcn, **DYNAMIC),
    Form(PYSKL, "stgcnpp", mark="backbone.gcn.0.tcn.transform.0.weight", names=stgcn_pyskl, **GCN),
    Form(
        PYSKL,
        "aagcn",
        mark="backbone.gcn.0.gcn.conv_d.0.weight",
        names=partial(aagcn, block="backbone.gcn.{}", gcn="gcn", tcn="tcn", **PYSKL_NAMES),
        **GCN | {"conv": "backbone.gcn.0.gcn.conv_d.0.weight", "per_subset": True},
    ),
    Form(PYSKL, "stgcn", mark="backbone.gcn.0.gcn.conv.weight", names=stgcn_pyskl, **GCN),
    Form(
        PYSKL,
        "ctrgcn",
        mark="backbone.net.0.gcn1.convs.0.conv1.weight",
        adjacency="backbone.net.0.gcn1.A",
        width="backbone.net.{}.gcn1.bn.weight",
        conv="backbone.net.0.gcn1.convs.0.conv3.weight",
        names=partial(ctrgcn, block="backbone.net.{}", **PYSKL_NAMES),
        per_subset=True,
        **HEAD,
    ),
    Form(
        PYSKL,
        "msg3d",
        mark="backbone.sgcn1.0.PA",
        adjacency="backbone.sgcn1.0.PA",
        width="backbone.sgcn{}.0.mlp.layers.1.weight",
        conv="backbone.sgcn1.0.mlp.layers.0.weight",
        names=partial(msg3d, prefix="backbone.", fc="cls_head.fc_cls", learned="PA", constant="A"),
        start=1,
        **HEAD,
    ),
    Form(
        f"{ORIGINAL} (InfoGCN)",
        "infogcn",
        mark="l1.agcn.shared_topology",
        adjacency="l1.agcn.shared_topology",
        width="l{}.agcn.bn.weight",
        conv="to_joint_embedding.weight",
        names=infogcn,
        data_norm="data_bn.weight",
        fc="decoder.weight",
        start=1,
        per_subset=True,
        embedded=True,
    ),
    Form(
        f"{ORIGINAL} (CTR-GCN)",
        "ctrgcn",
        mark="l1.gcn1.convs.0.conv1.weight",
        conv="l1.gcn1.convs.0.conv3.weight",
        names=partial(ctrgcn, target_first=True, **ORIGINAL_NAMES),
        **UNITS,
    ),
    Form(
        f"{ORIGINAL} (2s-AGCN)",
        "aagcn",
        mark="l1.gcn1.conv_d.0.weight",
        conv="l1.gcn1.conv_d.0.weight",
        names=partial(aagcn, gcn="gcn1", tcn="tcn1", **ORIGINAL_NAMES),
        **UNITS,
    ),
    Form(
        f"{ORIGINAL} (MS-G3D)",
        "msg3d",
        mark="sgcn1.0.A_res",
        adjacency="sgcn1.0.A_res",
        width="sgcn{}.0.mlp.layers.1.weight",
        conv="sgcn1.0.mlp.layers.0.weight",
        names=partial(msg3d, prefix="", fc="fc", learned="A_res", target_first=True),
        data_norm="data_bn.weight",
        start=1,
    ),
    Form(
        f"{ORIGINAL} (st-gcn)",
        "stgcn",
        mark="st_gcn_networks.0.gcn.conv.weight",
        adjacency="A",
        width="st_gcn_networks.{}.tcn.0.weight",
        conv="st_gcn_networks.0.gcn.conv.weight",
        names=stgcn_original,
        data_norm="data_bn.weight",
        fc="fcn.weight",
    ),
)
