"""The number of CPU threads of a run: what is chosen, said, kept, and left unchanged."""

import copy
import json
import re

import pytest
import torch

import main
from engine import checkpoint, threads
from tests.tiny_runs import SMALL, command


@pytest.fixture
def free(monkeypatch):
    """No variable in the environment, four cores; the threads of the tests afterwards."""
    monkeypatch.delenv(threads.VARIABLE)
    monkeypatch.setattr(threads, "cores", lambda: 4)
    yield
    torch.set_num_threads(1)


FREE = {1: 9, 2: 15, 4: 20, 8: 24}  # sums per second where no other process uses a core


@pytest.mark.parametrize(
    ("work", "rates", "measured", "chosen"),
    [
        ({1: 0.22, 2: 0.19}, FREE, [1, 2], 1),  # small steps: a second thread does not pay
        ({1: 0.22, 2: 2.7}, FREE, [1, 2], 1),  # the other core is busy
        ({1: 4.4, 2: 2.6, 4: 2.4}, FREE, [1, 2, 4], 2),
        ({1: 8.0, 2: 4.2, 4: 2.3, 8: 1.7}, FREE, [1, 2, 4, 8], 8),
        ({1: 1.0, 2: 0.8}, FREE, [1, 2], 2),
        ({1: 1.0, 2: 0.9, 4: 0.1}, FREE, [1, 2], 1),  # four are not tried
        ({1: 1.0}, FREE, [1], 1),
        ({1: 4}, {1: 9, 2: 8}, [1], 1),  # others use the second core: it is not even tried
        ({1: 4, 2: 2}, {1: 9, 2: 15, 4: 2}, [1, 2], 2),
    ],
)
def test_threads_are_taken_where_they_pay(monkeypatch, free, work, rates, measured, chosen):
    """A step takes what `work` says for torch's number of threads; the first does not count."""
    monkeypatch.setattr(threads, "sums_per_second", rates.get)
    clock, calls = [0.0], []
    monkeypatch.setattr(threads.time, "perf_counter", lambda: clock[0])

    def step():
        calls.append(torch.get_num_threads())
        clock[0] += work[calls[-1]] * (9, 0.5, 0.5, 2)[calls.count(calls[-1]) - 1]

    best, seconds = threads.measure(step, max(rates) if rates is not FREE else max(work))
    assert best == chosen and seconds == pytest.approx({n: work[n] for n in measured})
    assert calls == [n for n in measured for _ in range(4)]


def test_a_run_says_and_keeps_its_threads(tiny, tmp_path, capsys, monkeypatch, free):
    monkeypatch.setattr(
        threads, "measure", lambda step, most: (step() or 2, {1: 1.0, 2: 0.5, 4: 0.5})
    )
    folder = tmp_path / "joint"
    main.main(command(tiny, folder, "--set", *SMALL, "num_epoch=1", "test_clips=1", "repeat=1"))
    log = (folder / "log.txt").read_text()
    assert "2 CPU threads (a step takes 1 s with 1, 0.5 s with 2, 0.5 s with 4); OMP_" in log
    assert json.loads((folder / "result.json").read_text())["made_with"]["threads"] == 2
    assert checkpoint.read(folder / "last.pt")["made_with"]["threads"] == 2


@pytest.mark.slow
def test_a_resumed_run_computes_with_as_many_as_before(
    tiny, tmp_path, monkeypatch, free, uninterrupted
):
    """What was measured at its start holds, although the machine would now choose otherwise; the
    measurement itself changes nothing."""
    folder = tmp_path / "joint"
    monkeypatch.setattr(threads, "measure", lambda step, most: (step() or 1, {1: 1.0, 2: 0.99}))
    stopped = command(tiny, folder)
    monkeypatch.setattr("engine.commands.test", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        main.main(stopped)
    monkeypatch.undo()
    monkeypatch.delenv(threads.VARIABLE, raising=False)
    monkeypatch.setattr(threads, "measure", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(threads, "cores", lambda: 4)
    main.main([*stopped, "--resume"])
    assert re.search("1 CPU threads?, as before", (folder / "log.txt").read_text())
    ours, theirs = (checkpoint.read(f / "last.pt")["model"] for f in (folder, uninterrupted))
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())


def test_the_variable_and_ranks_leave_nothing_to_choose(tiny, monkeypatch):
    class Fake:
        device, threads = torch.device("cpu"), None

        class world:
            size = 1

    monkeypatch.setenv(threads.VARIABLE, "3")
    monkeypatch.setattr(threads, "measure", lambda *_: pytest.fail("measured"))
    assert threads.settle(Fake()) == ""
    monkeypatch.delenv(threads.VARIABLE)
    ranks = copy.copy(Fake)
    ranks.world = type("World", (), {"size": 2})
    assert threads.settle(ranks()) == ""
