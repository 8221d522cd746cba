"""Shared fixtures: the golden vectors, a tiny benchmark, and one thread per test.

With one thread, runs are repeatable and tests do not depend on other load.
"""

import os
import shutil
import signal
from pathlib import Path
from typing import Self

import numpy as np
import pytest
import torch

import main
from data.store import StoreWriter
from engine import evaluate
from longtail import shots
from tests import make_golden
from tests.tiny_runs import command

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--without-shared", action="store_true",
        help="test as in a clone of the project alone: with the golden vectors of tests/golden",
    )  # fmt: skip


@pytest.fixture(scope="session")
def shared(pytestconfig: pytest.Config) -> Path:
    """The folder of golden vectors and real data next to the project; tests skip without it."""
    if pytestconfig.getoption("without_shared") or not SHARED.is_dir():
        pytest.skip("requires ../shared (golden vectors and real data), which is absent")
    return SHARED


class Vectors(dict):
    """The arrays of a golden file; a key that the reduced set leaves out skips the test."""

    def __init__(self, path: Path, whole: bool) -> None:
        with np.load(path) as file:
            super().__init__({key: file[key] for key in file.files})
        self.name, self.whole = path.name, whole

    def __missing__(self, key: str) -> np.ndarray:
        if self.whole:
            raise KeyError(key)
        pytest.skip(f"needs {key} of ../shared/golden/{self.name}, not in tests/golden")


class Golden(type(Path())):  # the class of this system's paths
    """The folder of golden vectors; `golden / name` skips the test if it has no such file."""

    whole = True  # False: the reduced set of tests/golden

    def __truediv__(self, name: str) -> Self:
        path = super().__truediv__(name)
        if not path.exists():
            pytest.skip(f"needs {name} of ../shared/golden, which tests/golden does not contain")
        return path

    def load(self, name: str) -> Vectors:
        return Vectors(self / name, self.whole)


@pytest.fixture(scope="session")
def reduced(tmp_path_factory: pytest.TempPathFactory) -> Golden:
    """The reduced set of golden vectors, which comes with the project."""
    folder = tmp_path_factory.mktemp("golden")
    make_golden.unpack(folder)
    golden = Golden(folder)
    golden.whole = False
    return golden


@pytest.fixture(scope="session")
def golden(pytestconfig: pytest.Config, reduced: Golden) -> Golden:
    """The whole set of golden vectors in ../shared, or else the reduced one."""
    if pytestconfig.getoption("without_shared") or not (SHARED / "golden").is_dir():
        return reduced
    return Golden(SHARED / "golden")


@pytest.fixture(autouse=True, scope="session")
def _interrupts() -> None:
    """Let SIGINT arrive, which a shell ignores for what it starts in the background: the tests'
    own processes would inherit that, and those that are interrupted would never end."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
    """One thread, also in the tests' own processes, which would measure how many are best."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
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


@pytest.fixture(scope="session")
def uninterrupted(tiny, tmp_path_factory):
    """A finished run that nobody may change."""
    folder = tmp_path_factory.mktemp("trained") / "joint"
    torch.set_num_threads(1)
    main.main(command(tiny, folder, "--quiet"))
    return folder


@pytest.fixture(scope="module")
def whole(uninterrupted, tmp_path_factory):
    """An uninterrupted run, copied for the tests of one file."""
    return Path(shutil.copytree(uninterrupted, tmp_path_factory.mktemp("whole") / "joint"))


@pytest.fixture
def untested(monkeypatch):
    """Skips the evaluations of runs."""
    monkeypatch.setattr(evaluate, "score", lambda net, feeder, *_, **__: np.eye(4)[feeder.labels])
    monkeypatch.setattr(evaluate, "test", lambda *_, **__: dict.fromkeys(shots.METRICS))
