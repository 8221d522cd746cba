"""The reference of the configuration keys, docs/configuration.md, from the class that defines
them."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

import yaml

from engine.config import KEYS, Config, broken_rule

HEAD = """# Configuration keys

A configuration is YAML files on top of each other and words of `--set`. Every key below is a value
of a run, and `config.yaml` in its folder has all of them.

    python main.py --config config/demo-lt/joint.yaml config/methods/ldam.yaml --set lr=0.1

The command line lies above the files, later files above earlier ones, a file above its parents
(`base:`), and all above the defaults, which are NTU60's recipe. A key ending in `_args` has the
arguments of the class that the key before it names by its import string. Naming another objective,
sampling, mixing, loss, class_weights, auxiliary_loss, classifier or schedule drops the arguments of
the one before it; `model_args`, `optimizer_args` and `feeder_args` are kept.

Made from `engine/config.py` by `python -m tools.zoo`.
"""
TABLE = """
## {}

| key | type | default | meaning |
| --- | --- | --- | --- |"""
SECTION = re.compile(r"    # [A-Z][A-Za-z ]{3,20}(: .*)?")  # a heading: short, with a capital


def reference() -> str:
    """Return the page, a table per section of the class."""
    defaults = dataclasses.asdict(Config())
    text: list[str] = [HEAD]
    comments: list[str] = []  # of the next key, or of the last one
    fields = inspect.getsource(Config).split("\n\n")[1]  # between its docstring and its methods
    # A key with its value, which may take several lines, or a comment of one line
    for part in re.findall(r"^    (?:\w|#).*(?:\n(?: {8}|    \)).*)*", fields, re.MULTILINE):
        own = re.findall(r"(?:^|\s)# ?(?!fmt:)(.*)$", part, re.MULTILINE)
        key = part.strip().partition(":")[0]
        if key in KEYS:
            text.append(_row(key, defaults[key], " ".join([*comments, *own])))
            comments = []
        elif SECTION.fullmatch(part):
            text.append(TABLE.format(*own))
        else:
            comments += own
    return "\n".join(text) + "\n"


def _row(key: str, default: Any, meaning: str) -> str:
    shown = yaml.safe_dump(default, default_flow_style=True, width=1000)
    shown = shown.replace("\n...", "").strip() or "''"
    kind = broken_rule(object(), KEYS[key]).removeprefix("one of ")
    if not meaning and key.endswith("_args"):
        meaning = f"arguments of `{key.removesuffix('_args')}`"
    meaning = meaning.replace("|", "\\|")
    return f"| `{key}` | {kind} | `{shown}` | {meaning} |"
