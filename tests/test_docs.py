"""The documentation: links, commands, keys and figures are correct, and its examples run."""

import argparse
import ast
import dataclasses
import importlib
import inspect
import re
import shlex
import shutil
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

import graph
import main
from benchmarks import __main__ as benchmarks
from data import prepare
from data.readers import READERS
from engine import config
from engine.build import feeder_of, find_class
from errors import InputError, Parser
from feeders.augment import Augmentation
from feeders.frames import CHOICES
from feeders.skeleton import Feeder
from tests.tiny_runs import assert_resumes
from tools import configuration, layouts, zoo
from tools.compare import Sweep

PROJECT = zoo.DOCS.parent
PAGES = sorted([PROJECT / "README.md", *zoo.DOCS.glob("*.md")])
TEXTS = {page: page.read_text() for page in PAGES}
ALL_TEXT = "\n".join(TEXTS.values())

# Files that the reader of extending.md and comparing.md writes: {path: text}.
EXAMPLES = {
    name: text
    for text, name in re.findall(r"^```\w+\n(# (\S+\.(?:py|yaml))\n.*?)^```", ALL_TEXT, re.M | re.S)
}
COMMANDS = (
    "main", "ensemble", "data.prepare", "data.long_tail", "data.inspect", "data.convert",
    "tools.calibrate", "tools.compare", "tools.report", "tools.embed", "tools.export", "tools.zoo",
)  # fmt: skip
FLAGS_OF_OTHER_PROGRAMS = {  # torchrun, Slurm, pip
    "--nproc-per-node", "--nnodes", "--node-rank", "--master-addr", "--master-port",
    "--rdzv-backend", "--rdzv-endpoint", "--rdzv-id", "--cpus-per-task", "--gpus-per-node",
    "--ntasks-per-node", "--nodes", "--ntasks", "--gres", "--signal", "--requeue", "--time",
    "--user", "--wait", "--array", "--wrap",
}  # fmt: skip


class Parsed(Exception):
    """Raised instead of running a command; contains its parser and the parsed arguments."""


@pytest.fixture
def parse(monkeypatch):
    """A call (module, argv) -> (parser, namespace) through the module's own `main`."""
    for kind in (Parser, argparse.ArgumentParser):

        def stop(parser, argv, original=kind.parse_args):
            raise Parsed(parser, original(parser, argv) if argv else None)

        monkeypatch.setattr(kind, "parse_args", stop)

    def call(module, argv):
        name = f"{module}.__main__" if module in ("tools.report", "benchmarks") else module
        with pytest.raises(Parsed) as caught:
            importlib.import_module(name).main(argv)
        return caught.value.args

    return call


def commands():
    """Yield (page, module, arguments) for every command of this project in the documentation."""
    for page, text in TEXTS.items():
        text = text.replace("\\\n", " ")
        lines = [line for line in text.splitlines() if line.startswith("    ")]
        lines += re.findall(
            r"`([^`\n]*(?:\n[^`\n]*)?)`", re.sub(r"```.*?```", "", text, flags=re.S)
        )
        for line in lines:
            found = re.match(
                r"\s*(?:python|torchrun[\w -]*?) (?:-m ([\w.]+)|(\w+)\.py)( .*|$)",
                line.replace("\n", " "),
            )
            if found:
                words = shlex.split(found[3].partition(" > ")[0], comments=True)
                yield page.name, found[1] or found[2], [word for word in words if word != "..."]


ALL = list(commands())


def test_commands_are_found():
    assert len(ALL) > 30
    assert {"main", "ensemble", "data.prepare", "tools.compare"} <= {name for _, name, _ in ALL}


@pytest.mark.parametrize("page, module, argv", ALL, ids=lambda value: None)
def test_commands_parse_and_their_configurations_load(page, module, argv, parse):
    if f"{module}.py" in EXAMPLES or module in ("venv", "pip", "pytest"):
        return
    if module == "data.prepare" and argv and argv[0] == "lines":
        return  # the reader that extending.md adds
    if not argv or "--help" in argv:
        importlib.import_module(module)
        return
    _, options = parse(module, argv)
    overrides = getattr(options, "overrides", [])
    if module == "main":
        written = {path: PROJECT / path for path in options.config if path not in EXAMPLES}
        config.load(written.values(), overrides)
    else:
        config.override(dataclasses.asdict(config.Config()), overrides)
    if module == "tools.compare":
        # a store of one's own is not here; its methods are
        folder = config.benchmark_folder(options.benchmark or "demo-lt")
        sweep = Sweep(folder, overrides=tuple(overrides))
        for method in options.methods.split(","):
            if {method, f"config/methods/{method}.yaml"} & EXAMPLES.keys():
                continue
            settings = sweep.plan(method, 0).settings
            taken = inspect.signature(find_class(settings.model, "model"))
            taken.bind(**settings.model_args)
    for name in filter(None, (getattr(options, key, None) for key in ("benchmark", "dataset"))):
        if module in ("ensemble", "tools.compare"):
            config.benchmark_folder(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_link_targets_exist(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", TEXTS[page]):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_is_in_the_index():
    index = TEXTS[zoo.DOCS / "README.md"]
    for page in zoo.DOCS.glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, page.name


def test_configuration_files_exist():
    for path in set(re.findall(r"\bconfig/[\w./-]+\.yaml\b", ALL_TEXT)):
        assert path in EXAMPLES or (PROJECT / path).is_file(), path


def test_keys_exist():
    inline = re.findall(r"--set ((?:[a-z_.]+=\S+\s*)+)", ALL_TEXT)
    named = re.findall(r"`([a-z]+_[a-z_]+)(?:\.\w+)?: ", ALL_TEXT)
    keys = [word.split("=")[0].split(".")[0] for text in inline for word in text.split()]
    for key in {key for key in keys if key.isidentifier()} | set(named):
        assert key in config.KEYS, key


def test_flags_exist(parse):
    known = set(FLAGS_OF_OTHER_PROGRAMS)
    for module in (
        *COMMANDS,
        *{name for _, name, _ in ALL if name.startswith(("tools.", "data."))},
        *(f"benchmarks.{name}" for name in benchmarks.NAMES),
    ):
        parser = parse(module, [])[0] if module != "data.prepare" else None
        known |= set(parser._option_string_actions) if parser else set()
    for name in READERS:
        with pytest.raises(Parsed), pytest.MonkeyPatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, "parse_known_args", options_of(known))
            prepare.main([name])
    for flag in set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", ALL_TEXT)):
        assert flag in known, flag


def options_of(known):
    """Return a replacement of parse_known_args that collects the options of all subparsers."""

    def collect(parser, argv=None, namespace=None):
        for action in parser._actions:
            for child in (
                (action.choices or {}).values() if isinstance(action.choices, dict) else ()
            ):
                known.update(child._option_string_actions)
        raise Parsed

    return collect


def test_import_strings_exist():
    for path in set(re.findall(r"\b(?:model|longtail|feeders)\.\w+\.[A-Z]\w+", ALL_TEXT)):
        module = path.rpartition(".")[0].replace(".", "/") + ".py"
        if module not in EXAMPLES and "mine" not in module:
            find_class(path, "in the documentation")


def messages():
    """Yield the texts in the code that are filled in, without what that is."""
    for folder in ("data", "engine", "graph"):
        for file in (PROJECT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(p.value for p in node.values if isinstance(p, ast.Constant))


def test_the_faq_quotes_messages_as_they_are():
    faq = TEXTS[zoo.DOCS / "faq.md"]
    quoted = re.findall(r'^\*\*["`](.*)["`]\.?\*\*', faq, re.MULTILINE)
    assert len(quoted) == 7
    for message in quoted:
        said = re.split(r"\.\.\.|nan|data/ntu", message)
        pattern = re.compile(".*".join(map(re.escape, said)))
        assert any(pattern.search(text) for text in messages()), message


# --- figures ---


def test_generated_pages_are_current():
    zoo.main(["--check"])


def test_changed_figure_is_detected(tmp_path):
    page = (zoo.DOCS / "reproducing.md").read_text()
    (tmp_path / "page.md").write_text(page.replace(" 81.8 |", " 91.8 |", 1))
    with pytest.raises(InputError, match="not current"):
        zoo.main(["--docs", str(tmp_path), "--check"])
    zoo.main(["--docs", str(tmp_path)])
    assert (tmp_path / "page.md").read_text() == page


FIGURES = [
    {"method": "a", "streams": "joint", "value": "1.0"},
    {"method": "a", "streams": "bone", "value": "2.0"},
    {"method": "b", "streams": "joint", "value": "3.0"},
]


def test_pivot():
    assert zoo.pivot("rows=method columns=streams", FIGURES) == (
        "| method | joint | bone |\n| --- | ---: | ---: |\n| a | 1.0 | 2.0 |\n| b | 3.0 | – |\n"
    )
    with pytest.raises(InputError, match="two figures"):
        zoo.pivot("rows=streams columns=streams", FIGURES)
    with pytest.raises(InputError, match=r"no such figure"):
        zoo.pivot("rows=method columns=streams method=c", FIGURES)
    with pytest.raises(InputError, match=r"did you mean streams"):
        zoo.pivot("rows=method columns=stream", FIGURES)


# --- the pictures ---


def test_pictures_are_small():
    pictures = sorted((zoo.DOCS / "images").glob("*.png"))
    assert pictures
    for picture in pictures:
        assert picture.stat().st_size < 150_000, picture.name
        assert picture.name in ALL_TEXT, f"{picture.name} is not used"


# --- the examples of extending.md ---


@pytest.fixture
def project_with_examples(tmp_path, monkeypatch):
    """A folder with the files of the examples, added to the packages, layouts and readers."""
    for name, text in EXAMPLES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name in ("model", "longtail", "data.readers"):
        package = importlib.import_module(name)
        monkeypatch.setattr(
            package, "__path__", [*package.__path__, str(tmp_path / name.replace(".", "/"))]
        )
    for layout in graph.FOLDER.glob("*.yaml"):
        shutil.copy(layout, tmp_path / "graph")
    monkeypatch.setattr(graph, "FOLDER", tmp_path / "graph")
    monkeypatch.setattr(graph, "LAYOUTS", (*graph.LAYOUTS, "hand"))
    monkeypatch.setitem(READERS, "lines", "data.readers.lines")
    shutil.copy(PROJECT / "config/methods/cross-entropy.yaml", tmp_path / "config/methods")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.slow
def test_examples_run(project_with_examples, capsys):
    assert len(EXAMPLES) == 12
    exec(compile(EXAMPLES["make_clips.py"], "make_clips.py", "exec"), {"__name__": "__main__"})
    own = [
        "clips/labels.csv",
        "--layout",
        "hand",
        "--persons",
        "1",
        "--out",
        "data/hand",
        "--workers",
        "1",
    ]
    prepare.main(["custom", *own])
    base = ["--device", "cpu", "--quiet", "--set", "num_epoch=1", "repeat=1"]
    files = ["--config", "config/hand-lt/joint.yaml"]
    main.main([*files, *base, "model=model.small.Model"])
    main.main([*files, "config/methods/smooth.yaml", "--stream", "bone", *base])
    mixed = config.load(["config/hand-lt/joint.yaml", "ldam-partial-mixup.yaml"])
    assert (mixed.loss, mixed.mixing) == ("longtail.losses.LDAM", "longtail.brl.PartialMixup")
    assert_contrast_resumes(project_with_examples, [*files, "config/methods/contrast.yaml"])
    weights = project_with_examples / "work_dir/hand-lt-small/joint/best.pt"
    main.main(["--phase", "predict", "--weights", str(weights), "--input", "clips/00.npy"])
    assert "wave" in capsys.readouterr().out


def assert_contrast_resumes(folder, argv):
    """The projection head and the queue are resumed, too."""
    argv = [*argv, "--device", "cpu", "--quiet"]
    argv += ["--set", "num_epoch=2", "objective_args={length: 20}"]

    def train(run, *flags):
        main.main([*argv, "--work-dir", str(run), *flags])

    whole = assert_resumes(train, 0.99, folder / "whole", folder / "cut")
    method = whole["training"]["method"]
    assert (method["queue_labels"] >= 0).all()
    torch.testing.assert_close(method["queue"].norm(dim=1), torch.ones(20))


def test_example_reader_runs(project_with_examples, capsys):
    for part, name in (("train", "wave"), ("test", "wave"), ("train", "point")):
        file = project_with_examples / "lines" / part / name / "01.txt"
        file.parent.mkdir(parents=True)
        file.write_text(" ".join(map(str, range(15))) + "\n" + " ".join(map(str, range(1, 16))))
    (project_with_examples / "lines/train/wave/02.txt").write_text("1 2 3\n")
    with pytest.raises(InputError, match="1 of 4 samples are unreadable"):
        prepare.main(
            ["lines", "lines", "--layout", "hand", "--out", "data/lines", "--workers", "1"]
        )
    assert "3 samples, 6 frames, 2 of 2 classes" in capsys.readouterr().out


# --- layouts.md ---


@pytest.mark.parametrize("name", graph.LAYOUTS)
def test_a_picture_of_a_layout_has_every_joint_where_it_can_be_read(name):
    skeleton = graph.load(name)
    drawn = ElementTree.fromstring(layouts.picture(skeleton))
    space = "{http://www.w3.org/2000/svg}"
    assert [text.text for text in drawn.findall(f"{space}text")] == [
        str(v) for v in range(skeleton.num_joints)
    ]
    at = np.array([[float(c.get(key)) for key in ("cx", "cy")]
                   for c in drawn.findall(f"{space}circle")])  # fmt: skip
    apart = np.linalg.norm(at[:, None] - at, axis=-1) + 99 * np.eye(len(at))
    assert apart.min() > 16  # circles of radius 8.5 touch at most
    mirrored = at[list(skeleton.flip)] * [-1, 1] + [layouts.WIDTH, 0]
    np.testing.assert_allclose(mirrored, at)  # the sides are exchanged by `flip`


# --- configuration.md ---


def test_every_argument_of_the_feeder_is_named():
    (row,) = re.findall(r"^\| `feeder_args` .*\| (.*) \|$", configuration.reference(), re.M)
    kinds = (Augmentation, *CHOICES.values())
    known = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    own, others = (inspect.signature(each).parameters.keys() for each in (Feeder, feeder_of))
    known |= own - others - {"stream", "frames", "augmentation"}  # keys, and built from these
    assert set(re.findall(r"\w+", row)) - {"radians"} == known


def test_every_configuration_key_has_a_meaning():
    text = configuration.reference()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert [row[0][3:-1] for row in rows] == list(config.KEYS)
    assert all(row[3].strip(" |") for row in rows)
    assert "| `lr` | a number | `0.0125` | learning rate for a batch of lr_batch clips |" in text
