"""Kills at twenty moments of a run, and a disk that is full: nothing is lost but the work since."""

import multiprocessing
import os
import resource
import time

import numpy as np
import pytest
import torch

import main
from engine import checkpoint
from errors import run_command
from tests.tiny_runs import CEILING

KILLS = 20
# Children are forked from a process that has imported everything and computed nothing.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["main", "engine.train"])


def run(argv):
    torch.set_num_threads(1)
    raise SystemExit(run_command(main.main, argv))


def command(tiny, folder):
    return [
        "--config", str(tiny / "tiny-lt/joint.yaml"), "--device", "cpu", "--quiet",
        "--work-dir", str(folder), "--resume", "--set", "model_args.base_channels=6",
        "model_args.num_blocks=3", "model_args.inflate=[2]", "model_args.down=[2]", "test_clips=1",
    ]  # fmt: skip


@pytest.mark.slow
def test_twenty_kills_change_nothing(tiny, tmp_path):
    """Kill -9 at random moments, resume each time, until the run is whole: the same weights."""
    first = processes.Process(target=int)  # by then the server has imported everything
    first.start()
    first.join(CEILING)
    started = time.monotonic()
    whole = processes.Process(target=run, args=(command(tiny, tmp_path / "whole"),))
    whole.start()
    whole.join(CEILING)
    assert whole.exitcode == 0
    length = time.monotonic() - started
    random = np.random.default_rng(0)
    kills = runs = 0
    while kills < KILLS:
        folder = tmp_path / f"run{runs}"
        runs += 1
        while True:
            process = processes.Process(target=run, args=(command(tiny, folder),))
            process.start()
            process.join(random.uniform(0.1, 1.0) * length if kills < KILLS else CEILING)
            if process.exitcode is not None:
                break
            process.kill()
            process.join()
            kills += 1
        assert process.exitcode == 0
        for name in ("last.pt", "best.pt"):
            ours, theirs = (checkpoint.read(f / name) for f in (folder, tmp_path / "whole"))
            assert ours["progress"]["best"] == theirs["progress"]["best"]
            for key, value in theirs["model"].items():
                assert torch.equal(ours["model"][key], value), (name, key)
        for name in ("scores.npz", "scores-last.npz"):
            ours, theirs = (np.load(f / name)["scores"] for f in (folder, tmp_path / "whole"))
            assert np.array_equal(ours, theirs)


def test_a_kill_while_the_first_file_is_written_is_no_foreign_folder(tiny, tmp_path):
    """What a killed process had not renamed yet is cleared away, and the run begins."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".config.yaml.123.tmp").write_text("store: cut sho")
    main.main([*command(tiny, folder), "num_epoch=1"])
    assert (folder / "result-last.json").is_file()
    assert not list(folder.glob(".*.tmp"))


def _save_to_a_full_disk(path):
    """Files of this process may not grow beyond 4 kB, as on a disk with no more room."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        checkpoint.save(path, {"model": {"weight": torch.ones(100_000)}})
    except OSError as error:
        raise SystemExit(3 if "the former checkpoint is kept" in str(error) else 4) from None


def test_a_full_disk_keeps_the_former_checkpoint(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"model": {"weight": torch.zeros(2)}})
    process = processes.Process(target=_save_to_a_full_disk, args=(path,))
    process.start()
    process.join(60)
    assert process.exitcode == 3
    assert torch.equal(checkpoint.read(path)["model"]["weight"], torch.zeros(2))
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Synced whole, renamed, and the folder synced: a crash leaves the one or the other."""
    path, synced, own = tmp_path / "last.pt", [], os.fsync

    def fsync(descriptor):
        own(descriptor)
        status = os.fstat(descriptor)
        synced.append((status.st_ino, status.st_size if not synced else None, path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    checkpoint.save(path, {"model": {"weight": torch.zeros(1000)}})
    status = path.stat()
    assert synced == [(status.st_ino, status.st_size, False), (tmp_path.stat().st_ino, None, True)]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x04cos\nsystem\n(S'true'\ntR."])
def test_what_is_no_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "bad.pt"
    path.write_bytes(content)
    assert run_command(main.main, ["--phase", "test", "--weights", str(path)]) == 2
