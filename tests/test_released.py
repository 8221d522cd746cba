"""A released checkpoint end to end: pickle, store, main.py --phase test, its own scores."""

import json
import pickle

import numpy as np
import pytest

import main
from data import prepare
from engine import config
from tests import quick

STREAMS = {
    "joint": "result", "bone": "result_b", "skip": "result_k", "joint-motion": "result_jm",
    "bone-motion": "result_bm", "skip-motion": "result_km",
}  # fmt: skip


@pytest.fixture(scope="module")
def benchmark(golden, tmp_path_factory):
    """The store of the end-to-end vectors and a configuration for it."""
    root = tmp_path_factory.mktemp("released")
    prepare.main(["pyskl", str(golden / "e2e/anno.pkl"), "--out", str(root / "store")])
    (root / "joint.yaml").write_text(
        f"""store: {root}/store
protocol: ntu60-xsub
training_list: {golden}/e2e/train_list.txt
model_args: {{graph: ntu_rgb_d, num_class: 60, num_person: 2, base_channels: 16}}
"""
    )
    return root


def score(golden, root, folder, *more):
    """Test the released checkpoint as a user would; return its scores in the released order."""
    main.main(
        ["--phase", "test", "--config", str(root / "joint.yaml"), "--device", "cpu", "--quiet",
         "--weights", str(golden / "model_stgcnpp_b16.pth"), "--work-dir", str(folder), *more]
    )  # fmt: skip
    names = json.loads((golden / "e2e/metrics.json").read_text())["val_names"]
    with np.load(folder / "scores.npz") as file:
        rows = {name: row for row, name in enumerate(file["names"].tolist())}
        return file["scores"][[rows[name] for name in names]]


@pytest.mark.parametrize("stream", quick.only(["joint"], STREAMS))
def test_ten_clip_scores(golden, benchmark, tmp_path, stream):
    ours = score(golden, benchmark, tmp_path, "--stream", stream)
    released = np.stack(pickle.loads((golden / f"e2e/{STREAMS[stream]}.pkl").read_bytes()))
    np.testing.assert_allclose(ours, released, atol=1e-4)
    assert np.abs(released).max() > 0.01  # far above the tolerance
    assert config.load([tmp_path / "config.yaml"]).stream == stream  # for the fusion and the report
    result = json.loads((tmp_path / "result.json").read_text())
    metrics = json.loads((golden / "e2e/metrics.json").read_text())[STREAMS[stream][7:] or "j"]
    assert result["top1"] == pytest.approx(100 * metrics["top1_acc"])
    assert result["top5"] == pytest.approx(100 * metrics["top5_acc"])
    # Released mean_class_accuracy counts a class that is only predicted as one of accuracy 0.
    assert result["mean_class"] >= 100 * metrics["mean_class_accuracy"] - 1e-9


def test_one_clip_scores(golden, benchmark, tmp_path):
    ours = score(golden, benchmark, tmp_path, "--set", "test_clips=1")
    released = np.stack(pickle.loads((golden / "e2e/result_1clip.pkl").read_bytes()))
    np.testing.assert_allclose(ours, released, atol=1e-4)
