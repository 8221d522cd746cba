"""What `pip install` makes of the project, and what it may be installed with."""

import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import installed
from engine.config import CONFIG_ROOT

ROOT = CONFIG_ROOT.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUP = PROJECT["tool"]["setuptools"]
EXTRAS = PROJECT["project"]["optional-dependencies"]
# A script that uses a file of every kind that comes with the code, and names the code's folder.
USES_EVERYTHING = """
from pathlib import Path
import graph
from data import long_tail, names
from engine import config
from engine.predict import Recognizer
from tools import published
from tools.report import page
assert graph.load("coco").num_joints == 17
assert len(names.class_names("ntu120", 60)) == 60
assert (long_tail.LISTS / "nw-ucla_10.txt").is_file()
assert config.load(["config/demo-lt/joint.yaml"]).batch_size == 32
assert config.benchmark_folder("ntu120/xset").is_dir()
assert published.TABLE.is_file() and (page.FOLDER / "body.html").is_file()
print(config.CONFIG_ROOT.parent)
"""


def requirements(name: str) -> dict[str, Requirement]:
    """Return {package: requirement} of a file, without the files that it includes."""
    lines = [line.split(" #")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    found = [Requirement(line) for line in lines if line and line[0] not in "#-"]
    return {canonicalize_name(each.name): each for each in found}


def test_every_package_and_module_is_installed():
    folders = {path.parent.relative_to(ROOT) for path in ROOT.glob("[a-z]*/**/__init__.py")}
    ours = {
        ".".join(folder.parts) for folder in folders if folder.parts[0] not in ("tests", "build")
    }
    assert set(SETUP["packages"]) == ours | {"config"}
    assert set(SETUP["py-modules"]) == {path.stem for path in ROOT.glob("*.py")}


def test_tested_versions_lie_in_the_ranges_for_users():
    tested = requirements("constraints.txt")
    extras = [Requirement(each) for group in EXTRAS.values() for each in group]
    for needed in (*requirements("requirements.txt").values(), *extras):
        (pin,) = tested[canonicalize_name(needed.name)].specifier
        assert pin.operator == "=="
        assert pin.version in needed.specifier, needed


def test_the_tests_install_every_extra_at_a_tested_version():
    """Otherwise an optional package would be tested nowhere, or a new release would break CI."""
    development = requirements("requirements-dev.txt")
    assert {
        canonicalize_name(Requirement(e).name) for group in EXTRAS.values() for e in group
    } <= set(development)
    assert {*development, *requirements("requirements.txt")} == set(requirements("constraints.txt"))


def test_the_torch_range_excludes_versions_that_run_code_from_checkpoints():
    assert "2.5.1" not in requirements("requirements.txt")["torch"].specifier


@pytest.mark.slow
@pytest.mark.parametrize("editable", [True, False], ids=["editable", "copied"])
def test_an_installed_project_works_in_any_folder(tmp_path, editable):
    """Also in a folder whose own data/ and model/ would hide the packages as namespaces."""
    pytest.importorskip("setuptools", reason="needs setuptools to install without a network")
    source, user = tmp_path / "source", tmp_path / "user"
    source.mkdir()
    for path in (*ROOT.glob("*.*"), ROOT / "LICENSE"):
        if path.is_file():
            shutil.copy(path, source)
    for package in SETUP["packages"]:
        if "." not in package:
            stores = shutil.ignore_patterns("*.npy", "*.npz", "__pycache__")
            shutil.copytree(ROOT / package, source / package, ignore=stores)
    for name in ("data", "model", "config", "graph", "engine"):
        (user / name / "mine").mkdir(parents=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "tests_environment.pth").write_text(sysconfig.get_path("purelib"))
    python = tmp_path / "venv/bin/python"
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    command += ["--no-deps", "--no-build-isolation", "--no-index", *["-e"] * editable, source]
    subprocess.run(command, check=True, capture_output=True, text=True)
    run = subprocess.run(
        [python, "-c", USES_EVERYTHING], cwd=user, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == str(source if editable else site)
    helped = subprocess.run(
        [python, "-m", "main", "--help"], cwd=user, capture_output=True, check=False
    )
    assert helped.returncode == 0


def test_a_config_file_is_found_from_any_folder(tmp_path, monkeypatch):
    from engine import config

    monkeypatch.chdir(tmp_path)
    assert config.load(["config/demo-lt/joint.yaml"]).store == "data/demo"
    (tmp_path / "config/demo-lt").mkdir(parents=True)
    (tmp_path / "config/demo-lt/joint.yaml").write_text("store: mine\n")
    assert config.load(["config/demo-lt/joint.yaml"]).store == "mine"  # the user's own goes first
    with pytest.raises(Exception, match=re.escape("did you mean config/demo-lt/bone.yaml?")):
        config.load(["config/demo-lt/bone.yml"])


def test_the_command_line_is_read_before_torch_is_imported():
    """--help and a misspelled flag need no seconds."""
    code = "import sys, main; main.make_parser().format_help(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    "command",
    [["main.py", "--config", "config/demo-lt/joint.yaml"], ["ensemble.py", "--dataset", "demo"],
     ["-m", "tools.report", "work_dir"], ["-m", "data.prepare", "demo"]],
)  # fmt: skip
def test_missing_packages_are_one_line_that_says_what_to_type(command):
    """Python without site-packages (-S), as outside the environment."""
    result = subprocess.run(
        [sys.executable, "-S", *command], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith("error: not installed: torch, numpy, pyyaml, tqdm")
    assert "pip install -r requirements.txt" in result.stderr and result.stderr.count("\n") == 1


def test_every_requirement_is_looked_for():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = {re.split("[>=<]", line)[0] for line in lines if line and line[0] != "#"}
    assert {installed.NAMES.get(name, name) for name in installed.PACKAGES} == required
