"""Generate the tables of published figures in the documentation from tools/published.csv, and the
pages of configuration keys and joint layouts from the code.

python -m tools.zoo            # update the pages
python -m tools.zoo --check    # exit code 2 if a page is not current

A table is between `<!-- published QUERY -->` and `<!-- end -->`. The query gives the columns of the
CSV for the rows and the columns of the table, and filters other columns by value:
rows=method columns=benchmark,metric source="Shap-Mix paper, table 3".
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import graph
from engine.logs import DASH
from errors import InputError, Parser, nearest, run_command
from files import write_text
from tools import configuration, layouts, published
from tools.comparison import markdown_table

DOCS = Path(__file__).resolve().parents[1] / "docs"
PLACE = re.compile(r"(<!-- published (.*?) -->\n).*?(<!-- end -->)", re.DOTALL)

Key = tuple[str, ...]


def parse(query: str, known: Sequence[str]) -> dict[str, str]:
    """Return {word: value} for `word=value ...`; InputError if one is not a column of the CSV."""
    words = dict(part.split("=", 1) for part in shlex.split(query) if "=" in part)
    named = [word for word in words if word not in ("rows", "columns")]
    for axis in ("rows", "columns"):
        named += words.get(axis, axis).split(",")
    for name in named:
        if name not in known:
            raise InputError(f"published {query}: no column {name!r}{nearest(name, known)}")
    return words


def pivot(query: str, figures: Sequence[Mapping[str, str]]) -> str:
    """Return the Markdown table for a query, with a dash where nothing is published.

    InputError if there is no figure, or more than one for a cell.
    """
    words = parse(query, list(figures[0]))
    down, across = words.pop("rows").split(","), words.pop("columns").split(",")
    cells: dict[tuple[Key, Key], str] = {}
    for figure in figures:
        if any(figure[word] != value for word, value in words.items()):
            continue
        place = tuple(figure[c] for c in down), tuple(figure[c] for c in across)
        if place in cells:
            raise InputError(f"published {query}: two figures for {place}; filter more columns")
        cells[place] = figure["value"]
    if not cells:
        raise InputError(f"published {query}: no such figure in {published.TABLE.name}")
    rows = list(dict.fromkeys(row for row, _ in cells))
    columns = list(dict.fromkeys(column for _, column in cells))
    head = [*down, *(" ".join(filter(None, column)) for column in columns)]
    body = [[*row, *(cells.get((row, column), DASH) for column in columns)] for row in rows]
    return markdown_table([head, *body], len(down)) + "\n"


def generated(docs: Path) -> dict[Path, str]:
    """Return {file: text} of the pages with tables, and of those that are made from code."""
    figures = published.rows()
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(docs.glob("*.md"))}
    texts = {
        path: PLACE.sub(lambda found: found[1] + pivot(found[2], figures) + found[3], text)
        for path, text in texts.items()
    }
    for name in graph.LAYOUTS:
        texts[docs / "images" / f"layout-{name}.svg"] = layouts.picture(graph.load(name))
    texts[docs / "layouts.md"] = layouts.page()
    texts[docs / "configuration.md"] = configuration.reference()
    return texts


def main(argv: list[str]) -> None:
    parser = Parser(prog="python -m tools.zoo", description=__doc__)
    add = parser.add_argument
    add(
        "--docs", type=Path, default=DOCS, metavar="DIR", help="folder of the pages (default: docs)"
    )
    add("--check", action="store_true", help="write nothing; fail if a page is not current")
    options = parser.parse_args(argv)
    for path, text in generated(options.docs).items():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        if options.check:
            raise InputError(f"{path} is not current; update it with python -m tools.zoo")
        write_text(path, text)
        print(path)


if __name__ == "__main__":
    sys.exit(run_command(main))
