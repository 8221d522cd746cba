"""Whole runs through main.py on a tiny benchmark: files, resuming, and mistakes."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch._dynamo.utils import counters
from torch.utils._pytree import tree_flatten

import main
from data import long_tail
from data.names import digest
from data.store import Store, StoreWriter
from engine import build, checkpoint, evaluate, logs, train
from engine.config import Config, load
from engine.distributed import Ranks, release
from engine.optimizer import Stepper
from engine.train import Replica, Trainer, takes_cuda_graphs
from errors import BAD_INPUT, RESUMABLE, InputError, Stopped, run_command
from feeders.skeleton import Feeder
from longtail import shots
from longtail.mixing import ShapMix

PROJECT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}


def command(tiny, folder, *more):
    return ["--config", str(tiny / "tiny-lt/joint.yaml"), "--device", "cpu",
            "--work-dir", str(folder), *more]  # fmt: skip


def start(tiny, folder, *more):
    return subprocess.Popen(
        [sys.executable, str(PROJECT / "main.py"), *command(tiny, folder, *more)],
        env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def weights(path):
    return torch.load(path, weights_only=True)["model"]


def assert_same_weights(first, second):
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "joint"
    torch.set_num_threads(1)
    main.main(command(tiny, folder, "--quiet"))
    return folder


def test_a_run_writes_what_it_promises(tiny, whole):
    written = {path.name for path in whole.iterdir() if "tfevents" not in path.name}
    assert written == {
        "config.yaml", "last.pt", "best.pt", "log.txt", "metrics.jsonl", "scores.npz",
        "result.json", "scores-last.npz", "result-last.json",
    }  # fmt: skip
    assert any("tfevents" in path.name for path in whole.iterdir())
    epochs = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [e["epoch"] for e in epochs] == [0, 1, 2]
    assert [e["stage"] for e in epochs] == [1, 1, 2]
    assert set(epochs[0]) == {
        "epoch", "stage", "loss", "lr", "seconds", "samples_per_second", "top1", "mean_class",
        "many", "medium", "few",
    }  # fmt: skip
    assert yaml.safe_load((whole / "config.yaml").read_text())["benchmark"] == "tiny-lt"
    best = checkpoint.read(whole / "best.pt")
    assert best["config"]["num_epoch"] == 3 and "stepper" not in best
    assert best["class_names"] == ["wave", "kick", "bow", "sit"]  # and how clips are made:
    assert (best["layout"], best["normalisation"], best["centre"]) == ("ntu_rgb_d", "centred", 20)


def test_the_scores_are_probabilities_and_the_result_follows_from_them(whole):
    with np.load(whole / "scores.npz", allow_pickle=False) as file:
        names, labels, scores = file["names"], file["labels"], file["scores"]
    assert scores.dtype == np.float32 and labels.dtype == np.int64
    assert all(name[8:12] == "P002" for name in names)
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-5)
    result = json.loads((whole / "result.json").read_text())
    assert result["top1"] == pytest.approx(100 * (scores.argmax(1) == labels).mean())
    assert result["class_counts"] == [3, 3, 1, 1]
    assert result["samples"] == result["samples_clean"] == 12
    assert result["published_list"] is None
    assert result["weights"] == "best.pt" and result["stream"] == "joint"
    expected = shots.accuracy(scores, labels, [3, 3, 1, 1], (3, 1))
    assert result["medium"] == expected["medium"] and result["many"] is result["few"] is None


@pytest.fixture
def untested(monkeypatch):
    """Runs without their evaluations."""
    monkeypatch.setattr(evaluate, "score", lambda net, feeder, *_, **__: np.eye(4)[feeder.labels])
    monkeypatch.setattr(evaluate, "test", lambda *_: dict.fromkeys(logs.HEADINGS))


def test_the_loss_is_the_mean_of_the_steps_and_the_rate_falls_with_each(
    tiny, tmp_path, monkeypatch, untested
):
    own, steps = Stepper.step, []

    def noted(stepper, loss, *args):
        own(stepper, loss, *args)
        steps.append((loss.item(), stepper.rate))

    monkeypatch.setattr(Stepper, "step", noted)
    monkeypatch.setattr(train, "LOOK_EVERY", 4)  # of the six steps of an epoch
    folder = run(tiny, tmp_path / "run", more=SMALL)
    losses, rates = np.array(steps).T
    expected = 0.0125 * 4 / 16 * (1 + np.cos(np.pi * np.arange(12) / 12)) / 2
    np.testing.assert_allclose(rates, expected)
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    np.testing.assert_allclose([m["loss"] for m in epochs], losses.reshape(2, 6).mean(1), rtol=1e-6)
    assert [m["lr"] for m in epochs] == rates[5::6].tolist()


class Drawn:
    """A sampling that notes how far the training is."""

    def __init__(self):
        self.progress = []

    def epoch(self, generator, progress):
        self.progress.append(progress)
        return torch.randperm(20, generator=generator)


def test_every_epoch_has_an_order_and_draws_of_its_own():
    """Another seed has others; the same one has the same again."""
    orders, seeds = {}, {}
    for seed in (0, 1, 0, 1):
        trainer = Trainer.__new__(Trainer)
        trainer.config, trainer.ranks = Config(batch_size=8, num_epoch=4, seed=seed), Ranks()
        trainer.sampling = Drawn()
        for epoch in range(4):
            batches = trainer.order(epoch)
            assert [(len(b.rows), b.step) for b in batches] == [(8, 0), (8, 1), (4, 2)]
            rows = tuple(torch.cat([b.rows for b in batches]).tolist())
            assert orders.setdefault((seed, epoch), rows) == rows
            for b in batches:
                assert seeds.setdefault((seed, epoch, b.step), b.seed) == b.seed
        assert trainer.sampling.progress == [0, 0.25, 0.5, 0.75]
    assert len(set(orders.values())) == 8 and len(set(seeds.values())) == 24


def test_a_seed_draws_the_weights(tiny, tmp_path):
    first, again, other = (
        Trainer(
            load([tiny / "tiny-lt/joint.yaml"], seed=seed), tmp_path / "run",
            [torch.device("cpu")], Ranks(), quiet=True,
        ).model.state_dict()
        for seed in (3, 3, 4)
    )  # fmt: skip
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["fc.weight"], other["fc.weight"])
    assert not (tmp_path / "run").exists()  # nothing is written until it runs


def test_it_learns(whole):
    losses = [json.loads(x)["loss"] for x in (whole / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]


def test_testing_needs_the_checkpoint_only(whole, tmp_path, monkeypatch):
    before = (whole / "result.json").read_text()
    scores = np.load(whole / "scores.npz")["scores"]
    monkeypatch.chdir(PROJECT)
    main.main(["--phase", "test", "--weights", str(whole / "best.pt"), "--quiet"])
    assert (whole / "result.json").read_text() == before
    assert np.array_equal(np.load(whole / "scores.npz")["scores"], scores)
    assert "12 samples, top-5" in (said := (whole / "log.txt").read_text())
    assert "without the 0 copies of training samples" in said


def test_testing_without_the_list_leaves_the_shots_out(whole, tmp_path):
    main.main(
        ["--phase", "test", "--weights", str(whole / "best.pt"), "--work-dir", str(tmp_path),
         "--set", f"training_list={tmp_path}/nowhere.txt", "--quiet"]
    )  # fmt: skip
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["few"] is None and result["class_counts"] is None
    assert result["top1"] == json.loads((whole / "result.json").read_text())["top1"]


def test_a_finished_folder_is_neither_lost_nor_mixed_up(tiny, whole):
    with pytest.raises(InputError, match="--resume continues it, --overwrite"):
        main.main(command(tiny, whole))
    with pytest.raises(InputError, match="other values of lr"):
        main.main(command(tiny, whole, "--resume", "--set", "lr=1"))
    assert (whole / "last.pt").is_file()


def test_overwriting_discards_the_run_and_nothing_else(tiny, whole, tmp_path, untested):
    folder = tmp_path / "joint"
    shutil.copytree(whole, folder)
    (folder / "notes.txt").touch()
    run(tiny, folder, more=[*SMALL, "num_epoch=1", "--overwrite"])
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1
    assert "epoch 3/3" not in (folder / "log.txt").read_text()
    assert len(list(folder.glob("events*"))) == 1 and not (folder / "scores.npz").exists()
    assert (folder / "notes.txt").exists()


def test_a_folder_without_a_run_is_left_alone(tiny, tmp_path):
    (tmp_path / "notes.txt").touch()
    for more in ([], ["--overwrite"], ["--resume"]):
        with pytest.raises(InputError, match="holds no run; name another --work-dir"):
            main.main(command(tiny, tmp_path, *more))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_flags_are_keys(tiny):
    argv = "--seed 3 --val-split 0.25 --amp bf16 --compile --accumulate 4 --stream bone --tag mine"
    options = main.parse([*command(tiny, "run"), *argv.split(), "--set", "seed=5", "lr=1"])
    settings = main.resolve(options, options.stream)
    flags = ("seed", "val_split", "amp", "compile", "accumulate", "stream", "tag", "lr")
    assert [getattr(settings, f) for f in flags] == [3, 0.25, "bf16", True, 4, "bone", "mine", 1]


def test_epochs_that_are_run_again_are_told_once(tmp_path):
    """A kill between the metrics and last.pt, and one in the middle of a line."""
    log = logs.Log(tmp_path, quiet=True)
    for epoch in range(3):
        log.metrics({"epoch": epoch, "loss": 0.5})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "lo')
    log.start_metrics(2)
    log.metrics({"epoch": 2, "loss": 0.25})
    log.close()
    kept = [(m["epoch"], m["loss"]) for m in logs.read_metrics(tmp_path)]
    assert kept == [(0, 0.5), (1, 0.5), (2, 0.25)]


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_resumes_to_the_same_weights(tiny, whole, tmp_path, kill):
    folder = tmp_path / "joint"
    process = start(tiny, folder)
    metrics = folder / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.is_file() and metrics.read_text().count("\n")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.005)
    process.send_signal(kill)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == (-signal.SIGKILL if kill == signal.SIGKILL else RESUMABLE), said
    resumed = start(tiny, folder, "--resume")
    said = resumed.communicate(timeout=120)[0]
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


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--set", "model_args.num_class=3"], "model_args.num_class"),
        (["--set", "model_args.graph=coco"], "25 joints (ntu_rgb_d), but model_args.graph=coco"),
        (["--set", "model_args.num_person=1"], "model_args.num_person"),
        (["--set", "model_args.base_chanels=8"], "did you mean base_channels"),
        (["--set", "num_epok=3"], "did you mean num_epoch"),
        (["--set", "model=model.stgcnp.Model"], "model=model.stgcnp.Model: model.stgcnp does not"),
        (["--set", "optimizer=apex.optimizers.FusedSGD"], "apex is not installed"),
        (["--set", "store=data/nowhere"], "python -m data.prepare"),
        (["--set", "training_list=nowhere.txt"], "nowhere.txt"),
        (["--weights", "nowhere.pt"], "nowhere.pt"),
        (["--weights", "a.pt", "b.pt"], "starts from one FILE"),
        (["--weights", "a.pt", "--stream", "all"], "starts from one FILE"),
        (["--set", "classifier=longtail.classifiers.Retraining"], "add --phase classifier"),
        (["--val-split", "0.01"], "val_split: 0.01 holds out no sample"),
        (["--set", "model_args.base_channels=0"], "model_args="),
        (["--set", "schedule_args.gama=1"], "schedule_args.gama: known are gamma"),
        (["--set", "schedule_args.milestones=1"], "schedule_args.milestones must be a list"),
        (["--set", "schedule_args={warm_up: two}"], "schedule_args.warm_up must be a number"),
        (["--set", "optimizer_args.lr=1"], "optimizer_args.lr"),
        (["--set", "feeder_args.stream=bone"], "feeder_args.stream"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(tiny, tmp_path, capsys, more, said):
    folder = tmp_path / "run"
    assert run_command(main.main, command(tiny, folder, *more)) == BAD_INPUT
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and said in lines[0]
    assert not folder.exists()


def test_a_loss_that_is_not_finite_names_the_samples(tiny, tmp_path):
    with pytest.raises(InputError, match=r"the loss is (nan|inf) in epoch 1, step \d+; samples S0"):
        main.main(command(tiny, tmp_path / "run", "--quiet", "--set", "lr=1e30"))


def test_outputs_that_are_not_finite_are_no_accuracy(tiny, whole, tmp_path, monkeypatch):
    """A comparison with NaN is false, so such scores would count as right."""
    state = checkpoint.read(whole / "last.pt")
    state["model"]["fc.bias"][0] = np.nan
    checkpoint.save(tmp_path / "broken.pt", {k: v for k, v in state.items() if k != "format"})
    argv = ["--phase", "test", "--weights", str(tmp_path / "broken.pt"), "--device", "cpu"]
    with pytest.raises(InputError, match=r"not finite for 12 of 12 samples \(e\.g\. S001"):
        main.main(argv)
    assert not (tmp_path / "result.json").exists()
    step = Stepper.step

    def diverge(stepper, *args):
        step(stepper, *args)
        stepper.model.fc.bias.data.fill_(np.inf)

    monkeypatch.setattr(Stepper, "step", diverge)  # and no loss is taken after the only step
    settings = ["--set", "num_epoch=1", "batch_size=1000"]
    with pytest.raises(InputError, match="not finite"):
        main.main(command(tiny, tmp_path / "run", "--quiet", *settings))
    assert not (tmp_path / "run/best.pt").exists()


@pytest.mark.parametrize(
    ("phase", "flag"), [("test", "tag"), ("test", "stream"), ("predict", "stream")]
)
def test_a_checkpoint_says_its_own_stream_and_folder(whole, capsys, phase, flag):
    before = (whole / "result-last.json").stat().st_mtime_ns
    argv = ["--phase", phase, "--weights", str(whole / "last.pt"), f"--{flag}", "bone"]
    assert run_command(main.main, [*argv, "--input", "a.npy", "--device", "cpu"]) == BAD_INPUT
    assert f"--{flag}: the checkpoint says its own" in capsys.readouterr().err
    assert (whole / "result-last.json").stat().st_mtime_ns == before


METHODS = PROJECT / "config/methods"


def run(tiny, folder, *files, more=()):
    argv = command(tiny, folder, "--quiet", "--set", "num_epoch=2", *more)
    argv[2:2] = [str(METHODS / file) for file in files]
    main.main(argv)
    return folder


@pytest.mark.parametrize(
    "method", ["shap-mix", "influence-balanced", "ldam-drw", "remix-drw", "kps", "ride"]
)
def test_a_method_is_one_file_on_top(tiny, tmp_path, method):
    settings = ["feeder_args.flip=0.0", "model_args.base_channels=6", "second_stage=1"]
    run(tiny, tmp_path / "run", f"{method}.yaml", more=settings)
    metrics = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert len(metrics) == 2 and np.isfinite([m["loss"] for m in metrics]).all()
    before = (tmp_path / "run/result.json").read_text()
    main.main(["--phase", "test", "--weights", str(tmp_path / "run/best.pt"), "--quiet"])
    assert (tmp_path / "run/result.json").read_text() == before


def test_whole_batches_are_told_before_they_are_mixed(tiny, tmp_path, monkeypatch):
    """Shap-Mix doubles a batch; a whole one is to run compiled nonetheless."""
    seen, only_whole = [], evaluate.only_whole
    monkeypatch.setattr(
        evaluate,
        "only_whole",
        lambda config, whole: seen.append(whole) or only_whole(config, whole),
    )
    monkeypatch.setattr(evaluate, "score", lambda net, feeder, *_, **__: np.eye(4)[feeder.labels])
    more = [*SMALL, "num_epoch=1", "batch_size=10"]  # 16 draws
    run(tiny, tmp_path / "run", "shap-mix.yaml", more=more)
    assert seen == [True, False]  # saliency and step together, of 10 and of 6


def test_shap_mix_hears_of_every_epoch(tiny, tmp_path, monkeypatch, untested):
    heard = []
    monkeypatch.setattr(ShapMix, "begin_epoch", lambda mix, epoch: heard.append(epoch))
    more = [*SMALL, "model_args.num_blocks=1", "batch_size=24"]
    run(tiny, tmp_path / "run", "shap-mix.yaml", more=more)
    assert heard == [0, 1]


def test_a_classifier_is_retrained_on_a_frozen_backbone(tiny, whole, tmp_path):
    run(
        tiny, tmp_path / "crt", "crt.yaml",
        more=["--phase", "classifier", "--weights", str(whole / "last.pt")],
    )  # fmt: skip
    before, after = weights(whole / "last.pt"), weights(tmp_path / "crt/last.pt")
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"fc.weight", "fc.bias"}


def test_tau_normalisation_needs_no_training(tiny, whole, tmp_path):
    run(
        tiny, tmp_path / "tau", "tau-normalisation.yaml",
        more=["--phase", "classifier", "--weights", str(whole / "last.pt")],
    )  # fmt: skip
    lengths = weights(tmp_path / "tau/last.pt")["fc.weight"].norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(4))


def test_max_norm_holds_after_the_last_step(tiny, whole, tmp_path, untested):
    more = ["lr=10", "--phase", "classifier", "--weights", str(whole / "last.pt")]
    run(tiny, tmp_path / "run", "max-norm.yaml", more=more)
    limit = weights(whole / "last.pt")["fc.weight"].norm(dim=1).mean()
    lengths = weights(tmp_path / "run/last.pt")["fc.weight"].norm(dim=1)
    assert lengths.max() <= limit * (1 + 1e-6) and lengths.max() > 0.99 * limit


def test_validation_on_held_out_samples_leaves_every_class_one(tiny, tmp_path, monkeypatch):
    own, scored = evaluate.score, []
    monkeypatch.setattr(
        evaluate,
        "score",
        lambda net, feeder, *args, **more: (
            scored.append(feeder.names) or own(net, feeder, *args, **more)
        ),
    )
    folder = run(tiny, tmp_path / "run", more=["val_split=0.4"])
    listed = (tiny / "list.txt").read_text().split()
    assert len(scored[0]) == 2 and set(scored[0]) < set(listed)  # of classes of three
    assert scored[1] == scored[0] and not set(scored[-1]) & set(listed)
    result = json.loads((folder / "result.json").read_text())
    assert result["class_counts"] == [2, 2, 1, 1] and result["samples"] == 12
    assert "held-out" in (folder / "log.txt").read_text()


def test_what_is_held_out_is_drawn_by_the_seed(tiny):
    labels = np.repeat([0, 1, 2], [10, 5, 1])
    rows = np.arange(100, 116)
    held = set()
    for seed in range(20):
        train_rows, val_rows = build.hold_out(rows, np.r_[np.full(100, 9), labels], 0.3, seed)
        assert sorted([*train_rows, *val_rows]) == rows.tolist()
        assert train_rows.tolist() == sorted(train_rows)  # the list's order stays
        assert np.bincount(labels[val_rows - 100], minlength=3).tolist() == [3, 2, 0]
        held |= set(val_rows.tolist())
    assert held == set(range(100, 115))
    file = tiny / "tiny-lt/joint.yaml"
    configs = [load([file], ["val_split=0.4"], seed=seed) for seed in range(10)]
    assert len({tuple(build.open_data(config).val_rows) for config in configs}) > 3


def test_copies_of_any_training_sample_are_left_out_of_the_clean_figure(tmp_path, monkeypatch):
    """Of the protocol's whole training split: also of a sample that the list leaves out."""
    clips = np.random.default_rng(0).normal(size=(3, 4, 2, 25, 3))
    with StoreWriter(tmp_path / "store", "ntu_rgb_d", ["a", "b"], (2, 25, 3)) as out:
        for number, (subject, clip) in enumerate([(1, 0), (1, 1), (2, 1), (2, 2), (2, 0), (2, 2)]):
            name = f"S001C001P{subject:03d}R{number:03d}A001"
            out.add(name, number % 2, clips[clip], subject=subject)
    names = ["S001C001P001R000A001"]
    (tmp_path / "list.txt").write_text(names[0])
    monkeypatch.setitem(long_tail.PUBLISHED, digest(names), "of this test")
    config = Config(
        store=str(tmp_path / "store"), protocol="demo-xsub", frames=4,
        training_list=str(tmp_path / "list.txt"), model_args={"num_class": 2},
    )  # fmt: skip
    data = build.open_data(config)
    assert data.copied.tolist() == [True, False, True, False]
    feeder = build.make_feeder(config, data, data.test_rows, torch.device("cpu"))
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]], "f4")  # labels 0 1 0 1
    monkeypatch.setattr(evaluate, "score", lambda *_, **__: scores)
    result = evaluate.test(None, config, data, feeder, Path("best.pt"), tmp_path, Ranks(), True)
    assert (result["top1"], result["top1_clean"]) == (50, 50)
    assert (result["samples"], result["samples_clean"]) == (4, 2)
    scores[3] = 0.9, 0.1
    result = evaluate.test(None, config, data, feeder, Path("best.pt"), tmp_path, Ranks(), True)
    assert (result["top1"], result["top1_clean"]) == (25, 0)
    assert result["published_list"] == digest(names)


def test_averaged_weights_resume_too(tiny, tmp_path):
    more = [
        "ema=0.9",
        "clip_grad=1.0",
        "accumulate=2",
        "schedule=step",
        "schedule_args={warm_up: 1}",
    ]
    first = run(tiny, tmp_path / "whole", more=more)
    process = start(tiny, tmp_path / "cut", "--quiet", "--set", "num_epoch=2", *more)
    while not (tmp_path / "cut/last.pt").is_file() and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.communicate()
    run(tiny, tmp_path / "cut", more=[*more, "--resume"])
    assert_same_weights(first / "last.pt", tmp_path / "cut/last.pt")


SMALL = ["model_args.num_blocks=3", "model_args.inflate=[2]", "model_args.down=[2]"]


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_half_precision_follows_single(tiny, tmp_path, amp):
    more = [*SMALL, "num_epoch=1", "test_clips=1"]
    folders = [
        run(tiny, tmp_path / precision, more=[*more, "--amp", precision])
        for precision in ("off", amp)
    ]
    single, half = (json.loads((f / "metrics.jsonl").read_text())["loss"] for f in folders)
    assert half == pytest.approx(single, rel=0.05) and half != single
    scaler = torch.load(folders[1] / "last.pt", weights_only=True)["stepper"]["scaler"]
    assert bool(scaler) == (amp == "fp16")
    kept = weights(folders[1] / "last.pt").values()
    assert all(value.dtype != torch.float16 for value in kept)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_compiled_training_compiles_one_shape_and_follows_the_plain(tiny, tmp_path):
    """24 rows in batches of 5: the last, of 4, is trained on as well, but not compiled for."""
    more = [*SMALL, "model_args.num_blocks=1", "batch_size=5", "num_epoch=1", "test_clips=1"]
    plain = run(tiny, tmp_path / "plain", more=more)
    counters["stats"].clear()
    compiled = run(tiny, tmp_path / "compiled", more=[*more, "--compile"])
    assert counters["stats"]["unique_graphs"] == 1
    first, second = (json.loads((f / "metrics.jsonl").read_text()) for f in (plain, compiled))
    assert second["loss"] == pytest.approx(first["loss"], rel=1e-3)


def test_cuda_graphs_are_for_one_gpu_whose_steps_do_not_add_up():
    gpu, alone = torch.device("cuda"), Ranks()
    assert takes_cuda_graphs(Config(), gpu, alone)
    assert not takes_cuda_graphs(Config(), torch.device("cpu"), alone)
    assert not takes_cuda_graphs(Config(accumulate=2), gpu, alone)
    assert not takes_cuda_graphs(Config(cuda_graphs=False), gpu, alone)
    assert not takes_cuda_graphs(Config(), gpu, Ranks(0, 2))


def test_a_mixed_batch_twice_as_long_is_compiled_too(tiny, tmp_path, monkeypatch):
    """Shap-Mix: the training pass of 2 N clips, and the passes that measure the saliency."""
    capture_only = functools.partial(torch.compile, backend="eager")
    monkeypatch.setattr(torch, "compile", lambda model, mode, **more: capture_only(model, **more))
    more = [*SMALL, "feeder_args.flip=0.0", "model_args.num_blocks=1", "batch_size=8"]
    counters["stats"].clear()
    run(tiny, tmp_path / "run", "shap-mix.yaml", more=[*more, "num_epoch=1", "--compile"])
    assert counters["stats"]["unique_graphs"] == 2


def test_testing_takes_amp_from_the_command_line(whole, tmp_path):
    argv = ["--phase", "test", "--weights", str(whole / "last.pt"), "--quiet"]
    main.main([*argv, "--work-dir", str(tmp_path), "--amp", "bf16"])
    single, half = (np.load(f / "scores-last.npz")["scores"] for f in (whole, tmp_path))
    assert not np.array_equal(half, single)
    np.testing.assert_allclose(half, single, atol=0.02)


METHOD_ARGUMENTS = {
    "everything": [
        "ema=0.9", "clip_grad=1.0", "accumulate=2", "amp=fp16", "schedule=step",
        "model_args.dropout=0.5",
    ],
    "shap-mix": ["feeder_args.flip=0.0", "mixing_args={warm_up: 0}"],
    "progressive": ["sampling=longtail.sampling.ProgressiveSampling"],
}  # fmt: skip


@pytest.mark.parametrize("method", METHOD_ARGUMENTS)
def test_sigterm_in_the_middle_of_an_epoch_changes_nothing(tiny, tmp_path, monkeypatch, method):
    """Every tensor and number of last.pt, the averaged weights, scaler and saliency included."""
    files = ["shap-mix.yaml"] if method == "shap-mix" else []
    more = [*SMALL, "test_clips=1", *METHOD_ARGUMENTS[method]]
    run(tiny, tmp_path / "whole", *files, more=more)
    own, stopped = Stepper.step, []

    def interrupted(stepper, loss, epoch, *args):
        if epoch > 1.2 and not stopped:
            stopped.append(epoch)
            os.kill(os.getpid(), signal.SIGTERM)
        return own(stepper, loss, epoch, *args)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Stepper, "step", interrupted)
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


def test_all_streams_go_on_where_one_was_stopped(tiny, tmp_path, monkeypatch):
    more = [*SMALL, "num_epoch=1", "test_clips=1", "--stream", "all"]
    own, streams = Stepper.step, []

    def interrupted(stepper, *args):
        streams.append(stepper.config.stream)
        if streams.count("skip") == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return own(stepper, *args)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Stepper, "step", interrupted)
        run(tiny, tmp_path / "all", more=more)
    results = {path: path.read_bytes() for path in tmp_path.glob("all/*/last.pt")}
    assert {path.parent.name for path in results} == {"joint", "bone", "skip"}
    del results[tmp_path / "all/skip/last.pt"]
    for path in results:
        os.utime(path, (1, 1))
    run(tiny, tmp_path / "all", more=[*more, "--resume"])
    assert all(path.stat().st_mtime == 1 for path in results)  # not trained again
    assert json.loads((tmp_path / "all/ensemble.json").read_text())["missing"] == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "truncated or no checkpoint"),
        (lambda path: path.write_bytes(b""), "truncated or no checkpoint"),
        (lambda path: shutil.copy(path.with_name("best.pt"), path), "is a best.pt"),
    ],
)
def test_what_cannot_be_resumed_is_said_and_kept(tiny, whole, tmp_path, capsys, spoil, said):
    folder = tmp_path / "joint"
    shutil.copytree(whole, folder)
    spoil(folder / "last.pt")
    before = (folder / "last.pt").read_bytes()
    assert run_command(main.main, command(tiny, folder, "--quiet", "--resume")) == BAD_INPUT
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0] and "--overwrite" in lines[0]
    assert (folder / "last.pt").read_bytes() == before


def test_the_best_checkpoint_is_that_of_the_first_highest_epoch(tiny, tmp_path, monkeypatch):
    figures = iter([50.0, 75.0, 75.0])
    own = evaluate.judge
    monkeypatch.setattr(evaluate, "test", lambda *_: dict.fromkeys(logs.HEADINGS))
    monkeypatch.setattr(evaluate, "judge", lambda *args: own(*args) | {"top1": next(figures)})
    folder = run(tiny, tmp_path / "run", more=[*SMALL, "num_epoch=3"])
    assert checkpoint.read(folder / "best.pt")["progress"]["epoch"] == 2
    assert checkpoint.read(folder / "last.pt")["progress"]["epoch"] == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state["model"].update(more=torch.zeros(1)), "unknown more"),
        (lambda state: state["model"].pop("fc.bias"), "missing fc.bias"),
        (lambda state: state["config"].update(model="antigravity.Model"), "from outside model/"),
        (lambda state: state["config"].update(feeder="os.system"), "from outside feeders/"),
        (
            lambda state: state["config"].update(
                model="model.__init__.import_module", model_args={"name": "antigravity"}
            ),
            "from outside model/",
        ),
        (
            lambda state: state["config"].update(
                model="longtail.experts.Model", model_args={"backbone": "os.system"}
            ),
            "from outside model/",
        ),
    ],
)
def test_a_checkpoint_that_was_tampered_with_is_refused(whole, tmp_path, capsys, change, said):
    state = checkpoint.read(whole / "best.pt")
    change(state)
    checkpoint.save(tmp_path / "best.pt", state)
    argv = ["--phase", "test", "--weights", str(tmp_path / "best.pt")]
    assert run_command(main.main, argv) == BAD_INPUT
    assert said in capsys.readouterr().err
    assert not (tmp_path / "scores.npz").exists()


@pytest.mark.parametrize("tf32", [True, False])
def test_tf32_is_for_products_and_convolutions(tf32, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", not tf32)
    before = torch.get_float32_matmul_precision()
    evaluate.set_tf32(Config(tf32=tf32))
    assert torch.backends.cudnn.allow_tf32 == tf32
    assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")
    torch.set_float32_matmul_precision(before)


def test_a_replica_knows_to_what_its_network_is_cast():
    """As DataParallel calls it: from a thread, where autocast is on and has its own default."""
    net, kinds = Replica(torch.nn.Linear(3, 2), Config(amp="bf16")), []
    thread = threading.Thread(target=lambda: kinds.append(net(torch.zeros(1, 3)).dtype))
    with torch.autocast("cpu", torch.float16):
        thread.start()
        thread.join()
    assert kinds == [torch.bfloat16]


def test_all_streams_end_with_their_fusion(tiny, tmp_path, capsys):
    run(tiny, tmp_path / "all", more=["num_epoch=1", "test_clips=1", "--stream", "all"])
    written = json.loads((tmp_path / "all/ensemble.json").read_text())
    assert {"joint", "skip-motion", "2-stream", "4-stream", "6-stream"} <= set(written["rows"])
    assert written["missing"] == []
    assert capsys.readouterr().out == ""  # --quiet


def test_a_stream_leaves_no_frames_behind(tiny):
    """They hang on the feeder in a circle, which would stay until the collector happens to come."""
    store = Store.open(tiny / "store")
    frames = Feeder(store, np.arange(len(store)), train=True).source.kept.frames
    held = weakref.ref(frames)
    del frames
    release()
    assert held() is None
