"""tools.weights: describes checkpoints, and converts them without changing a value."""

import dataclasses
import io

import numpy as np
import pytest
import torch
import yaml

import graph as graphs
import model as models
from engine import checkpoint
from engine.config import Config
from errors import InputError, run_command
from model import aagcn, msg3d, stgcn, stgcnpp, upstream
from tests import quick
from tools import weights

RELEASED = {
    "stgcnpp_b16": "stgcnpp", "stgcn_b16": "stgcn", "aagcn_b16": "aagcn", "ctrgcn_b16": "ctrgcn",
    "msg3d_b12_s5_2": "msg3d", "dgstgcn_b16": "dgstgcn", "dgstgcn_b16_coco": "dgstgcn",
    "protogcn_b8": "protogcn",
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASED)
def test_released_checkpoint_is_described_and_converted(golden, tmp_path, capsys, name):
    out = tmp_path / "ours.pt"
    assert run_command(weights.main, [str(golden / f"model_{name}.pth"), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    vectors = np.load(golden / f"model_{name}.npz")
    joints, classes = vectors["keypoint"].shape[3], vectors["logits"].shape[1]
    assert f"model.{RELEASED[name]}.Model" in printed
    assert str(joints) in printed and str(classes) in printed
    clips = torch.from_numpy(vectors["keypoint"])
    with torch.no_grad():
        logits = models.from_checkpoint(out).eval()(clips)
    scale = np.abs(vectors["logits"]).max()
    np.testing.assert_allclose(logits, vectors["logits"], atol=1e-4 * scale)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_invalid_file_is_one_line_error(tmp_path, capsys, content):
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    assert run_command(weights.main, [str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_file_is_one_line_error(tmp_path, zipped):
    file, path = io.BytesIO(), tmp_path / "x.pt"
    state = {"fc.weight": torch.randn(3, 4), "count": torch.tensor(3)}
    torch.save({"state_dict": state}, file, _use_new_zipfile_serialization=zipped)
    random, whole = np.random.default_rng(0), np.frombuffer(file.getvalue(), np.uint8)
    for trial in range(300):
        content = whole[: random.integers(len(whole))].copy() if trial % 3 == 0 else whole.copy()
        places = random.integers(max(len(content), 1), size=random.integers(1, 5))
        content[places[: len(content)]] = random.integers(256)
        path.write_bytes(content.tobytes())
        try:
            upstream.weights(upstream.read(path), path)
        except InputError as error:
            assert "\n" not in str(error)


def test_a_changed_weight_is_found_by_its_checksum(tmp_path):
    """torch.load does not compare checksums; torch can also write files that have none."""
    path, state = tmp_path / "x.pt", {"fc.weight": torch.full((3, 4), 7.0)}
    torch.save(state, path)
    whole = path.read_bytes()
    value = np.float32(7).tobytes()
    path.write_bytes(whole.replace(value, np.float32(-7).tobytes(), 1))
    assert torch.load(path)["fc.weight"].min() == -7
    with pytest.raises(InputError, match=r"is damaged \(checksum of x/data/0\); copy"):
        upstream.read(path)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert upstream.read(path)["fc.weight"].eq(7).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(golden, tmp_path, value):
    """A network with one answers every clip with the first class, or with NaN."""
    whole, path = golden / "model_stgcnpp_b16.pth", tmp_path / "x.pt"
    state = upstream.weights(upstream.read(whole))
    name = "cls_head.fc_cls.weight"
    state[name][1, 2] = value
    torch.save(state, path)
    with pytest.raises(InputError, match=f"{path}: {name}: NaN or infinite"):
        models.from_checkpoint(path)
    network = models.from_checkpoint(whole)
    with pytest.raises(InputError, match=f"{name}: NaN or infinite"):
        models.load_weights(network, path)


def test_transposed_weights_are_rejected(golden):
    """Weights with as many values in another shape must not be loaded."""
    weights = upstream.weights(upstream.read(golden / "model_stgcnpp_b16.pth"))
    model = models.from_checkpoint(golden / "model_stgcnpp_b16.pth")
    for key, value in weights.items():
        if value.ndim > 1 and len(value) != value.shape[1]:
            with pytest.raises(InputError, match=f"of another shape: .*{key} "):
                upstream.translate({**weights, key: value.transpose(0, 1)}, model)


def test_weights_of_another_graph_are_rejected(golden):
    """The fixed adjacency in a checkpoint identifies the graph of its training."""
    for name, key in (("stgcn_b16", "gcn.1.gcn.A"), ("stgcnpp_b16_offset_post", "gcn.0.gcn.A")):
        weights = upstream.weights(upstream.read(golden / f"model_{name}.pth"))
        model = models.from_checkpoint(golden / f"model_{name}.pth")
        weights[f"backbone.{key}"] = weights[f"backbone.{key}"].roll(1, -1)
        with pytest.raises(InputError, match=f"{key} is not the adjacency of ntu_rgb_d"):
            upstream.translate(weights, model)


def test_error_of_wrong_number_of_classes_has_both_shapes(golden):
    model = stgcnpp.Model(num_class=10, base_channels=16)
    before = model.fc.weight.clone()
    with pytest.raises(InputError, match=r"fc_cls.weight \(60, 64\), not \(10, 64\)"):
        checkpoint.load_weights(model, golden / "model_stgcnpp_b16.pth")
    assert torch.equal(model.fc.weight, before)


def test_wrappers_are_removed_from_names():
    net = stgcnpp.Model(num_class=5, base_channels=8, num_blocks=1)
    expected = net.state_dict()
    for wrapped in (
        torch.nn.DataParallel(net),
        torch.compile(net),
        torch.compile(torch.nn.DataParallel(net)),
        torch.nn.DataParallel(torch.compile(net)),
        torch.optim.swa_utils.AveragedModel(torch.nn.DataParallel(net)),
    ):
        state = upstream.weights(wrapped.state_dict())
        assert state.keys() == expected.keys()


def test_error_of_file_without_weights_lists_its_keys(tmp_path):
    torch.save({"optimizer": {"state": {}}, "epoch": 3, 7: None}, tmp_path / "x.pt")
    with pytest.raises(InputError, match="it has optimizer, epoch, 7"):
        models.from_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("name", quick.only(["stgcnpp_b16", "stgcn_b16"], RELEASED))
def test_half_precision_weights_are_loaded(golden, tmp_path, name):
    """The adjacency in the file, if any, is rounded like the other tensors."""
    state = upstream.weights(upstream.read(golden / f"model_{name}.pth"))
    for dtype in (torch.float16, torch.bfloat16):
        half = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
        torch.save(half, tmp_path / "half.pt")
        ours = models.from_checkpoint(tmp_path / "half.pt").state_dict()
        for key, value in models.from_checkpoint(golden / f"model_{name}.pth").state_dict().items():
            wanted = value.to(dtype).to(value.dtype) if value.is_floating_point() else value
            assert torch.equal(ours[key], wanted), key


def test_incomplete_tensor_is_reported_as_missing_only(golden):
    model = models.from_checkpoint(golden / "model_aagcn_b16.pth")
    state = upstream.weights(upstream.read(golden / "model_aagcn_b16.pth"))
    del state["backbone.gcn.0.gcn.conv_d.2.weight"]
    with pytest.raises(InputError, match=r"missing: backbone.gcn.0.gcn.conv_d.2.weight$"):
        upstream.translate(state, model)


@pytest.mark.parametrize(
    ("backbone", "args"),
    [
        (stgcn, {}),
        (msg3d, {"num_gcn_scales": 3, "num_g3d_scales": 2}),
        (aagcn, {"similarity": "softmax", "attention": False}),
    ],
)
def test_layout_and_persons_are_read_from_own_checkpoint(tmp_path, capsys, backbone, args):
    """A layout with the number of joints of a known one but other edges cannot be inferred."""
    table = yaml.safe_load((graphs.FOLDER / "ntu_rgb_d.yaml").read_text())
    table["edges"][0] = [0, 5]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(table))
    args = {"graph": str(tmp_path / "mine.yaml"), "num_person": 1, "num_class": 5,
            "norm_persons": False, "base_channels": 12, **args}  # fmt: skip
    net = backbone.Model(**args).eval()
    config = dataclasses.asdict(Config(model=f"{backbone.__name__}.Model", model_args=args))
    state = {"config": config, "model": net.state_dict()}
    checkpoint.save(tmp_path / "own.pt", state)
    out = tmp_path / "converted.pt"
    assert run_command(weights.main, [str(tmp_path / "own.pt"), "--out", str(out)]) == 0
    assert "mine.yaml" in capsys.readouterr().out
    for path in (tmp_path / "own.pt", out):
        argv = [str(path), "--num-person", "7", "--out", str(tmp_path / "seven.pt")]
        assert run_command(weights.main, argv) == 2
        assert "says that its network takes 1; omit it" in capsys.readouterr().err
    assert not (tmp_path / "seven.pt").exists()
    clips = torch.randn(2, 1, 8, 25, 3)
    with torch.no_grad():
        for path in (tmp_path / "own.pt", out):
            assert torch.equal(models.from_checkpoint(path)(clips), net(clips))
