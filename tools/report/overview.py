"""All runs below a folder on one page: what they are, how far they came, their figures."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.logs import DASH, percent
from engine.run import RunFolder
from files import page
from longtail.shots import GROUPS
from tools import published
from tools.report.gather import runs_in
from tools.report.page import STYLE_SHEET

# On top of the report's style
OWN = "body { max-width: 1500px; margin: 2rem auto; padding: 0 1rem } h2 { margin-top: 2rem }"
FACTS = ("Stream", "Method", "Backbone", "Seed", "State")
FIGURES = {
    "top1": "Top-1", "mean_class": "Mean class", "many": "Many", "medium": "Medium", "few": "Few",
    "macro_f1": "Macro F1", "ece": "ECE",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One run; `figures` are those of best.pt, empty before its test."""

    path: Path
    benchmark: str  # with the imbalance factor and the fold: rows of one are comparable
    facts: tuple[str, ...]  # the columns of FACTS
    figures: dict[str, Any]


def is_root(folder: Path) -> bool:
    """Return whether runs are not in a folder, nor it one, but in the folders in it."""
    if not folder.is_dir() or RunFolder(folder).exists:
        return False
    return not runs_in(folder) and any(map(runs_in, filter(Path.is_dir, folder.iterdir())))


def rows_below(folder: Path) -> list[Row]:
    """Return the runs in the benchmark folders of `folder`."""
    groups = sorted(path for path in folder.iterdir() if path.is_dir())
    return [read(path) for group in groups for path in runs_in(group)]


def read(path: Path) -> Row:
    run = RunFolder(path)
    config, result = run.config(), run.result() or {}
    facts = {**config, **result}
    columns = (
        facts.get("stream") or path.name, config.get("method") or DASH,
        published.backbone_name(config) or DASH, facts.get("seed", DASH),
        state(run, config, bool(result)),
    )  # fmt: skip
    benchmark = benchmark_of(facts, path.parent.name)
    return Row(path, benchmark, tuple(map(str, columns)), {key: result.get(key) for key in FIGURES})


def benchmark_of(facts: Mapping[str, Any], folder: str) -> str:
    """Return the benchmark of a run, with what its figures depend on beside the method."""
    parts = [str(facts.get("benchmark") or folder)]
    if listed := facts.get("training_list"):
        of_template = "{imbalance}" in listed
        parts.append(f"imbalance {facts.get('imbalance')}" if of_template else Path(listed).name)
    if facts.get("fold"):
        parts.append(f"fold {facts['fold']}")
    return ", ".join(parts)


def state(run: RunFolder, config: dict[str, Any], tested: bool) -> str:
    """Return how far a run came: tested, running or stopped, and after how many epochs."""
    done, total = len(run.epochs()), config.get("num_epoch", "?")
    if tested and done in (0, total):
        return "tested"
    return f"{'running' if run.is_locked else 'stopped'}, epoch {done} of {total}"


def render(folder: Path, rows: Sequence[Row], out: Path) -> str:
    """Return the page; a benchmark folder that has a report of its own links to it from `out`."""
    benchmarks = dict.fromkeys(row.benchmark for row in rows)
    parts = [
        f"<h1>{html.escape(folder.resolve().name)}</h1>",
        f'<p class="quiet">{len(rows)} runs. Figures are those of best.pt in percent, the best of a'
        " benchmark in bold. python -m tools.report FOLDER writes the report of a benchmark folder,"
        " to which its runs then link.</p>",
    ]
    for benchmark in benchmarks:
        mine = [row for row in rows if row.benchmark == benchmark]
        mine.sort(key=lambda row: -1 if row.figures["top1"] is None else -row.figures["top1"])
        parts.append(f"<h2>{html.escape(benchmark)}</h2>{table(mine, out.parent)}")
    title = f"{html.escape(folder.resolve().name)}: all runs"
    return page(title, f"{STYLE_SHEET}{OWN}", "\n".join(parts))


def table(rows: Sequence[Row], home: Path) -> str:
    keys = [key for key in FIGURES if any(row.figures[key] is not None for row in rows)]
    best = {
        key: (min if key == "ece" else max)(
            row.figures[key] for row in rows if row.figures[key] is not None
        )
        for key in keys
    }
    cells = "".join(f'<th class="text">{name}</th>' for name in ("Run", *FACTS))
    cells += "".join(f"<th>{FIGURES[key]}</th>" for key in keys)
    cells += '<th class="text">Few · medium · many</th>'
    lines = []
    for row in rows:
        texts = [link(row, home), *map(html.escape, row.facts)]
        line = "".join(f'<td class="text">{text}</td>' for text in texts)
        for key in keys:
            value = row.figures[key]
            mark = ' class="best"' if value is not None and value == best[key] else ""
            line += f"<td{mark}>{percent(value)}</td>"
        lines.append(f'<tr>{line}<td class="text">{strip(row)}</td></tr>')
    return (
        f'<div class="scroll"><table><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def link(row: Row, home: Path) -> str:
    report, name = row.path.parent / "report.html", html.escape(row.path.parent.name)
    if not report.is_file():
        return name
    return f'<a href="{html.escape(os.path.relpath(report, home))}">{name}</a>'


def strip(row: Row) -> str:
    """Return a line from 0 to 100 % with a dot for each shot group."""
    dots = "".join(
        f'<circle cx="{4 + 1.12 * row.figures[group]:.1f}" cy="7" r="4" class="{group}"/>'
        for group in GROUPS
        if row.figures[group] is not None
    )
    line = '<line x1="4" x2="116" y1="7" y2="7" class="axis"/>'
    return f'<svg width="120" height="14" aria-hidden="true">{line}{dots}</svg>' if dots else ""
