"""The comparison of methods: configurations, published figures, claims and tables."""

import csv
import json
import shlex
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch

import graph
import main
from data import long_tail
from engine import build, config, recipe
from errors import BAD_INPUT, InputError
from longtail.schedule import Stages
from tests import quick
from tests.tiny_runs import PROJECT
from tools import compare, published

METHODS = sorted(path.stem for path in (config.CONFIG_ROOT / "methods").glob("*.yaml"))
NW_UCLA = config.CONFIG_ROOT / "nw-ucla-lt"
PLAIN = {
    "sampling": "longtail.sampling.InstanceSampling",
    "mixing": "longtail.mixing.Plain",
    "loss": "longtail.losses.CrossEntropy",
    "class_weights": None,
}


# --- configurations ---


@pytest.mark.parametrize("method", [*METHODS, "released", "brl"])
def test_every_method_builds_on_a_benchmark_and_is_pure(method):
    settings = config.load([NW_UCLA / "joint.yaml", *compare.method_files(method)])
    counts = torch.tensor([100, 77, 59, 46, 35, 27, 21, 16, 12, 10])
    labels = torch.arange(10).repeat_interleave(counts)
    sampling = build.make(settings, "sampling", labels, counts, settings.repeat)
    mix = build.make(settings, "mixing", counts, graph.load("nw_ucla"))
    stages: Stages = build.make_stages(settings, counts)
    if settings.classifier:
        build.make(settings, "classifier", counts)
    rows = sampling.epoch(torch.Generator().manual_seed(0), 0.5)[:16]
    clips = torch.randn(16, 1, 52, 20, 3)
    if hasattr(mix, "begin_epoch"):
        mix.begin_epoch(0)
    shown, before = labels[rows], (clips.clone(), labels[rows])
    mixed, targets = mix(clips, shown, torch.Generator().manual_seed(0))
    assert torch.equal(clips, before[0]) and torch.equal(shown, before[1])
    clips = mixed
    for epoch in (0, settings.num_epoch - 1):
        shape = (len(clips), 3, 10) if method == "ride" else (len(clips), 10)
        logits = torch.randn(shape, requires_grad=True)
        criterion, weights = stages.criterion(epoch), stages.class_weights(epoch)
        features = {"features": torch.ones(len(clips), 4)}
        extra = features if getattr(criterion, "needs_features", False) else {}
        loss = criterion(logits, targets, weights, **extra)
        loss.backward()
        assert loss.isfinite() and logits.grad.isfinite().all()
    if method not in ("brl", "released", "brl-class-balanced"):
        brl = [v for k, v in PLAIN.items() if getattr(settings, k) != v]
        assert len(brl) <= 2  # at most the loss with its weights, or one other part, is its own
        assert "ActionAware" not in str(settings.class_weights)
        assert "Reverse" not in settings.sampling


@pytest.mark.parametrize(
    ("method", "scale"), [("ldam", 30), ("ldam-drw", 30), ("kps", 15), ("ride", 30)]
)
def test_margins_are_for_cosines_of_one_scale(method, scale):
    """The network scales them, in testing as in training; a loss for another scale is refused."""
    small = ["model_args.base_channels=8", "model_args.num_blocks=2"]
    settings = config.load([NW_UCLA / "joint.yaml", *compare.method_files(method)], small)
    model = build.make_model(settings).eval()
    logits = model(100 * torch.randn(4, 1, 16, 20, 3))
    assert 1 < logits.abs().max() <= scale * (1 + 1e-6)
    counts = torch.arange(10) + 1
    build.make_stages(settings, counts)
    for override in ("model_args.cosine=0", "model_args.cosine=true", "loss_args.scale=12"):
        other = config.load([NW_UCLA / "joint.yaml", *compare.method_files(method)], [override])
        with pytest.raises(InputError, match="the same number"):
            build.make_stages(other, counts)


def test_the_released_values_keep_the_rest_of_the_recipe():
    paper = config.load([NW_UCLA / "joint.yaml"])
    released = config.load([NW_UCLA / "joint.yaml", config.CONFIG_ROOT / "released.yaml"])
    changed = {k for k in vars(paper) if getattr(paper, k) != getattr(released, k)}
    assert changed == {"method", "mixing_args", "class_weights_args"}


# --- published figures ---


def test_lookup_finds_every_figure_of_the_table():
    with published.TABLE.open() as file:
        rows = list(csv.DictReader(file))
    seen = set()
    for row in rows:
        imbalance = int(row["imbalance"]) if row["imbalance"] else None
        key = tuple(row[k] for k in ("benchmark", "imbalance", "streams", "method", "backbone"))
        found = published.lookup(
            row["benchmark"], imbalance, row["streams"], row["method"], row["backbone"],
            row["metric"],
        )  # fmt: skip
        if (*key, row["metric"]) not in seen:  # of two sources the first counts
            assert found == float(row["value"])
        seen.add((*key, row["metric"]))
    assert published.lookup("nw-ucla-lt", 10, "joint") is None


def test_published_table_is_the_reference(shared):
    reference = shared / "reference" / "published-results.csv"
    assert published.TABLE.read_text() == reference.read_text()


NTU60 = config.CONFIG_ROOT / "ntu60-xsub-lt"


def run_facts(*files, digest="ntu60-xsub 100", stream="joint", folder=NTU60, **changes):
    """Return config.yaml and result.json of a run as one mapping, as a tested run leaves them."""
    settings = config.resolve([folder / f"{stream}.yaml", *files]).replace(**changes)
    listed = [key for key, name in long_tail.PUBLISHED.items() if name == digest]
    return vars(settings) | {
        "published_list": listed[0] if listed else None,
        "departures": recipe.departures(settings),
    }


def method(name):
    return config.CONFIG_ROOT / "methods" / f"{name}.yaml"


CTRGCN = {"model": "model.ctrgcn.Model"}
NTU120 = config.CONFIG_ROOT / "ntu120-xsub-lt"
CROSS_ENTROPY = method("cross-entropy")
BACKBONES = config.CONFIG_ROOT / "backbones.yaml"


@pytest.mark.parametrize(
    ("run", "figure"),
    [
        (run_facts(), 76.7),
        (run_facts(seed=3, amp="bf16", tag="mine"), 76.7),
        (run_facts(config.CONFIG_ROOT / "released.yaml"), 76.7),
        (run_facts(**CTRGCN), 76.9),
        (run_facts(method("brl-class-balanced"), **CTRGCN), 76.9),
        (run_facts(CROSS_ENTROPY, **CTRGCN), 69.3),  # as the plain backbones were trained
        (run_facts(CROSS_ENTROPY, BACKBONES, **CTRGCN), 69.3),
        (run_facts(method("shap-mix-recipe")), None),  # it departs from the authors' pipeline
        # the list is that of the digest, whatever `imbalance` says
        (run_facts(digest=None), None),
        (run_facts(digest="ntu60-xsub 10", imbalance=100), None),
        (run_facts(digest="ntu60-xview 100"), None),
        (run_facts(CROSS_ENTROPY, digest="ntu120-xsub 10", folder=NTU120, **CTRGCN), 79.6),
        # values that are not the method's, whatever its label or tag says
        (run_facts(num_epoch=8), None),
        (run_facts(val_split=0.1), None),
        (run_facts(mixing="longtail.mixing.Plain"), None),
        (run_facts(CROSS_ENTROPY, tag="brl", method="brl"), None),
        (run_facts(CROSS_ENTROPY, method("mixup"), num_epoch=3), None),
        (run_facts(method("shap-mix"), **CTRGCN), None),  # not its own recipe
        (run_facts(method("ride"), model="model.ctrgcn.Model"), None),
        (run_facts() | {"started_from": "other.pt"}, None),
        ({k: v for k, v in run_facts().items() if k != "departures"}, None),
        # a method that nobody published, a benchmark of one's own
        (run_facts(method("kps"), **CTRGCN), None),
        (run_facts(method="mine"), None),
        (run_facts(benchmark="mine"), None),
    ],
)  # fmt: skip
def test_a_published_figure_stands_beside_its_own_run_only(run, figure):
    assert published.beside([run], "joint") == figure
    if figure is not None:
        assert published.why_none(run) is None


def test_why_no_published_figure_is_shown():
    for run, said in (
        (run_facts(digest=None), "not trained on a published list of this benchmark"),
        (run_facts(num_epoch=8, val_split=0.1), "from the recipe of brl in num_epoch, val_split"),
        (run_facts() | {"started_from": "other.pt"}, "started from other.pt"),
    ):
        assert said in published.why_none(run) and "no published figure" in published.why_none(run)
    assert published.why_none(run_facts(benchmark="mine")) is None


def test_a_published_fusion_is_of_runs_that_all_belong_to_it():
    runs = [run_facts(stream=stream) for stream in ("joint", "bone")]
    assert published.beside(runs, "2-stream") == 79.6
    assert published.beside([runs[0], run_facts(stream="bone", num_epoch=3)], "2-stream") is None
    assert published.beside([runs[0], run_facts(stream="bone", **CTRGCN)], "2-stream") is None


def test_departures_are_by_value_and_named():
    settings = config.resolve([NTU60 / "joint.yaml", method("focal")], ["loss_args.gamma=3"])
    assert recipe.departures(settings) == ["loss_args"]
    assert recipe.departures(settings.replace(num_epoch=2)) == ["loss_args", "num_epoch"]
    small = config.resolve([NTU60 / "joint.yaml"], ["model_args.base_channels=8"])
    assert recipe.departures(small) == ["model_args"]
    assert recipe.departures(small.replace(benchmark="mine")) is None
    ride = config.resolve([NTU60 / "joint.yaml", method("ride")])
    assert recipe.departures(ride.replace(model="model.ctrgcn.Model")) == ["model"]
    other = ride.replace(model_args=ride.model_args | {"backbone": "model.ctrgcn.Model"})
    assert recipe.departures(other) == []  # which the experts are copies of
    said = recipe.describe(settings, ["loss_args"], "other.pt")
    assert said.startswith("departs from the recipe of focal on ntu60-xsub-lt: loss_args, start fr")
    assert recipe.describe(config.resolve([NTU60 / "joint.yaml"]), [], None) is None


def test_every_method_is_labeled_and_is_its_own_recipe():
    for name, file in recipe.method_files().items():
        settings = config.resolve([NTU60 / "joint.yaml", file])
        assert settings.method == name and recipe.departures(settings) == []
    for folder in config.CONFIG_ROOT.glob("*/base.yaml"):
        settings = config.resolve([folder.with_name("joint.yaml")])
        assert settings.method == recipe.BRL and recipe.departures(settings) == []


def test_every_published_method_that_is_here_has_its_name():
    assert set(published.METHODS) - {"brl", "released"} <= set(METHODS)
    with published.TABLE.open() as file:
        names = {row["method"] for row in csv.DictReader(file)}
    not_here = {"BCL", "PaCo", "FSA", "GLMC", "PoseConv3D", "Shap-Mix"}
    assert names - set(published.METHODS.values()) == not_here
    for name in set(published.METHODS) - {"brl", "released", "ride"}:
        assert published.beside([run_facts(method(name), **CTRGCN)], "joint") is not None
    for name in set(METHODS) - set(published.METHODS):  # class-balanced-drw is not class-balanced
        assert published.place_of(run_facts(method(name), **CTRGCN)) is None


def test_published_figures_are_beside_the_backbone_of_each_method(tmp_path):
    """RIDE's experts are copies of a backbone; a recipe that is not the authors' has no figure."""
    overrides = ("model_args.backbone=model.ctrgcn.Model",)
    for name, more, figure in (("ride", overrides, "76.6"), ("shap-mix-recipe", (), "")):
        sweep = compare.Sweep(NTU60, root=tmp_path, overrides=more)
        run = sweep.plan(name, 0)
        write_result(run, 50.0, 20.0, run_facts())
        table = compare.tabulate(sweep, [run], "last")[0]
        assert next(csv.DictReader(table.splitlines()))["published_top1"] == figure


# --- plans ---


def test_the_release_on_kinetics_is_a_file_of_its_own():
    folder = config.CONFIG_ROOT / "k400"
    run = compare.Sweep(folder, root=Path("work_dir")).plan("released", 0)
    assert "config/k400/released.yaml" in " ".join(run.arguments)
    assert (run.settings.second_stage, run.settings.method) == (21, "released")
    assert recipe.departures(run.settings) == []
    other = compare.Sweep(NTU60, root=Path("work_dir")).plan("released", 0)
    assert "config/released.yaml" in " ".join(other.arguments)


def test_plan_and_plain_commands():
    sweep = compare.Sweep(NW_UCLA, root=Path("work_dir"))
    run = sweep.plan("ldam-drw", 2)
    assert run.folder == Path("work_dir/nw-ucla-lt-ldam-drw-seed2/joint")
    words = sweep.command(run).split()
    assert words[:3] == ["python", "main.py", "--config"] and words[-1] == "--resume"
    assert [Path(w).name for w in words[3:5]] == ["joint.yaml", "ldam-drw.yaml"]
    assert sweep.plan("brl", 0).folder == Path("work_dir/nw-ucla-lt/joint")
    balanced = sweep.plan("max-norm", 1)
    assert balanced.needs == sweep.plan("balanced-softmax", 1)
    weights = balanced.arguments[balanced.arguments.index("--weights") + 1]
    assert weights == "work_dir/nw-ucla-lt-balanced-softmax-seed1/joint/last.pt"
    with pytest.raises(InputError, match="ldam-drw"):
        compare.method_files("ldam-dwr")


def test_dry_run_prints_commands_that_make_each_run_once(tmp_path, capsys):
    argv = ["--benchmark", "nw-ucla-lt", "--methods", "brl,cross-entropy,crt", "--seeds", "0", "0"]
    values = ["num_epoch=3", "schedule_args={warm_up: 1}"]
    argv += ["--work-dir", str(tmp_path / "a folder"), "--device", "cpu", "--dry-run"]
    compare.main([*argv, "--set", *values])
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 3
    assert lines[0][:2] == ["python", "main.py"]
    told = main.parse(lines[0][2:])
    assert told.overrides == values and told.resume and told.device == ["cpu"]
    assert told.work_dir == tmp_path / "a folder" / "nw-ucla-lt" / "joint"
    # crt starts from the cross-entropy run: both are claimed, by calls of this tool.
    for method, words in zip(("cross-entropy", "crt"), lines[1:]):
        assert words[:3] == ["python", "-m", "tools.compare"]
        assert words[words.index("--methods") + 1] == method
        compare.main([*words[3:], "--dry-run"])
    planned = capsys.readouterr().out.splitlines()
    assert shlex.split(planned[1]) == lines[2]
    run = compare.Sweep(NW_UCLA, root=tmp_path / "a folder", overrides=tuple(values)).plan("brl", 0)
    write_result(run, 50.0, 20.0)
    compare.main([*argv, "--set", *values])
    assert "--methods" in capsys.readouterr().out.splitlines()[0]  # brl is there


def test_results_of_other_values_are_refused(tmp_path):
    sweep = compare.Sweep(NW_UCLA, root=tmp_path, overrides=("num_epoch=3",))
    run = sweep.plan("cross-entropy", 0)
    write_result(run, 50.0, 20.0)
    run.check()
    sweep.plan("crt", 0).check()
    for other in (
        compare.Sweep(NW_UCLA, root=tmp_path).plan(m, 0) for m in ("cross-entropy", "crt")
    ):
        with pytest.raises(InputError, match="other values of num_epoch; another --work-dir"):
            other.check()
    # A run from before a key was there had what is its default now.
    path = run.folder / "config.yaml"
    path.write_text(path.read_text().replace("sync_bn: false\n", ""))
    run.check()


# --- one process at a time ---


def test_a_run_that_another_process_makes_is_busy(tmp_path, monkeypatch):
    """Before it is started, or when another call was faster; any other failure is told."""
    run = compare.Sweep(NW_UCLA, root=tmp_path).plan("brl", 0)
    started = []

    def faster(command):
        started.append(command)
        held.enter_context(run.place.lock())
        return BAD_INPUT

    monkeypatch.setattr(compare, "supervise", faster)
    with ExitStack() as held:
        assert compare.execute(run) == "busy" and len(started) == 1
        assert compare.execute(run) == "busy" and len(started) == 1
    monkeypatch.setattr(compare, "supervise", lambda command: BAD_INPUT)
    assert compare.execute(run) == f"exit code {BAD_INPUT}"


@pytest.mark.parametrize("sign", quick.only([signal.SIGINT], [signal.SIGINT, signal.SIGTERM]))
def test_an_interrupted_sweep_ends_its_run(sign):
    """The child tells that it began and, in the end, that it was asked to stop."""
    script = (
        "import signal, sys, time\n"
        "def stop(*_): print('stopped', flush=True); sys.exit()\n"
        "signal.signal(signal.SIGTERM, stop); signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "print('began', flush=True)\n"
        "while True: time.sleep(1)\n"
    )
    sweep = (
        "import signal, sys; from tools import compare\n"
        "signal.signal(signal.SIGTERM, compare.stop)\n"
        f"compare.supervise([sys.executable, '-c', {script!r}])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", sweep], cwd=PROJECT, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "began\n"
    process.send_signal(sign)
    assert process.stdout.read() == "stopped\n"  # to the end of the file: both have ended
    assert process.wait() != 0


# --- the table ---


def write_result(run, top1, few, facts=None):
    """Write what a finished run leaves; `facts` says on which list."""
    run.folder.mkdir(parents=True)
    config.write(run.settings, run.folder / "config.yaml")
    departures = recipe.departures(run.settings)
    listed = (facts or {}).get("published_list")
    result = {
        "departures": departures,
        "published_list": listed,
        "top1": top1,
        "mean_class": top1 - 1,
        "many": None,
        "medium": 60.0,
        "few": few,
    }
    for suffix, gain in (("-last", 0), ("", 5)):
        text = json.dumps(result | {"top1": top1 + gain})
        (run.folder / f"result{suffix}.json").write_text(text)


def test_table_against_numpy(tmp_path):
    sweep = compare.Sweep(config.CONFIG_ROOT / "ntu60-xsub-lt", root=tmp_path)
    runs = [sweep.plan(method, seed) for method in ("brl", "focal") for seed in (0, 1, 2)]
    top1 = [70.0, 71.5, 74.0]
    for run, value in zip(runs[:3], top1):
        write_result(run, value, value / 2, run_facts())
    write_result(runs[4], 50.0, 20.0)
    table, text = compare.tabulate(sweep, runs, "last")
    brl, focal = csv.DictReader(table.splitlines())
    assert float(brl["top1"]) == pytest.approx(np.mean(top1), abs=1e-3)
    assert float(brl["top1_sd"]) == pytest.approx(np.std(top1, ddof=1), abs=1e-3)
    assert float(brl["few_sd"]) == pytest.approx(np.std(top1, ddof=1) / 2, abs=1e-3)
    assert brl["many"] == "" and brl["seeds"] == "0 1 2" and brl["published_top1"] == "76.7"
    assert focal["seeds"] == "1" and focal["top1"] == "50.000" and focal["top1_sd"] == ""
    assert "| brl | 3 | 71.8 ± 2.0 | 70.8 ± 2.0 | – | 60.0 ± 0.0 | 35.9 ± 1.0 | 76.7 |" in text
    assert "| focal | 1 | 50.0 |" in text and "few <20" in text
    assert focal["published_top1"] == "" and brl["published_many"] == ""
    assert "focal, seed 1: not trained on a published list of this benchmark: no publ" in text
    best = compare.tabulate(sweep, runs, "best")[0]
    assert next(csv.DictReader(best.splitlines()))["top1"] == "76.833"


@pytest.mark.slow
def test_a_sweep_runs_what_is_missing_and_resumes(tiny, tmp_path, capfd):
    sweep = compare.Sweep(tiny / "tiny-lt", root=tmp_path, overrides=("num_epoch=1",),
                          options=("--device", "cpu", "--quiet"))  # fmt: skip
    run = sweep.plan("balanced-softmax", 1)
    assert run.folder == tmp_path / "tiny-lt-balanced-softmax-seed1" / "joint"
    assert compare.execute(run) == "done"
    written = (run.folder / "config.yaml").read_text()
    assert "longtail.losses.LogitAdjustment" in written and "seed: 1" in written
    assert run.result()["seed"] == 1 and not run.place.is_locked
    before = (run.folder / "result-last.json").stat().st_mtime_ns
    assert compare.execute(run) == "done"
    assert (run.folder / "result-last.json").stat().st_mtime_ns == before
    broken = sweep.plan("focal", 0)
    broken.folder.mkdir(parents=True)
    (broken.folder / "notes.txt").touch()  # not a run: main.py refuses it
    assert compare.execute(broken) == "exit code 2"
    assert "does not contain a run" in capfd.readouterr().err


def test_no_method_is_a_mistake(tmp_path):
    with pytest.raises(InputError, match="--methods: names none"):
        compare.main(["--benchmark", "demo", "--methods", " ,", "--work-dir", str(tmp_path / "w")])
    assert not (tmp_path / "w").exists()
