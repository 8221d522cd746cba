"""What a comparison shows: means and deviations, and differences with their intervals."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from engine import config, logs
from engine.fusion import Scores
from engine.run import BEST, code_version
from errors import InputError
from longtail import shots
from longtail.significance import LEVEL, Difference, clip_weights, differences, holm
from tools import published
from tools.report import intervals
from tools.sweep import Run, Sweep
from tools.tuning import Choice

FIGURES = (*shots.METRICS, "macro_f1", "ece")  # of result.json; top1_clean where it differs
# In the results of runs that are compared
SAME = ("list_digest", "class_counts", "store_fingerprint")
FEW_SEEDS = 5  # of fewer a bootstrap underestimates the variance by a fifth or more


# --- the numbers ---


@dataclass
class Row:
    """A method: its finished runs with their results, and its differences to the baseline."""

    method: str
    runs: list[tuple[Run, dict[str, Any]]]
    differences: dict[str, dict[str, Any]]  # by metric; {} for the baseline

    def spread(self, figure: str) -> tuple[float, float | None] | None:
        """Return (mean, sample standard deviation) over the runs; one run has no deviation."""
        values = [r[figure] for _, r in self.runs if r.get(figure) is not None]
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return (statistics.mean(values), deviation) if values else None

    @property
    def steps(self) -> list[int] | None:
        """The optimizer steps of each run; None if their training lists are not there."""
        try:
            return [run.steps for run, _ in self.runs]
        except InputError:
            return None

    def published(self, stream: str, which: str) -> dict[str, float | None]:
        facts = [run.place.describe(which) for run, _ in self.runs]
        return {metric: published.figure_for(facts, stream, metric) for metric in shots.METRICS}


def hits(run: Run, which: str) -> tuple[Scores, np.ndarray]:
    """Return a run's scores, by name, and whether each test clip is right (n,) float64."""
    scores = Scores.read(run.place.scores_file(which))
    scores = scores.in_order_of(np.sort(scores.names))
    right = shots.hits(torch.as_tensor(scores.scores), torch.as_tensor(scores.labels).long(), 1)
    return scores, right.double().numpy()


def class_masks(run: Run, result: Mapping[str, Any]) -> dict[str, np.ndarray | None]:
    """Return the classes (K,) that each metric averages, by the class counts of the run's list."""
    counts = result.get("class_counts")
    masks: dict[str, np.ndarray | None] = {"top1": None}
    if counts is not None:
        masks["mean_class"] = np.ones(len(counts), bool)
        for name, mask in shots.groups(counts, run.settings.shot_limits).items():
            masks[name] = mask.numpy()
    return masks


def differ(one: Mapping[str, Any], other: Mapping[str, Any], key: str) -> bool:
    """Return whether two results say different things of a key."""
    return None not in (one.get(key), other.get(key)) and one[key] != other[key]


def paired_parts(
    row: Row, baseline: Row, which: str
) -> tuple[list[str], list[np.ndarray], list[np.ndarray]]:
    """Return the metrics, and what each clip adds to the differences, as `differences` takes it.

    Seeds that both methods have on every fold. A metric is left out if a run has no class for it.
    """
    both = [{(run.seed, run.fold): (run, r) for run, r in each.runs} for each in (row, baseline)]
    cells = [cell for cell in both[0] if cell in both[1]]
    folds = list(dict.fromkeys(fold for _, fold in cells))
    every = dict.fromkeys(seed for seed, _ in cells)
    seeds = [seed for seed in every if all((seed, fold) in cells for fold in folds)]
    metrics, parts, labels = list(shots.METRICS), [], []
    for fold in folds if seeds else ():
        of_seeds = []
        for seed in seeds:
            run, result = both[0][seed, fold]
            (own, right), (other, others) = (hits(each[seed, fold][0], which) for each in both)
            if own.names.tolist() != other.names.tolist() or (own.labels != other.labels).any():
                raise InputError(
                    f"{run.folder} and {both[1][seed, fold][0].folder} were tested on other "
                    "samples; test both with the same store"
                )
            if any(differ(result, both[1][seed, fold][1], key) for key in SAME):
                raise InputError(
                    f"{run.folder} and {both[1][seed, fold][0].folder} were trained on different "
                    "lists, so their shot groups are not comparable"
                )
            masks = class_masks(run, result)
            weights = {m: clip_weights(own.labels, mask) for m, mask in masks.items()}
            metrics = [m for m in metrics if m in weights and weights[m].any()]
            of_seeds.append({m: weights[m] * (right - others) for m in metrics})
        parts.append(of_seeds)
        labels.append(own.labels)
    stacked = [
        np.stack([np.stack([each[m] for m in metrics], axis=1) for each in of_seeds])
        for of_seeds in parts
    ]
    return metrics, stacked, labels


def add_differences(rows: Sequence[Row], baseline: str, which: str) -> None:
    """Compare every row with the baseline; Holm's correction over the rows, for each metric."""
    base = next(row for row in rows if row.method == baseline)
    found: dict[str, dict[str, Difference]] = {}  # metric -> method
    for row in rows:
        metrics, parts, labels = paired_parts(row, base, which)
        if row is not base and parts:
            for metric, each in zip(metrics, differences(parts, labels)):
                found.setdefault(metric, {})[row.method] = each
    for metric, by_method in found.items():
        adjusted = holm([each.p for each in by_method.values()])
        for row in rows:
            if row.method in by_method:
                p = adjusted[list(by_method).index(row.method)]
                row.differences[metric] = asdict(by_method[row.method]) | {
                    "p_holm": p, "different": p < 1 - LEVEL,
                }  # fmt: skip


# --- the table ---


@dataclass
class Comparison:
    """What a table shows, and what it says about itself."""

    sweep: Sweep
    which: str
    seeds: Sequence[int]
    folds: Sequence[str | None]
    baseline: str
    rows: list[Row]
    choices: Sequence[Choice] = ()
    tuned_on: str = ""  # which share and seeds the trials had
    notes: Sequence[str] = ()

    @property
    def settings(self) -> config.Config:
        return self.sweep.resolve("brl", self.seeds[0], self.sweep.words(self.folds[0]))

    @property
    def variance(self) -> str:
        """What the runs of a method differ in, which their deviation is of."""
        over = []
        if len(self.seeds) > 1:
            kind = "one training list for all"
            if "{seed}" in (self.settings.training_list or ""):
                kind = "each with its own draw of the training list"
            over.append(f"{len(self.seeds)} seeds ({kind})")
        if len(self.folds) > 1:
            over.append(f"{len(self.folds)} folds of persons")
        if not over:
            return "one run per method, no deviation"
        return f"mean ± standard deviation over {' times '.join(over)}"

    @property
    def caption(self) -> list[str]:
        steps = "equal optimizer steps" if self.sweep.equal_steps else "each method's own epochs"
        lines = [
            f"{self.settings.benchmark}, {self.sweep.stream}, {self.which}.pt; {steps}; "
            f"{self.variance}. Percent; ECE: lower is better."
        ]
        if self.which == BEST:
            chosen = "held-out training samples" if self.settings.val_split else "the test split"
            lines.append(f"best.pt was chosen by top-1 on {chosen}.")
        if self.choices:
            lines.append(f"Values chosen by mean class accuracy (held out) on {self.tuned_on}.")
        return lines

    def markdown(self) -> str:
        accuracies, *differences = self.tables()
        parts = [*self.caption, _table(accuracies, left=2 if self.choices else 1)]
        for table in differences:
            parts += [self.said, _table(table)]
        return "\n\n".join([*parts, *self.notes])

    def html(self) -> str:
        """Return a page with the differences as points with intervals, and the tables."""
        tables = self.tables()
        said = [self.said] if len(tables) > 1 else []
        return intervals.page(self.as_json(), [*self.caption, *said, *self.notes], tables)

    def tables(self) -> list[list[list[str]]]:
        """Return the cells, the head first, of the accuracies and, if there are any, of the
        differences."""
        return [table for table in (self._accuracies(), self._differences()) if table]

    def _accuracies(self) -> list[list[str]]:
        names = logs.shot_headings(self.settings.shot_limits)
        figures = dict(zip(FIGURES, (*names, "macro F1", "ECE")))
        results = [result for row in self.rows for _, result in row.runs]
        if any(r.get("samples_clean", 0) != r.get("samples", 0) for r in results):
            first, *others = figures.items()
            figures = dict([first, ("top1_clean", "without copies"), *others])
        figures = {
            figure: name for figure, name in figures.items()
            if any(row.spread(figure) is not None for row in self.rows)
        }  # fmt: skip
        figures_of = {row.method: row.published(self.sweep.stream, self.which) for row in self.rows}
        is_published = any(any(figures.values()) for figures in figures_of.values())
        tuned = ["chosen", "held out"] if self.choices else []
        head = ["method", *tuned, "steps", "runs", *figures.values()]
        lines = []
        for row in self.rows:
            cells = [row.method]
            if self.choices:
                own = [each for each in self.choices if each.method == row.method]
                cells.append("; ".join(dict.fromkeys(each.shown for each in own)) or logs.DASH)
                reached = statistics.mean(each.held_out for each in own) if own else None
                cells.append(logs.percent(reached))
            cells += [_range(row.steps), str(len(row.runs))]
            cells += [_plus_minus(row.spread(figure)) for figure in figures]
            if is_published:
                cells.append(_published(figures_of[row.method]))
            lines.append(cells)
        if is_published:
            head.append("published top-1 (many, medium, few)")
        return [head, *lines]

    def _differences(self) -> list[list[str]]:
        others = [row for row in self.rows if row.differences]
        if not others:
            return []
        metrics = [m for m in shots.METRICS if any(m in row.differences for row in others)]
        heads = dict(zip(shots.METRICS, logs.shot_headings(self.settings.shot_limits)))
        lines = [
            [row.method, *(_difference(row.differences.get(m)) for m in metrics)] for row in others
        ]
        return [["method", *(heads[m] for m in metrics)], *lines]

    @property
    def said(self) -> str:
        """How the differences were computed, and what the marks mean."""
        others = [row for row in self.rows if row.differences]
        over = "test clips and seeds" if len(self.seeds) > 1 else "test clips (one seed)"
        said = (
            f"Differences to {self.baseline} in percentage points, with {LEVEL:.0%} intervals of a "
            f"bootstrap paired over {over}. ▲ higher, ▼ lower: different at {1 - LEVEL:.2f} after "
            f"Holm's correction over {len(others)} methods; ○ not shown to differ."
        )
        if 1 < len(self.seeds) < FEW_SEEDS:
            said += f" With fewer than {FEW_SEEDS} seeds the intervals are too narrow."
        return said

    def as_json(self) -> dict[str, Any]:
        return {
            "benchmark": self.settings.benchmark, "stream": self.sweep.stream,
            "checkpoint": self.which, "seeds": list(self.seeds),
            "folds": [fold for fold in self.folds if fold], "equal_steps": self.sweep.equal_steps,
            "overrides": list(self.sweep.overrides), "variance": self.variance,
            "baseline": self.baseline, "code": code_version(),
            "tuned_on": self.tuned_on or None,
            "choices": [asdict(choice) for choice in self.choices],
            "methods": {row.method: self._row_as_json(row) for row in self.rows},
            "notes": list(self.notes),
        }  # fmt: skip

    def _row_as_json(self, row: Row) -> dict[str, Any]:
        figures = (*FIGURES, "top1_clean")
        spreads = {figure: row.spread(figure) for figure in figures}
        steps: Sequence[int | None] = row.steps or [None] * len(row.runs)
        return {
            "runs": [
                {
                    "seed": run.seed,
                    "fold": run.fold,
                    "folder": str(run.folder),
                    "steps": count,
                    "code": result.get("code"),
                }
                | {figure: result.get(figure) for figure in figures}
                for (run, result), count in zip(row.runs, steps)
            ],
            "mean": {figure: spread and spread[0] for figure, spread in spreads.items()},
            "deviation": {figure: spread and spread[1] for figure, spread in spreads.items()},
            "published": row.published(self.sweep.stream, self.which),
            "differences": row.differences,
        }


def _table(cells: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return a Markdown table, the first row its head; all but `left` columns flush right."""
    head, *rows = cells
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def _plus_minus(spread: tuple[float, float | None] | None) -> str:
    """Return `mean ± deviation`, the mean alone, or a dash."""
    if spread is None or spread[1] is None:
        return logs.percent(spread and spread[0])
    return f"{spread[0]:.1f} ± {spread[1]:.1f}"


def _range(numbers: Sequence[int] | None) -> str:
    ends = sorted({min(numbers), max(numbers)}) if numbers else []
    return "..".join(map(str, ends)) or logs.DASH


def _published(figures: Mapping[str, float | None]) -> str:
    top1, _, *groups = (figures[metric] for metric in shots.METRICS)
    text = logs.percent(top1)
    if any(value is not None for value in groups):
        text += f" ({', '.join(map(logs.percent, groups))})"
    return text


def _difference(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return logs.DASH
    mark = "○" if not found["different"] else "▲" if found["value"] > 0 else "▼"
    return f"{found['value']:+.1f} [{found['low']:+.1f}, {found['high']:+.1f}] {mark}"


def compare(
    runs: Sequence[Run], methods: Sequence[str], which: str, baseline: str
) -> tuple[list[Row], list[str]]:
    """Return the rows of the finished runs, and notes on published figures that do not apply."""
    done = [(run, result) for run in runs if (result := run.result(which)) is not None]
    rows = [Row(m, [(r, f) for r, f in done if r.method == m], {}) for m in methods]
    add_differences(rows, baseline, which)
    notes = [
        f"{run.name}: {why}"
        for run, _ in done
        if (why := published.why_none(run.place.describe(which)))
    ]
    if len(codes := {result.get("code") for _, result in done}) > 1:
        notes.append(f"The runs were made by {len(codes)} versions of the code.")
    return rows, list(dict.fromkeys(notes))
