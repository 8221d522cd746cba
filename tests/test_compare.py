"""The comparison of methods: configurations, published figures, claims and tables."""

import csv
import json
import multiprocessing
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import graph
import main
from engine import build, config
from errors import InputError
from longtail import published
from longtail.schedule import Stages
from tests.tiny_runs import CEILING, wait_until
from tools import compare

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
    stages: Stages = build.make_stages(settings, counts, torch.device("cpu"))
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


@pytest.mark.parametrize("method", ["ldam", "ldam-drw", "kps"])
def test_margins_are_for_cosines(method):
    small = ["model_args.base_channels=6", "model_args.num_blocks=2"]
    settings = config.load([NW_UCLA / "joint.yaml", *compare.method_files(method)], small)
    logits = build.make_model(settings)(100 * torch.randn(4, 1, 16, 20, 3))
    assert logits.abs().max() <= 1 + 1e-6 and settings.loss_args["scale"] == 30


def test_the_released_values_keep_the_rest_of_the_recipe():
    paper = config.load([NW_UCLA / "joint.yaml"])
    released = config.load([NW_UCLA / "joint.yaml", config.CONFIG_ROOT / "released.yaml"])
    changed = {k for k in vars(paper) if getattr(paper, k) != getattr(released, k)}
    assert changed == {"mixing_args", "class_weights_args"}


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


def test_published_of_a_run():
    run = vars(config.load([config.CONFIG_ROOT / "ntu60-xsub-lt" / "joint.yaml"]))
    run |= {"benchmark": "ntu60-xsub-lt", "tag": ""}
    assert published.of_run(run, "joint") == 76.7
    assert published.of_run(run, "6-stream") == 81.8
    assert published.of_run(run | {"imbalance": 10}, "joint") is None
    assert published.of_run(run | {"training_list": None}, "joint") is None
    rival = run | PLAIN | {"model": "model.ctrgcn.Model"}
    assert published.of_run(rival | {"tag": "ldam-drw-ctrgcn-seed1"}, "joint") is not None
    shap = published.of_run(rival | {"tag": "shap-mix-ctrgcn"}, "joint")
    assert shap == 80.8  # the strongest method on this list
    assert published.of_run(rival | {"tag": "mine"}, "joint") is None
    with_cb = run | {"class_weights": "longtail.weights.EffectiveNumber"}
    assert published.method_of(with_cb) == published.BFL


def test_every_published_method_that_is_here_has_its_name():
    assert set(published.METHODS) - {"brl", "released"} <= set(METHODS)
    with published.TABLE.open() as file:
        names = {row["method"] for row in csv.DictReader(file)}
    not_here = {"BCL", "PaCo", "FSA", "GLMC", "PoseConv3D"}
    assert names - set(published.METHODS.values()) == not_here
    run = {"benchmark": "ntu60-xsub-lt", "training_list": "list", "imbalance": 100}
    run["model"] = "model.ctrgcn.Model"
    for method in set(published.METHODS) - {"brl", "released", "brl-class-balanced"}:
        assert published.of_run(run | {"tag": f"{method}-ctrgcn-seed1"}, "joint") is not None
    for method in set(METHODS) - set(published.METHODS):  # class-balanced-drw is not class-balanced
        assert published.method_of(run | {"tag": f"{method}-ctrgcn"}) is None


def test_published_figures_are_beside_the_backbone_of_each_method(tmp_path):
    """RIDE's experts are copies of a backbone; Shap-Mix's recipe names its own."""
    overrides = ("model_args.backbone=model.ctrgcn.Model",)
    sweep = compare.Sweep(config.CONFIG_ROOT / "ntu60-xsub-lt", root=tmp_path, overrides=overrides)
    table = compare.tabulate(sweep, [sweep.plan("ride", 0)], "last")[0]
    assert next(csv.DictReader(table.splitlines()))["published_top1"] == "76.6"
    plain = compare.Sweep(config.CONFIG_ROOT / "ntu60-xsub-lt", root=tmp_path)
    table = compare.tabulate(plain, [plain.plan("shap-mix-recipe", 0)], "last")[0]
    assert next(csv.DictReader(table.splitlines()))["published_top1"] == "80.8"


# --- plans ---


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
    config.write(run.settings, run.folder / "config.yaml")
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


# --- claims ---


def grab(folder, barrier, results):
    barrier.wait(timeout=CEILING)
    results.put(compare.take(folder) is not None)
    barrier.wait(timeout=CEILING)  # the takers live until all have tried


@pytest.mark.parametrize("former", [None, "dead"])
def test_of_many_takers_one_wins(tmp_path, former):
    folder = tmp_path / "bench" / "joint"
    if former:
        folder.parent.mkdir()
        dead_claim(folder)
    context = multiprocessing.get_context("fork")
    for _ in range(3):
        barrier, results = context.Barrier(4), context.Queue()
        takers = [context.Process(target=grab, args=(folder, barrier, results)) for _ in range(4)]
        for taker in takers:
            taker.start()
        assert sum(results.get(timeout=CEILING) for _ in takers) == 1
        for taker in takers:
            taker.join()  # the winner dies with its claim: the next round takes it over


def dead_claim(folder, host=None, age=0.0, pid=None):
    """Leave the claim of a process that is gone, or of one of another machine."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    path = folder.parent / f".{folder.name}.claim.0"
    owner = {"host": host or socket.gethostname(), "processes": [(pid or process.pid, "1")]}
    path.write_text(json.dumps(owner))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_claims_are_given_back_and_dead_ones_taken_over(tmp_path):
    folder = tmp_path / "joint"
    with compare.claim(folder) as held:
        assert held is not None and compare.take(folder) is None
    dead_claim(folder)
    with compare.claim(folder) as held:
        assert held.name == ".joint.claim.1"
        assert compare.take(folder) is None
    dead_claim(folder, pid=os.getpid())  # the number lives on, in a process born later
    assert compare.take(folder) is not None


def test_claims_of_other_machines_live_by_their_signs(tmp_path):
    folder = tmp_path / "joint"
    dead_claim(folder, host="elsewhere", age=compare.DEAD_AFTER - 60)
    assert compare.take(folder) is None
    dead_claim(folder, host="elsewhere", age=compare.DEAD_AFTER + 60)
    assert compare.take(folder) is not None
    for stream, text in (("bone", "{"), ("skip", '{"pid": 1}')):  # cut short, of another version
        claim = tmp_path / f".{stream}.claim.0"
        claim.write_text(text)
        assert compare.take(tmp_path / stream) is None
        os.utime(claim, (0, 0))
        assert compare.take(tmp_path / stream) is not None


def hold(folder, command):
    """Make a run as a process of a sweep does."""
    signal.signal(signal.SIGTERM, compare.stop)
    with compare.claim(folder) as claimed:
        compare.supervise(command, claimed)


@pytest.fixture
def holder(tmp_path):
    """A process that holds tmp_path/joint, and the long-running process that it has started."""
    context = multiprocessing.get_context("fork")
    starter = context.Process(target=hold, args=(tmp_path / "joint", ["sleep", "100000"]))
    starter.start()
    path = tmp_path / ".joint.claim.0"

    def processes():
        text = path.read_text() if path.is_file() else ""
        return json.loads(text)["processes"] if text else []

    wait_until(lambda: len(processes()) == 2, alive=starter.is_alive)
    started = processes()[1]
    yield starter, started
    if compare.lives(*started):
        os.kill(started[0], signal.SIGKILL)
    starter.kill()
    starter.join()


def await_end(started):
    wait_until(lambda: not compare.lives(*started))


def test_a_run_whose_starter_was_killed_is_not_made_twice(tmp_path, holder):
    starter, started = holder
    starter.kill()
    starter.join()
    assert compare.lives(*started) and compare.take(tmp_path / "joint") is None
    os.kill(started[0], signal.SIGKILL)
    await_end(started)
    assert compare.take(tmp_path / "joint").name == ".joint.claim.1"


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_ends_its_run_and_leaves_no_claim(tmp_path, holder, sign):
    starter, started = holder
    os.kill(starter.pid, sign)
    starter.join(timeout=CEILING)
    assert starter.exitcode not in (None, 0)
    await_end(started)
    assert not list(tmp_path.iterdir())


def test_a_process_that_ended_but_was_not_asked_for_does_not_live():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    birth = compare.born(process.pid)
    assert compare.lives(process.pid, birth) and birth
    process.stdin.close()
    await_end((process.pid, birth))
    process.wait()


def test_a_long_run_shows_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "HEARTBEAT", 0.1)
    sign = tmp_path / "claim"
    sign.touch()
    os.utime(sign, (0, 0))
    assert compare.supervise([sys.executable, "-c", "import time; time.sleep(0.5)"], sign) == 0
    assert sign.stat().st_mtime > 0
    assert compare.supervise([sys.executable, "-c", "raise SystemExit(3)"], sign) == 3


# --- the table ---


def write_result(run, top1, few):
    run.folder.mkdir(parents=True)
    result = {"top1": top1, "mean_class": top1 - 1, "many": None, "medium": 60.0, "few": few}
    for suffix, gain in (("-last", 0), ("", 5)):
        text = json.dumps(result | {"top1": top1 + gain})
        (run.folder / f"result{suffix}.json").write_text(text)


def test_table_against_numpy(tmp_path):
    sweep = compare.Sweep(config.CONFIG_ROOT / "ntu60-xsub-lt", root=tmp_path)
    runs = [sweep.plan(method, seed) for method in ("brl", "focal") for seed in (0, 1, 2)]
    top1 = [70.0, 71.5, 74.0]
    for run, value in zip(runs[:3], top1):
        write_result(run, value, value / 2)
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
    assert run.result()["seed"] == 1 and not list(run.folder.parent.glob(".joint.claim*"))
    before = (run.folder / "result-last.json").stat().st_mtime_ns
    assert compare.execute(run) == "done"
    assert (run.folder / "result-last.json").stat().st_mtime_ns == before
    broken = sweep.plan("focal", 0)
    broken.folder.mkdir(parents=True)
    (broken.folder / "notes.txt").touch()  # not a run: main.py refuses it
    assert compare.execute(broken) == "exit code 2"
    assert "holds no run" in capfd.readouterr().err


def test_no_method_is_a_mistake(tmp_path):
    with pytest.raises(InputError, match="--methods: names none"):
        compare.main(["--benchmark", "demo", "--methods", " ,", "--work-dir", str(tmp_path / "w")])
    assert not (tmp_path / "w").exists()
