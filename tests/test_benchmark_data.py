"""The benchmarks of preparing data: their plain readers are right, and what they count is true."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import data as benchmark_data
from data.readers import Clip
from errors import run_command
from tests.tiny_runs import ENVIRONMENT


def test_a_clip_may_have_fewer_persons_than_the_store_has_room_for() -> None:
    """A body that is damaged away leaves one; whatever else has another shape is unsound."""
    for shape, expected in [
        ((3, 1, 25, 3), True),
        ((3, 2, 25, 3), True),
        ((3, 0, 25, 3), False),
        ((3, 3, 25, 3), False),
        ((3, 2, 24, 3), False),
        ((3, 2, 25, 2), False),
    ]:
        assert (
            benchmark_data.is_sound(Clip("x", 0, np.ones(shape, np.float32)), (2, 25, 3))
            is expected
        ), shape
    assert not benchmark_data.is_sound(Clip("x", 0, np.full((3, 2, 25, 3), np.nan)), (2, 25, 3))


@pytest.mark.parametrize("name", ["m2_t50", "m2_t90_swap", "m1_t50", "m2_t90_f16"])
def test_the_plain_reader_of_the_benchmark_does_what_the_released_class_does(name, golden) -> None:
    keypoint = golden.load("tf_annotations.npz")[f"in|{name}"]
    expected = golden.load("tf_prenormalize3d.npz")[f"{name}|keypoint"].swapaxes(0, 1)
    np.testing.assert_allclose(benchmark_data.plain_upright(keypoint), expected, rtol=0, atol=1e-6)


MAPPED = """
import os, sys
import numpy as np
from benchmarks.data import resident
before = resident(os.getpid())
file = np.memmap(sys.argv[1], np.uint8, mode="r")
assert not file[::4096].any()
held = np.ones(len(file), np.uint8)
print(*(after - before for after, before in zip(resident(os.getpid()), before)), len(held))
"""


@pytest.mark.slow
def test_pages_of_a_mapped_file_are_told_from_memory_of_ones_own(tmp_path: Path) -> None:
    """In a process of its own, where no earlier test has left freed memory for the array."""
    size = 64 << 20
    (tmp_path / "file").write_bytes(bytes(size))
    words = [sys.executable, "-c", MAPPED, str(tmp_path / "file")]
    told = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout
    own, mapped, held = map(int, told.split())
    assert held == size and size / 2 < own < size * 3 / 2
    assert size / 2 < mapped < size * 3 / 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "argv, told",
    [
        (["pickle", "--samples", "40", "--plain", "3"], "equal within 1e-06 in the 3 samples"),
        (["raw", "--samples", "9", "--plain", "3"], "equal in the 3 samples"),
        (["scale", "--samples", "1500", "--n-max", "4", "--imbalance", "4"], "fed one epoch: 1500"),
    ],
    ids=lambda value: value[0],
)
def test_the_benchmarks_of_preparation_end(argv, told, tmp_path: Path, capsys) -> None:
    """The project's command runs as a process of its own; a plain reader agrees with it."""
    argv = [*argv, "--frames", "8", "--workers", "1", "--folder", str(tmp_path)]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "S999C001P001R001A001.skeleton").touch()  # of an earlier call
    assert run_command(benchmark_data.main, argv) == 0
    out = capsys.readouterr().out
    assert told in out and " MiB at most" in out


def test_the_benchmark_of_damage_counts_every_file(tmp_path: Path, capsys) -> None:
    argv = ["damage", "--samples", "150", "--folder", str(tmp_path)]
    assert run_command(benchmark_data.main, argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for line in lines:
        damaged, sound, refused = map(int, re.findall(r"(\d+) (?:damaged|sound|clear)", line))
        assert damaged == 150 == sound + refused and sound and refused
