"""Every benchmark of config/ trains and tests on a synthetic store in its format."""

import json
from pathlib import Path

import numpy as np
import pytest

import main
from data import long_tail
from data.names import class_names, parse
from data.store import StoreWriter
from errors import run_command
from tests import quick

ROOT = Path(__file__).resolve().parents[1]
SMALL_SETS = ("utd-mhad-lt", "msr-action3d-lt", "utkinect-lt", "kinder-gator-lt")
POSE_SETS = {"gym": 99, "diving48": 48, "ucf101": 101, "hmdb51": 51}
NTU = ("ntu60-xsub-lt", "ntu60-xview-lt", "ntu120-xsub-lt", "ntu120-xset-lt")
SMALL = (
    "num_epoch=1",
    "second_stage=1",
    "frames=8",
    "batch_size=64",
    "repeat=1",
    "model_args.base_channels=8",
)


def write(
    path: Path, layout: str, classes: list[str], shape: tuple[int, int, int], rows: list[tuple]
) -> Path:
    """Write a store of random clips; `rows` are (name, label, columns)."""
    random = np.random.default_rng(0)
    with StoreWriter(path, layout, classes, shape) as writer:
        for name, label, columns in rows:
            writer.add(
                name, label, random.normal(size=(int(random.integers(3, 12)), *shape)), **columns
            )
    return path


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> dict[str, Path]:
    """The stores of the benchmarks; NTU RGB+D 120 is used by four of them."""
    root = tmp_path_factory.mktemp("stores")
    ntu = [
        f"S{setup:03d}C{camera:03d}P{subject:03d}R001A{action:03d}"
        for action in range(1, 121)
        for setup, camera, subject in ((1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 1, 6))
    ]
    ucla = (ROOT / "data/lists/nw-ucla_10.txt").read_text().split()
    ucla += [f"a{action:02d}_s01_e99_v03" for action in (1, 2, 3, 4, 5, 6, 8, 9, 11, 12)]
    demo = [name for name in ntu if parse(name)[0] < 16]
    kinetics = naturally_unbalanced(400)
    named = class_names("kinetics400")
    persons = (1, 2, 5, 6, 103, 106, 577, 565)  # half of each set is for training
    small = {name.removesuffix("-lt"): class_names(name.removesuffix("-lt")) for name in SMALL_SETS}
    small_sets = {
        name: write(
            root / name, "nw_ucla", classes, (1, 20, 3),
            [
                (f"a{c}_s{person}", c, {"subject": person})
                for person in persons[4 * (name == "kinder-gator") :][:4]
                for c in range(len(classes))
            ],
        )
        for name, classes in small.items()
    }  # fmt: skip
    poses = {
        name: write(root / name, "coco", [f"{k}" for k in range(num_class)], (2, 17, 3),
                    naturally_unbalanced(num_class))
        for name, num_class in POSE_SETS.items()
    }  # fmt: skip
    return (
        poses
        | small_sets
        | {
            "ntu": write(
                root / "ntu", "ntu_rgb_d", class_names("ntu120"), (2, 25, 3), rows_of(ntu)
            ),
            "demo": write(
                root / "demo", "ntu_rgb_d", [*"abcdefghijklmnop"], (2, 25, 3), rows_of(demo)
            ),
            "nw-ucla": write(
                root / "ucla", "nw_ucla", class_names("nw-ucla"), (1, 20, 3), rows_of(ucla)
            ),
            "k400": write(root / "k400", "coco", named, (2, 17, 3), kinetics),
            "kinetics-skeleton": write(root / "kinetics", "openpose", named, (2, 18, 3), kinetics),
        }
    )


def naturally_unbalanced(num_class: int) -> list[tuple]:
    """Three of the classes, with nine, six and three samples to train on, and a split."""
    labels = np.repeat([0, 7, num_class - 1], [12, 8, 4]).tolist()
    return [
        (f"clip{i}", label, {"split": "test" if i % 4 == 3 else "train"})
        for i, label in enumerate(labels)
    ]


def rows_of(names: list[str]) -> list[tuple]:
    return [(name, *parse(name)) for name in names]


@pytest.mark.parametrize(
    ("folder", "stream", "counts"),
    [
        ("demo-lt", "bone-motion", None),
        ("utkinect-lt", "bone", [2] + 9 * [1]),
        ("gym-lt", "joint", {0: 9, 7: 6, 98: 3}),
        *quick.only(
            [],
            [
                *zip(NTU, ("joint", "bone", "skip", "joint-motion"), 4 * [None]),
                ("nw-ucla-lt", "joint", [100, 77, 59, 46, 35, 27, 21, 16, 12, 10]),
                ("utd-mhad-lt", "joint", [2] + 26 * [1]),
                ("msr-action3d-lt", "skip-motion", [2] + 19 * [1]),
                ("kinder-gator-lt", "bone-motion", [2] + 57 * [1]),
                ("k400", "skip", {0: 9, 7: 6, 399: 3}),
                ("kinetics-skeleton", "skip-motion", {0: 9, 7: 6, 399: 3}),
                ("diving48", "bone", {0: 9, 7: 6, 47: 3}),
                ("ucf101", "joint-motion", {0: 9, 7: 6, 100: 3}),
                ("hmdb51", "skip", {0: 9, 7: 6, 50: 3}),
            ],
        ),
    ],
)
def test_one_epoch_and_test(folder, stream, counts, stores, tmp_path) -> None:
    store = stores["ntu" if folder in NTU else folder.removesuffix("-lt")]
    overrides = [*SMALL, f"store={store}", "model_args.num_blocks=1"]
    if folder in (*NTU, "demo-lt"):
        lists = tmp_path / "list_{imbalance}.txt"
        argv = [folder, "--names", store, "--imbalance", "2", "--n-max", "2", "--own-order"]
        argv += ["--out", str(lists).replace("{imbalance}", "2")]
        assert run_command(long_tail.main, [*map(str, argv)]) == 0
        overrides += [f"training_list={lists}", "imbalance=2"]
        num_class = 16 if folder == "demo-lt" else 120 if "120" in folder else 60
        counts = long_tail.counts(2, 2, num_class).tolist()
    if folder in SMALL_SETS:  # the list is generated at the start of training
        overrides.append(f"training_list={tmp_path}/list_{{imbalance}}.txt")
        overrides += ["imbalance=2", "test_clips=2"]
    config = ROOT / "config" / folder / f"{stream}.yaml"
    argv = ["--config", config, "--device", "cpu", "--work-dir", tmp_path / "run", "--quiet"]
    assert run_command(main.main, [*map(str, argv), "--set", *overrides]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    if isinstance(counts, dict):
        counts = [counts.get(label, 0) for label in range(max(counts) + 1)]
    assert result["class_counts"] == counts and result["stream"] == stream
    assert result["benchmark"].removesuffix("-lt") == folder.removesuffix("-lt")
    scores = np.load(tmp_path / "run" / "scores.npz")["scores"]
    assert scores.shape == (result["samples"], len(counts)) and np.isfinite(scores).all()
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)


def test_fold_of_a_small_set(stores, tmp_path, monkeypatch) -> None:
    """The run tests on the subjects of the fold, with its own tag, and logs the generated list."""
    monkeypatch.chdir(tmp_path)
    config = ROOT / "config/utkinect-lt/joint.yaml"
    lists = f"training_list={tmp_path}/list_{{imbalance}}_by{{seed}}.txt"
    overrides = [*SMALL, f"store={stores['utkinect']}", "model_args.num_blocks=1", lists]
    overrides += ["imbalance=3", "fold=2/4", "seed=1"]
    assert (
        run_command(main.main, ["--config", str(config), "--device", "cpu", "--set", *overrides])
        == 0
    )
    run = tmp_path / "work_dir" / "utkinect-lt-if3-fold2of4-seed1" / "joint"
    result = json.loads((run / "result.json").read_text())
    assert sorted(result["class_counts"]) == [1] * 6 + [2] * 3 + [3]  # int(3 / 3^(c/9))
    names = np.load(run / "scores.npz")["names"]
    assert {name.rsplit("_s")[1] for name in names} == {"2"}  # the second of 1, 2, 5, 6
    trained = (tmp_path / "list_3_by1-fold2of4.txt").read_text().split()
    assert {name.rsplit("_s")[1] for name in trained} == {"1", "5", "6"}
    log = (run / "log.txt").read_text()
    assert "list_3_by1-fold2of4.txt was missing and has been generated" in log
    assert "(not a published list; 3 to 1: imbalance 3)" in log
