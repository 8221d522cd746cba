"""The benchmarks: what they report follows from what was run; a failed job of `gpu` is recorded."""

import argparse
import itertools
import json
import math
import os
import time
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from benchmarks import __main__ as benchmarks
from benchmarks import gpu, models, timing, train
from benchmarks.plain import UNITS, plain_config
from engine import config
from engine.build import make_model
from errors import BAD_INPUT, InputError, run_command

SMALL = ["--threads", "1", "--repeats", "1", "--device", "cpu"]
CPU = torch.device("cpu")


def run(tiny, tmp_path, what, *more):
    """Run a benchmark with the tiny configuration; return the results that it wrote."""
    out = tmp_path / "out.json"
    argv = [what, "--config", str(tiny / "tiny-lt/joint.yaml"), *SMALL, "--json", str(out), *more]
    assert run_command(benchmarks.main, argv) == 0
    return json.loads(out.read_text())["results"]


# --- time ---


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but for the seconds that `clock.slow` adds to a method."""
    clock = SimpleNamespace(now=0.0)

    def slow(owner, name, seconds):
        method = getattr(owner, name)

        def call(*args, **keywords):
            clock.now += seconds
            return method(*args, **keywords)

        monkeypatch.setattr(owner, name, call)

    clock.slow = slow
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_shares_are_the_time_of_each_part(tiny, clock):
    steps = train.Steps(config.load([tiny / "tiny-lt/joint.yaml"]), CPU, 3)
    training = steps.training
    clock.slow(training.feeder, "make", 0.5)  # once per batch
    clock.slow(training.method, "mix", 4)
    clock.slow(training.net, "forward", 2)
    clock.slow(training.state, "backward", 2.5)
    clock.slow(training.state.optimizer, "step", 0.75)
    clock.slow(training.method, "after_step", 0.25)
    assert steps.shares() == pytest.approx(
        {
            "feeding": 0.05, "mixing": 0.4, "forward": 0.2, "backward": 0.25, "optimizer": 0.075,
            "rest": 0.025,
        }
    )  # fmt: skip
    assert clock.now == 3 * 10


def test_a_nested_part_is_not_counted_twice(clock):
    """As when a mixing calls the network, and then goes on."""
    net, after = SimpleNamespace(forward=lambda: None), SimpleNamespace(mix=lambda: None)
    clock.slow(net, "forward", 3)
    clock.slow(after, "mix", 1)
    method = SimpleNamespace(mix=lambda: (net.forward(), after.mix()))
    measured = timing.Clock(CPU, ("mixing", "forward"))
    measured.watch("mixing", method, "mix")
    measured.watch("forward", net, "forward")
    method.mix()
    net.forward()
    assert measured.seconds == {"mixing": 1, "forward": 6, "rest": 0}


def test_alternating_runs_are_timed_by_their_median_without_the_first(clock):
    order, taken = [], iter((90, 7, 1, 7, 2, 7, 6, 7))

    def timed(name):
        order.append(name)
        clock.now += next(taken)

    turns = [lambda: timed("a"), lambda: timed("b")]
    assert timing.alternate(turns, 3, CPU) == [2, 7]
    assert "".join(order) == "abababab"


# --- training and testing ---


@pytest.mark.slow
def test_training_of_each_batch_size_and_amp_over_the_steps_asked_for(tiny, tmp_path, monkeypatch):
    """Also where an epoch has fewer: six batches of four, or three of eight."""
    step, taken = train.training_step, Counter()

    def counted(training, *args):
        taken[training.config.batch_size, training.config.amp] += 1
        return step(training, *args)

    monkeypatch.setattr(train, "training_step", counted)
    monkeypatch.setattr(train, "added_mib", lambda *_: None)
    grid = ["--batch-size", "4", "8", "--amp", "off", "bf16", "--steps", "7"]
    results = run(tiny, tmp_path, "train", *grid)
    assert [(each["batch_size"], each["amp"]) for each in results] == list(taken)
    for each in results:
        assert taken[each["batch_size"], each["amp"]] == 21  # warm up, repeat, shares
        assert each["run_steps"] == 3 * 24 / each["batch_size"]
        minutes = each["run_steps"] * each["milliseconds_per_step"] / 60_000
        assert each["run_minutes"] == pytest.approx(minutes)
        seconds = each["milliseconds_per_step"] / 1000
        assert each["clips_per_second"] * seconds == pytest.approx(each["batch_size"])


@pytest.mark.slow
def test_training_alternates_with_the_plain_network(tiny, tmp_path):
    (result,) = run(tiny, tmp_path, "train", "--plain", "--steps", "1", "--amp", "bf16")
    ratio = result["clips_per_second"] / result["plain_clips_per_second"]
    assert result["times_plain"] == pytest.approx(ratio)


def test_steps_are_those_of_the_training_loop(tiny):
    """The losses of two steps equal cross entropy by hand and torch's SGD, without the loop."""
    flat = ["mixing=longtail.mixing.Plain", "class_weights=null", "schedule=constant"]
    own = config.load([tiny / "tiny-lt/joint.yaml"], flat)
    steps = train.Steps(own, CPU, 2)
    training = steps.training
    expected = make_model(own).train()
    expected.load_state_dict(training.state.model.state_dict())
    optimizer = torch.optim.SGD(expected.parameters(), own.scaled_lr, 0.9, 0, 5e-4, True)
    for loss, batch in zip(steps.run(), steps.chosen):
        generator = torch.Generator().manual_seed(batch.seed)
        clips = training.feeder.batch(batch.rows, generator)
        wanted = torch.nn.functional.cross_entropy(
            expected(clips), training.feeder.labels_of(batch.rows)
        )
        torch.testing.assert_close(loss, wanted.detach())
        optimizer.zero_grad()
        wanted.backward()
        optimizer.step()


def test_a_batch_that_no_epoch_fills_is_refused(tiny, capsys):
    argv = ["train", "--config", str(tiny / "tiny-lt/joint.yaml"), *SMALL, "--batch-size", "25"]
    assert run_command(benchmarks.main, argv) == BAD_INPUT
    assert "batch_size 25: an epoch has 24 samples" in capsys.readouterr().err


def test_testing_is_measured_four_ways(tiny, tmp_path, capsys):
    (result,) = run(tiny, tmp_path, "test", "--plain", "--test-samples", "2")
    ways = ("together", "absent_too", "one_at_a_time", "plain_one_at_a_time")
    assert all(result[way] > 0 for way in ways) and result["clips"] == 2
    assert f"{result['together'] / result['one_at_a_time']:.2f} times" in capsys.readouterr().out


def test_a_network_without_a_plain_form_is_refused(tiny, tmp_path, capsys):
    argv = ["train", "--config", str(tiny / "tiny-lt/joint.yaml"), "--plain", *SMALL]
    argv += ["--backbone", "stgcn"]
    assert run_command(benchmarks.main, argv) == BAD_INPUT
    assert "there is a plain form of stgcnpp, ctrgcn, dgstgcn, protogcn" in capsys.readouterr().err


@pytest.mark.parametrize("name", UNITS)
def test_a_plain_network_has_the_parameters_and_outputs_of_the_backbone(name):
    own = config.Config(model=f"model.{name}.Model")
    plain, model = (make_model(each).eval() for each in (plain_config(own), own))
    sizes = [sum(each.numel() for each in net.parameters()) for net in (plain, model)]
    assert sizes[0] == sizes[1]
    clips = torch.randn(2, 2, 16, 25, 3)
    assert plain(clips).shape == (2, 60)
    if name == "protogcn":
        shapes = [
            {key: value.shape for key, value in net(clips, outputs=True).extra.items()}
            for net in (plain, model)
        ]
        assert shapes[0] == shapes[1]


@pytest.mark.slow
def test_models_and_prediction_are_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "added_mib", lambda *_: None)
    out = tmp_path / "out.json"
    small = [*SMALL, "--json", str(out), "--set", "model_args.base_channels=8", "frames=8"]
    argv = ["models", "--plain", "--backbone", "stgcnpp", "stgcn", "--batch-size", "2", *small]
    assert run_command(benchmarks.main, argv) == 0
    plusplus, plain = json.loads(out.read_text())["results"]
    assert plusplus["plain_train_clips_per_second"] > 0 and plain["flops"] > 0
    assert plain["plain_train_clips_per_second"] is None
    assert run_command(benchmarks.main, ["predict", *small]) == 0
    results = json.loads(out.read_text())["results"]
    assert [each["clips"] for each in results] == [1, 10]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train", "--repeats", "0"], "must be at least 1"),
        (["test", "--device", "gpu"], "--device gpu: give GPU indices (0 1 ...) or cpu"),
        (["feed", "--samples", "1", "--device", "cpu"], "--samples: at least 2"),
        (["models", "--set", "nun_epoch=3"], "did you mean num_epoch"),
        (["gpu", "--resume"], "--resume needs the --json FILE"),
        (["gpu", "--quick", "--device", "cpu", "--set", "frames=9"], "two values of frames"),
    ],
)
def test_a_wrong_option_is_a_one_line_error(argv, message, capsys):
    assert run_command(benchmarks.main, argv) == BAD_INPUT
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


# --- gpu ---


@pytest.fixture
def worker():
    options = argparse.Namespace(device="cpu", threads=1, system_malloc=True)
    worker = gpu.Worker(options)
    yield worker
    worker.stop()


@pytest.mark.slow
def test_a_job_that_fails_crashes_or_hangs_is_recorded_and_the_next_one_runs(worker):
    jobs = {
        "fails": (math.sqrt, -1),
        "crashes": (os._exit, 7),
        "hangs": (time.sleep, 600),
        "works": (dict, [("milliseconds_per_step", 2.0), ("clips_per_second", 3.0)]),
    }
    content = {"results": {"works": {"error": "of an earlier call"}}}
    for name, job in jobs.items():
        deadline = time.monotonic() + (5 if name == "hangs" else 300)
        gpu.run_all({name: job}, worker, deadline, content, None)
    results = content["results"]
    assert results["fails"]["error"].startswith("ValueError: ")
    assert "Traceback" in results["fails"]["traceback"]
    assert results["crashes"]["error"] == "the worker process ended with code 7"
    assert results["hangs"]["error"].startswith("stopped after ")
    assert results["works"]["milliseconds_per_step"] == 2


def test_jobs_after_the_deadline_and_jobs_with_a_result_are_not_run(tmp_path):
    class Never:
        run = None

    done = {"milliseconds_per_step": 1.0, "clips_per_second": 1.0}
    content = {"results": {"done": done}}
    path = tmp_path / "gpu.json"
    gpu.run_all({"done": (dict,), "late": (dict,)}, Never, time.monotonic() - 1, content, path)
    assert json.loads(path.read_text()) == content
    assert list(content["results"]) == ["done", "late"] and content["results"]["done"] == done
    assert content["results"]["late"]["error"].startswith("not run")


def test_losses_and_gradients_that_differ_from_the_cpu_are_named():
    results = {
        "losses/cpu": {"losses": [4.0, 2.0]},
        "losses/eager/fp32": {"losses": [4.0, 2.01]},
        "losses/graphs/bf16": {"losses": [4.0, 2.2]},
        "network/a": {"gradients": gpu.difference(torch.ones(2), torch.tensor([1.0, 4.0]), 1e-3)},
        "feeding": {"error": "it failed"},
    }
    gpu.compare_losses(results)
    assert results["losses/eager/fp32"]["from_cpu"]["difference"] == pytest.approx(0.0025, rel=1e-3)
    assert results["network/a"]["gradients"]["difference"] == 0.75
    assert gpu.differing(results) == ["losses/graphs/bf16 (from_cpu)", "network/a (gradients)"]


def test_the_plan_for_a_gpu_has_every_backbone_way_batch_and_precision():
    jobs = gpu.plan(config.Config(), torch.device("cuda", 0), gpu.FULL)
    steps = {tuple(name.split("/")[1:]): job for name, job in jobs.items() if name[:4] == "step"}
    assert len(steps) == 8 * 5 * 2 * 3
    for (backbone, way, batch_size, precision), (_, own, *_) in steps.items():
        assert own.model == f"model.{backbone}.Model" and own.batch_size == int(batch_size)
        assert own.compile == (way not in ("eager", "step-graph"))
        assert own.step_graph == way.endswith("step-graph")
        if own.compile:
            assert own.cuda_graphs == (way == "graphs")
        assert own.amp == {"bf16": "bf16"}.get(precision, "off")
        assert own.tf32 == (precision != "fp32")
    losses = {name for name in jobs if name.startswith("losses/")}
    ways = itertools.product(("eager", "step-graph"), ("fp32", "tf32", "bf16"))
    ways = {"cpu", "graphs/fp32", *map("/".join, ways)}
    assert losses == {f"losses/{way}" for way in ways}
    order = [way for _, way, *_ in steps]
    assert order.index("graphs") == 8 * 2 * 2 * 3  # what need not be compiled comes first


@pytest.mark.slow
def test_everything_that_a_gpu_can_show_runs_on_a_cpu(tmp_path, monkeypatch, capsys):
    """All backbones, in a worker process; compilation is left out."""
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")
    out = tmp_path / "gpu.json"
    argv = ["gpu", "--device", "cpu", "--threads", "1", "--quick", "--json", str(out)]
    argv += ["--minutes", "20"]
    assert run_command(benchmarks.main, argv) == 0
    content = json.loads(out.read_text())
    assert [name for name, result in content["results"].items() if "error" in result] == []
    assert capsys.readouterr().out.splitlines()[-1] == (
        "25 of 25 jobs done, 0 failed or not run; other values than the CPU's: none"
    )
    assert content["results"]["losses/eager/fp32"]["from_cpu"]["difference"] == 0
    timed = [result for name, result in content["results"].items() if name.startswith("step/")]
    assert len(timed) == 9 and all(sum(each["shares"].values()) > 0.999 for each in timed)
    assert run_command(benchmarks.main, argv) == BAD_INPUT
    assert f"{out} exists; add --resume" in capsys.readouterr().err
    content["results"].pop("facts")
    out.write_text(json.dumps(content))
    assert run_command(benchmarks.main, [*argv, "--resume"]) == 0
    assert capsys.readouterr().out.startswith("facts: ")
    assert json.loads(out.read_text())["results"].keys() == {*content["results"], "facts"}


def test_only_a_file_of_the_same_call_is_resumed(tmp_path):
    out = tmp_path / "gpu.json"
    options = argparse.Namespace(quick=True, config=[], overrides=[], json=out, resume=True)
    content = gpu.begin(options, CPU)
    assert content["results"] == {}
    out.write_text(json.dumps(content | {"code": "older", "quick": False}))
    with pytest.raises(InputError, match="measured with another quick, code; name another file"):
        gpu.begin(options, CPU)
    for text in ("[]", '{"results": {}}', "{"):
        out.write_text(text)
        with pytest.raises(InputError, match="is not a file of this benchmark"):
            gpu.begin(options, CPU)
