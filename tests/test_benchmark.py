"""The benchmarks of training and testing: what they report follows from what was run."""

import json
import time
from collections import Counter

import pytest

from engine.optimizer import Stepper
from errors import BAD_INPUT, run_command
from longtail.brl import PartialMixup
from tools import benchmark

SMALL = ["--threads", "1", "--repeats", "1", "--device", "cpu"]


def run(tiny, tmp_path, what, *more):
    """Run one measurement of the tiny benchmark; return the JSON that it wrote."""
    out = tmp_path / "out.json"
    argv = [what, "--config", str(tiny / "tiny-lt/joint.yaml"), *SMALL, "--json", str(out), *more]
    assert run_command(benchmark.main, argv) == 0
    return json.loads(out.read_text())


@pytest.mark.slow
def test_a_part_that_takes_long_has_the_largest_share(tiny, tmp_path, monkeypatch):
    """By a clock of this process's own time, to which mixing adds 0.4 s."""
    apply, added = PartialMixup.apply, [0.0]

    def slow(*args):
        added[0] += 0.4
        return apply(*args)

    monkeypatch.setattr(time, "perf_counter", lambda: time.process_time() + added[0])
    monkeypatch.setattr(PartialMixup, "apply", slow)
    (result,) = run(tiny, tmp_path, "train", "--plain", "--steps", "2", "--amp", "bf16")
    shares = result["shares"]
    assert max(shares, key=shares.get) == "mixing"
    assert all(share > 0 for share in shares.values()) and 0.5 < sum(shares.values()) <= 1
    assert result["milliseconds_per_step"] > 400
    seconds = result["milliseconds_per_step"] / 1000
    assert result["clips_per_second"] * seconds == pytest.approx(result["batch_size"])
    ratio = result["clips_per_second"] / result["plain_clips_per_second"]
    assert result["times_plain"] == pytest.approx(ratio)
    assert result["amp"] == "bf16" and result["batch_size"] == 4


@pytest.mark.slow
def test_each_batch_and_amp_is_measured_over_the_steps_asked_for(tiny, tmp_path, monkeypatch):
    """Also where an epoch has fewer: six batches of four, or three of eight."""
    own, taken = Stepper.step, Counter()

    def counted(stepper, *args):
        taken[stepper.config.batch_size, stepper.config.amp] += 1
        return own(stepper, *args)

    monkeypatch.setattr(Stepper, "step", counted)
    grid = ["--batch-size", "4", "8", "--amp", "off", "bf16", "--steps", "10"]
    results = run(tiny, tmp_path, "train", *grid)
    assert [(each["batch_size"], each["amp"]) for each in results] == list(taken)
    for each in results:
        assert taken[each["batch_size"], each["amp"]] == 30  # three turns
        assert each["run_steps"] == 3 * 24 / each["batch_size"]
        minutes = each["run_steps"] * each["milliseconds_per_step"] / 60_000
        assert each["run_minutes"] == pytest.approx(minutes)


def test_a_batch_that_no_epoch_fills_is_said(tiny, capsys):
    argv = ["train", "--config", str(tiny / "tiny-lt/joint.yaml"), *SMALL, "--batch-size", "25"]
    assert run_command(benchmark.main, argv) == BAD_INPUT
    assert "batch_size 25: an epoch has 24 samples" in capsys.readouterr().err


def test_testing_is_measured_four_ways(tiny, tmp_path, capsys):
    result = run(tiny, tmp_path, "test", "--plain", "--samples", "2")
    ways = ("together", "absent_too", "one_at_a_time", "plain_one_at_a_time")
    assert all(result[way] > 0 for way in ways) and result["clips"] == 2
    assert f"{result['together'] / result['one_at_a_time']:.2f} times" in capsys.readouterr().out


def test_a_network_without_a_plain_form_is_said(tiny, tmp_path, capsys):
    argv = ["train", "--config", str(tiny / "tiny-lt/joint.yaml"), "--plain", *SMALL]
    argv += ["--set", "model=model.stgcn.Model"]
    assert run_command(benchmark.main, argv) == BAD_INPUT
    assert "there is a plain form of stgcnpp, ctrgcn, dgstgcn, protogcn" in capsys.readouterr().err
