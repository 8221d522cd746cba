"""Shared fixtures: the golden vectors, a tiny benchmark, and one thread per test.

With one thread, runs are repeatable and tests do not depend on other load.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

import main
from data.store import StoreWriter
from engine import evaluate
from longtail import shots
from tests.tiny_runs import command

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden vectors and real data next to the project; tests skip without it."""
    if not SHARED.is_dir():
        pytest.skip("requires ../shared (golden vectors and real data), which is absent")
    return SHARED


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    return shared / "golden"


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A benchmark of four easy classes: `tiny-lt/joint.yaml`, its store and its list."""
    root = tmp_path_factory.mktemp("tiny")
    random = np.random.default_rng(0)
    names = []
    with StoreWriter(
        root / "store", "ntu_rgb_d", ["wave", "kick", "bow", "sit"], (2, 25, 3),
        normalisation="centred", centre=20,
    ) as out:  # fmt: skip
        for subject in (1, 2):
            for take in range(12):
                label = take % 4
                name = f"S001C001P{subject:03d}R{take:03d}A{label + 1:03d}"
                frames = int(random.integers(12, 30))
                joints = random.normal(size=(frames, 2, 25, 3)) * 0.1
                joints[:, :, label * 6 : label * 6 + 6] += 1 + label
                out.add(name, label, joints, subject=subject)
                if subject == 1 and take < (12, 10, 6, 4)[label]:
                    names.append(name)
    (root / "list.txt").write_text("\n".join(names))
    (root / "tiny-lt").mkdir()
    (root / "tiny-lt" / "joint.yaml").write_text(
        f"""store: {root}/store
protocol: demo-xsub
training_list: {root}/list.txt
num_epoch: 3
batch_size: 4
frames: 8
test_clips: 2
repeat: 2
shots: [3, 1]
model_args: {{graph: ntu_rgb_d, num_class: 4, num_person: 2, base_channels: 8}}
"""
    )
    return root


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "joint"
    torch.set_num_threads(1)
    main.main(command(tiny, folder, "--quiet"))
    return folder


@pytest.fixture
def untested(monkeypatch):
    """Skips the evaluations of runs."""
    monkeypatch.setattr(evaluate, "score", lambda net, feeder, *_, **__: np.eye(4)[feeder.labels])
    monkeypatch.setattr(evaluate, "test", lambda *_, **__: dict.fromkeys(shots.METRICS))
