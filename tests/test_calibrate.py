"""Temperature and threshold: against a search over logits, and from the run to the prediction."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch

import main
from engine import checkpoint
from engine.fusion import Scores
from engine.predict import UNKNOWN, Recognizer
from engine.run import RunFolder
from errors import BAD_INPUT, InputError, run_command
from longtail import shots
from longtail.calibration import FLATTEST, SHARPEST, fit_temperature, tempered, threshold_for
from tests.tiny_runs import SMALL, assert_same_weights, command, run
from tools import calibrate


def drawn(temperature, samples=4000, classes=5):
    """Return logits (N, K) and labels (N,) drawn by softmax(logits / temperature)."""
    random = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(samples, classes, generator=random)
    labels = torch.multinomial((logits / temperature).softmax(1), 1, generator=random)[:, 0]
    return logits, labels


def test_a_temperature_is_that_of_the_logits():
    logits, _ = drawn(1)
    for temperature in (0.5, 1.0, 3.0):
        found = tempered(logits.softmax(1).numpy(), temperature)
        np.testing.assert_allclose(found, (logits / temperature).softmax(1), rtol=1e-4, atol=1e-7)
        assert found.dtype == np.float32
    certain = tempered(np.array([[1.0, 0.0]]), 2.0)
    assert certain[0, 0] == pytest.approx(1) and certain.sum() == pytest.approx(1)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.5])
def test_the_fitted_temperature_has_the_least_loss(temperature):
    logits, labels = drawn(temperature)
    found = fit_temperature(logits.double().softmax(1).numpy(), labels.numpy())
    tried = torch.logspace(-0.5, 0.7, 2001, dtype=torch.float64)
    losses = [torch.nn.functional.cross_entropy(logits.double() / t, labels) for t in tried]
    assert found == pytest.approx(float(tried[int(torch.stack(losses).argmin())]), rel=1e-3)
    assert found == pytest.approx(temperature, rel=0.05)


def test_a_temperature_without_an_end_is_bounded():
    eye = np.full((3, 3), 0.1) + 0.7 * np.eye(3)
    assert fit_temperature(eye, np.arange(3)) == pytest.approx(1 / SHARPEST)  # all right
    assert fit_temperature(eye, np.array([1, 2, 0])) == pytest.approx(1 / FLATTEST)  # all wrong


def test_a_threshold_is_reached_by_the_wanted_share():
    confidence = np.array([0.9, 0.5, 0.8, 0.7, 0.6])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    for coverage, threshold in ((1, 0.5), (0.8, 0.6), (0.6, 0.7), (0.61, 0.6), (0.01, 0.9)):
        assert threshold_for(probabilities, coverage) == threshold
        assert (confidence >= threshold).mean() >= coverage


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """A run that held out a third of its list."""
    more = [*SMALL, "num_epoch=1", "--val-split", "0.34"]
    return run(tiny, tmp_path_factory.mktemp("held") / "joint", more=more)


@pytest.fixture
def folder(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "joint")
    return tmp_path / "joint"


def test_a_run_is_calibrated_on_what_it_held_out(folder, trained, capsys):
    calibrate.main([str(folder), "--coverage", "0.5", "--device", "cpu"])
    lines = capsys.readouterr().out.splitlines()
    kept = checkpoint.read(folder / "best.pt")["calibration"]
    assert kept["samples"] == 2  # of 3, 3, 1 and 1 training samples round(0.34 n), not the last
    assert kept["coverage"] == 0.5
    assert lines[0].startswith(f"{folder}/best.pt: temperature {kept['temperature']:.3f}, thresh")
    assert_same_weights(folder / "best.pt", trained / "best.pt")
    scores = Scores.read(RunFolder(folder).scores_file())
    before = shots.probability_metrics(scores.scores, scores.labels)
    after = shots.probability_metrics(tempered(scores.scores, kept["temperature"]), scores.labels)
    (line,) = [line.split() for line in lines if line.startswith("test split")]
    assert line[2:7] == ["12", f"{before['ece']:.1f}", f"{after['ece']:.1f}",
                         f"{before['nll']:.3f}", f"{after['nll']:.3f}"]  # fmt: skip
    (line,) = [line.split() for line in lines if line.startswith("held-out")]
    assert float(line[-4]) <= float(line[-5])  # less NLL where it was fitted
    assert float(line[-2]) >= 50


def test_prediction_uses_what_is_kept(folder, tmp_path, capsys):
    clip = np.random.default_rng(0).normal(size=(20, 25, 3))
    np.save(tmp_path / "clip.npy", clip)
    plain = Recognizer.load(folder / "best.pt", "cpu")(clip)
    assert plain.threshold == 0 and plain.answer == plain.top(1)[0][0]
    state = checkpoint.read(folder / "best.pt")
    sure = float(tempered(plain.probabilities[None], 2.0).max())
    keep = {"temperature": 2.0, "threshold": sure + 0.01, "coverage": 0.5, "samples": 3}
    checkpoint.save(folder / "best.pt", state | {"calibration": keep})
    found = Recognizer.load(folder / "best.pt", "cpu")(clip)
    np.testing.assert_allclose(
        found.probabilities, tempered(plain.probabilities[None], 2.0)[0], rtol=1e-5
    )
    assert found.answer == UNKNOWN
    argv = ["--phase", "predict", "--weights", str(folder / "best.pt"), "--device", "cpu"]
    argv += ["--input", str(tmp_path / "clip.npy")]
    for more, answer in (
        ([], UNKNOWN),
        (["--threshold", "0"], plain.answer),
        (["--threshold", f"{sure - 0.01}"], plain.answer),
        (["--threshold", f"{sure + 0.02}"], UNKNOWN),
    ):
        main.main([*argv, *more, "--output", str(tmp_path / "out.json")])
        shown = capsys.readouterr().out
        assert ("answer" in shown) == (more[-1:] != ["0"]) and plain.answer in shown
        written = json.loads((tmp_path / "out.json").read_text())
        (each,) = written["predictions"]
        assert each["class"] == each["windows"][0]["class"] == answer
        assert written["checkpoints"][0]["temperature"] == 2.0
        main.main([*argv, *more, "--quiet", "--output", str(tmp_path / "out.csv")])
        (row,) = csv.DictReader((tmp_path / "out.csv").open())
        assert row["class"] == answer
    with pytest.raises(InputError, match="--threshold: must be between 0 and 1"):
        main.main([*argv, "--threshold", "50"])


def test_a_class_called_unknown_has_no_threshold(whole, tmp_path, capsys):
    """Its name is that of the answer below a threshold."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    state = checkpoint.read(run / "best.pt")
    checkpoint.save(run / "best.pt", state | {"class_names": ["wave", "kick", UNKNOWN, "sit"]})
    assert Recognizer.load(run / "best.pt", "cpu").names[2] == UNKNOWN
    with pytest.raises(InputError, match="--threshold: a class is called unknown"):
        Recognizer.load(run / "best.pt", "cpu", threshold=0.5)
    assert run_command(calibrate.main, [str(run), "--coverage", "0.9"]) == 2
    assert "--coverage: a class of" in capsys.readouterr().err


def test_a_fusion_has_the_threshold_that_is_given(folder):
    state = checkpoint.read(folder / "best.pt")
    keep = {"temperature": 2.0, "threshold": 0.9, "coverage": 0.5, "samples": 3}
    for which in ("best.pt", "last.pt"):
        checkpoint.save(folder / which, state | {"calibration": keep})
    paths = [folder / "best.pt", folder / "last.pt"]
    assert Recognizer.load(paths, "cpu").threshold == 0
    assert Recognizer.load(paths, "cpu", threshold=0.4).threshold == 0.4
    assert Recognizer.load(paths[:1], "cpu").threshold == 0.9


@pytest.mark.parametrize("wrong", [
    {}, {"temperature": 0.0, "threshold": None}, {"temperature": "x", "threshold": None},
    {"temperature": float("nan"), "threshold": None}, {"temperature": 1.0, "threshold": 2.0}, 3,
])  # fmt: skip
def test_a_damaged_calibration_is_refused(folder, wrong):
    state = checkpoint.read(folder / "best.pt")
    checkpoint.save(folder / "best.pt", state | {"calibration": wrong})
    with pytest.raises(InputError, match="its calibration is damaged; run tools"):
        Recognizer.load(folder / "best.pt", "cpu")


def test_a_calibrated_run_goes_on_and_drops_it(tiny, folder):
    """What was fitted belongs to the weights of that time."""
    calibrate.main([str(folder), "--which", "last", "--device", "cpu"])
    assert "calibration" in checkpoint.read(folder / "last.pt")
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("num_epoch: 1", "num_epoch: 2"))
    main.main(command(tiny, folder, "--quiet", "--resume", "--val-split", "0.34", "--set",
                      "num_epoch=2", *SMALL))  # fmt: skip
    state = checkpoint.read(folder / "last.pt")
    assert state["progress"]["epoch"] == 2 and "calibration" not in state


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["{whole}"], "best.pt: was trained on its whole training list, so no sample is held out"),
        (["{whole}/nowhere"], "nowhere/best.pt: no such checkpoint; name the folder of a run"),
        (["{whole}", "--coverage", "90"], "--coverage: must be more than 0 and at most 1"),
    ],
)
def test_what_cannot_be_calibrated_is_said_in_one_line(whole, argv, said, capsys):
    before = (whole / "best.pt").read_bytes()
    argv = [word.format(whole=whole) for word in argv]
    assert run_command(calibrate.main, [*argv]) == BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert (whole / "best.pt").read_bytes() == before
    assert not (whole / "nowhere").exists()
