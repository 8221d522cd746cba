"""Mistakes: one line that names what is wrong, and nothing lost."""

import argparse
import shutil

import numpy as np
import pytest
import torch

import graph
import main
from engine import build, checkpoint, config, evaluate, run_data, session
from engine.distributed import World
from engine.state import TrainState
from errors import BAD_INPUT, InputError, run_command
from longtail.losses import CrossEntropy
from longtail.mixing import Mixing
from model.backbone import Output
from tests.tiny_runs import METHODS, SMALL, assert_same_weights, command, run
from tools import embed, export


def test_finished_runs_are_not_overwritten_by_default(tiny, whole):
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


def test_folders_without_a_run_are_not_overwritten(tiny, tmp_path):
    (tmp_path / "notes.txt").touch()
    for more in ([], ["--overwrite"], ["--resume"]):
        with pytest.raises(InputError, match="does not contain a run; name another --work-dir"):
            main.main(command(tiny, tmp_path, *more))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--set", "model_args.num_class=3"], "model_args.num_class"),
        (
            ["--set", "model_args.graph=coco"],
            "25 joints (as ntu_rgb_d has), but the",
        ),
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
        (["--weights", "a.pt", "--stream", "joint", "bone"], "starts from one FILE"),
        (["--jobs", "2", "--stream", "joint", "joint"], "--jobs: one stream is one run"),
        (["--set", "classifier=longtail.classifiers.Retraining"], "add --phase classifier"),
        (["--val-split", "0.01"], "val_split: 0.01 holds out no sample"),
        (["--set", "model_args.base_channels=0"], "model_args="),
        (["--set", "schedule_args.gama=1"], "schedule_args.gama: schedule=cosine does not"),
        (["--set", "schedule=step", "schedule_args.milestones=1"], "milestones must be a rising"),
        (["--set", "schedule_args={warm_up: two}"], "schedule_args.warm_up must be a number"),
        (["--set", "optimizer_args.lr=1"], "optimizer_args.lr"),
        (["--set", "feeder_args.stream=bone"], "feeder_args.stream"),
    ],
)
def test_errors_are_one_line_and_nothing_is_written(tiny, tmp_path, capsys, more, said):
    folder = tmp_path / "run"
    assert run_command(main.main, command(tiny, folder, *more)) == BAD_INPUT
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and said in lines[0]
    assert not folder.exists()


RIDE = "model=model.experts.Model"
FOCAL = "loss=longtail.losses.Focal"
LATE = "loss=tests.test_refusals.LateLoss"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        # accepted by a constructor, impossible in the first step
        (["model_args.base_channels=4"], "model=model.stgcnpp.Model with model_args={"),
        (["model_args.num_blocks=0"], "model=model.stgcnpp.Model with model_args={"),
        (["model_args.num_class=7"], "model_args.num_class: 7, but"),
        (["feeder_args.scale=x"], "feeder_args.scale must be a number, not 'x'"),
        (["feeder_args.scale=.nan"], "feeder_args.scale must be a finite number, not nan"),
        (["feeder_args.rotate=[0,.inf,0]"], "feeder_args.rotate must be a number or a list"),
        (["feeder_args.p_interval=x"], "feeder_args.p_interval must be a list of 2 finite numbers"),
        (["feeder_args.p_interval=[0.5]"], "must be a list of 2 finite numbers, not [0.5]"),
        (["feeder_args.mirror=no thanks"], "feeder_args.mirror must be true or false, not 'no th"),
        (["feeder_args.scale=true"], "feeder_args.scale must be a number, not True"),
        (["feeder_args.rotate=true"], "feeder_args.rotate must be a number or a list of finite"),
        (["feeder_args.choice=evn"], "one of uniform, even, not 'evn' (did you mean even?)"),
        (["model_args.adaptive=ofset"], "importance, not 'ofset' (did you mean offset?)"),
        (["mixing_args.alpha=x"], "mixing_args.alpha must be a number or null, not 'x'"),
        ([FOCAL, "loss_args.gamma=x"], "loss_args.gamma must be a number, not 'x'"),
        (["mixing=tests.test_refusals.LateMixing"], "mixing=tests.test_refusals.LateMixing with"),
        ([LATE], f"{LATE} with loss_args={{}}"),
        ([LATE, "loss_from=second_stage"], f"{LATE} with"),
        (["loss=torch.nn.CrossEntropyLoss"], "loss=torch.nn.CrossEntropyLoss"),
        (["sampling=longtail.sampling.PowerSampling", "sampling_args.power=x"],
         "sampling_args.power must be a number, not 'x'"),
        (["optimizer=torch.optim.LBFGS", "optimizer_args={}"], "LBFGS: needs a closure"),
        # accepted one by one, impossible together
        ([RIDE, FOCAL], "loss=longtail.losses.Focal with loss_args={} and model=model.experts"),
        ([RIDE, FOCAL, "model_args.experts=2"], "loss=longtail.losses.Focal with"),
        ([RIDE, FOCAL, "model_args.experts=3", "batch_size=3"], "loss=longtail.losses.Focal with"),
        ([RIDE, "loss=longtail.losses.InfluenceBalanced"], "takes the logits of one classifier"),
        # only seen in the test after training
        (["feeder_args.choice=even", "test_clips=10"], "test_clips: 10"),
        (["shots=[1,b]"], "shots must be a list of whole numbers"),
        (["model=tests.test_refusals.Narrow"], "returns (2, 3), but logits (N, K) must be (2, 4)"),
        # in constructors
        ([RIDE, "model_args.backbone=model.nowhere.Model"], "model.nowhere does not exist"),
        ([RIDE, "model_args.backbone=5"], "model_args.backbone: 5 is not a backbone"),
        ([RIDE, "model_args.backbone=model.infogcn.Model"], "has outputs of its own"),
        (["model=tests.test_refusals.Bare"], "its forward take outputs=True"),
        (
            ["model=tests.test_refusals.Unlabeled"],
            "must be a model.backbone.Backbone, or have the attributes skeleton, num_class, "
            "num_person, in_channels (missing: skeleton, num_person, in_channels)",
        ),
        (["model=tests.test_refusals.Broken"], "model=tests.test_refusals.Broken with model"),
        (["model=tests.test_refusals.BROKEN"], "model=tests.test_refusals.BROKEN: is not a class"),
        (["model=..x"], "model=..x: expected an import string"),
        # passed over
        (["class_weights=null", "class_weights_args.beta=1"], "class_weights_args: not used"),
        (["classifier_args.tau=1"], "classifier_args: not used, because"),
    ],
)  # fmt: skip
def test_all_parts_of_a_run_are_tried_before_its_first_step(tiny, tmp_path, capsys, words, said):
    folder = tmp_path / "run"
    argv = command(tiny, folder, "--set", *words)
    assert run_command(main.main, argv) == BAD_INPUT
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and said in lines[0] and len(lines[0]) < 500
    assert not folder.exists()


class LateMixing(Mixing):
    def forward(self, clips, labels, generator=None):
        raise ValueError("late")


class LateLoss(CrossEntropy):
    def loss_matrix(self, logits):
        raise ValueError("late")


class Narrow(torch.nn.Module):
    """A network that misses a class where it is tested."""

    def __init__(self, num_class, **others):
        super().__init__()
        self.fc = torch.nn.Linear(75, num_class)
        self.skeleton, self.num_class = graph.load("ntu_rgb_d"), num_class
        self.num_person, self.in_channels = 2, 3

    def forward(self, clips, outputs=False):
        logits = self.fc(clips.mean((1, 2)).flatten(1))
        logits = logits if self.training else logits[:, 1:]
        return Output(logits, clips, {}) if outputs else logits


class Unlabeled(torch.nn.Module):
    """A network without the attributes that tell its layout, persons and channels."""

    def __init__(self, num_class, **others):
        super().__init__()
        self.num_class = num_class

    def forward(self, clips, outputs=False):
        raise NotImplementedError


class Bare(torch.nn.Module):
    """A network of logits alone."""

    def __init__(self, **others):
        super().__init__()

    def forward(self, clips):
        return clips


BROKEN = 3


class Broken:
    def __init__(self, **others):
        self.nothing["key"] = others


def test_a_rehearsal_changes_nothing(tiny, tmp_path, monkeypatch, untested):
    more = [*SMALL, "num_epoch=1", "model_args.dropout=0.5", "feeder_args.flip=0.0"]
    run(tiny, tmp_path / "with", "shap-mix.yaml", more=more)
    monkeypatch.setattr(session, "rehearse", lambda *parts: None)
    run(tiny, tmp_path / "without", "shap-mix.yaml", more=more)
    assert_same_weights(tmp_path / "with/last.pt", tmp_path / "without/last.pt")


def test_fewer_samples_than_ranks(tiny, whole, tmp_path):
    """Each of four ranks scores its own of three samples; the last has none."""
    settings = config.load([tiny / "tiny-lt/joint.yaml"], ["batch_size=3"])
    net = build.make_model(settings).eval()
    data = run_data.open_data(settings, net)
    cpu = torch.device("cpu")
    feeder = build.make_feeder(settings, data, data.test_rows[:3], cpu, clips=2)
    alone = evaluate.score(net, feeder, settings, cpu)
    parts = [None] * 4

    class Several(World):
        def gather(self, part):
            parts[self.rank] = part
            return [each for each in parts if each is not None]

    for rank in range(4):
        everything = evaluate.score(net, feeder, settings, cpu, Several(rank, 4))
    np.testing.assert_allclose(everything, alone, rtol=1e-5)
    with pytest.raises(InputError, match="batch_size: 3 samples for 4 ranks"):
        session.build_training(settings, [cpu], Alone(0, 4))


class Alone(World):
    """A rank whose fellows are not there: nothing is gathered."""

    def gather(self, part):
        raise AssertionError("waits for the others")


def test_a_loss_that_is_not_finite_names_the_samples(tiny, tmp_path):
    with pytest.raises(InputError, match=r"the loss is (nan|inf) in epoch 1, step \d+; samples S0"):
        main.main(command(tiny, tmp_path / "run", "--quiet", "--set", "lr=1e30"))


def test_outputs_that_are_not_finite_are_rejected(tiny, whole, tmp_path, monkeypatch):
    """A comparison with NaN is false, so such scores would count as right."""
    state = checkpoint.read(whole / "last.pt")
    state["model"]["fc.weight"].fill_(np.finfo(np.float32).max)  # finite, unlike the logits
    checkpoint.save(tmp_path / "broken.pt", {k: v for k, v in state.items() if k != "format"})
    argv = ["--phase", "test", "--weights", str(tmp_path / "broken.pt"), "--device", "cpu"]
    with pytest.raises(InputError, match=r"not finite for 12 of 12 samples \(e\.g\. S001"):
        main.main(argv)
    assert not (tmp_path / "result.json").exists()
    update = TrainState.update

    def diverge(state):
        update(state)
        state.model.fc.bias.data.fill_(np.inf)

    monkeypatch.setattr(TrainState, "update", diverge)  # after the only loss
    settings = ["--set", "num_epoch=1", "batch_size=1000"]
    with pytest.raises(InputError, match="not finite"):
        main.main(command(tiny, tmp_path / "run", "--quiet", *settings))
    assert not (tmp_path / "run/best.pt").exists()


# A value for every flag of main.py.
VALUES = {
    "--phase": [], "--config": ["a.yaml"], "--store": ["data/mine"], "--set": ["frames=6"],
    "--stream": ["bone"],
    "--weights": ["a.pt"], "--new-head": [], "--seed": ["7"],
    "--val-split": ["0.1"], "--device": ["cpu"],
    "--work-dir": ["run"], "--jobs": ["2"], "--tag": ["mine"], "--check": [], "--resume": [],
    "--overwrite": [], "--amp": ["bf16"], "--compile": [],
    "--accumulate": ["2"], "--input": ["a.npy"], "--output": ["a.csv"],
    "--window": ["9"], "--stride": ["3"], "--threshold": ["0.5"],
    "--segments": [], "--fps": ["30"], "--per-person": [],
    "--image-size": ["480", "640"], "--nan": ["zero"],
    "--quiet": [],
    "--debug": [],
}  # fmt: skip


def test_the_table_of_phases_has_every_flag():
    """So that no flag can be added without saying which phases use it."""
    flags = {flag for action in main.make_parser()._actions for flag in action.option_strings}
    assert flags - {"-h", "--help"} == set(main.USED_BY) == set(VALUES)


@pytest.mark.parametrize("phase", ["test", "predict"])
@pytest.mark.parametrize("word", ["stream=bone", "seed=7", "compile=true", "val_split=0.1"])
def test_a_key_is_refused_as_its_flag_is(phase, word, whole, capsys):
    argv = ["--phase", phase, "--weights", str(whole / "best.pt"), "--set", "frames=6", word]
    flag = f"--{word.partition('=')[0].replace('_', '-')}"
    assert run_command(main.main, argv) == BAD_INPUT
    assert capsys.readouterr().err.startswith(f"error: {flag}: ")
    main.parse([*argv[:-1], "test_clips=1", "amp=bf16"])


@pytest.mark.parametrize(
    ("word", "what"),
    [
        ("loss=longtail.losses.Focal", "loss; omit it"),
        ("mixing_args.ratio=1", "mixing_args"),
        ("num_epoch=3", "num_epoch"), ("lr=1", "lr"), ("optimizer_args={}", "optimizer_args"),
        ("feeder_args.flip=0", "flip, only training augments clips"),
        ("feeder_args={rotate: 0}", "rotate, only training augments clips"),
    ],
)  # fmt: skip
def test_a_key_that_only_training_uses_is_refused(word, what, whole, tmp_path, capsys):
    """A test would write a folder whose config.yaml says what never was."""
    weights, before = str(whole / "best.pt"), sorted(whole.rglob("*"))
    commands = {
        "--phase test": (main.main, ["--phase", "test", "--weights", weights]),
        "--phase predict": (
            main.main, ["--phase", "predict", "--weights", weights, "--input", "none.npy"],
        ),
        "an embedding": (embed.main, [weights]),
        "an export": (export.main, [weights]),
    }  # fmt: skip
    for name, (tool, argv) in commands.items():
        assert run_command(tool, [*argv, "--set", "frames=6", word]) == BAD_INPUT
        assert f"--set {word}: {name} does not use {what}" in capsys.readouterr().err
    assert sorted(whole.rglob("*")) == before


def test_a_second_stage_is_refused_for_a_network_that_is_not_trained(tiny, tmp_path):
    more = ["classifier=null"]
    with pytest.raises(InputError, match="FSA: is a second stage; it needs --phase classifier"):
        run(tiny, tmp_path / "run", "fsa.yaml", more=more)


def test_the_keys_of_a_test_exist_and_those_of_the_recipe_of_training_are_not_among_them():
    assert set(config.TEST_KEYS) <= config.KEYS.keys()
    assert not {"loss", "lr", "sampling", "classifier", "ema"} & set(config.TEST_KEYS)
    assert "val_split" not in config.PREDICT_KEYS


@pytest.mark.parametrize("phase", main.PHASES)
@pytest.mark.parametrize("flag", [flag for flag in VALUES if flag != "--phase"])
def test_a_flag_that_a_phase_does_not_use_is_refused(flag, phase, capsys):
    argv = ["--phase", phase, flag, *VALUES[flag]]
    uses = main.USED_BY[flag].split()
    if phase in uses:
        main.parse(argv)
    elif f"{phase}*" in uses:
        with pytest.raises(InputError, match=f"{flag}: the checkpoint has its own"):
            main.parse(argv)
        main.parse([*argv, "--config", "a.yaml"])
    else:
        with pytest.raises(InputError, match=f"{flag}: --phase {phase} does not use it"):
            main.parse([*argv, "--config", "a.yaml"])


@pytest.mark.parametrize("flag", ["--seed", "--compile", "--input", "--overwrite", "--accumulate"])
def test_testing_refuses_what_belongs_to_training_and_prediction(whole, capsys, flag):
    before = (whole / "result-last.json").stat().st_mtime_ns
    argv = ["--phase", "test", "--weights", str(whole / "last.pt"), flag, *VALUES[flag]]
    assert run_command(main.main, argv) == BAD_INPUT
    assert f"{flag}: --phase test does not use it" in capsys.readouterr().err
    assert (whole / "result-last.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("phase", ["test", "predict"])
@pytest.mark.parametrize("flag", ["--stream", "--tag"])
def test_a_checkpoint_has_its_own_stream_and_folder(flag, phase):
    with pytest.raises(InputError, match=f"{flag}: "):
        main.parse(["--phase", phase, "--weights", "a.pt", flag, *VALUES[flag]])


class Asked(argparse.Namespace):
    """Options that note which of them are asked for."""

    def __getattribute__(self, name):
        if not name.startswith("_") and "_asked" in self.__dict__:
            self.__dict__["_asked"].add(name)
        return super().__getattribute__(name)


@pytest.mark.parametrize("phase", main.PHASES)
def test_a_phase_asks_for_every_flag_that_it_accepts(tiny, whole, tmp_path, monkeypatch, phase):
    """Otherwise the table claims a flag that is passed over."""
    np.save(tmp_path / "clip.npy", np.random.default_rng(0).normal(size=(9, 25, 3)))
    more = {
        "train": ["--quiet", "--set", *SMALL, "num_epoch=1", "test_clips=1"],
        "classifier": ["--quiet", "--weights", str(whole / "last.pt"), "--set", "num_epoch=1"],
        "test": ["--quiet", "--weights", str(whole / "last.pt")],
        "predict": ["--quiet", "--weights", str(whole / "last.pt"), "--input",
                    str(tmp_path / "clip.npy"), "--output", str(tmp_path / "out.json")],
    }[phase]  # fmt: skip
    argv = command(tiny, tmp_path / "run", "--phase", phase, *more)
    if phase == "classifier":
        argv.insert(2, str(METHODS / "crt.yaml"))
    if phase == "predict":
        argv = [word for word in argv if word not in ("--work-dir", str(tmp_path / "run"))]
    parse, asked = main.parse, set()

    def asking(argv):
        options = Asked(**vars(parse(argv)))
        options.__dict__["_asked"] = asked
        return options

    monkeypatch.setattr(main, "parse", asking)
    main.main(argv)
    names = {"--set": "overrides", "--debug": None}  # --debug is for errors.run_command
    for flag, phases in main.USED_BY.items():
        name = names.get(flag, flag.strip("-").replace("-", "_"))
        if phase in phases.replace("*", "").split() and name is not None:
            assert name in asked, flag


def test_resume_and_overwrite_exclude_each_other(tiny, whole):
    before = (whole / "last.pt").read_bytes()
    with pytest.raises(InputError, match="give one of them"):
        main.main(command(tiny, whole, "--resume", "--overwrite"))
    assert (whole / "last.pt").read_bytes() == before


def test_a_test_of_an_earlier_last_pt_is_not_taken_for_one_of_best_pt(tiny, whole, tmp_path):
    folder = tmp_path / "joint"
    shutil.copytree(whole, folder)
    state = checkpoint.read(folder / "last.pt")
    state["stepper"] = state.pop("training")
    checkpoint.save(folder / "last.pt", {k: v for k, v in state.items() if k != "format"})
    before = (folder / "result.json").read_bytes()
    (folder / "result-last.json").unlink()
    main.main(["--phase", "test", "--weights", str(folder / "last.pt"), "--device", "cpu"])
    assert (folder / "result.json").read_bytes() == before
    assert (folder / "result-last.json").is_file()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "truncated or not a checkpoint"),
        (lambda path: path.write_bytes(b""), "truncated or not a checkpoint"),
        (lambda path: shutil.copy(path.with_name("best.pt"), path), "is a best.pt"),
    ],
)
def test_checkpoints_that_cannot_be_resumed_are_rejected_and_kept(
    tiny, whole, tmp_path, capsys, spoil, said
):
    folder = tmp_path / "joint"
    shutil.copytree(whole, folder)
    spoil(folder / "last.pt")
    before = (folder / "last.pt").read_bytes()
    assert run_command(main.main, command(tiny, folder, "--quiet", "--resume")) == BAD_INPUT
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0] and "--overwrite" in lines[0]
    assert (folder / "last.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state["model"].update(more=torch.zeros(1)), "left over: more"),
        (lambda state: state["model"].pop("fc.bias"), "missing: fc.bias"),
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
                model="model.experts.Model", model_args={"backbone": "os.system"}
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
