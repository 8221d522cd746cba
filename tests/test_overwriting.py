"""No command writes over a file that it reads, or two results to one file."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import main
from data import convert, long_tail
from engine import checkpoint
from engine.build import make_model
from engine.config import Config
from errors import BAD_INPUT, InputError, run_command
from files import check_outputs
from tools import export, weights


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A checkpoint, a list of names, and clips of which two differ in their ending alone."""
    monkeypatch.chdir(tmp_path)
    args = {"num_class": 4, "base_channels": 8, "num_blocks": 1, "num_person": 1}
    config = Config(frames=8, test_clips=1, model_args=args)
    state = {"config": dataclasses.asdict(config), "model": make_model(config).state_dict()}
    checkpoint.save(tmp_path / "best.pt", state)
    names = [f"S001C001P001R001A{k + 1:03}" for k in range(60) for _ in range(2)]
    Path("names.txt").write_text("\n".join(names))
    clip = np.random.default_rng(0).uniform(0.1, 0.9, (9, 33, 3)).astype(np.float32)
    Path("clips").mkdir()
    np.save("clips/a.npy", clip)
    np.savez("clips/a.npz", joints=clip)
    Path("link").symlink_to("clips")
    return tmp_path


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


FORM = ["--from", "mediapipe-33", "--to", "coco", "--image-size", "1", "1"]


@pytest.mark.parametrize(
    "command, words",
    [
        (weights.main, ["best.pt", "--out", "./best.pt"]),
        (export.main, ["best.pt", "--format", "torch", "--out", "best.pt"]),
        (long_tail.main, ["ntu60-xsub", "--names", "names.txt", "--out", "names.txt"]),
        (convert.main, [*FORM, "clips/a.npz", "--out", "link/a.npz"]),
        (convert.main, [*FORM, "clips", "--out", "link"]),
        (
            main.main,
            ["--phase", "predict", "--weights", "best.pt", "--input", "clips", "--device", "cpu",
             "--output", "clips/a.json"],
        ),
    ],
)  # fmt: skip
def test_a_file_that_is_read_is_not_overwritten(folder, capsys, command, words):
    Path("clips/a.json").write_text("[]")  # an earlier output, say, among the clips
    before = contents(folder)
    assert run_command(command, words) == BAD_INPUT
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "is read, and would be overwritten" in error
    assert contents(folder) == before


def test_clips_of_one_name_are_not_converted_to_one_file(folder, capsys):
    before = contents(folder)
    assert run_command(convert.main, [*FORM, "clips", "--out", "converted"]) == BAD_INPUT
    error = capsys.readouterr().err
    assert "clips/a.npy and clips/a.npz would both be written to converted/a.npz" in error
    assert contents(folder) == before
    Path("clips/a.npz").rename("clips/b.npz")
    assert run_command(convert.main, [*FORM, "clips", "--out", "converted"]) == 0
    assert sorted(path.name for path in Path("converted").iterdir()) == ["a.npz", "b.npz"]


def test_files_of_their_own_may_be_written(tmp_path):
    check_outputs("--out", {tmp_path / "a.npy": tmp_path / "a.npz", tmp_path / "b": tmp_path / "c"})
    with pytest.raises(InputError, match=r"--out .*b: is read"):
        check_outputs("--out", {tmp_path / "a": tmp_path / "b", tmp_path / "b": tmp_path / "c"})
