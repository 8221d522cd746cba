"""Text files are read and written in UTF-8 in every locale."""

import ast
import json
import subprocess
import sys

import numpy as np
import pytest

from data.store import StoreWriter
from tests.tiny_runs import ENVIRONMENT, PROJECT, SMALL

OTHERS = ("Store", "archive", "os", "tarfile", "zipfile")  # their `open` is not for text files
FILES = [path for path in PROJECT.rglob("*.py") if PROJECT / "tests" not in path.parents]
FILES = [path for path in FILES if not any(part.startswith(".") for part in path.parts)]


def without_encoding(source):
    """Yield the line numbers at which a text file is opened without an encoding."""
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call) or any(k.arg == "encoding" for k in call.keywords):
            continue
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        owner = getattr(call.func, "value", None)
        owner = getattr(owner, "attr", getattr(owner, "id", ""))
        modes = [arg.value for arg in call.args if isinstance(arg, ast.Constant)]
        binary = any(isinstance(mode, str) and mode in ("rb", "wb", "ab", "xb") for mode in modes)
        is_open = name == "open" and owner not in OTHERS and not binary
        if is_open or (name in ("read_text", "write_text") and owner):
            yield call.lineno


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_text_files_are_opened_with_an_encoding(path):
    assert not list(without_encoding(path.read_text(encoding="utf-8")))


def test_missing_encoding_is_detected():
    source = "path.open()\nopen(p, 'a')\na.b.read_text()\np.open('rb')\nStore.open(p)\n"
    assert list(without_encoding(source)) == [1, 2, 3]


@pytest.mark.slow
def test_full_run_in_c_locale(tmp_path):
    """Training, fusion and report with non-ASCII class names under LC_ALL=C."""
    names = ["\u4e3e\u624b", "\u00e9ternuer"]
    with StoreWriter(
        tmp_path / "store", "ntu_rgb_d", names, (2, 25, 3), normalisation="centred", centre=20
    ) as out:
        for subject in (1, 2):
            for take in range(4):
                joints = np.random.default_rng(take).normal(size=(9, 2, 25, 3))
                name = f"S001C001P{subject:03d}R{take:03d}A{take % 2 + 1:03d}"
                out.add(name, take % 2, joints, subject=subject)
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "joint.yaml").write_text(
        f"# caf\u00e9\nstore: {tmp_path}/store\nprotocol: demo-xsub\nnum_epoch: 1\nframes: 8\n"
        "test_clips: 1\nmodel_args: {graph: ntu_rgb_d, num_class: 2, base_channels: 8}\n",
        encoding="utf-8",
    )
    run = tmp_path / "run" / "joint"
    environment = ENVIRONMENT | {
        "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii",
    }  # fmt: skip

    def call(*argv):
        words = [sys.executable, *map(str, argv)]
        done = subprocess.run(words, env=environment, cwd=PROJECT, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    call("main.py", "--config", folder / "joint.yaml", "--device", "cpu", "--work-dir", run,
         "--set", *SMALL)  # fmt: skip
    call("ensemble.py", "--folder", run.parent)
    call("-m", "tools.report", run.parent)
    assert (
        (run.parent / "report.html").read_text(encoding="utf-8").count(json.dumps(names[1])[1:-1])
    )
