"""Helpers to run main.py on the tiny benchmark."""

import os
import signal
import subprocess
import sys
import time
from itertools import takewhile
from pathlib import Path

import pytest
import torch

import main
from engine.state import TrainState
from errors import Stopped

PROJECT = Path(__file__).resolve().parents[1]
METHODS = PROJECT / "config/methods"
SMALL = ["model_args.num_blocks=3", "model_args.inflate=[2]", "model_args.down=[2]"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}


CEILING = 600  # seconds to wait for an event on a busy machine


def wait_until(happened, *, alive=lambda: True):
    """Wait for a condition; fails after CEILING seconds, or when `alive` is no longer true.

    Sleeps between two checks.
    """
    deadline = time.monotonic() + CEILING
    while not happened():
        assert alive() or happened(), "ended before"
        assert time.monotonic() < deadline, f"not within {CEILING} seconds"
        time.sleep(0.005)


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


def run(tiny, folder, *files, more=()):
    """Run with the --set words in `more` (the last one per key is used), then its flags."""
    words = list(takewhile(lambda word: not word.startswith("--"), more))
    last = {word.partition("=")[0]: word for word in ["num_epoch=2", *words]}
    argv = command(tiny, folder, "--quiet", "--set", *last.values(), *more[len(words) :])
    argv[2:2] = [str(METHODS / file) for file in files]
    main.main(argv)
    return folder


def assert_resumes(train, after, whole, cut, sign=signal.SIGTERM):
    """Check that a run stopped within an epoch and resumed equals an uninterrupted one, bit by bit.

    `train(folder, *flags)` trains into a folder; the signal comes in the first step after `after`
    epochs. Returns the uninterrupted run's last checkpoint.
    """
    train(whole)
    own, stopped = TrainState.set_lr, []

    def interrupted(state, time):
        if time > after and not stopped:
            stopped.append(time)
            os.kill(os.getpid(), sign)
        return own(state, time)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(TrainState, "set_lr", interrupted)
        train(cut)
    train(cut, "--resume")
    first, second = (torch.load(run / "last.pt", weights_only=True) for run in (whole, cut))
    one, other = ({**state["model"], **state["training"]["method"]} for state in (first, second))
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
    return first
