"""data.inspect: the printed statistics and the pictures."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

import graph
from data import inspect, normalize, quality
from data.store import StoreWriter
from data.view import pose
from errors import run_command

STANCE = np.random.RandomState(0).uniform([0, 0, -0.9], [0.4, 0.2, 0.9], (25, 3))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Five clips of three classes, the last one without samples; one clip has two persons."""
    with StoreWriter(
        tmp_path / "mine", "ntu_rgb_d", ["wave", "bow", "none"], (2, 25, 3), data_set="ntu"
    ) as writer:
        for i, label in enumerate((0, 1, 0, 0, 0)):
            clip = STANCE + np.linspace(0, 0.3, 4 + i)[:, None, None, None]
            clip = np.repeat(clip, 2, axis=1) if i == 1 else clip
            writer.add(f"clip{i}", label, clip, split="train" if i else "test")
    return tmp_path / "mine"


def run(*argv: object) -> int:
    return run_command(inspect.main, [str(arg) for arg in argv])


def test_statistics_and_pictures(store: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert run(store, "--out", out, "--sample", "clip2") == 0
    text = capsys.readouterr().out
    for words in (
        "5 samples, 30 frames, layout ntu_rgb_d",
        "frames per sample: 4 to 8, median 6",
        "samples with 1 person: 4; with 2 persons: 1",
        "body size: ",
        "without motion: 0; duplicates: 0",
        "samples per class: 4 to 1, imbalance 4, 2 of 3 classes",
        "split: 2 values (test, train)",
    ):
        assert words in text
    assert [line.split() for line in text.splitlines()[-4:-1]] == [
        ["4", "0", "wave"],
        ["1", "1", "bow"],
        ["0", "2", "none"],
    ]
    for name in ("classes.png", "skeletons.png"):
        with Image.open(out / name) as picture:
            assert np.asarray(picture.convert("L")).std() > 5  # not an empty sheet
    with Image.open(out / "clip2.gif") as movie:
        assert movie.n_frames == 6
    assert sorted(path.name for path in out.iterdir()) == [
        "classes.png",
        "clip2.gif",
        "skeletons.png",
    ]


def test_samples_of_folders_have_a_file_each(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "own", "ntu_rgb_d", ["wave"], (1, 25, 3), data_set="own") as writer:
        for name in ("a/01", "b/01"):
            writer.add(name, 0, np.repeat(STANCE[None, None], 4, axis=0), split="train")
    for name in ("a/01", "b/01"):
        assert run(tmp_path / "own", "--out", tmp_path / "out", "--sample", name) == 0
    found = sorted(path.name for path in (tmp_path / "out").glob("*.gif"))
    assert found == ["a_01.gif", "b_01.gif"]


def test_protocol_restricts_to_training_samples(store: Path, tmp_path: Path, capsys) -> None:
    assert run(store, "--protocol", "given", "--out", tmp_path / "out") == 0
    assert "4 samples, 26 frames" in capsys.readouterr().out
    assert run(store, "--sample", "clip9", "--out", tmp_path / "out") == 2
    out, err = capsys.readouterr()
    assert "clip9" in err and not out  # an error before anything is read or drawn
    assert run(store, "--training-list", "x.txt") == 2
    assert "--protocol" in capsys.readouterr().err


def drawn_joints(clip: np.ndarray, origin: int | None, frame: int = 0) -> int:
    skeleton = graph.load("ntu_rgb_d")
    figure, axes = plt.subplots()
    inspect.draw_persons(axes, pose(clip, skeleton, origin)[frame], skeleton)
    plt.close(figure)
    return sum(
        np.ma.count(drawn.get_offsets()) // 2
        for drawn in axes.collections
        if drawn.get_offsets().size > 2
    )


def test_joint_at_origin_is_drawn_and_unseen_joint_is_not() -> None:
    clip = np.repeat(STANCE[None, None], 3, axis=0) + [3, 0, 0]
    clip += np.linspace(0, 0.3, 3)[:, None, None, None]
    clip[0, 0, 7] = 0
    centered = normalize.centered(clip, 1)
    assert drawn_joints(centered, origin=1) == 24
    assert drawn_joints(centered, origin=1, frame=1) == 25
    assert drawn_joints(centered, origin=None) == 23


def test_an_imbalance_that_fills_nothing_is_refused(tmp_path, capsys):
    argv = ["store", "--protocol", "given", "--imbalance", "10", "--training-list", "list.txt"]
    for more in (argv, argv[:-2]):
        assert run_command(inspect.main, more) == 2
        assert (
            "--imbalance: applies only to {imbalance} in --training-list" in capsys.readouterr().err
        )


def test_one_frame_is_not_a_frozen_clip():
    reading = quality.Reading.of("ntu_rgb_d", (2, 25, 3), {"normalization": "none"})
    clip = np.stack([STANCE, STANCE])[:, None]
    assert quality.figures("a", clip, reading).is_frozen
    assert not quality.figures("a", clip[:1], reading).is_frozen
    assert not quality.figures(
        "a", clip * np.array([1, 1.1])[:, None, None, None], reading
    ).is_frozen
