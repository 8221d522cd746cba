"""Checkpoints of other projects: identify the network and translate the names of its weights."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from errors import InputError
from graph import Skeleton
from model.names import FORMS, ORIGINAL, Entry, Form, present_names

State = dict[str, Tensor]
FORMAT = "brl-checkpoint"  # under the key `format` in the checkpoints of this project's runs
VERSION = 1  # under `format_version`: raised when an older reader would misread what is written
SHOWN = 6  # names of each kind that an error lists at most
CONSTANT = ("backbone.A",)  # in PYSKL's MS-G3D, next to the graphs computed from it


def read(path: str | Path) -> Any:
    """Return the content of a file written by `torch.save`, on the CPU, without executing code from
    it.

    Raises InputError if that is not possible, if the file is damaged, or if a later version of this
    project wrote it.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file, e.g. {path / 'best.pt'}")
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    with path.open("rb") as file:
        start = file.read(16)
    if start.lstrip().startswith((b"<", b"{", b"version https")):  # a page, JSON, Git LFS
        raise InputError(
            f"{path} is a text file that begins with {start.decode(errors='replace')!r}, not a "
            "checkpoint; download it again"
        )
    try:
        damaged = damaged_member(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        if "weights_only" in str(error).lower() or "unsupported" in str(error).lower():
            raise InputError(
                f"{path} contains Python objects that would have to be executed: save its "
                "state dict alone, torch.save(model.state_dict(), ...)"
            ) from None
        raise InputError(f"{path} is not a checkpoint that torch.load can read") from None
    except PermissionError:
        raise
    except Exception as error:  # torch raises many types for damaged bytes
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is truncated or not a checkpoint: {line}") from None
    if damaged:
        raise InputError(f"{path}: is damaged (checksum of {damaged}); copy or download it again")
    version = checkpoint.get("format_version", 0) if isinstance(checkpoint, dict) else 0
    if not isinstance(version, int) or version > VERSION:
        raise InputError(
            f"{path}: has checkpoint format {version}, but this version of the project reads "
            f"formats up to {VERSION}: update the project"
        )
    return checkpoint


def damaged_member(path: Path) -> str | None:
    """Return the first part of a zip file, as torch.save writes it, whose checksum is wrong.

    torch.load does not compare them, and torch can write files without (all are 0).
    """
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        has_checksums = any(member.CRC for member in archive.infolist())
        return archive.testzip() if has_checksums else None


def weights(checkpoint: Any, path: str | Path = "the checkpoint") -> State:
    """Return the state dict in the content of a file, without the prefixes of DataParallel etc."""
    found = checkpoint
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict):
        raise InputError(f"{path} does not contain a state dict")
    inner = [
        value for value in found.values()
        if isinstance(value, dict) and any(isinstance(each, Tensor) for each in value.values())
    ]  # fmt: skip
    if len(inner) == 1 and not any(isinstance(value, Tensor) for value in found.values()):
        found = inner[0]  # under a name of its own, such as `net`
    state = {str(key): value for key, value in found.items() if isinstance(value, Tensor)}
    if not state:
        keys = ", ".join(map(str, list(found)[:6])) or "nothing"
        raise InputError(f"{path} does not contain a state dict in a known place; it has {keys}")
    if any(key.startswith("module.") for key in state):
        state.pop("n_averaged", None)  # of torch's AveragedModel
    for wrapper in ("module.", "_orig_mod.", "module."):  # of DataParallel and torch.compile
        if all(key.startswith(wrapper) for key in state):
            state = {key.removeprefix(wrapper): value for key, value in state.items()}
    return present_names(state)


def is_own(content: Any) -> bool:
    """Return whether the content of a file was written by a run, with its configuration."""
    return isinstance(content, dict) and content.get("format") == FORMAT


def form_of(state: State) -> Form | None:
    """Return the form of a state dict; None if it is unknown."""
    return next((form for form in FORMS if (form.mark or form.conv) in state), None)


@dataclass(frozen=True)
class Checkpoint:
    """A file that was read, and what it says about its network; errors name the file."""

    path: str | Path
    content: Any

    @classmethod
    def read(cls, path: str | Path) -> Checkpoint:
        return cls(path, read(path))

    @cached_property
    def state(self) -> State:
        """The state dict; InputError if there is none."""
        return weights(self.content, self.path)

    @cached_property
    def form(self) -> Form | None:
        """The form of the state dict; None for an unknown one and for this project's names."""
        return form_of(self.state)

    @property
    def form_network(self) -> str | None:
        """The import string of the network of the form."""
        return None if self.form is None else f"model.{self.form.backbone}.Model"

    @cached_property
    def network(self) -> tuple[str | None, dict[str, Any]]:
        """The import string of the network that the file names, else of its form's, and the
        arguments in the file.

        A run's checkpoint has both in its configuration, a converted one at its top level.
        """
        content = self.content if isinstance(self.content, dict) else {}
        for holder in (content.get("config") if is_own(content) else None, content):
            if isinstance(holder, dict) and isinstance(holder.get("model_args"), dict):
                name = holder.get("model")
                return name if isinstance(name, str) else self.form_network, holder["model_args"]
        return self.form_network, {}


def recognize(state: State) -> Form:
    """Return the form of a state dict; InputError if it is unknown."""
    if form := form_of(state):
        return form
    shown = ", ".join(list(state)[:3]) or "nothing"
    known = ", ".join(sorted({form.name for form in FORMS}))
    raise InputError(
        f"weights named {shown}, ... have none of the known forms ({known}); of this project's "
        "weights, the file must also say the network: use best.pt of a run, or give --config"
    )


def translate(state: State, model: nn.Module) -> State:
    """Return a state dict of any known form under the names of `model`.

    Raises InputError listing weights that are missing, left over or of another shape.
    """
    ours, backbone = model.state_dict(), type(model).__module__.rpartition(".")[2]
    is_ours = form_of(state) is None and not ours.keys().isdisjoint(state)
    if is_ours or state.keys() == ours.keys():  # a network may have another project's names
        return assemble(state, [Entry(key, (key,)) for key in ours], model)
    form = recognize(state)
    if form.backbone != backbone:
        raise InputError(
            f"the weights are those of {form.backbone} ({form.name}), the model is {backbone}: "
            f"set model=model.{form.backbone}.Model"
        )
    return assemble(state, list(form.names(model)), model)


def assemble(state: State, entries: list[Entry], model: nn.Module) -> State:
    """Return our tensors; InputError lists weights that are missing, left over or of another
    shape."""
    ours = model.state_dict()
    constants = dict(model.named_buffers(remove_duplicate=False))
    left = {key: value for key, value in state.items() if key not in CONSTANT}
    missing, misshaped, result = [], [], {}
    for entry in entries:
        absent = [key for key in entry.theirs if key not in state]
        parts = [left.pop(key, state[key]) for key in entry.theirs if key in state]
        if absent:
            if entry.ours.endswith("num_batches_tracked"):  # torch before 0.4.1 had no such counter
                result[entry.ours] = torch.zeros_like(ours[entry.ours])
            else:
                missing += absent
            continue
        expected = ours[entry.ours] if entry.ours in ours else constants[entry.ours]
        try:
            value = parts[0] if parts[0].ndim == 0 else torch.cat(parts)
            value = entry.arrange(value) if entry.arrange else value
        except (RuntimeError, IndexError):
            value = None
        if value is None or not fits(value, expected):
            plain = len(entry.theirs) == 1 and entry.arrange is None
            wanted = f", not {tuple(expected.shape)}" if plain else ""
            misshaped += [f"{key} {tuple(state[key].shape)}{wanted}" for key in entry.theirs]
            continue
        value = value.reshape(expected.shape)
        if entry.ours in ours:
            result[entry.ours] = value
        elif not is_near(value, expected):
            assert isinstance(model.skeleton, Skeleton)
            raise InputError(
                f"{entry.theirs[0]} is not the adjacency of {model.skeleton.name}: "
                "set model_args.graph to the layout that the weights were trained on"
            )
    problems = {"missing": missing, "left over": list(left), "of another shape": misshaped}
    if any(problems.values()):
        listed = "; ".join(f"{what}: {some(keys)}" for what, keys in problems.items() if keys)
        raise InputError(f"the weights do not fit {type(model).__module__}: {listed}")
    return result


def some(names: list[str]) -> str:
    """Return the first SHOWN names as text, and the number of the others."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def is_near(value: Tensor, expected: Tensor) -> bool:
    """Return whether an adjacency, on the CPU, equals that of a network up to the rounding of its
    entries, which are at most 1. On the meta device there are no values that could differ."""
    off = max(1e-5, torch.finfo(value.dtype).eps if value.is_floating_point() else 0)
    return expected.is_meta or torch.allclose(value.float(), expected.cpu(), rtol=0, atol=off)


def fits(value: Tensor, expected: Tensor) -> bool:
    """Return whether `value` has the shape of `expected`, apart from axes of length 1; the first
    two axes (subsets, outputs of each) may be joined."""
    if value.ndim == expected.ndim:
        return value.shape == expected.shape
    joined = (expected.shape[:2].numel(), *expected.shape[2:])
    return long_axes(value.shape) == long_axes(expected.shape) or (
        value.shape[:1] == joined[:1] and long_axes(value.shape) == long_axes(joined)
    )


def long_axes(shape: Iterable[int]) -> list[int]:
    return [length for length in shape if length != 1]


def infer_network(state: State) -> tuple[str, int, dict[str, Any]]:
    """Return the network of a state dict: its module in this package, the number of joints, and the
    arguments that names and shapes show (num_person only if they do).

    InputError if the form is unknown or weights are missing.
    """
    form = recognize(state)
    is_original = form.name.startswith(ORIGINAL)
    try:
        graph = state[form.adjacency]
        joints = graph.shape[-1]
        subsets = graph.numel() // joints**2
        widths: list[int] = []
        while (key := form.width.format(form.start + len(widths))) in state:
            widths.append(len(state[key]))
        in_channels = state[form.conv].numel() // (widths[0] * (1 if form.per_subset else subsets))
        columns = joints * (widths[0] if form.embedded else in_channels)
        persons = len(state[f"{form.data_norm}.weight"]) // columns
        args: dict[str, Any] = {"base_channels": widths[0]}
        if form.backbone == "msg3d":
            args |= {"num_gcn_scales": subsets, "num_g3d_scales": windowed_scales(state)}
            args["normalize"] = "symmetric" if is_original else "column"
        else:
            # Weights do not show strides: all known networks halve T where they double C.
            inflate = [n for n in range(2, len(widths) + 1) if widths[n - 1] > widths[n - 2]]
            args |= {"num_blocks": len(widths), "inflate": inflate, "down": inflate}
        if form.backbone == "stgcnpp":
            args |= stgcnpp_variant(state, form, widths[0])
        if form.backbone == "ctrgcn":
            args["relu_branches"] = not is_original
        if form.backbone == "aagcn":
            args["similarity"] = "tanh" if has(state, ".alpha") else "softmax"
            args["attention"] = has(state, ".conv_sa.weight")
        if form.backbone == "infogcn":
            args["num_head"] = subsets
        if form.backbone == "protogcn":
            args["num_prototype"] = len(state[form.mark])
        args |= {
            "norm_persons": persons > 1,
            "parent_edges": is_original,
            "cosine": f"{form.fc}.bias" not in state,
            "num_class": len(state[f"{form.fc}.weight"]),
            "in_channels": in_channels,
        }
    except (KeyError, StopIteration) as error:
        raise InputError(f"weights of {form.backbone} ({form.name}) lack {error}") from None
    except (TypeError, IndexError, ZeroDivisionError):
        raise InputError(
            f"weights of {form.backbone} ({form.name}): a tensor of the first block is misshapen"
        ) from None
    if persons > 1:  # else the weights do not depend on the number of persons
        args["num_person"] = persons
    return form.backbone, joints, args


def has(state: State, ending: str) -> bool:
    return any(key.endswith(ending) for key in state)


def stgcnpp_variant(state: State, form: Form, width: int) -> dict[str, Any]:
    """Return the arguments of an ST-GCN++ that select its graph convolutions."""
    learned = [value for key, value in state.items() if key.endswith(".PA")]
    adaptive = "init"
    if learned:  # same names; importance is initialized with 1, an offset with 0
        adaptive = "importance" if learned[0].mean() > 0.5 else "offset"
    return {
        "adaptive": adaptive,
        "bias_first": len(state[form.conv]) > width,
        "graph_residual": has(state, "0.gcn.down.0.weight"),
    }


def windowed_scales(state: State) -> int:
    """Return the number of scales of an MS-G3D's windowed graphs."""
    endings = ("gcn3d1.gcn3d.0.gcn3d.1.PA", "gcn3d1.gcn3d.0.gcn3d.1.A_res")
    windowed = next(value for key, value in state.items() if key.endswith(endings))
    return windowed.numel() // windowed.shape[-1] ** 2
