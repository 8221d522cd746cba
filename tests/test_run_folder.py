"""A run folder: one process at a time, and no result that another test overwrites."""

import json
import multiprocessing
import os
import re
import shutil
import signal

import numpy as np
import pytest

import main
from data.store import Store, StoreWriter
from engine import checkpoint, evaluate
from engine.config import Config
from engine.run import RunFolder, digest, folder_for_test
from errors import BAD_INPUT, InputError, run_command
from tests.tiny_runs import SMALL, command

processes = multiprocessing.get_context("fork")


@pytest.fixture
def trained(whole, tmp_path):
    """A copy of a finished run, to be tested in."""
    folder = tmp_path / "joint"
    shutil.copytree(whole, folder)
    return folder


@pytest.fixture
def quick(monkeypatch):
    """Tests whose scores are made without the network: what is written is the question."""
    monkeypatch.setattr(evaluate, "score", lambda net, feeder, *_, **__: np.eye(4)[feeder.labels])


def test_phase(weights, *more):
    main.main(["--phase", "test", "--weights", str(weights), "--device", "cpu", "--quiet", *more])


test_phase.__test__ = False


def results(folder):
    """Return the content of a run's own results."""
    names = ("scores.npz", "result.json", "scores-last.npz", "result-last.json")
    return {name: (folder / name).read_bytes() for name in names}


# --- one process at a time ---


def hold(folder, ready, leave):
    with RunFolder(folder).lock():
        ready.set()
        leave.wait(60)


@pytest.fixture
def holder(tmp_path):
    """A process that works in tmp_path/joint until it is killed or told to leave."""
    ready, leave = processes.Event(), processes.Event()
    process = processes.Process(target=hold, args=(tmp_path / "joint", ready, leave))
    process.start()
    assert ready.wait(60)
    yield process, leave
    process.kill()
    process.join()


@pytest.mark.parametrize("kind", ["train", "resume", "test"])
def test_a_second_process_in_a_folder_is_rejected_in_one_line(
    tiny, whole, tmp_path, monkeypatch, capsys, holder, kind
):
    monkeypatch.setattr("engine.run.LOCK_PATIENCE", 0)
    folder = tmp_path / "joint"
    argv = command(tiny, folder, "--quiet", "--set", *SMALL)
    if kind != "train":
        shutil.copytree(whole, folder, dirs_exist_ok=True)
        argv = command(tiny, folder, "--quiet", "--resume")
    if kind == "test":
        argv = ["--phase", "test", "--weights", str(folder / "best.pt"), "--device", "cpu"]
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert run_command(main.main, argv) == BAD_INPUT
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and f"{folder}: another process is working in this folder" in lines[0]
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize("end", ["killed", "left"])
def test_a_lock_ends_with_its_process(tmp_path, holder, end):
    process, leave = holder
    run = RunFolder(tmp_path / "joint")
    assert run.is_locked
    os.kill(process.pid, signal.SIGKILL) if end == "killed" else leave.set()
    process.join(60)
    assert not run.is_locked
    with run.lock():
        assert run.is_locked
    assert not run.is_locked and not list(run.path.iterdir())


def contend(folder, barrier, answers):
    barrier.wait(60)
    try:
        with RunFolder(folder).lock():
            answers.put(True)
            barrier.wait(60)
    except InputError:
        answers.put(False)
        barrier.wait(60)


def test_of_many_processes_one_gets_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.run.LOCK_PATIENCE", 0)
    for _ in range(3):
        barrier, answers = processes.Barrier(4), processes.Queue()
        given = (tmp_path / "joint", barrier, answers)
        takers = [processes.Process(target=contend, args=given) for _ in range(4)]
        for taker in takers:
            taker.start()
        assert sum(answers.get(timeout=60) for _ in takers) == 1
        for taker in takers:
            taker.join()


# --- tests that are not the run's own ---


def test_tests_with_other_values_have_their_own_folder(trained, tiny, tmp_path, quick):
    before = results(trained)
    test_phase(trained / "best.pt", "--set", "test_clips=1", "frames=6")
    test_phase(trained / "last.pt", "--set", "frames=6")
    shutil.copytree(tiny / "store", tmp_path / "elsewhere")
    test_phase(trained / "best.pt", "--set", f"store={tmp_path}/elsewhere")
    assert results(trained) == before
    found = {re.sub("_[0-9a-f]{8}$", "", path.name) for path in trained.glob("test-*")}
    assert found == {"test-frames-6-test_clips-1", "test-frames-6", "test-store-elsewhere"}
    clips = RunFolder(trained / "test-frames-6-test_clips-1")
    assert clips.config()["frames"] == 6 and clips.result()["weights"] == "best.pt"
    assert RunFolder(trained / "test-frames-6").result("last")["weights"] == "last.pt"
    assert not RunFolder(trained / "test-frames-6").result_file("best").exists()
    test_phase(trained / "best.pt", "--set", "test_clips=1", "frames=6")  # the same test again
    assert len(list(trained.glob("test-*"))) == 3


def test_two_stores_of_one_name_have_a_folder_each(trained, tiny, tmp_path, quick):
    for room in ("a", "b"):
        shutil.copytree(tiny / "store", tmp_path / room / "data")
        test_phase(trained / "best.pt", "--set", f"store={tmp_path}/{room}/data")
    stores = {RunFolder(path).config()["store"] for path in trained.glob("test-store-data_*")}
    assert stores == {f"{tmp_path}/a/data", f"{tmp_path}/b/data"}


def other_weights(trained, path, epoch=1):
    state = checkpoint.read(trained / "best.pt")
    state["model"]["fc.bias"] += epoch
    checkpoint.save(path, {key: value for key, value in state.items() if key != "format"})


def test_other_weights_never_replace_the_results_of_a_run(trained, tmp_path, quick):
    """Neither in the run's folder under another name, nor by --config, nor by --work-dir."""
    before = results(trained)
    other_weights(trained, trained / "mine.pt")
    test_phase(trained / "mine.pt")
    assert RunFolder(trained / "test-mine").result()["weights"] == "mine.pt"
    other_weights(trained, tmp_path / "far/best.pt", epoch=2)
    with pytest.raises(InputError, match="contains another run or test"):
        test_phase(tmp_path / "far/best.pt", "--work-dir", str(trained))
    shutil.copy(trained / "best.pt", tmp_path / "copy.pt")  # the run's own, by its content
    test_phase(tmp_path / "copy.pt", "--work-dir", str(trained))
    assert results(trained)["result-last.json"] == before["result-last.json"]
    assert {path.name for path in trained.glob("test-*")} == {"test-mine"}
    other_weights(trained, trained / "mine.pt", epoch=3)  # another checkpoint of that name
    with pytest.raises(InputError, match="test-mine contains the test of other weights"):
        test_phase(trained / "mine.pt")


def test_checkpoints_that_lie_together_have_results_of_their_own(trained, tmp_path, quick):
    for number, name in enumerate(("a.pt", "b.pt")):
        other_weights(trained, tmp_path / "loose" / name, number)
        test_phase(tmp_path / "loose" / name)
    first, second = RunFolder(tmp_path / "loose"), RunFolder(tmp_path / "loose/test-b")
    assert first.result()["weights_digest"] == digest(tmp_path / "loose/a.pt")
    assert second.result()["weights_digest"] == digest(tmp_path / "loose/b.pt")
    test_phase(tmp_path / "loose/a.pt", "--set", "frames=6")
    assert RunFolder(tmp_path / "loose/test-frames-6").exists
    assert first.config()["frames"] == 8


def test_test_with_config_does_not_replace_a_run(tiny, trained, tmp_path, monkeypatch, quick):
    """Foreign weights go where the run would be; if there is one, beside it."""
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "work_dir/tiny-lt/joint"
    argv = ["--config", str(tiny / "tiny-lt/joint.yaml")]
    other_weights(trained, tmp_path / "foreign.pt")
    test_phase(tmp_path / "foreign.pt", *argv)
    assert RunFolder(home).result()["weights"] == "foreign.pt"
    for more in ([], ["--resume"]):  # nor is that lost to a run
        with pytest.raises(InputError, match=r"contains the test of foreign\.pt"):
            main.main([*argv, *more, "--device", "cpu"])
    shutil.rmtree(home)
    shutil.copytree(trained, home)
    RunFolder(home).config_file.unlink()
    test_phase(tmp_path / "foreign.pt", *argv)
    assert RunFolder(home / "test-foreign").result()["weights"] == "foreign.pt"
    assert results(home) == results(trained)


def test_the_test_of_an_interrupted_run_does_not_finish_it(trained, tmp_path, quick):
    state = checkpoint.read(trained / "last.pt")
    settings = checkpoint.settings(state, trained / "last.pt")
    assert RunFolder(trained).is_finished(settings)
    state["progress"]["epoch"] = 2
    for name in ("result.json", "result-last.json"):
        (trained / name).unlink()
    checkpoint.save(trained / "last.pt", {k: v for k, v in state.items() if k != "format"})
    test_phase(trained / "last.pt")
    assert RunFolder(trained).result("last")["epochs"] == 2
    assert not RunFolder(trained).is_finished(settings)
    assert not RunFolder(trained).is_finished(settings.replace(num_epoch=2))


def test_classes_of_another_data_set_are_refused(trained, tiny, tmp_path, capsys):
    """As many classes as the checkpoint's, and other actions."""
    with StoreWriter(
        tmp_path / "other", "ntu_rgb_d", ["wave", "jump", "bow", "sit"], (2, 25, 3)
    ) as out:
        for subject in (1, 2):
            name = f"S001C001P{subject:03d}R001A001"
            out.add(name, 0, np.ones((4, 2, 25, 3)), subject=subject)
    weights = str(trained / "best.pt")
    argv = ["--phase", "test", "--weights", weights, "--device", "cpu"]
    assert run_command(main.main, [*argv, "--set", f"store={tmp_path}/other"]) == BAD_INPUT
    said = capsys.readouterr().err
    assert "class 1 = 'kick', but in" in said and "it is 'jump'" in said
    assert not list(trained.glob("test-*"))


@pytest.mark.parametrize(
    ("changes", "scale", "said"),
    [
        ({"normalization": "none"}, 1, "normalization centered (joint 20), but those of"),
        ({"normalization": "centered", "centre": 3}, 1, "have centered (joint 3)"),
        ({}, 1000, "multiply the positions by 0.001"),
        ({}, 1 / 0.0254, "multiply the positions by 0.0254"),
    ],
)
def test_clips_in_another_frame_of_reference_are_refused(
    trained, tiny, tmp_path, capsys, changes, scale, said
):
    store = Store.open(tiny / "store")
    meta = {"normalization": "centered", "centre": 20} | changes
    with StoreWriter(tmp_path / "s", "ntu_rgb_d", store.class_names, (2, 25, 3), **meta) as out:
        for row, name in enumerate(store.names.tolist()):
            subject = int(store.columns["subject"][row])
            out.add(name, store.labels[row], store.clip(row) * scale, subject=subject)
    argv = ["--phase", "test", "--weights", str(trained / "best.pt"), "--device", "cpu"]
    assert run_command(main.main, [*argv, "--set", f"store={tmp_path}/s"]) == BAD_INPUT
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0]
    assert not list(trained.glob("test-*"))


def test_clips_of_another_size_are_reported(trained, tiny, tmp_path, quick):
    """Ten times as large as in training: a wrong unit perhaps, but not an impossible one."""
    store = Store.open(tiny / "store")
    with StoreWriter(
        tmp_path / "s", "ntu_rgb_d", store.class_names, (2, 25, 3), normalization="centered",
        centre=20,
    ) as out:  # fmt: skip
        for row, name in enumerate(store.names.tolist()):
            subject = int(store.columns["subject"][row])
            out.add(name, store.labels[row], store.clip(row) * 10, subject=subject)
    test_phase(trained / "best.pt", "--set", f"store={tmp_path}/s")
    (folder,) = trained.glob("test-*")
    assert "multiply the positions by 0.1" in RunFolder(folder).log_file.read_text()


def test_overwriting_a_run_removes_its_tests_too(tiny, trained, quick):
    test_phase(trained / "best.pt", "--set", "frames=6")
    (trained / "test-frames-6/notes.txt").touch()
    test_phase(trained / "best.pt", "--set", "frames=7")
    mine = {"scores-before-cleaning.npz", "result-notes.json", "test-camera/log.txt"}
    (trained / "test-camera").mkdir()
    for name in mine:
        (trained / name).touch()
    RunFolder(trained).begin(Config(), overwrite=True)
    left = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    assert left == {"config.yaml", "test-frames-6/notes.txt", *mine}
    assert not (trained / "test-frames-7").exists()


@pytest.mark.parametrize("name", ["scores.npz", "scores-last.npz", "log.txt"])
def test_a_test_writes_over_no_file_of_the_users(trained, tmp_path, capsys, name):
    """Weights of one's own lie in a folder that is not a run's, or --work-dir names one."""
    content = checkpoint.read(trained / "best.pt")
    checkpoint.save(tmp_path / "mine/mine.pt", content)
    for words in ([], ["--work-dir", str(tmp_path / "other")]):
        folder = tmp_path / ("other" if words else "mine")
        folder.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
        argv = ["--phase", "test", "--weights", str(tmp_path / "mine/mine.pt"), *words]
        assert run_command(main.main, [*argv, "--device", "cpu", "--quiet"]) == 2
        assert f"{name} is in the way of the test" in capsys.readouterr().err
        assert (folder / name).read_text() == "mine" and not (folder / "config.yaml").exists()


def test_any_value_becomes_a_valid_file_name(trained):
    run, best = RunFolder(trained), trained / "best.pt"
    settings = checkpoint.settings(checkpoint.read(best), best)
    changed = settings.replace(store="../a b/c", feeder_args={"flip": 0.5}, shots=[9, 2])
    folder = folder_for_test(run, changed, best)
    assert folder.path.parent == trained and len(folder.path.name) <= 200
    assert json.dumps(folder.path.name).isascii() and " " not in folder.path.name
    other = folder_for_test(run, changed.replace(feeder_args={"flip": 0.6}), best)
    assert other.path != folder.path


def test_clips_that_replaced_those_of_the_run_are_tested_beside_it(trained, tiny):
    """The store has the same path, and prepared again, other clips."""
    best, now = trained / "best.pt", Store.open(tiny / "store").fingerprint
    settings = checkpoint.settings(checkpoint.read(best), best)
    for fingerprint, name in ((now, trained.name), ("0123456789", "test-clips-01234567")):
        assert folder_for_test(RunFolder(trained), settings, best, fingerprint).path.name == name
