"""Whole runs through main.py on a tiny benchmark: what they do, write and choose."""

import functools
import json
import re
import shlex
import shutil
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import f1_score

import main
from data import long_tail
from data.names import digest
from data.store import Store, StoreWriter
from engine import build, checkpoint, commands, evaluate, run_data, train
from engine.config import Config, load
from engine.distributed import World, free_memory
from engine.run import RunFolder
from engine.session import build_training
from engine.state import Progress
from engine.train import epoch_batches
from errors import InputError, run_command
from feeders.skeleton import Feeder
from longtail import shots
from model.backbone import Backbone
from tests.tiny_runs import PROJECT, SMALL, command, run


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
    assert best["config"]["num_epoch"] == 3 and "training" not in best
    assert best["class_names"] == ["wave", "kick", "bow", "sit"]  # and how clips are made:
    assert (best["layout"], best["normalization"], best["centre"]) == ("ntu_rgb_d", "centered", 20)
    assert best["size"] == Store.open(tiny / "store").meta["size"] and len(best["size"]) == 3


def test_small_batches_in_tests_change_no_score(whole, tmp_path):
    """test_batch_size bounds the clips that the network has at once; there are two per sample."""
    shutil.copytree(whole, tmp_path / "joint")
    sizes, forward = [], Backbone.forward

    @functools.wraps(forward)
    def seen(self, clips, *rest, **more):
        sizes.append(len(clips))
        return forward(self, clips, *rest, **more)

    argv = ["--phase", "test", "--weights", str(tmp_path / "joint/best.pt"), "--device", "cpu"]
    argv += ["--quiet", "--work-dir", str(tmp_path / "small")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Backbone, "forward", seen)
        main.main([*argv, "--set", "test_batch_size=5"])
    assert set(sizes) == {4}  # two whole samples
    one, other = (
        np.load(folder / "scores.npz")["scores"] for folder in (whole, tmp_path / "small")
    )
    np.testing.assert_allclose(other, one, atol=1e-6)


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
    f1 = f1_score(labels, scores.argmax(1), average="macro", zero_division=0)
    assert result["macro_f1"] == pytest.approx(100 * f1)
    assert result["nll"] == pytest.approx(-np.log(scores[np.arange(12), labels]).mean())
    assert result["published_list"] is result["departures"] is result["started_from"] is None
    assert result["epochs"] == checkpoint.read(whole / "best.pt")["progress"]["epoch"]
    assert result["weights"] == "best.pt" and result["stream"] == "joint"
    expected = shots.accuracy(scores, labels, [3, 3, 1, 1], (3, 1))
    assert result["medium"] == expected["medium"] and result["many"] is result["few"] is None


def test_the_log_begins_with_the_folder_and_ends_with_what_to_do_next(whole):
    first, *_, last = (whole / "log.txt").read_text().splitlines()
    parent = re.fullmatch(r".* run folder (.+)/joint", first)[1]
    assert f"tools.report {parent}, " in last and f"--weights {parent}/joint/best.pt" in last


def test_the_next_command_can_be_pasted():
    run = RunFolder("work dir/mine/joint")
    *_, weights, _, _ = shlex.split(commands.next_command(run, is_reported=True))
    assert weights == "work dir/mine/joint/best.pt"
    assert "tools.report 'work dir/mine', or" in commands.next_command(run, is_reported=False)


def test_the_time_left_is_that_of_all_steps_to_come():
    meter = object.__new__(train.LossMeter)
    meter.last, meter.training = 10, SimpleNamespace(config=Config(num_epoch=4))
    meter.progress = Progress(epoch=1, step=5, seconds=30.0)  # 6 s a step, 25 of 40 steps to come
    assert meter.left() == pytest.approx(150.0)


def test_the_loss_is_the_mean_of_the_steps_and_the_rate_falls_with_each(
    tiny, tmp_path, monkeypatch, untested
):
    own, steps = train.training_step, []

    def noted(training, *args):
        loss = own(training, *args)
        steps.append((loss.item(), training.state.lr))
        return loss

    monkeypatch.setattr(train, "training_step", noted)
    monkeypatch.setattr(train, "SYNC_EVERY", {"cpu": 4})  # of the six steps of an epoch
    folder = run(tiny, tmp_path / "run", more=SMALL)
    losses, rates = np.array(steps).T
    expected = 0.0125 * 4 / 16 * (1 + np.cos(np.pi * np.arange(12) / 12)) / 2
    np.testing.assert_allclose(rates, expected)
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    np.testing.assert_allclose([m["loss"] for m in epochs], losses.reshape(2, 6).mean(1), rtol=1e-6)
    assert [m["lr"] for m in epochs] == rates[5::6].tolist()


class Drawn:
    """A method that notes how far the training is."""

    def __init__(self):
        self.progress = []

    def rows(self, generator, progress):
        self.progress.append(progress)
        return torch.randperm(20, generator=generator)


def test_every_epoch_has_an_order_and_draws_of_its_own():
    """Another seed has others; the same one has the same again."""
    orders, seeds = {}, {}
    for seed in (0, 1, 0, 1):
        method, state = Drawn(), SimpleNamespace(progress=Progress())
        training = SimpleNamespace(
            config=Config(batch_size=8, num_epoch=4, seed=seed), world=World(), method=method,
            state=state,
        )  # fmt: skip
        for epoch in range(4):
            state.progress.epoch = epoch
            batches = epoch_batches(training)
            assert [(len(b.rows), b.step) for b in batches] == [(8, 0), (8, 1), (4, 2)]
            rows = tuple(torch.cat([b.rows for b in batches]).tolist())
            assert orders.setdefault((seed, epoch), rows) == rows
            for b in batches:
                assert seeds.setdefault((seed, epoch, b.step), b.seed) == b.seed
        assert method.progress == [0, 0.25, 0.5, 0.75]
    assert len(set(orders.values())) == 8 and len(set(seeds.values())) == 24


def test_a_seed_draws_the_weights(tiny, tmp_path):
    first, again, other = (
        build_training(
            load([tiny / "tiny-lt/joint.yaml"], seed=seed), [torch.device("cpu")], World()
        ).state.model.state_dict()
        for seed in (3, 3, 4)
    )  # fmt: skip
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["fc.weight"], other["fc.weight"])
    assert not (tmp_path / "run").exists()  # nothing is written until it runs


def test_training_reduces_the_loss(whole):
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
    assert "without the 0 duplicates of training samples" in said


def test_testing_without_the_list_takes_the_counts_of_the_training(whole, tmp_path):
    """A checkpoint from before it kept them leaves the shot figures out."""
    argv = ["--phase", "test", "--set", f"training_list={tmp_path}/nowhere.txt", "--quiet"]
    main.main([*argv, "--weights", str(whole / "best.pt"), "--work-dir", str(tmp_path / "kept")])
    result = json.loads((tmp_path / "kept/result.json").read_text())
    trained = json.loads((whole / "result.json").read_text())
    for key in ("top1", "class_counts", "medium"):
        assert result[key] == trained[key] is not None
    said = (tmp_path / "kept/log.txt").read_text()
    assert "the training list is missing: the shot figures use the class counts in the" in said
    state = checkpoint.read(whole / "best.pt") | {"class_counts": None}
    checkpoint.save(tmp_path / "old/best.pt", {k: v for k, v in state.items() if k != "format"})
    main.main(
        [*argv, "--weights", str(tmp_path / "old/best.pt"), "--work-dir", str(tmp_path / "o")]
    )
    result = json.loads((tmp_path / "o/result.json").read_text())
    assert result["medium"] is None and result["class_counts"] is None
    assert result["top1"] == trained["top1"]


def test_flags_are_keys(tiny):
    argv = "--seed 3 --val-split 0.25 --amp bf16 --compile --accumulate 4 --stream bone --tag mine"
    options = main.parse([*command(tiny, "run"), *argv.split(), "--set", "lr=1"])
    settings = commands.resolve(options, commands.stream_of(options))
    flags = ("seed", "val_split", "amp", "compile", "accumulate", "stream", "tag", "lr")
    assert [getattr(settings, f) for f in flags] == [3, 0.25, "bf16", True, 4, "bone", "mine", 1]


def test_validation_on_held_out_samples_leaves_every_class_one(tiny, tmp_path, monkeypatch):
    own, scored = evaluate.score, []
    monkeypatch.setattr(
        evaluate,
        "score",
        lambda net, feeder, *args, **more: (
            scored.append(feeder.names) or own(net, feeder, *args, **more)
        ),
    )
    listed = (tiny / "list.txt").read_text().split()
    monkeypatch.setitem(long_tail.PUBLISHED, digest(listed), "of this test")
    folder = run(tiny, tmp_path / "run", more=["val_split=0.4"])
    assert len(scored[0]) == 2 and set(scored[0]) < set(listed)  # of classes of three
    assert scored[1] == scored[0] and not set(scored[-1]) & set(listed)
    result = json.loads((folder / "result.json").read_text())
    assert result["class_counts"] == [2, 2, 1, 1] and result["samples"] == 12
    assert result["published_list"] is None  # which is not what was trained on
    main.main(["--phase", "test", "--weights", str(folder / "last.pt"), "--quiet"])
    assert json.loads((folder / "result-last.json").read_text())["published_list"] is None
    assert "held-out" in (folder / "log.txt").read_text()


def test_what_is_held_out_is_drawn_by_the_seed(tiny):
    labels = np.repeat([0, 1, 2], [10, 5, 1])
    rows = np.arange(100, 116)
    held = set()
    for seed in range(20):
        train_rows, val_rows = run_data.hold_out(rows, np.r_[np.full(100, 9), labels], 0.3, seed)
        assert sorted([*train_rows, *val_rows]) == rows.tolist()
        assert train_rows.tolist() == sorted(train_rows)  # the list's order stays
        assert np.bincount(labels[val_rows - 100], minlength=3).tolist() == [3, 2, 0]
        held |= set(val_rows.tolist())
    assert held == set(range(100, 115))
    file = tiny / "tiny-lt/joint.yaml"
    configs = [load([file], ["val_split=0.4"], seed=seed) for seed in range(10)]
    net = build.make_model(configs[0])
    assert len({tuple(run_data.open_data(config, net).val_rows) for config in configs}) > 3


def test_whole_persons_are_held_out(tiny):
    """A class that only they have is trained on."""
    labels = np.array([0, 0, 0, 1, 1, 1, 2, 2, 3])
    persons = np.array([1, 2, 3, 1, 2, 3, 2, 2, 3])
    rows, seen = np.arange(9), set()
    for seed in range(12):
        train_rows, val_rows = run_data.hold_out(rows, labels, 0.3, seed, persons)
        (held,) = set(persons[val_rows])
        assert sorted([*train_rows, *val_rows]) == rows.tolist()
        assert set(labels[train_rows]) == {0, 1, 2, 3}
        only = {1: set(), 2: {6, 7}, 3: {8}}[held]  # the rows of classes that nobody else has
        assert {row for row in train_rows if persons[row] == held} == only
        seen.add(held)
    assert seen == {1, 2, 3}
    file = tiny / "tiny-lt/joint.yaml"
    config = load([file], ["val_split=0.3", "val_by=subject"])
    with pytest.raises(InputError, match=r"val_split: 0\.3 holds out no sample"):
        run_data.open_data(config, build.make_model(config))  # one person trains


def test_persons_are_needed_to_hold_them_out(tmp_path):
    with StoreWriter(tmp_path / "s", "ntu_rgb_d", ["a"], (1, 25, 3)) as out:
        for split in ("train", "test"):
            out.add(split, 0, np.ones((3, 1, 25, 3)), split=split)
    given = Config(protocol="given", training_list=None, val_split=0.5)
    store = Store.open(tmp_path / "s")
    assert [len(rows) for rows in run_data.listed_rows(store, given)[1:]] == [1, 0]
    with pytest.raises(InputError, match=r"samples have no 'subject', which val_by: subject needs"):
        run_data.listed_rows(store, given.replace(val_by="subject"))


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
    data = run_data.open_data(config, build.make_model(config))
    assert data.duplicates.tolist() == [True, False, True, False]
    feeder = build.make_feeder(config, data, data.test_rows, torch.device("cpu"))
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]], "f4")  # labels 0 1 0 1
    monkeypatch.setattr(evaluate, "score", lambda *_, **__: scores)
    (tmp_path / "best.pt").touch()
    given = config, data, feeder, tmp_path / "best.pt", RunFolder(tmp_path), World()
    result = evaluate.test(None, *given, facts={}, quiet=True)
    assert (result["top1"], result["top1_clean"]) == (50, 50)
    assert (result["samples"], result["samples_clean"]) == (4, 2)
    scores[3] = 0.9, 0.1
    result = evaluate.test(None, *given, facts={}, quiet=True)
    assert (result["top1"], result["top1_clean"]) == (25, 0)
    assert result["published_list"] == digest(names)


@pytest.mark.parametrize(("flags", "epochs"), [([], 2), (["--val-split", "0.3"], 3)])
def test_the_best_checkpoint_is_that_of_the_first_highest_epoch(
    tiny, tmp_path, monkeypatch, flags, epochs
):
    """On held-out samples it is the last: few samples are often all right early in training."""
    figures = iter([50.0, 75.0, 75.0, 60.0])
    own = evaluate.metrics
    monkeypatch.setattr(evaluate, "test", lambda *_, **__: dict.fromkeys(shots.METRICS))
    monkeypatch.setattr(evaluate, "metrics", lambda *args: own(*args) | {"top1": next(figures)})
    folder = run(tiny, tmp_path / "run", more=[*SMALL, "num_epoch=4", *flags])
    assert checkpoint.read(folder / "best.pt")["progress"]["epoch"] == epochs
    assert checkpoint.read(folder / "last.pt")["progress"]["epoch"] == 4


@pytest.mark.slow
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
    free_memory()
    assert held() is None


@pytest.mark.slow
def test_a_run_says_how_it_departs_from_the_recipe(tiny, tmp_path, monkeypatch):
    """In log and result: values that are not the method's, weights that it did not begin with."""
    monkeypatch.setattr("engine.recipe.CONFIG_ROOT", tiny)
    plain = run(tiny, tmp_path / "plain", more=["num_epoch=3", "method=brl"])
    assert json.loads((plain / "result.json").read_text())["departures"] == []
    assert "departs from the recipe" not in (plain / "log.txt").read_text()
    weights = ["--weights", str(plain / "last.pt")]
    other = run(tiny, tmp_path / "other", more=["lr=0.1", "method=brl", *weights])
    for name in ("result.json", "result-last.json"):
        result = json.loads((other / name).read_text())
        assert result["departures"] == ["lr", "num_epoch"]
        assert result["started_from"] == "last.pt" and result["started_from_method"] == "brl"
    third = run(tiny, tmp_path / "third", more=["--weights", str(other / "last.pt")])
    assert json.loads((third / "result.json").read_text())["started_from_method"] is None
    said = "departs from the recipe of brl on tiny-lt: lr, num_epoch, start from last.pt; no publ"
    assert said in (other / "log.txt").read_text()
    argv = ["--phase", "test", "--weights", str(other / "best.pt"), "--quiet"]
    main.main(argv)
    assert (other / "log.txt").read_text().count(said) == 2
    # whatever a test says, the training was what it was; and the test may depart as well
    values = ["frames=7", "method=crt"]
    main.main([*argv, "--work-dir", str(tmp_path / "test"), "--set", *values])
    result = json.loads((tmp_path / "test/result.json").read_text())
    assert result["departures"] == ["frames", "lr", "num_epoch"] and result["method"] == "brl"


def test_a_store_of_another_layout_is_refused(tiny, tmp_path):
    """h36m and coco have as many joints."""
    with StoreWriter(tmp_path / "s", "h36m", ["a", "b"], (1, 17, 3)) as out:
        for number in range(4):
            split = ("train", "test")[number // 2]
            out.add(f"{number}", number % 2, np.ones((9, 1, 17, 3)), split=split)
    words = [f"store={tmp_path / 's'}", "protocol=given", "training_list=null"]
    words += ["model_args.num_class=2", "model_args.num_person=1"]
    said = "has layout h36m, but the network takes coco; set model_args.graph=h36m"
    with pytest.raises(InputError, match=said):
        run(tiny, tmp_path / "run", more=[*words, "model_args.graph=coco", *SMALL])


def test_a_network_is_not_judged_by_samples_that_it_was_trained_on(tiny, tmp_path, capsys):
    """Another fold's test samples, and samples that `val_split` holds out of what it knows."""
    words = ["num_epoch=1", "training_list=null", *SMALL]
    plain = run(tiny, tmp_path / "plain", "cross-entropy.yaml", more=[*words, "fold=1/2"])
    argv = ["--phase", "test", "--weights", str(plain / "last.pt"), "--device", "cpu", "--quiet"]
    assert run_command(main.main, [*argv, "--set", "fold=2/2"]) == 2
    assert re.search(r"was trained on 12 of the 12 test samples", capsys.readouterr().err)
    state = checkpoint.read(plain / "last.pt")
    state.pop("trained_on")  # as of an earlier version, which names its list
    checkpoint.save(tmp_path / "earlier.pt", state)
    earlier = [*argv, "--work-dir", str(tmp_path / "test"), "--set", "fold=2/2"]
    earlier[earlier.index(str(plain / "last.pt"))] = str(tmp_path / "earlier.pt")
    assert run_command(main.main, earlier) == 2
    assert re.search(r"was trained on 12 of the 12 test samples", capsys.readouterr().err)
    assert run_command(main.main, argv) == 0
    later = ["--phase", "classifier", "--weights", str(plain / "last.pt"), "--val-split", "0.3"]
    with pytest.raises(InputError, match=r"trained on \d+ of the \d+ held-out samples"):
        run(tiny, tmp_path / "crt", "crt.yaml", more=[*words, "fold=1/2", *later])


def test_a_classifier_is_trained_on_the_list_of_its_network(tiny, tmp_path):
    words = ["num_epoch=1", *SMALL]
    plain = run(tiny, tmp_path / "plain", "cross-entropy.yaml", more=words)
    later = ["training_list=null", "--phase", "classifier", "--weights", str(plain / "last.pt")]
    with pytest.raises(InputError, match="was trained on another list than None"):
        run(tiny, tmp_path / "crt", "crt.yaml", more=[*words, *later])
