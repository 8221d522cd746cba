"""The script beside an exported network makes the inputs that the recognizer makes."""

import dataclasses
import os
import runpy
import subprocess
import sys

import numpy as np
import pytest
import torch

from engine.config import Config
from engine.predict import LoadedNetwork, Recognizer, answer
from errors import InputError, run_command
from flags import STREAMS
from longtail.calibration import tempered
from tests.test_predict import save
from tools import export, preprocess

CPU = torch.device("cpu")
TINY = {"base_channels": 8, "num_blocks": 1, "inflate": [], "down": []}
BOX = {"choice": "even", "box": True, "scale": 0.0}


FACTS = ("normalization", "centre", "drops_empty_frames", "size")


def checkpoint(folder, layout, stream, persons=1, **more):
    args = {"graph": layout, "num_class": 3, "num_person": persons, **TINY}
    values = {"frames": 20, "test_clips": 3, "stream": stream, "model_args": args}
    facts = {key: more.pop(key) for key in FACTS if key in more}
    names = ["a", 'b "c"', "d\\e"]
    return save(
        folder / "best.pt", Config(**{**values, **more}), names=names, layout=layout, **facts
    )


def recorded(layout, frames, persons):
    """A walking body in meters, or 2D poses in pixels with scores; some joints are unseen."""
    random = np.random.default_rng(0)
    joints = {"ntu_rgb_d": 25, "nw_ucla": 20, "coco": 17, "openpose": 18}[layout]
    clip = random.normal(size=(1, persons, joints, 3)) * 0.3
    clip = clip + random.normal(size=(frames, persons, joints, 3)) * 0.02
    clip += np.linspace(0, 1, frames)[:, None, None, None] + 2
    if layout in ("coco", "openpose"):
        clip = np.concatenate([clip[..., :2] * 100, random.random(clip[..., 2:].shape)], -1)
    clip[random.random(clip.shape[:3]) < 0.05] = 0
    return clip.astype(np.float32)


CASES = [
    *(("ntu_rgb_d", stream, 2, {}) for stream in STREAMS),
    ("ntu_rgb_d", "joint", 2, {"normalization": "unaligned"}),
    ("nw_ucla", "joint", 1, {"feeder_args": BOX, "test_clips": 1}),
    ("nw_ucla", "bone-motion", 1, {"feeder_args": BOX, "test_clips": 1}),
    ("nw_ucla", "skip", 1, {"normalization": "centered", "centre": 2}),
    ("nw_ucla", "bone", 1,
     {"normalization": "centered", "centre": 2, "drops_empty_frames": True}),
    ("nw_ucla", "joint", 2, {"normalization": "none", "feeder_args": {"p_interval": [0.5, 1]}}),
    ("coco", "bone", 2, {}),
    ("coco", "joint-motion", 2, {"feeder_args": {"sampled_motion": True}}),
    ("coco", "bone", 2, {"feeder_args": BOX, "test_clips": 1}),
    ("nw_ucla", "joint-motion", 1,
     {"feeder_args": BOX | {"sampled_motion": True}, "test_clips": 1}),
    ("openpose", "skip-motion", 2, {}),
]  # fmt: skip


@pytest.mark.parametrize(("layout", "stream", "persons", "more"), CASES)
@pytest.mark.parametrize("frames", [7, 30, 95])
def test_inputs_are_the_recognizers(tmp_path, layout, stream, persons, more, frames):
    path = checkpoint(tmp_path, layout, stream, persons, **more)
    network = LoadedNetwork.load(path, CPU)
    (tmp_path / "preprocess.py").write_text(
        preprocess.script(network, tmp_path / "best.onnx", "preprocess.py")
    )
    made = runpy.run_path(str(tmp_path / "preprocess.py"))
    clip = recorded(layout, frames, persons)
    clip[2:4] = 0  # frames without a body
    size = {"image_size": (480, 640)} if layout in ("coco", "openpose") else {}
    expected = Recognizer.load(path, CPU).inputs(clip, **size)
    found = made["inputs"](clip, **size)
    assert found.shape == expected.shape and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_pixels_need_the_size_of_the_image(tmp_path):
    network = LoadedNetwork.load(checkpoint(tmp_path, "coco", "joint"), CPU)
    (tmp_path / "preprocess.py").write_text(
        preprocess.script(network, tmp_path / "best.onnx", "preprocess.py")
    )
    made = runpy.run_path(str(tmp_path / "preprocess.py"))
    with pytest.raises(ValueError, match=r"look like pixels.*--image-size"):
        made["inputs"](recorded("coco", 30, 1))


@pytest.mark.parametrize("layout", ["coco", "nw_ucla", "ntu_rgb_d"])
def test_what_the_recognizer_refuses_is_refused(layout, tmp_path):
    path = checkpoint(tmp_path, layout, "joint", size=[0.8, 1.6, 2])
    script = tmp_path / "preprocess.py"
    network = LoadedNetwork.load(path, CPU)
    script.write_text(preprocess.script(network, tmp_path / "best.onnx", script.name))
    made, recognizer = runpy.run_path(str(script))["inputs"], Recognizer.load(path, CPU)
    clip, size = recorded(layout, 30, 1), (480, 640) if layout == "coco" else None
    lost = np.where(np.arange(30)[:, None, None, None] == 4, np.nan, clip)
    bad = {
        "no body": (0 * clip, size), "a joint is NaN": (lost, size), "empty": (clip[:0], size),
        "persons first": (np.moveaxis(clip, 1, 0), size), "a joint less": (clip[:, :, 1:], size),
        "channels": (clip[..., :2], size), "one frame": (clip[0, 0], size),
        "text": (clip.astype(str), size), "truth values": (clip > 0, size),
    }  # fmt: skip
    if layout == "coco":
        bad["no scores"] = clip * [1, 1, 0], size
        bad["percent"] = clip * [1, 1, 100], size
        bad["half the size"] = clip, (160, 200)
        bad["pixels without a size"] = clip, None
    else:
        bad["a size"] = clip, (480, 640)
        bad["millimeters"] = 1000 * clip, None
    for good in (clip, clip.astype(np.float16), np.ceil(clip).astype(int), clip.tolist()):
        np.testing.assert_allclose(made(good, size), recognizer.inputs(good, size), atol=2e-6)
    for what, (joints, given) in bad.items():
        for inputs in (recognizer.inputs, made):
            with pytest.raises(ValueError):
                inputs(joints, given)
                pytest.fail(f"{inputs}: {what} is accepted")


def test_a_calibration_means_the_same_as_in_predict(tmp_path):
    """It was fitted on the mean over the test clips, whose logits differ here."""
    path = checkpoint(tmp_path, "ntu_rgb_d", "joint", 2)
    network = dataclasses.replace(LoadedNetwork.load(path, CPU), temperature=2.5, threshold=0.5)
    script = tmp_path / "preprocess.py"
    script.write_text(preprocess.script(network, tmp_path / "best.onnx", script.name))
    logits = np.random.default_rng(0).normal(0, 3, (10, len(network.takes.class_names)))
    made = runpy.run_path(str(script))
    found = made["probabilities"](logits)
    mean = torch.tensor(logits).softmax(1).mean(0, keepdim=True).numpy()
    np.testing.assert_allclose(list(found.values()), tempered(mean, 2.5)[0], rtol=1e-12)
    names = network.takes.class_names
    for shares in ([0.5, 0.3, 0.2], [0.2, 0.49, 0.31]):
        expected = answer(names, np.array(shares), 0.5)
        assert made["answer"](dict(zip(names, shares))) == expected


@pytest.mark.slow
def test_numpy_and_onnxruntime_are_enough(tmp_path):
    """In a process that cannot import torch, with the file and the script alone."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = checkpoint(tmp_path, "ntu_rgb_d", "bone", 2)
    assert run_command(export.main, [str(path)]) == 0
    clip = recorded("ntu_rgb_d", 40, 2)
    np.save(tmp_path / "clip.npy", clip)
    path.rename(tmp_path / "elsewhere")
    (tmp_path / "torch.py").write_text("raise ImportError('not here')")
    done = subprocess.run(
        [sys.executable, "preprocess.py", "clip.npy"], cwd=tmp_path, capture_output=True, text=True,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"}, check=True,
    )  # fmt: skip
    prediction = Recognizer.load(tmp_path / "elsewhere", CPU)(clip)
    shown = ", ".join(f"{name} {probability:.3f}" for name, probability in prediction.top(3))
    assert done.stdout == f"clip.npy {shown}\n"


def test_a_feeder_of_ones_own_is_not_guessed(tmp_path):
    path = checkpoint(tmp_path, "nw_ucla", "joint", feeder="feeders.skeleton.Feeder")
    network = LoadedNetwork.load(path, CPU)
    object.__setattr__(network, "config", network.config.replace(feeder="mine.Feeder"))
    with pytest.raises(InputError, match=r"feeder: mine\.Feeder is not"):
        preprocess.script(network, tmp_path / "a.onnx", "preprocess.py")


def test_a_file_of_ones_own_is_not_overwritten(tmp_path):
    network = LoadedNetwork.load(checkpoint(tmp_path, "nw_ucla", "joint"), CPU)
    mine = tmp_path / "preprocess.py"
    mine.write_text("mine")
    assert "is not written" in export.write_preprocessing(network, tmp_path / "best.onnx")
    assert mine.read_text() == "mine"
    mine.unlink()
    for _ in range(2):  # its own is written again
        assert "by NumPy" in export.write_preprocessing(network, tmp_path / "best.onnx")
    before = mine.read_text()
    assert "is not for b.onnx" in export.write_preprocessing(network, tmp_path / "b.onnx")
    assert mine.read_text() == before
