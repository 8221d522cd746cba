"""tools.export: exported networks have the same logits, and metadata that describes the input."""

import json

import numpy as np
import pytest
import torch

from engine import checkpoint
from engine.config import Config
from engine.predict import LoadedNetwork
from errors import InputError, run_command
from tests import quick
from tests.test_predict import save
from tools import export

CPU = torch.device("cpu")
NAMES = ["wave", "kick", "bow"]
# Small variants of the backbones: one block, which halves the frames (MS-G3D has three blocks).
BLOCK = {"base_channels": 8, "num_blocks": 1, "inflate": [], "down": [1]}
SMALL = {
    "stgcnpp": BLOCK,
    "stgcn": BLOCK,
    "aagcn": BLOCK,
    "ctrgcn": BLOCK,
    "dgstgcn": BLOCK,
    "protogcn": BLOCK,
    "infogcn": BLOCK,
    "msg3d": {"base_channels": 12, "num_gcn_scales": 3, "num_g3d_scales": 2},
}


def small(folder, backbone="stgcnpp"):
    args = {"graph": "nw_ucla", "num_class": 3, "num_person": 2, **SMALL[backbone]}
    config = Config(model=f"model.{backbone}.Model", model_args=args, stream="bone", frames=20)
    return save(folder / "best.pt", config, names=NAMES, layout="nw_ucla")


@pytest.fixture
def clips():
    """Clips with another batch size and length than the traced input."""
    return torch.from_numpy(np.random.default_rng(0).normal(size=(5, 2, 37, 20, 3))).float()


@pytest.mark.parametrize("backbone", quick.only(["stgcn"], SMALL))
def test_onnx_logits_and_metadata(backbone, clips, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    weights = small(tmp_path, backbone)
    assert run_command(export.main, [str(weights), "--format", "onnx"]) == 0
    assert "largest difference" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(str(weights.with_suffix(".onnx")))
    (logits,) = session.run(None, {"clips": clips.numpy()})
    expected = LoadedNetwork.load(weights, CPU).model.eval()(clips).detach().numpy()
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()
    notes = session.get_modelmeta().custom_metadata_map
    assert json.loads(notes["class_names"]) == NAMES
    assert (notes["layout"], notes["stream"], notes["frames"]) == ("nw_ucla", "bone", "20")
    assert notes["normalization"] == "nw-ucla"


@pytest.mark.parametrize("backbone", quick.only(["stgcn"], SMALL))
def test_torch_program_logits_and_metadata(backbone, clips, tmp_path):
    weights, out = small(tmp_path, backbone), tmp_path / "net.pt2"
    assert run_command(export.main, [str(weights), "--format", "torch", "--out", str(out)]) == 0
    notes = {"notes.json": ""}
    program = torch.export.load(out, extra_files=notes)
    expected = LoadedNetwork.load(weights, CPU).model.eval()(clips)
    torch.testing.assert_close(program.module()(clips), expected, rtol=1e-4, atol=1e-6)
    notes = json.loads(notes["notes.json"])
    assert json.loads(notes["class_names"]) == NAMES and notes["stream"] == "bone"


def test_the_calibration_is_exported(tmp_path):
    weights = small(tmp_path)
    assert export.describe(LoadedNetwork.load(weights, CPU))["threshold"] == "0.0"
    keep = {"temperature": 2.5, "threshold": 0.3, "coverage": None, "samples": 3}
    checkpoint.save(weights, checkpoint.read(weights) | {"calibration": keep})
    notes = export.describe(LoadedNetwork.load(weights, CPU))
    assert (notes["temperature"], notes["threshold"]) == ("2.5", "0.3")
    assert notes["test_clips"] == "10"


@pytest.mark.parametrize(("factor", "said"), [(1.001, r"1\.0e-03"), (np.nan, "nan")])
def test_file_with_wrong_logits_is_not_written(tmp_path, monkeypatch, factor, said):
    weights = small(tmp_path)
    model = LoadedNetwork.load(weights, CPU).model.eval()
    monkeypatch.setattr(export, "trace", lambda model, takes: None)
    wrong = (lambda program, notes: b"", lambda file: lambda clips: factor * model(clips).numpy())
    monkeypatch.setitem(export.FORMATS, "torch", wrong)
    with pytest.raises(SystemExit, match=rf"is not written.* {said} of the largest"):
        export.main([str(weights), "--format", "torch"])
    assert not weights.with_suffix(".pt2").exists()


def test_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(export.NEEDED, "onnx", ("onnx", "no_such_package"))
    with pytest.raises(InputError, match="requires no_such_package: pip install"):
        export.main([str(small(tmp_path))])
