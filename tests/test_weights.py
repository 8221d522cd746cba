"""tools.weights: says what a released checkpoint is, and converts it without changing a value."""

import numpy as np
import pytest
import torch

import model as models
from errors import run_command
from tools import weights

RELEASED = {
    "stgcnpp_b16": "stgcnpp", "stgcn_b16": "stgcn", "aagcn_b16": "aagcn", "ctrgcn_b16": "ctrgcn",
    "msg3d_b12_s5_2": "msg3d",
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_checkpoint_is_described_and_converted(golden, tmp_path, capsys, name):
    out = tmp_path / "ours.pt"
    assert run_command(weights.main, [str(golden / f"model_{name}.pth"), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"model.{RELEASED[name]}.Model" in said and "60" in said and "25" in said
    vectors = np.load(golden / f"model_{name}.npz")
    clips = torch.from_numpy(vectors["keypoint"])
    with torch.no_grad():
        logits = models.from_checkpoint(out).eval()(clips)
    scale = np.abs(vectors["logits"]).max()
    np.testing.assert_allclose(logits, vectors["logits"], atol=1e-4 * scale)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_what_is_no_checkpoint_gets_one_line(tmp_path, capsys, content):
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    assert run_command(weights.main, [str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
