"""All runs below a folder on one page: what they are, how far they came, their figures."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from pathlib import Path

from engine.logs import DASH, percent
from engine.run import RunFolder
from files import page
from longtail.shots import GROUPS, METRICS
from tools import published
from tools.report.gather import Run, runs_in
from tools.report.page import STYLE_SHEET, TITLES

# On top of the report's style
OWN = "body { max-width: 1500px; margin: 2rem auto; padding: 0 1rem } h2 { margin-top: 2rem }"
FACTS = ("Stream", "Method", "Backbone", "Seed", "State")
FIGURES = (*METRICS, "macro_f1", "ece")


def runs_below(folder: Path) -> list[Run]:
    """Return the runs in the benchmark folders of `folder`; [] if it is one, or a run."""
    if not folder.is_dir() or RunFolder(folder).exists or runs_in(folder):
        return []
    groups = sorted(path for path in folder.iterdir() if path.is_dir())
    return [Run(path) for group in groups for path in runs_in(group)]


def benchmark_of(run: Run) -> str:
    """Return the benchmark of a run, with what its figures depend on beside the method."""
    parts = [str(run.facts.get("benchmark") or run.group)]
    if listed := run.facts.get("training_list"):
        of_template = "{imbalance}" in listed
        imbalance = run.facts.get("imbalance")
        parts.append(f"imbalance {imbalance}" if of_template else Path(listed).name)
    if run.facts.get("fold"):
        parts.append(f"fold {run.facts['fold']}")
    if run.facts.get("val_split"):  # its shot groups are those of fewer samples
        parts.append(f"{run.facts['val_split']:.0%} held out")
    return ", ".join(parts)


def state(run: Run) -> str:
    """Return how far a run came: tested, running or stopped, and after how many epochs."""
    done, total = len(run.epochs), run.config.get("num_epoch", "?")
    if run.result and done in (0, total):
        return "tested"
    return f"{'running' if run.folder.is_locked else 'stopped'}, epoch {done} of {total}"


def render(folder: Path, runs: Sequence[Run], out: Path) -> str:
    """Return the page; a benchmark folder that has a report of its own links to it from `out`."""
    benchmarks: dict[str, list[Run]] = {}
    for run in runs:
        benchmarks.setdefault(benchmark_of(run), []).append(run)
    parts = [
        f"<h1>{html.escape(folder.resolve().name)}</h1>",
        f'<p class="quiet">{len(runs)} runs. Figures are those of best.pt in percent, the best of a'
        " benchmark in bold. python -m tools.report FOLDER writes the report of a benchmark folder,"
        " to which its runs then link.</p>",
    ]
    for benchmark, mine in benchmarks.items():
        mine.sort(key=lambda run: -(run.result.get("top1") or 0.0))
        parts.append(f"<h2>{html.escape(benchmark)}</h2>{table(mine, out.parent)}")
    title = f"{html.escape(folder.resolve().name)}: all runs"
    return page(title, f"{STYLE_SHEET}{OWN}", "\n".join(parts))


def table(runs: Sequence[Run], home: Path) -> str:
    known = {
        key: [run.result[key] for run in runs if run.result.get(key) is not None] for key in FIGURES
    }
    best = {key: (min if key == "ece" else max)(values) for key, values in known.items() if values}
    cells = "".join(f'<th class="text">{name}</th>' for name in ("Run", *FACTS))
    cells += "".join(f"<th>{TITLES[key]}</th>" for key in best)
    cells += '<th class="text">Few · medium · many</th>'
    lines = []
    for run in runs:
        method, backbone = run.config.get("method"), published.backbone_name(run.config)
        seed = str(run.facts.get("seed", DASH))
        facts = [run.stream, method or DASH, backbone or DASH, seed, state(run)]  # as FACTS
        texts = [link(run, home), *map(html.escape, facts)]
        line = "".join(f'<td class="text">{text}</td>' for text in texts)
        for key in best:
            value = run.result.get(key)
            mark = ' class="best"' if value == best[key] else ""
            line += f"<td{mark}>{percent(value)}</td>"
        lines.append(f'<tr>{line}<td class="text">{strip(run)}</td></tr>')
    return (
        f'<div class="scroll"><table><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def link(run: Run, home: Path) -> str:
    report, name = run.path.parent / "report.html", html.escape(run.group)
    if not report.is_file():
        return name
    return f'<a href="{html.escape(os.path.relpath(report, home))}">{name}</a>'


def strip(run: Run) -> str:
    """Return a line from 0 to 100 % with a dot for each shot group."""
    dots = "".join(
        f'<circle cx="{4 + 1.12 * value:.1f}" cy="7" r="4" class="{group}"/>'
        for group in GROUPS
        if (value := run.result.get(group)) is not None
    )
    line = '<line x1="4" x2="116" y1="7" y2="7" class="axis"/>'
    return f'<svg width="120" height="14" aria-hidden="true">{line}{dots}</svg>' if dots else ""
