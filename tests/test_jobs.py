"""Runs side by side: slots, order, failures, signals, and what a killed one resumes to."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import flags
import main
from engine import config, jobs
from engine.run import RunFolder
from errors import BAD_INPUT, RESUMABLE, InputError, Stopped, run_command
from tests.tiny_runs import (
    CEILING,
    ENVIRONMENT,
    PROJECT,
    SMALL,
    assert_same_weights,
    command,
    wait_until,
)

SETTINGS = config.Config(num_epoch=1)
KINDS = ["joint", "bone", "skip"]
# A stand-in for main.py: a process that does what its first word says, in the folder it is given.
PRETEND = """
import json, os, pathlib, sys, time
kind, folder, words = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3:]
with open(folder.parent / "order", "a") as file:
    file.write(folder.name + "\\n")
threads = os.environ.get("OMP_NUM_THREADS"), os.environ.get("OMP_WAIT_POLICY")
(folder.parent / f"{folder.name}.told").write_text(json.dumps([words, threads]))
print("epoch 1/1"); print("error: no such key", file=sys.stderr)
if kind == "fails":
    sys.exit(2)
folder.mkdir(parents=True, exist_ok=True)
(folder / "config.yaml").write_text(CONFIG)
if kind in ("waits", "slow"):
    time.sleep(1000 if kind == "waits" else 1)
(folder / "result-last.json").write_text("{}")
(folder / "result.json").write_text("{}")
with open(folder.parent / "order", "a") as file:
    file.write("done\\n")
"""


@pytest.fixture
def pretend(tmp_path, monkeypatch):
    """A call (kind, name, needs) -> Job of a process that only pretends to train."""
    script = tmp_path / "pretend.py"
    script.write_text(f"CONFIG = {SETTINGS.to_yaml()!r}\n{PRETEND}")
    monkeypatch.setattr(jobs, "MAIN", script)
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)

    def make(kind, name, needs=None):
        folder = tmp_path / "runs" / name
        return jobs.Job(name, (kind, str(folder)), RunFolder(folder), SETTINGS, needs)

    (tmp_path / "runs").mkdir()
    return make


def told(job):
    return json.loads((job.place.path.parent / f"{job.place.path.name}.told").read_text())


def test_a_failed_run_is_named_and_the_others_finish(pretend, tmp_path, capsys):
    broken = pretend("fails", "b")
    several = [pretend("works", "a"), broken, pretend("works", "c", broken), pretend("works", "d")]
    failures = jobs.run_all(several, [jobs.Slot(), jobs.Slot()], tmp_path / "logs")
    assert {job.name: reason for job, reason in failures.items()} == {
        "b": f"exit code 2: no such key ({tmp_path / 'logs/runs-b.err'})",
        "c": "needs b, which failed",
    }
    assert all(job.place.is_finished(SETTINGS) for job in (several[0], several[3]))
    assert (tmp_path / "logs/runs-a.out").read_text() == "epoch 1/1\n"
    with pytest.raises(ChildProcessError, match=r"failed runs: 2; b: exit code 2: no such .*; c:"):
        jobs.check(failures)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("[0/4] a: begins in ") and len(shown) == 6


def test_a_run_comes_after_the_one_that_it_needs_and_finished_ones_not_again(pretend, tmp_path):
    first = pretend("slow", "first")
    second = pretend("works", "second", first)
    for _ in range(2):
        assert jobs.run_all([second], [jobs.Slot()] * 2, tmp_path / "logs", quiet=True) == {}
    assert (tmp_path / "runs/order").read_text().split() == ["first", "done", "second", "done"]


def test_a_finished_run_is_made_again_to_overwrite_it(pretend, tmp_path):
    job = pretend("works", "a")
    again = dataclasses.replace(job, overwrite=True)
    assert jobs.run_all([job], [jobs.Slot()], tmp_path / "logs", quiet=True) == {}
    assert jobs.run_all([again], [jobs.Slot()], tmp_path / "logs", quiet=True) == {}
    assert (tmp_path / "runs/order").read_text().split() == ["a", "done", "a", "done"]


@pytest.mark.slow
def test_a_run_of_another_process_is_awaited(pretend, tmp_path, capsys):
    job, other = pretend("works", "a"), pretend("works", "b", pretend("works", "a"))
    code = (
        "import sys, time; from engine.run import RunFolder\n"
        "with RunFolder(sys.argv[1]).lock(): print('locked', flush=True); time.sleep(2)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(job.place)], cwd=PROJECT, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"locked\n"
    assert jobs.run_all([other], [jobs.Slot()], tmp_path / "logs") == {}
    assert holder.wait() == 0 and other.place.is_finished(SETTINGS)
    assert "waiting for runs that another process is working on" in capsys.readouterr().out


def test_a_run_that_another_process_began_just_before_is_not_a_failure(pretend, tmp_path):
    job = pretend("fails", "a")
    run = jobs.Process(job, jobs.Slot(), tmp_path / "logs")
    run.process.wait()
    assert not run.was_late
    with job.place.lock():
        assert run.was_late


def test_slots_share_cores_and_are_dealt_to_gpus(monkeypatch):
    monkeypatch.setattr(jobs, "cores", lambda: 8)
    monkeypatch.setattr(jobs.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(jobs, "runs_per_gpu", lambda job, gpu: fits)

    def make(number, devices, runs):
        return jobs.make_slots(number, devices, range(runs))

    assert make(1, None, 9) == [jobs.Slot()]  # as main.py by itself
    assert make(3, None, 9) == [jobs.Slot(("cpu",), 2)] * 3
    assert make(3, None, 2) == [jobs.Slot(("cpu",), 4)] * 2
    assert make("auto", ["cpu"], 99) == [jobs.Slot(("cpu",), 1)] * 8
    assert make(16, ["cpu"], 99)[0].threads == 1
    monkeypatch.setattr(jobs.torch.cuda, "device_count", lambda: 2)
    fits = 1
    assert [slot.device for slot in make("auto", None, 9)] == [("0",), ("1",)]
    fits = 2
    assert [slot.device for slot in make("auto", None, 9)] == [("0",), ("1",)] * 2
    assert [slot.device for slot in make("auto", None, 2)] == [("0",), ("1",)]
    fits = 50  # no more than cores, and than runs
    assert len(make("auto", None, 99)) == 8 and len(make("auto", ["1"], 3)) == 3
    assert [slot.device for slot in make(3, None, 9)] == [("0",), ("1",), ("0",)]
    assert [slot.device for slot in make(2, ["1"], 9)] == [("1",), ("1",)]
    assert make(1, ["0", "1"], 9) == [jobs.Slot(("0", "1"))]  # DataParallel
    with pytest.raises(InputError, match="--device 2: no such GPU"):
        make(2, ["1", "2"], 9)
    for wrong in ("0", "-1", "many", "1.5"):
        with pytest.raises(Exception, match="at least 1, or auto"):
            flags.number_or_auto(wrong)
    assert flags.number_or_auto("auto") == "auto" and flags.number_or_auto("3") == 3


@pytest.mark.parametrize(
    ("text", "code", "fitting"),
    [
        (
            "nothing is missing; w/joint: 9 steps, 1 s each: 9 s; 2 validations: 1 s; 5.1 GB\n",
            0,
            10,
        ),
        ("... 0.1 GB", 0, 77),
        ("... 60.0 GB", 0, 1),
        ("error: no", 2, 1),
        ("", 0, 1),
    ],
)
def test_a_gpu_has_as_many_runs_as_it_has_memory_for(monkeypatch, tiny, text, code, fitting):
    """72 GB free; a run takes a quarter more than its first steps, and 0.8 GB of CUDA's own."""
    asked = []

    class Done:
        stdout, returncode = text, code

    monkeypatch.setattr(jobs.subprocess, "run", lambda words, **_: asked.append(words) or Done)
    monkeypatch.setattr(jobs.torch.cuda, "mem_get_info", lambda gpu: (int(72e9), int(80e9)))
    job = jobs.Job("joint", ("--config", "a.yaml", "--resume"), None, None)
    assert jobs.runs_per_gpu(job, "1") == fitting
    assert asked[0][2:] == ["--config", "a.yaml", "--check", "--device", "1"]


@pytest.mark.slow
def test_what_is_asked_of_a_gpu_is_what_check_says(tiny, tmp_path, monkeypatch):
    """The command and its last words, on the CPU."""
    words = command(tiny, tmp_path / "run")
    place = words.index("--device")
    job = jobs.Job("joint", (*words[:place], *words[place + 2 :], "--resume"), None, None)
    monkeypatch.setattr(jobs.torch.cuda, "mem_get_info", lambda gpu: (int(10e9), int(10e9)))
    own = jobs.subprocess.run
    monkeypatch.setattr(
        jobs.subprocess, "run", lambda words, **more: own([*words[:-1], "cpu"], **more)
    )
    assert 2 < jobs.runs_per_gpu(job, "0") < 10


def test_a_run_is_told_its_device_and_its_threads(pretend, tmp_path, monkeypatch):
    job, own = pretend("works", "a"), pretend("works", "b")
    jobs.run_all([job], [jobs.Slot(("cpu",), 2)], tmp_path / "logs", quiet=True)
    assert told(job) == [["--device", "cpu"], ["2", "PASSIVE"]]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")  # what the user says holds
    jobs.run_all([own], [jobs.Slot(("cpu",), 2)], tmp_path / "logs", quiet=True)
    assert told(own)[1] == ["5", "PASSIVE"]


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_every_run(pretend, tmp_path, sign, monkeypatch):
    # A shell ignores SIGINT for what it starts in the background, these tests perhaps.
    former = signal.signal(sign, signal.default_int_handler)
    several = [pretend("waits", name) for name in "abc"]
    started, own = [], jobs.Process

    def begin(*args):
        started.append(own(*args))
        if len(started) == 2:
            os.kill(os.getpid(), sign)
        return started[-1]

    monkeypatch.setattr(jobs, "Process", begin)
    with pytest.raises(Stopped, match="unfinished runs: 2; the same call resumes"):
        jobs.run_all(several, [jobs.Slot()] * 2, tmp_path / "logs", quiet=True)
    assert [run.process.returncode for run in started] == [-signal.SIGTERM] * 2
    assert signal.signal(sign, former) is signal.default_int_handler  # put back


def test_a_run_is_told_what_the_command_line_says():
    parser = main.make_parser()
    argv = ["--config", "a.yaml", "b.yaml", "--set", "lr=1", "--set", "frames=8", "--stream", "all"]
    argv += ["--jobs", "2", "--resume", "--val-split", "0.1", "--seed", "3", "--device", "0", "1"]
    words = parser.words(parser.parse_args(argv), "--stream", "--jobs", "--device")
    told = parser.parse_args([*words, "--stream", "bone"])
    assert (told.config, told.overrides) == (["a.yaml", "b.yaml"], ["lr=1", "frames=8"])
    assert told.resume and (told.val_split, told.seed, told.stream) == (0.1, 3, ["bone"])
    assert told.device is None and told.jobs is None and not told.overwrite


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--jobs", "2"], "--jobs: one stream is one run"),
        (["--jobs", "0", "--stream", "all"], "at least 1, or auto"),
        (["--jobs", "2", "--stream", "all", "--set", "lr=x"], "lr must be a number"),
    ],
)
def test_a_mistake_is_found_before_any_process_begins(tiny, tmp_path, more, said, capsys):
    argv = ["--config", str(tiny / "tiny-lt/joint.yaml"), "--work-dir", str(tmp_path / "w"), *more]
    assert run_command(main.main, argv) == BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and not (tmp_path / "w").exists()


# --- real runs ---


def start(tiny, folder, streams, *more):
    return subprocess.Popen(
        [
            sys.executable, str(PROJECT / "main.py"), "--config", str(tiny / "tiny-lt/joint.yaml"),
            "--device", "cpu", "--stream", *streams, "--work-dir", str(folder), "--jobs", "2",
            *more, "--set", "num_epoch=2", "test_clips=1", *SMALL,
        ],
        env=ENVIRONMENT, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def six(tiny, tmp_path_factory):
    """Six streams trained side by side without an interruption."""
    folder = tmp_path_factory.mktemp("six") / "runs"
    process = start(tiny, folder, ["all"])
    said = process.communicate(timeout=CEILING)[0]
    assert process.returncode == 0, said
    return folder


@pytest.mark.slow
def test_all_streams_side_by_side_are_fused(six):
    assert json.loads((six / "ensemble.json").read_text())["missing"] == []
    assert {path.name for path in (six / "jobs").glob("*.out")} == {
        f"runs-{kind}{motion}.out" for kind in KINDS for motion in ("", "-motion")
    }


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["parent stopped", "parent killed", "children"])
def test_killed_jobs_resume_to_the_same_weights(six, tiny, tmp_path, killed):
    """Bit for bit, whoever is killed, and the third, which has not begun yet, is made too."""
    folder = tmp_path / "runs"
    process = start(tiny, folder, KINDS)
    begun = folder / "joint/metrics.jsonl"
    wait_until(begun.is_file, alive=lambda: process.poll() is None)
    if killed == "parent stopped":
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=CEILING)[0]
        assert process.returncode == RESUMABLE, said
        assert "; the same call with --resume resumes them" in said
    elif killed == "parent killed":
        process.kill()  # its children go on by themselves
        process.wait()
    else:
        for child in children_of(process.pid):
            os.kill(child, signal.SIGKILL)
        said = process.communicate(timeout=CEILING)[0]
        assert process.returncode == 1 and "failed runs: 2; " in said
        assert "exit code -9" in said
    resumed = start(tiny, folder, KINDS, "--resume")
    said = resumed.communicate(timeout=CEILING)[0]
    assert resumed.returncode == 0, said
    for stream in KINDS:
        assert_same_weights(folder / stream / "last.pt", six / stream / "last.pt")


def children_of(pid):
    """Return the processes that a process has started, from /proc."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
