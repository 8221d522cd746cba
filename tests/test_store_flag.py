"""`--store`: a run from a prepared store alone; `shots: auto`."""

import csv
import dataclasses
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

import main
from data import prepare
from engine import own_data
from engine.build import make_model
from engine.config import Config, load
from engine.run_data import open_data
from engine.session import untested
from errors import InputError, run_command
from longtail import shots
from tools import compare

FEW = ["num_epoch=2", "test_clips=1", "model_args.base_channels=8", "model_args.num_blocks=2"]
FEW += ["model_args.inflate=[]", "model_args.down=[]", "repeat=1"]


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """Ninety clips of one person in a layout of three names, 40, 15 and 5 of them to train on."""
    root = tmp_path_factory.mktemp("own")
    (root / "clips").mkdir()
    random, rows = np.random.default_rng(0), [("file", "label", "split")]
    for label, counts in {"sit": (40, 10), "wave": (15, 10), "fall": (5, 10)}.items():
        for split, count in zip(("train", "test"), counts):
            for number in range(count):
                name = f"{label}-{split}-{number}.npy"
                joints = random.normal(0, 0.05, (int(random.integers(20, 30)), 20, 3))
                joints += np.arange(20)[:, None] / 10
                joints[:, :7] += ("sit", "wave", "fall").index(label)
                np.save(root / "clips" / name, joints)
                rows.append((name, label, split))
    with (root / "clips/labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    argv = ["custom", str(root / "clips/labels.csv"), "--layout", "nw_ucla", "--persons", "1"]
    assert run_command(prepare.main, [*argv, "--out", str(root / "mine")]) == 0
    return root / "mine"


def test_one_command_trains_on_a_store(mine, tmp_path, monkeypatch, capsys):
    """And the table has no column for a group without classes."""
    monkeypatch.chdir(tmp_path)
    main.main(["--store", str(mine), "--device", "cpu", "--set", *FEW])
    run = tmp_path / "work_dir/mine/joint"
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert settings["model_args"] == {
        "graph": "nw_ucla", "num_class": 3, "num_person": 1, "in_channels": 3,
        "base_channels": 8, "num_blocks": 2, "inflate": [], "down": [],
    }  # fmt: skip
    assert settings["method"] == "balanced-softmax" and settings["loss_args"] == {"tau": 1.0}
    assert (settings["protocol"], settings["frames"], settings["tag"]) == ("given", 32, "")
    result = json.loads((run / "result.json").read_text())
    # a tenth of 40, of 15 and of 5 samples is held out
    assert result["class_counts"] == [{"sit": 36, "wave": 13, "fall": 5}[n] for n in sorted_names()]
    assert settings["shots"] == [13, 13] and None not in (result["many"], result["few"])
    out = capsys.readouterr().out
    table = out.partition("test, 1 clips")[2]
    assert "many >13" in table and "medium 13..13" in table
    page = (tmp_path / "work_dir/mine/report.html").read_text()
    assert "wave" in page and out.endswith("work_dir/mine/report.html (0.1 MB)\n")
    main.main(["--store", str(mine), "--device", "cpu", "--seed", "1", "--set", *FEW])
    assert (tmp_path / "work_dir/mine-seed1/joint/result.json").is_file()
    method = ["--config", str(own_data.CONFIG_ROOT / "methods/focal.yaml"), "--stream", "bone"]
    main.main(["--store", str(mine), *method, "--device", "cpu", "--set", *FEW])
    other = yaml.safe_load((tmp_path / "work_dir/mine-focal/bone/config.yaml").read_text())
    assert other["method"] == "focal" and other["store"] == str(mine)


@pytest.fixture
def again(tmp_path):
    """A call that prepares the same twelve or more clips, in a store of the same name."""

    def prepared(*words, number=12):
        (tmp_path / "clips").mkdir(exist_ok=True)
        rows = [("file", "label")]
        for row in range(number):
            joints = np.random.default_rng(row).normal(row % 2, 0.1, (20 + row, 20, 3))
            np.save(tmp_path / f"clips/{row}.npy", joints + np.arange(20)[:, None] / 10)
            rows.append((f"{row}.npy", ("sit", "wave")[row % 2]))
        with (tmp_path / "clips/labels.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        argv = ["custom", str(tmp_path / "clips/labels.csv"), "--layout", "nw_ucla"]
        argv += ["--persons", "1", "--out", str(tmp_path / "mine"), "--split", "0.4", *words]
        assert run_command(prepare.main, argv) == 0
        return tmp_path / "mine"

    return prepared


def test_clips_are_known_again_after_a_new_split(again, tmp_path, capsys):
    """Of a store that was prepared again, or anew with other clips, under the same name."""
    argv = ["--store", str(again()), "--device", "cpu", "--work-dir", str(tmp_path / "run")]
    main.main([*argv, "--set", *FEW])
    before = (tmp_path / "run/result.json").read_bytes()
    for words, number in ((("--seed", "1"), 12), (("--seed", "2"), 14)):
        again(*words, number=number)
        argv = ["--phase", "test", "--weights", str(tmp_path / "run/best.pt"), "--device", "cpu"]
        capsys.readouterr()
        assert run_command(main.main, argv) == 2
        assert re.search(r"best.pt: was trained on [1-6] of the [46] test", capsys.readouterr().err)
    assert (tmp_path / "run/result.json").read_bytes() == before


def test_streams_of_a_store_and_of_what_replaced_it_are_not_mixed(again, tmp_path, capsys):
    argv = ["--store", str(again()), "--device", "cpu", "--work-dir", str(tmp_path / "run")]
    joint = ["--work-dir", str(tmp_path / "run/joint"), "--stream", "joint"]
    main.main([*argv[:4], *joint, "--set", *FEW])
    again("--normalize", "none")
    argv += ["--stream", "joint", "bone", "--resume", "--set", *FEW]
    capsys.readouterr()
    assert run_command(main.main, argv) == 2
    assert "run/joint was tested on other clips than its store has now" in capsys.readouterr().err
    again()
    assert run_command(main.main, argv) == 0
    again("--seed", "1")
    assert run_command(main.main, argv) == 2
    assert "run/joint was trained on another list than there is now" in capsys.readouterr().err


def sorted_names():
    return ["fall", "sit", "wave"]


def test_classes_that_cannot_be_tested_are_named(mine):
    settings = own_data.with_shots(Config(**own_data.values_of(mine)))
    data = open_data(settings, make_model(settings))
    assert untested(data) == ""
    two = data.test_rows[data.store.labels[data.test_rows] != 1]
    said = untested(dataclasses.replace(data, test_rows=two))
    assert said == "without test samples, so in no figure: 1 classes (sit)"


def test_a_benchmark_beside_a_store_is_refused(mine, capsys):
    """It names a store of its own, which would be trained on under the name of the other."""
    argv = ["--store", str(mine), "--device", "cpu", "--check"]
    for words, said in (
        (["--config", "config/nw-ucla-lt/joint.yaml"], "names the store data/nw-ucla"),
        (["--set", "store=data/nw-ucla"], "two values of store"),
    ):
        assert run_command(main.main, [*argv, *words]) == 2
        assert f"{' '.join(words)}: {said}" in capsys.readouterr().err


def test_a_store_without_a_split_says_how_to_get_one(tiny, capsys):
    assert run_command(main.main, ["--store", str(tiny / "store"), "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "--split 0.3" in said and "--config" in said


def test_a_missing_store_is_one_line(tmp_path, capsys):
    assert run_command(main.main, ["--store", str(tmp_path / "no"), "--device", "cpu"]) == 2
    assert "is not a prepared store" in capsys.readouterr().err


@pytest.mark.parametrize(
    "counts, limits, sizes",
    [
        ([200, 150, 50, 30, 10, 3], (100, 20), (2, 2, 2)),  # the usual limits fill all groups
        ([9, 8, 7, 6, 5, 4], (7, 6), (2, 2, 2)),
        ([60, 50, 40, 3, 2, 1], (40, 3), (2, 2, 2)),
        ([5, 9, 0, 7, 0], (7, 7), (1, 1, 1)),  # classes without samples do not count
        ([18, 6], (7, 7), (1, 0, 1)),
        ([9, 9, 9, 9], (9, 9), (0, 4, 0)),  # equal classes are not parted
        ([4], (4, 4), (0, 1, 0)),
        ([13, 12, 13, 13], (13, 12), (0, 4, 0)),  # nor are nearly equal ones
        ([9, 7, 5, 5, 3, 3, 2, *[1] * 13], (2, 2), (6, 1, 13)),  # the smallest are few
        ([*[9] * 13, 5, 3, 1, 1, 1, 1, 1], (8, 8), (13, 0, 7)),  # and the largest many
        ([9, 9, 9, 1, 1, 1], (8, 2), (3, 0, 3)),
        ([3, 3, 3, 2, 2, 2], (3, 3), (0, 3, 3)),
    ],
)
def test_automatic_limits_make_thirds(counts, limits, sizes):
    assert shots.automatic(counts) == limits
    masks = shots.groups(np.array([c for c in counts if c]), limits)
    assert tuple(int(mask.sum()) for mask in masks.values()) == sizes


def test_shots_auto_is_a_value_of_any_configuration(tiny):
    """The tiny list has 3, 3, 1 and 1 samples of its classes."""
    given = load([tiny / "tiny-lt/joint.yaml"], ["shots=auto"])
    settled = own_data.with_shots(given)
    assert settled.shots == list(shots.automatic([3, 3, 1, 1])) == [2, 2]
    assert own_data.with_shots(load([], ["shots=[5, 2]"])).shots == [5, 2]
    with pytest.raises(InputError, match=r"shots must be a list of whole numbers or auto"):
        load([], ["shots=automatic"])


@pytest.mark.parametrize(
    "samples, width, repeat", [(147, 16, 10.2), (2000, 32, 1.0), (5000, 64, 1.0)]
)
def test_width_and_steps_follow_from_the_number_of_clips(monkeypatch, samples, width, repeat):
    store = SimpleNamespace(
        columns={"split": np.array(["train"] * samples + ["test"])},
        labels=np.zeros(samples + 1, np.int64), lengths=np.full(samples + 1, 80),
        names=np.arange(samples + 1).astype(str), joints=np.zeros((1, 1, 20, 3)), layout="nw_ucla",
        class_names=["a"], path="x",
    )  # fmt: skip
    monkeypatch.setattr(own_data.Store, "open", lambda path: store)
    values = own_data.values_of("x", with_method=False)
    assert values["model_args"].get("base_channels", 64) == width and values["frames"] == 64
    assert values["repeat"] == repeat
    trained = samples - round(0.1 * samples)  # a tenth is held out
    assert 24 * int(trained * repeat) / 16 >= 2000


def test_methods_are_compared_on_a_store(mine, tmp_path, monkeypatch, capsys):
    """BRL, a rival and a classifier on its weights, at equal steps; a second call makes no run."""
    monkeypatch.chdir(tmp_path)
    argv = ["--store", str(mine), "--methods", "brl,cross-entropy,ncm", "--jobs", "2"]
    argv += ["--equal-steps", "--device", "cpu", "--set", *FEW]
    compare.main(argv)
    out = capsys.readouterr().out
    assert "mine, joint, last.pt; equal optimizer steps" in out
    found = json.loads((tmp_path / "work_dir/compare-mine-joint.json").read_text())
    assert list(found["methods"]) == ["brl", "cross-entropy", "ncm"]
    runs = [row["runs"][0] for row in found["methods"].values()]
    assert len({run["steps"] for run in runs}) == 1 and all(run["top1"] is not None for run in runs)
    assert [run["folder"].split("/")[1].split("-steps")[0] for run in runs] == [
        "mine-brl", "mine-cross-entropy", "mine-ncm",
    ]  # fmt: skip
    own = yaml.safe_load((tmp_path / "work_dir/mine-brl/joint/config.yaml").read_text())
    assert own["mixing"] == "longtail.brl.PartialMixup" and own["store"] == str(mine)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("last.pt")}
    compare.main([*argv, "--quiet"])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("last.pt")} == before
    for words in (["--methods", "brl"], [*argv, "--benchmark", "demo-lt"]):
        assert run_command(compare.main, words) == 2
        assert "give one" in capsys.readouterr().err
