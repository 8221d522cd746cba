"""Kills at twenty moments of a run, and a disk that is full: nothing is lost but the work since."""

import dataclasses
import json
import multiprocessing
import os
import resource
import shutil
import signal
import time

import numpy as np
import pytest
import torch

import main
from data import long_tail
from data.names import digest
from data.store import Store
from engine import checkpoint, config, run_data
from engine import run as run_folder
from engine.distributed import World
from engine.stopping import deferred_stop
from errors import BAD_INPUT, run_command
from tests import tiny_runs
from tests.tiny_runs import CEILING, SMALL, assert_resumes

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


# The state of a run that is more than the weights.
AVERAGED = [
    "ema=0.9", "clip_grad=1.0", "accumulate=2", "schedule=step",
    "schedule_args={warm_up: 1, milestones: [1]}",
]  # fmt: skip


@pytest.mark.slow
def test_run_killed_and_resumed_twenty_times_equals_uninterrupted_run(tiny, tmp_path):
    """Kill -9 at random moments, resume each time, until the run is whole."""
    first = processes.Process(target=int)  # by then the server has imported everything
    first.start()
    first.join(CEILING)
    started = time.monotonic()
    whole = processes.Process(target=run, args=([*command(tiny, tmp_path / "whole"), *AVERAGED],))
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
            process = processes.Process(target=run, args=([*command(tiny, folder), *AVERAGED],))
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
        assert epochs(folder) == epochs(tmp_path / "whole")


def epochs(folder):
    """Return what metrics.jsonl says of every epoch, except how long it took."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    return [[line[key] for key in ("epoch", "loss", "top1", "lr")] for line in lines]


def test_ctrl_c_saves_within_the_epoch_and_a_second_one_does_not_wait(tiny, tmp_path, capsys):
    """As SIGTERM does; while nothing is trained it is what it always was."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)

    def train(folder, *flags):
        return tiny_runs.run(tiny, folder, more=[*SMALL, *flags])

    try:
        assert_resumes(train, 1, tmp_path / "whole", tmp_path / "cut", signal.SIGINT)
        assert "stopping; Ctrl-C again to stop without saving" in capsys.readouterr().err
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with pytest.raises(KeyboardInterrupt), deferred_stop(World()) as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.received
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    finally:
        signal.signal(signal.SIGINT, former)


def test_a_kill_during_the_first_write_leaves_a_usable_folder(tiny, tmp_path):
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
        raise SystemExit(3 if "the previous checkpoint is kept" in str(error) else 4) from None


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
def test_files_that_are_not_checkpoints_are_rejected(tmp_path, content):
    path = tmp_path / "bad.pt"
    path.write_bytes(content)
    assert run_command(main.main, ["--phase", "test", "--weights", str(path)]) == 2


# --- a run goes on with what it began with ---


def on_its_own_list(tiny, root):
    """Return the command of a run in root/run, with the training list root/list.txt."""
    return [*command(tiny, root / "run"), f"training_list={root}/list.txt"]


@pytest.fixture(scope="module")
def one_epoch(tiny, tmp_path_factory):
    """A folder with the list of a run and the run after one of two epochs, as `trained`."""
    root = tmp_path_factory.mktemp("one_epoch")
    shutil.copy(tiny / "list.txt", root)
    main.main([*on_its_own_list(tiny, root), "num_epoch=1"])
    config = root / "run/config.yaml"
    config.write_text(config.read_text().replace("num_epoch: 1", "num_epoch: 2"))
    (root / "run").rename(root / "trained")
    return root


@pytest.fixture
def stopped(tiny, one_epoch):
    """A run of one epoch of two, on a list of its own; returns (command, list, folder)."""
    shutil.copy(tiny / "list.txt", one_epoch)
    shutil.rmtree(one_epoch / "run", ignore_errors=True)
    shutil.copytree(one_epoch / "trained", one_epoch / "run")
    argv = [*on_its_own_list(tiny, one_epoch), "num_epoch=2"]
    return argv, one_epoch / "list.txt", one_epoch / "run"


def test_resume_refuses_a_changed_list_and_says_what_changed(stopped, tiny, capsys):
    argv, listed, folder = stopped
    names = listed.read_text().split()
    waving = [name for name in names if name.endswith("A001")]
    spare = sorted(set(all_training_names(tiny, "A001")) - set(names))
    other = [name for name in names if name != waving[0]]
    kept = (folder / "last.pt").read_bytes()
    for changed, said in (
        (other, "8 samples then, 7 now; class 0 (wave) 3 then, 2 now"),
        ([*other, spare[0]] if spare else [*other[::-1], waving[0]], "same class counts"),
        ([*reversed(names)], "other samples, same class counts"),
    ):
        listed.write_text("\n".join(changed))
        assert run_command(main.main, argv) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "last.pt: the training list has changed since the run began" in line
        assert said in line and "--overwrite" in line
        assert (folder / "last.pt").read_bytes() == kept
    listed.write_text("\n".join(names))
    main.main(argv)
    assert checkpoint.read(folder / "last.pt")["progress"]["epoch"] == 2


def test_resume_refuses_clips_that_have_changed(stopped, tiny, tmp_path, capsys):
    """Of the same names, classes and list, as of a store that was prepared in another way."""
    argv, _, folder = stopped
    store = tmp_path / "store"
    shutil.copytree(tiny / "store", store)
    state = checkpoint.read(folder / "last.pt")
    assert state["store_fingerprint"] == Store.open(store).fingerprint
    joints = np.load(store / "joints.npy")
    np.save(store / "joints.npy", joints[..., [1, 0, 2]])
    other = Store.open(store).fingerprint
    checkpoint.save(folder / "last.pt", state | {"store_fingerprint": other})
    assert run_command(main.main, argv) == 2
    assert "have changed since the run began" in capsys.readouterr().err


def all_training_names(tiny, action):
    store = Store.open(tiny / "store")
    return [name for name in store.names.tolist() if "P001" in name and name.endswith(action)]


def test_testing_after_the_list_has_changed_uses_the_list_of_the_training(stopped, monkeypatch):
    """Its counts, and whether it was a published one."""
    _, listed, folder = stopped
    names = listed.read_text().split()
    trained = json.loads((folder / "result.json").read_text())
    monkeypatch.setitem(long_tail.PUBLISHED, digest(names), "of this test")
    listed.write_text("\n".join(names[:-1]))
    weights = ["--phase", "test", "--weights", str(folder / "best.pt"), "--device", "cpu",
               "--config", str(folder / "config.yaml"), "--work-dir", str(folder)]  # fmt: skip
    for said in ("differs from that of the training", "is missing"):
        main.main([*weights, "--quiet"])
        result = json.loads((folder / "result.json").read_text())
        assert result["class_counts"] == trained["class_counts"] == [3, 3, 1, 1]
        assert result["medium"] == trained["medium"] is not None
        assert result["published_list"] == digest(names)
        assert said in (folder / "log.txt").read_text()
        listed.unlink(missing_ok=True)


def test_a_result_says_how_its_weights_were_trained(stopped, tmp_path):
    """Not what the configuration of the test says of a training."""
    _, _, folder = stopped
    trained = config.load([folder / "config.yaml"])
    other = trained.replace(seed=trained.seed + 5, imbalance=7, val_split=0.4, tag="")
    (tmp_path / "other.yaml").write_text(other.to_yaml())
    main.main(["--phase", "test", "--weights", str(folder / "best.pt"), "--device", "cpu",
               "--quiet", "--config", str(tmp_path / "other.yaml"),
               "--work-dir", str(tmp_path / "test")])  # fmt: skip
    result = json.loads((tmp_path / "test/result.json").read_text())
    for key in ("method", "seed", "training_list", "imbalance", "val_split"):
        assert result[key] == getattr(trained, key), key


def test_a_changed_list_is_not_recorded_as_published(stopped, monkeypatch):
    _, listed, folder = stopped
    names = listed.read_text().split()
    monkeypatch.setitem(long_tail.PUBLISHED, digest(names[::-1]), "of this test")
    listed.write_text("\n".join(names[::-1]))
    weights = ["--phase", "test", "--weights", str(folder / "best.pt"), "--device", "cpu",
               "--config", str(folder / "config.yaml"), "--work-dir", str(folder)]  # fmt: skip
    main.main([*weights, "--quiet"])
    assert json.loads((folder / "result.json").read_text())["published_list"] is None


def test_the_version_of_the_code_is_kept_and_compared(stopped, monkeypatch):
    argv, _, folder = stopped
    assert checkpoint.read(folder / "last.pt")["code"] == run_folder.code_version()
    monkeypatch.setattr("engine.session.code_version", lambda: "another")
    main.main(argv)
    assert "the code has changed since the run began" in (folder / "log.txt").read_text()


def test_other_weights_to_begin_with_are_not_passed_over(stopped, capsys):
    """A resumed run goes on from last.pt, so --weights could only be passed over."""
    argv, _, folder = stopped
    assert run_command(main.main, [*argv, "--weights", str(folder / "best.pt")]) == BAD_INPUT
    said = capsys.readouterr().err
    assert "--weights best.pt: the run to resume began with other weights (random ones)" in said


def test_classes_that_changed_are_not_resumed(stopped, capsys):
    argv, _, folder = stopped
    state = checkpoint.read(folder / "last.pt")
    state["class_names"][2] = "leap"
    checkpoint.save(folder / "last.pt", {k: v for k, v in state.items() if k != "format"})
    assert run_command(main.main, argv) == 2
    assert "was trained with class 2 = 'leap'" in capsys.readouterr().err


def test_a_checkpoint_without_a_digest_is_compared_by_its_counts(stopped, capsys):
    """From before there was one; so is a list of the same names whose labels have changed."""
    argv, _, folder = stopped
    for changed in ({"list_digest": None}, {}):
        state = checkpoint.read(folder / "last.pt") | changed
        state["class_counts"] = torch.tensor([4, 2, 1, 1])
        checkpoint.save(folder / "last.pt", {k: v for k, v in state.items() if k != "format"})
        assert run_command(main.main, argv) == 2
        assert "8 samples then, 8 now; class 0 (wave) 4 then, 3 now; 2" in capsys.readouterr().err


@pytest.mark.parametrize(("val_split", "claims"), [(None, True), (0.1, False)])
def test_class_counts_in_a_checkpoint_replace_a_missing_list(val_split, claims):
    key = next(iter(long_tail.PUBLISHED))
    counts = torch.tensor([5, 3])
    state = {"list_digest": key, "class_counts": counts, "config": {"val_split": val_split}}
    fields = dataclasses.fields(run_data.Data)
    gone = run_data.Data(**{field.name: None for field in fields})
    data = run_data.remembered(state, gone)
    assert data.class_counts.tolist() == [5, 3] and data.list_digest == key
    assert data.published_list == (key if claims else None) and "is missing" in data.list_note
