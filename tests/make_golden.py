"""Make tests/golden/vectors.tar.xz, the reduced set of golden vectors, from the whole set.

python -m tests.make_golden [../shared/golden]

The reduced set has the files of the whole one under the same names, each with those of its arrays
that are worth their size; so every test reads either set by the same code (`golden` in
conftest.py), and a test whose file is in neither is skipped. It contains figures only: arrays,
names and numbers.

`small_networks.npz` alone is not the released implementations' but what this project's own networks
compute; make the set only where the whole test suite passes with the whole set of vectors, which
vouches for them.
"""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from model import aagcn, ctrgcn, dgstgcn, infogcn, msg3d, protogcn, stgcn, stgcnpp

ARCHIVE = Path(__file__).parent / "golden" / "vectors.tar.xz"
LIMIT = 750_000  # bytes of the archive
# Short clips of one and two persons, one in float16 and one without a person.
CLIPS = ("m1_t20", "m2_t20", "m1_t50_f16", "m1_t20_zero")
Selection = Callable[[str], bool]


def _everything(key: str) -> bool:
    return True


def _of_clips(key: str) -> bool:
    return any(part in CLIPS or part.startswith(("nokp", "nw_ucla")) for part in key.split("|"))


def _features(key: str) -> bool:
    return key.split("|")[1] == "m1_t20"


def _pipelines(key: str) -> bool:
    feature, mode, clip = key.split("|")
    clips = ("m1_t20", "m2_t20", "m1_t20_zero") if feature == "j" else ("m1_t20",)
    return clip in clips and mode in ("val", "test", "train_seed0")


# {file: which of its arrays}
SELECTED: dict[str, Selection] = {
    "graphs.npz": _everything,
    "losses.npz": lambda key: key.startswith(("xsub_train_60|", "train_10|")),
    "mixup.npz": lambda key: "ucla" in key,
    "tf_annotations.npz": _of_clips,
    "tf_augment.npz": lambda key: key.startswith(("in", "RandomScale", "RandomRot|", "Spatial")),
    "tf_genskefeat.npz": _features,
    "tf_k400.npz": lambda key: not key.startswith("k400"),
    "tf_pipelines.npz": _pipelines,
    "tf_prenormalize3d.npz": _of_clips,
    "tf_uniformsample.npz": _of_clips,
    "e2e/sampler.npz": _everything,
    "original_aagcn.npz": _everything,
    "original_ctrgcn_ucla.npz": _everything,
    "original_msg3d.npz": _everything,
    "original_stgcn.npz": _everything,
    "model_stgcnpp_b16_offset_post.npz": _everything,
}
WHOLE = ("model_stgcnpp_b16_offset_post.pth",)  # weights: few, and read without unpickling code

# Small networks {name: how to build it}, one per backbone and adjacency.
SMALL = {"num_class": 5, "base_channels": 8}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "stgcnpp": lambda: stgcnpp.Model(**SMALL),
    "stgcnpp_nw_ucla": lambda: stgcnpp.Model(graph="nw_ucla", num_person=1, **SMALL),
    "stgcn": lambda: stgcn.Model(**SMALL),
    "aagcn": lambda: aagcn.Model(**SMALL),
    "ctrgcn": lambda: ctrgcn.Model(**SMALL),
    "dgstgcn": lambda: dgstgcn.Model(**SMALL),
    "protogcn": lambda: protogcn.Model(num_prototype=10, **SMALL),
    "infogcn": lambda: infogcn.Model(num_class=5, base_channels=16),
    "msg3d": lambda: msg3d.Model(num_class=5, base_channels=12, num_gcn_scales=3, num_g3d_scales=2),
}


def network_vectors(name: str) -> dict[str, np.ndarray]:
    """Return what a small network computes in float64 from weights and clips drawn from a seed:
    `logits` (2, 5) in evaluation, and per parameter the norm of the gradient of a cross entropy in
    training, dropout off, `gradients` (P,)."""
    model = NETWORKS[name]().double()
    random = np.random.RandomState(7)
    state = model.state_dict()
    parameters = dict(model.named_parameters())
    for key, value in state.items():
        if key.endswith("running_var"):
            drawn = random.uniform(0.5, 1.5, value.shape)
        elif key in parameters and value.dim() > 1:
            drawn = random.standard_normal(value.shape) / np.sqrt(np.prod(value.shape[1:]))
        elif key in parameters or key.endswith("running_mean"):
            drawn = 0.1 * random.standard_normal(value.shape)
        else:
            continue
        scale = key in parameters and value.dim() == 1 and key.endswith("weight")
        state[key] = torch.from_numpy(np.asarray(drawn + scale)).double()
    model.load_state_dict(state)
    shape = (2, model.num_person, 8, model.skeleton.num_joints, model.in_channels)
    clips = torch.from_numpy(random.standard_normal(shape).cumsum(axis=2))
    with torch.no_grad():
        logits = model.eval()(clips)
    for module in model.train().modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    with torch.random.fork_rng():  # InfoGCN draws its code
        torch.manual_seed(7)
        loss = nn.functional.cross_entropy(model(clips), torch.tensor([1, 3]))
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    norms = [0.0 if each is None else each.norm().item() for each in gradients]
    return {"logits": logits.numpy(), "gradients": np.array(norms)}


def reduced(source: Path) -> dict[str, bytes]:
    """Return {file: content} of the reduced set of the golden vectors in `source`."""
    contents = {}
    for name, wanted in SELECTED.items():
        with np.load(source / name) as file:
            arrays = {key: file[key] for key in file.files if wanted(key)}
        contents[name] = _npz({key: _rounded(name, key, value) for key, value in arrays.items()})
    own = {
        f"{name}|{key}": value for name in NETWORKS for key, value in network_vectors(name).items()
    }
    contents["small_networks.npz"] = _npz(own)
    return contents | {name: (source / name).read_bytes() for name in WHOLE}


def _rounded(name: str, key: str, value: np.ndarray) -> np.ndarray:
    """Return normalized clips in float32, in which they are compared; m2_t20, which the vectors of
    augmentation and streams begin with, and everything else as it is."""
    if name == "tf_prenormalize3d.npz" and value.dtype == np.float64 and "m2_t20" not in key:
        return value.astype(np.float32)
    return value


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return an uncompressed .npz: what two files share, xz then stores once."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def pack(contents: Mapping[str, bytes], archive: Path) -> None:
    """Write the files to a .tar.xz that depends on nothing but their contents."""
    with tarfile.open(archive, "w:xz", preset=9) as out:
        for name, content in sorted(contents.items()):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))


def unpack(folder: Path, archive: Path = ARCHIVE) -> None:
    """Write the files of the reduced set below `folder`."""
    for name, content in contents_of(archive).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def contents_of(archive: Path) -> dict[str, bytes]:
    """Return {file: content} of an archive that `pack` wrote."""
    contents = {}
    with tarfile.open(archive) as file:
        for member in file:
            opened = file.extractfile(member)
            assert opened is not None, f"{member.name} is not a file"
            contents[member.name] = opened.read()
    return contents


def main(argv: list[str]) -> None:
    source = Path(argv[0]) if argv else Path(__file__).resolve().parents[2] / "shared/golden"
    ARCHIVE.parent.mkdir(exist_ok=True)
    pack(reduced(source), ARCHIVE)
    print(f"{ARCHIVE}: {ARCHIVE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
