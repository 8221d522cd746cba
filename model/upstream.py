"""Checkpoints of other projects: which form a file has, and its weights under this project's names.

A form is a list of `Entry`: one tensor here, the tensors it is made of there, and how. Everything
that joins tensors here is a reordering, so the same list also splits a tensor (or its gradient).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from errors import InputError
from model.layers import ConvNorm, GraphConv, MultiScaleTemporal

State = dict[str, Tensor]


@dataclass(frozen=True)
class Entry:
    """Tensor `ours` is made of the tensors `theirs`, joined along the first axis.

    `arrange` takes the joined tensor to our shape and `restore` takes ours back.
    """

    ours: str
    theirs: tuple[str, ...]
    arrange: Callable[[Tensor], Tensor] | None = None
    restore: Callable[[Tensor], Tensor] | None = None


def translate(state: State, model: nn.Module) -> State:
    """Return a foreign state dict under the names of `model`; InputError if it does not fit it."""
    state = unwrap(state)
    if any(key.startswith("backbone.") for key in state):
        return join(state, list(mmcv(model)), model)
    raise InputError("the weights have no form that is known here")


def unwrap(state: State) -> State:
    """Return the state dict without the prefix that DataParallel adds."""
    if state and all(key.startswith("module.") for key in state):
        return {key.removeprefix("module."): value for key, value in state.items()}
    return state


def join(state: State, entries: list[Entry], model: nn.Module) -> State:
    """Return our tensors; InputError lists what is missing, left over or of another shape."""
    ours = model.state_dict()
    constants = dict(model.named_buffers(remove_duplicate=False))
    left = dict(state)
    missing, misshaped, result = [], [], {}
    for entry in entries:
        absent = [key for key in entry.theirs if key not in state]
        if absent:
            missing += absent
            continue
        parts = [left.pop(key, state[key]) for key in entry.theirs]
        expected = ours.get(entry.ours, constants.get(entry.ours))
        try:
            value = parts[0] if parts[0].ndim == 0 else torch.cat(parts)
            value = entry.arrange(value) if entry.arrange else value
            value = value.reshape(expected.shape)
        except RuntimeError:
            misshaped += [f"{key} {tuple(state[key].shape)}" for key in entry.theirs]
            continue
        if entry.ours not in ours:
            if not torch.allclose(value.float(), expected.float(), atol=1e-5):
                raise InputError(
                    f"{entry.theirs[0]} is the adjacency of another skeleton than "
                    f"{model.skeleton.name}: set model_args.graph"
                )
        else:
            result[entry.ours] = value
    problems = {"missing": missing, "left over": list(left), "of another shape": misshaped}
    if any(problems.values()):
        listed = "; ".join(f"{what}: {', '.join(keys)}" for what, keys in problems.items() if keys)
        raise InputError(f"the weights do not fit {type(model).__module__}: {listed}")
    return result


def split(tensors: State, entries: list[Entry], shapes: dict[str, torch.Size]) -> State:
    """Return tensors of ours (weights or gradients) as theirs, which have the given shapes."""
    result = {}
    for entry in entries:
        if entry.ours not in tensors or tensors[entry.ours].ndim == 0:
            continue
        value = tensors[entry.ours]
        value = entry.restore(value) if entry.restore else value
        lengths = [shapes[key].numel() for key in entry.theirs]
        for key, part in zip(entry.theirs, value.reshape(-1).split(lengths)):
            result[key] = part.reshape(shapes[key])
    return result


def same(ours: str, *theirs: str, leaves: tuple[str, ...] = ("weight", "bias")) -> Iterator[Entry]:
    """A convolution or linear layer joined from several along its outputs."""
    for leaf in leaves:
        yield Entry(f"{ours}.{leaf}", tuple(f"{name}.{leaf}" for name in theirs))


def norm(ours: str, *theirs: str) -> Iterator[Entry]:
    """A batch norm joined from several; their counters of batches are all the same."""
    leaves = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    yield from same(ours, *theirs, leaves=leaves)


def conv_norm(module: nn.Module | None, ours: str, conv: str, batch_norm: str) -> Iterator[Entry]:
    """A residual path, which has weights only where shapes change."""
    if isinstance(module, ConvNorm):
        yield from same(f"{ours}.conv", conv)
        yield from norm(f"{ours}.norm", batch_norm)


def graph_conv(module: GraphConv, ours: str, theirs: str) -> Iterator[Entry]:
    """PYSKL's unit_gcn."""
    if module.adaptive == "init":
        yield Entry(f"{ours}.adjacency", (f"{theirs}.A",))
    else:
        yield Entry(f"{ours}.edges", (f"{theirs}.PA",))
        yield Entry(f"{ours}.skeleton", (f"{theirs}.A",))
    if module.bias is None:
        yield from same(f"{ours}.conv", f"{theirs}.conv")
    else:
        count = len(module.matrix())
        yield subsets(f"{ours}.conv.weight", f"{theirs}.conv.weight", count=count)
        yield Entry(f"{ours}.bias", (f"{theirs}.conv.bias",))
    yield from norm(f"{ours}.norm", f"{theirs}.bn")
    yield from conv_norm(
        module.residual, f"{ours}.residual", f"{theirs}.down.0", f"{theirs}.down.1"
    )


def subsets(ours: str, *theirs: str, count: int) -> Entry:
    """K convolutions of x, (K C', C), as one of the K gathered inputs, (C', K C)."""
    return Entry(
        ours,
        theirs,
        arrange=lambda weight: weight.unflatten(0, (count, -1)).flatten(2).transpose(0, 1),
        restore=lambda weight: weight.flatten(1).unflatten(1, (count, -1)).transpose(0, 1),
    )


def multi_scale(module: MultiScaleTemporal, ours: str, theirs: str) -> Iterator[Entry]:
    """PYSKL's mstcn: the branches are numbered dilations, pooling, plain."""
    reduced = [f"{theirs}.branches.{branch}" for branch in range(len(module.widths))]
    yield from same(f"{ours}.reduce.conv", *(f"{branch}.0" for branch in reduced))
    yield from norm(f"{ours}.reduce.norm", *(f"{branch}.1" for branch in reduced))
    for number, branch in enumerate(reduced[:-1]):
        yield from same(f"{ours}.convs.{number}", f"{branch}.3.conv")
    yield from same(f"{ours}.plain", f"{theirs}.branches.{len(reduced)}")
    yield from norm(f"{ours}.norm", f"{theirs}.transform.0")
    yield from same(f"{ours}.merge.conv", f"{theirs}.transform.2")
    yield from norm(f"{ours}.merge.norm", f"{theirs}.bn")


def mmcv(model: nn.Module) -> Iterator[Entry]:
    """BRL's and PYSKL's names: `backbone.*` and `cls_head.fc_cls.*`."""
    yield from norm("data_norm", "backbone.data_bn")
    yield from same("fc", "cls_head.fc_cls")
    for number, block in enumerate(model.blocks):
        ours, theirs = f"blocks.{number}", f"backbone.gcn.{number}"
        yield from graph_conv(block.graph, f"{ours}.graph", f"{theirs}.gcn")
        yield from multi_scale(block.temporal, f"{ours}.temporal", f"{theirs}.tcn")
        residual = f"{theirs}.residual"
        yield from conv_norm(
            block.residual, f"{ours}.residual", f"{residual}.conv", f"{residual}.bn"
        )
