"""The reference of the configuration keys, from the class that defines them.

python -m tools.configuration --out docs/configuration.md
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
from pathlib import Path

import yaml

from engine.config import Config, choices
from errors import Parser, run_command
from files import write_text

HEAD = """# Configuration keys

A configuration is YAML files on top of each other and words of `--set`. Every key below is a value
of a run, and `config.yaml` in its folder has all of them.

    python main.py --config config/demo-lt/joint.yaml config/methods/ldam.yaml --set lr=0.1

The command line lies above the files, later files above earlier ones, a file above its parents
(`base:`), and all above the defaults, which are NTU60's recipe. A key ending in `_args` has the
arguments of the class that the key before it names by its import string. Naming another objective,
sampling, mixing, loss, class_weights, auxiliary_loss, classifier or schedule drops the arguments of
the one before it; `model_args`, `optimizer_args` and `feeder_args` are kept.

Made from `engine/config.py` by `python -m tools.configuration --out docs/configuration.md`.
"""
TABLE = """
## {}

| key | type | default | meaning |
| --- | --- | --- | --- |"""


def reference() -> str:
    """Return the page, a table per section of the class."""
    lines = inspect.getsource(Config).splitlines()
    (tree,) = ast.parse("\n".join(lines)).body
    assert isinstance(tree, ast.ClassDef)
    defaults = dataclasses.asdict(Config())
    fields = [node for node in tree.body if isinstance(node, ast.AnnAssign)]
    text, above = [HEAD], fields[0].lineno - 1
    section = lines[above - 1].strip().lstrip("# ")
    for number, node in enumerate(fields):
        comments = [_comment(line) for line in lines[above : node.lineno - 1]]
        first = number == 0
        if comments and comments[0] and not first and _is_section(lines, above):
            section, comments, first = comments[0], comments[1:], True
        if first:
            text.append(TABLE.format(section))
        own = [_comment(line) for line in lines[node.lineno - 1 : node.end_lineno]]
        assert isinstance(node.target, ast.Name)
        key = node.target.id
        default = yaml.safe_dump(defaults[key], default_flow_style=True, width=1000)
        default = default.replace("\n...", "").strip()
        kind = ", ".join(choices(key)) or ast.unparse(node.annotation).replace("|", "or")
        kind = re.sub(r"Literal\['(.*?)'\]", r"\1", kind)
        meaning = " ".join(filter(None, (*comments, *own))).replace("|", "\\|")
        if not meaning and key.endswith("_args"):
            meaning = f"arguments of `{key.removesuffix('_args')}`"
        text.append(f"| `{key}` | {kind} | `{default or chr(39) * 2}` | {meaning} |")
        above = node.end_lineno or 0
    return "\n".join(text) + "\n"


def _comment(line: str) -> str:
    """Return the comment in a line of code, '' if it has none."""
    found = re.search(r"(?:^|\s)# ?(?!fmt:)(.*)$", line)
    return found[1].strip() if found else ""


def _is_section(lines: list[str], at: int) -> bool:
    """Return whether a comment line is a heading: one short line that begins with a capital."""
    text = lines[at].strip()
    return bool(re.fullmatch(r"# [A-Z][A-Za-z ]{3,20}(: .*)?", text))


def main(argv: list[str]) -> None:
    parser = Parser(prog="python -m tools.configuration", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    write_text(parser.parse_args(argv).out, reference())


if __name__ == "__main__":
    sys.exit(run_command(main))
