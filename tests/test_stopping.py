"""Runs that are killed or stopped go on to what they would have been."""

import json
import os
import shutil
import signal

import pytest
import torch
from torch.utils._pytree import tree_flatten

import main
from engine import checkpoint, evaluate, logs
from engine.run import RunFolder
from engine.state import TrainState
from errors import RESUMABLE, Stopped, run_command
from tests import quick
from tests.tiny_runs import CEILING, SMALL, assert_same_weights, command, run, start, wait_until


def test_repeated_epochs_are_logged_once(tmp_path):
    """A kill between the metrics and last.pt, and one in the middle of a line."""
    log = logs.Log(RunFolder(tmp_path), quiet=True)
    for epoch in range(3):
        log.metrics({"epoch": epoch, "loss": 0.5})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "lo')
    with log.epochs(2):
        log.metrics({"epoch": 2, "loss": 0.25})
    kept = [(m["epoch"], m["loss"]) for m in RunFolder(tmp_path).epochs()]
    assert kept == [(0, 0.5), (1, 0.5), (2, 0.25)]


@pytest.mark.slow
def test_process_stopped_by_sigterm_resumes_to_the_same_weights(tiny, whole, tmp_path):
    folder = tmp_path / "joint"
    process = start(tiny, folder)
    metrics = folder / "metrics.jsonl"
    wait_until(
        lambda: metrics.is_file() and metrics.read_text().count("\n"),
        alive=lambda: process.poll() is None,
    )
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=CEILING)[0]
    assert process.returncode == RESUMABLE, said
    resumed = start(tiny, folder, "--resume")
    said = resumed.communicate(timeout=CEILING)[0]
    assert resumed.returncode == 0, said
    assert_same_weights(folder / "last.pt", whole / "last.pt")
    keys = ("epoch", "loss", "top1", "lr")
    runs = [
        [[json.loads(line)[key] for key in keys] for line in path.read_text().splitlines()]
        for path in (metrics, whole / "metrics.jsonl")
    ]
    assert runs[0] == runs[1]


def stopped_in(function, monkeypatch, argv):
    """Run with SIGTERM coming as an evaluation begins."""
    own = getattr(evaluate, function)

    def interrupted(*args, **keywords):
        os.kill(os.getpid(), signal.SIGTERM)
        return own(*args, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, function, interrupted)
        assert run_command(main.main, argv) == RESUMABLE


@pytest.mark.slow
def test_sigterm_in_a_validation_keeps_the_epoch(tiny, whole, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "joint"
    stopped_in("score", monkeypatch, command(tiny, folder, "--quiet"))
    assert "--resume continues in epoch 1\n" in capsys.readouterr().err
    progress = checkpoint.read(folder / "last.pt")["progress"]
    assert (progress["epoch"], progress["step"]) == (0, 6)  # all of its steps
    main.main(command(tiny, folder, "--quiet", "--resume"))
    assert_same_weights(folder / "last.pt", whole / "last.pt")
    runs = [
        [json.loads(line)["loss"] for line in (run / "metrics.jsonl").open()]
        for run in (folder, whole)
    ]
    assert runs[0] == runs[1]


def test_a_run_stopped_in_its_test_resumes_with_the_test(tiny, whole, tmp_path, monkeypatch):
    folder = tmp_path / "joint"
    shutil.copytree(whole, folder)
    for path in [*folder.glob("result*"), *folder.glob("scores*")]:
        path.unlink()  # as after a kill between the training and the test
    argv = command(tiny, folder, "--quiet", "--resume")
    stopped_in("test", monkeypatch, argv)
    assert not (folder / "result.json").exists()
    main.main(argv)
    for name in ("result.json", "result-last.json", "metrics.jsonl"):
        assert (folder / name).read_text() == (whole / name).read_text()
    assert_same_weights(folder / "last.pt", whole / "last.pt")


METHOD_ARGUMENTS = {
    "everything": [
        "ema=0.9", "clip_grad=1.0", "accumulate=2", "amp=fp16", "schedule=step",
        "schedule_args.milestones=[1]",
        "model_args.dropout=0.5",
    ],
    "shap-mix": ["feeder_args.flip=0.0", "mixing_args={warm_up: 0}"],
    "progressive": ["sampling=longtail.sampling.ProgressiveSampling"],
}  # fmt: skip


@pytest.mark.parametrize("method", quick.only(["everything"], METHOD_ARGUMENTS))
def test_sigterm_in_the_middle_of_an_epoch_changes_nothing(tiny, tmp_path, monkeypatch, method):
    """Every tensor and number of last.pt, the averaged weights, scaler and saliency included."""
    files = ["shap-mix.yaml"] if method == "shap-mix" else []
    more = [*SMALL, "test_clips=1", *METHOD_ARGUMENTS[method]]
    run(tiny, tmp_path / "whole", *files, more=more)
    own, stopped = TrainState.set_lr, []

    def interrupted(state, time):
        if time > 1.2 and not stopped:
            stopped.append(time)
            os.kill(os.getpid(), signal.SIGTERM)
        return own(state, time)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(TrainState, "set_lr", interrupted)
        run(tiny, tmp_path / "cut", *files, more=more)
    progress = checkpoint.read(tmp_path / "cut/last.pt")["progress"]
    assert progress["epoch"] == 1 and progress["step"] > 1
    run(tiny, tmp_path / "cut", *files, more=[*more, "--resume"])
    states = [checkpoint.read(tmp_path / f / "last.pt") for f in ("whole", "cut")]
    for state in states:
        del state["progress"]["seconds"]
    (first, form), (second, form_again) = map(tree_flatten, states)
    assert form == form_again
    for one, other in zip(first, second):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.slow
def test_all_streams_resume_where_one_was_stopped(tiny, tmp_path, monkeypatch):
    more = [*SMALL, "num_epoch=1", "test_clips=1", "--stream", "all"]
    own, streams = TrainState.set_lr, []

    def interrupted(state, time):
        streams.append(state.config.stream)
        if streams.count("skip") == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return own(state, time)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(TrainState, "set_lr", interrupted)
        run(tiny, tmp_path / "all", more=more)
    results = {path: path.read_bytes() for path in tmp_path.glob("all/*/last.pt")}
    assert {path.parent.name for path in results} == {"joint", "bone", "skip"}
    del results[tmp_path / "all/skip/last.pt"]
    for path in results:
        os.utime(path, (1, 1))
    run(tiny, tmp_path / "all", more=[*more, "--resume"])
    assert all(path.stat().st_mtime == 1 for path in results)  # not trained again
    assert json.loads((tmp_path / "all/ensemble.json").read_text())["missing"] == []
