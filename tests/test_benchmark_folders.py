"""Every benchmark of config/ runs on a made-up store of its form: prepared data in, results out."""

import json
from pathlib import Path

import numpy as np
import pytest

import main
from data import long_tail
from data.names import class_names, parse
from data.store import StoreWriter
from errors import run_command

ROOT = Path(__file__).resolve().parents[1]
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
    """The stores that the folders name: one of NTU RGB+D 120 for four of them."""
    root = tmp_path_factory.mktemp("stores")
    ntu = [
        f"S{setup:03d}C{camera:03d}P{subject:03d}R001A{action:03d}"
        for action in range(1, 121)
        for setup, camera, subject in ((1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 1, 6))
    ]
    ucla = (ROOT / "data/lists/nw-ucla_10.txt").read_text().split()
    ucla += [f"a{action:02d}_s01_e99_v03" for action in (1, 2, 3, 4, 5, 6, 8, 9, 11, 12)]
    demo = [name for name in ntu if parse(name)[0] < 16]
    kinetics = [
        (f"clip{i}", label, {"split": "test" if i % 4 == 3 else "train"})
        for i, label in enumerate(np.repeat([0, 7, 399], [12, 8, 4]).tolist())
    ]
    named = class_names("kinetics400")
    return {
        "ntu": write(root / "ntu", "ntu_rgb_d", class_names("ntu120"), (2, 25, 3), told(ntu)),
        "demo": write(root / "demo", "ntu_rgb_d", [*"abcdefghijklmnop"], (2, 25, 3), told(demo)),
        "nw-ucla": write(root / "ucla", "nw_ucla", class_names("nw-ucla"), (1, 20, 3), told(ucla)),
        "k400": write(root / "k400", "coco", named, (2, 17, 3), kinetics),
        "kinetics-skeleton": write(root / "kinetics", "openpose", named, (2, 18, 3), kinetics),
    }


def told(names: list[str]) -> list[tuple]:
    return [(name, *parse(name)) for name in names]


@pytest.mark.parametrize(
    ("folder", "stream", "counts"),
    [
        *(
            (folder, stream, None)
            for folder, stream in zip(NTU, ("joint", "bone", "skip", "joint-motion"))
        ),
        ("demo-lt", "bone-motion", None),
        ("nw-ucla-lt", "joint", [100, 77, 59, 46, 35, 27, 21, 16, 12, 10]),
        ("k400", "skip", {0: 9, 7: 6, 399: 3}),
        ("kinetics-skeleton", "skip-motion", {0: 9, 7: 6, 399: 3}),
    ],
)
def test_an_epoch_and_its_test(folder, stream, counts, stores, tmp_path) -> None:
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
    config = ROOT / "config" / folder / f"{stream}.yaml"
    argv = ["--config", config, "--device", "cpu", "--work-dir", tmp_path / "run", "--quiet"]
    assert run_command(main.main, [*map(str, argv), "--set", *overrides]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    if isinstance(counts, dict):
        counts = [counts.get(label, 0) for label in range(400)]
    assert result["class_counts"] == counts and result["stream"] == stream
    assert result["benchmark"].removesuffix("-lt") == folder.removesuffix("-lt")
    scores = np.load(tmp_path / "run" / "scores.npz")["scores"]
    assert scores.shape == (result["samples"], len(counts)) and np.isfinite(scores).all()
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
