"""Tuning: values chosen on held-out training samples."""

import json

import numpy as np
import pytest

from errors import BAD_INPUT, InputError, run_command
from longtail import shots
from tests.comparisons import NW_UCLA
from tools import compare, tuning


def test_words_of_tuning():
    factors = tuning.Tuned.parse("lr=0.5x,1x,3e-1x")
    settings = compare.Sweep(NW_UCLA).plan("ldam-drw", 0).settings
    assert factors.words(settings) == [("lr=0.00625",), ("lr=0.0125",), ("lr=0.00375",)]
    both = tuning.Tuned.parse("model_args.cosine+loss_args.scale=0.5x,60")
    assert both.words(settings) == [
        ("model_args.cosine=15", "loss_args.scale=15"),
        ("model_args.cosine=60", "loss_args.scale=60"),
    ]
    for method, keys in {
        "cross-entropy": {"lr"},
        "ldam-drw": {"lr", "loss_args.scale", "loss_args.max_margin"},
        "logit-adjustment": {"lr", "loss_args.tau"},
        "post-hoc-adjustment": {"classifier_args.tau"},  # it trains nothing
        "crt": {"lr", "classifier_args.fresh"},
    }.items():
        settings = compare.Sweep(NW_UCLA).plan(method, 0).settings
        known = ("lr", "loss_args.scale", "loss_args.max_margin", "loss_args.tau",
                 "classifier_args.tau", "classifier_args.fresh")  # fmt: skip
        tuned = [tuning.Tuned.parse(f"{key}=1,2") for key in known]
        assert {each.keys[0] for each in tuned if each.applies(settings)} == keys, method


def test_arguments_of_a_base_are_tuned_for_every_method():
    keys = ("model_args.dropout", "model_args.num_blocks", "feeder_args.scale", "feeder_args.flip")
    for method in ("cross-entropy", "focal", "shap-mix-recipe"):
        settings = compare.Sweep(NW_UCLA).plan(method, 0).settings
        assert all(tuning.Tuned.parse(f"{key}=0.1,0.2").applies(settings) for key in keys), method


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "stream=bone"], "--set stream=bone: give --stream"),
        (["--tune", "lr"], "--tune lr: expected KEY=VALUE,VALUE"),
        (["--tune", "lr=1"], "expected KEY=VALUE,VALUE"),
        (["--tune", "lrr=1,2"], "unknown key 'lrr'"),
        (["--tune", "lr.x=1,2"], "lr has no inner key x"),
        (["--tune", "loss_args.tau=1,2"], "--tune loss_args.tau: none of the methods has a use"),
        (["--tune", "model=0.5x,1x"], "brl has model.stgcnpp.Model, which is not a number"),
        (["--tune", "val_split=0.1,0.2"], "val_split says what a run is trained and tested on"),
        (["--tune", "imbalance=10,50"], "imbalance says what a run is trained and tested on"),
        (["--tune", "stream=joint,bone"], "stream says what a run is trained and tested on"),
        (["--tune", "repeat=1,2", "--equal-steps"], "--equal-steps sets it"),
        (["--tune-seeds", "1"], "--tune-seeds: there is no --tune"),
        (["--baseline", "focal"], "--baseline focal: is not among --methods"),
        (["--folds", "1"], "--folds must be at least 2"),
        (["--jobs", "0"], "at least 1, or auto"),
        (["--dry-run", "--jobs", "2"], "--jobs: --dry-run makes no run"),
    ],
)
def test_a_mistake_is_one_line(words, said, tmp_path, capsys):
    argv = ["--benchmark", "nw-ucla-lt", "--methods", "brl", "--work-dir", str(tmp_path / "w")]
    assert run_command(compare.main, [*argv, *words]) == BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / "w").exists()


def pretend_to_train(accuracy, made):
    """Return a maker of runs that leave what `accuracy(run)` says they reach, held out."""

    def make(runs):
        made.append(list(runs))
        failures = {}
        for run in runs:
            if (found := accuracy(run)) is None:
                failures[run] = "exit code 2: the loss is nan"
                continue
            run.folder.mkdir(parents=True, exist_ok=True)
            lines = [{"epoch": 0, "top1": 99.0, "mean_class": 1.0},
                     {"epoch": 1, "top1": 50.0, "mean_class": found}]  # fmt: skip
            run.place.metrics_file.write_text("\n".join(map(json.dumps, lines)))
        return failures

    return make


def test_each_method_takes_what_is_best_on_held_out_samples(tmp_path):
    methods = ("cross-entropy", "logit-adjustment", "crt")
    sweep = compare.Sweep(NW_UCLA, methods, root=tmp_path)
    tuned = [tuning.Tuned.parse(text) for text in ("lr=0.1,0.2,0.4", "loss_args.tau=1,2")]

    def accuracy(run):
        if run.method == "cross-entropy":  # 0.4 is best in one seed, 0.2 over both
            return {0.1: (70, 10), 0.2: (60, 60), 0.4: (80, 30)}[run.settings.lr][run.seed]
        if run.method == "logit-adjustment":
            if run.settings.lr == 0.4:
                return None  # diverged
            return 50 + run.settings.loss_args["tau"]
        return 50 if run.settings.lr > 0.1 else 40

    made = []
    make = pretend_to_train(accuracy, made)
    choices = tuning.tune(sweep, tuned, [0, 1], [None], 0.25, "last", make)
    assert {each.method: each.words for each in choices} == {
        "cross-entropy": ("lr=0.2",),
        "logit-adjustment": ("lr=0.1", "loss_args.tau=2"),  # of equal ones the first
        "crt": ("lr=0.2",),
    }
    shown = {each.method: each.shown for each in choices}
    assert shown["logit-adjustment"] == "lr 0.1, tau 2"
    assert choices[0].accuracy == {"lr=0.1": 40, "lr=0.2": 60, "lr=0.4": 55}
    assert [each.held_out for each in choices] == [60, 52, 50]
    assert choices[1].accuracy["lr=0.4 loss_args.tau=1"] is None
    assert choices[1].failed == {
        "lr=0.4 loss_args.tau=1": "exit code 2: the loss is nan",
        "lr=0.4 loss_args.tau=2": "exit code 2: the loss is nan",
    }
    assert all(run.settings.val_split == 0.25 for runs in made for run in runs)
    first, second = made  # the classifier's trials start from the trial that was chosen
    assert {run.method for run in first} == {"cross-entropy", "logit-adjustment"}
    assert {run.needs.settings.lr for run in second} == {0.2}
    assert {run.needs.settings.val_split for run in second} == {0.25}
    final = sweep.plan("crt", 3, None, tuning.as_chosen(choices))
    assert final.settings.val_split is None and final.needs.settings.lr == 0.2
    with pytest.raises(InputError, match="no value of cross-entropy could be tried: exit code 2"):
        tuning.tune(sweep, tuned, [0], [None], 0.2, "last", pretend_to_train(lambda _: None, []))


def test_of_equal_values_the_first_is_chosen(tmp_path):
    """(0 + 0 + 3 + 3) / 3 and (0 + 2 + 3 + 1) / 3 of four classes: the second float is higher."""
    labels, found = np.repeat(range(4), 3), []
    for right in ([0, 0, 3, 3], [0, 2, 3, 1]):
        hits = np.concatenate([np.arange(3) < number for number in right])
        scores = np.eye(4)[np.where(hits, labels, (labels + 1) % 4)]
        found.append(shots.accuracy(scores, labels)["mean_class"])
    assert found[0] < found[1] == pytest.approx(found[0])
    sweep = compare.Sweep(NW_UCLA, ("focal",), root=tmp_path)
    make = pretend_to_train(lambda run: found[run.settings.lr > 0.1], [])
    tuned = [tuning.Tuned.parse("lr=0.1,0.2")]
    (choice,) = tuning.tune(sweep, tuned, [0], [None], 0.2, "last", make)
    assert choice.words == ("lr=0.1",)


def test_a_trial_counts_what_its_checkpoint_reaches(tmp_path):
    """best.pt is of the last of equal epochs, as samples are held out (TrainState.end_epoch)."""
    run = compare.Sweep(NW_UCLA, root=tmp_path).plan("brl", 0, held_out=0.2)
    run.folder.mkdir(parents=True)
    values = [(80, 40), (90, 50), (90, 85), (70, 60)]
    run.place.metrics_file.write_text(
        "\n".join(
            json.dumps({"epoch": number, "top1": top1, "mean_class": mean})
            for number, (top1, mean) in enumerate(values)
        )
    )
    assert tuning.held_out_accuracy(run, "best") == 85
    assert tuning.held_out_accuracy(run, "last") == 60


def test_each_fold_has_a_choice_of_its_own(tmp_path):
    """What is held out of one fold's training are test clips of another."""
    sweep = compare.Sweep(NW_UCLA, ("brl",), root=tmp_path)
    tuned = [tuning.Tuned.parse("lr=0.1,0.2")]
    best = {"1/2": 0.1, "2/2": 0.2}
    make = pretend_to_train(lambda run: float(run.settings.lr == best[run.fold]), [])
    choices = tuning.tune(sweep, tuned, [0], list(best), 0.2, "last", make)
    assert [(each.fold, each.words) for each in choices] == [
        ("1/2", ("lr=0.1",)), ("2/2", ("lr=0.2",)),
    ]  # fmt: skip
