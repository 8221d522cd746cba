"""What a comparison shows: means and deviations, and differences with their intervals."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
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

# Of result.json; top1_clean is shown where it differs
FIGURES = ("top1", "top1_clean", *shots.METRICS[1:], "macro_f1", "ece")
# In the results of runs that are compared
SAME = ("list_digest", "class_counts", "store_fingerprint")
FEW_SEEDS = 5  # of fewer a bootstrap underestimates the variance by a fifth or more


# --- the numbers ---


@dataclass
class Row:
    """A method: its finished runs with their results, and its differences to the baseline."""

    method: str
    runs: list[tuple[Run, dict[str, Any]]]
    differences: dict[str, dict[str, Any]] = field(default_factory=dict)  # by metric

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


def weights_of(
    labels: np.ndarray, class_counts: Sequence[int] | None, limits: tuple[int, int]
) -> dict[str, np.ndarray]:
    """Return {metric: weight of each test clip in it (n,)}, without metrics that have no class."""
    weights = {"top1": clip_weights(labels)}
    if class_counts is not None:
        weights["mean_class"] = clip_weights(labels, np.ones(len(class_counts), bool))
        for name, mask in shots.groups(class_counts, limits).items():
            weights[name] = clip_weights(labels, mask.numpy())
    return {metric: each for metric, each in weights.items() if each.any()}


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
    parts: list[list[dict[str, np.ndarray]]] = []  # by fold and seed
    labels = []
    for fold in folds if seeds else ():
        parts.append([])
        for seed in seeds:
            (run, result), (base, base_result) = (each[seed, fold] for each in both)
            (own, right), (other, others) = hits(run, which), hits(base, which)
            if own.names.tolist() != other.names.tolist() or (own.labels != other.labels).any():
                raise InputError(
                    f"{run.folder} and {base.folder} were tested on other samples; test both with "
                    "the same store"
                )
            for key in SAME:
                pair = result.get(key), base_result.get(key)
                if None not in pair and pair[0] != pair[1]:
                    raise InputError(
                        f"{run.folder} and {base.folder} were trained on different lists, so their "
                        "shot groups are not comparable"
                    )
            weights = weights_of(own.labels, result.get("class_counts"), run.settings.shot_limits)
            parts[-1].append({m: weight * (right - others) for m, weight in weights.items()})
        labels.append(own.labels)
    of_runs = [part for of_fold in parts for part in of_fold]
    metrics = [m for m in shots.METRICS if all(m in part for part in of_runs)]
    stacked = [
        np.stack([np.stack([part[m] for m in metrics], axis=1) for part in of_fold])
        for of_fold in parts
    ]
    return metrics, stacked, labels


def add_differences(rows: Sequence[Row], baseline: str, which: str) -> None:
    """Compare every row with the baseline; Holm's correction over the rows, for each metric."""
    base = next(row for row in rows if row.method == baseline)
    found: dict[str, list[tuple[Row, Difference]]] = {}  # by metric
    for row in rows:
        if row is base:
            continue
        metrics, parts, labels = paired_parts(row, base, which)
        for metric, each in zip(metrics, differences(parts, labels) if parts else ()):
            found.setdefault(metric, []).append((row, each))
    for metric, pairs in found.items():
        for (row, each), p in zip(pairs, holm([each.p for _, each in pairs])):
            row.differences[metric] = asdict(each) | {"p_holm": p, "different": p < 1 - LEVEL}


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
    notes: list[str]
    choices: Sequence[Choice]
    tuned_on: str  # which share and seeds the trials had

    @cached_property
    def settings(self) -> config.Config:
        return self.sweep.resolve("brl", self.seeds[0], self.folds[0])

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
        parts = [*self.caption, _markdown(self.accuracy_table(), left=2 if self.choices else 1)]
        if differing := self.difference_table():
            parts += [self.said, _markdown(differing)]
        return "\n\n".join([*parts, *self.notes])

    def html(self) -> str:
        """Return a page with the differences as points with intervals, and the tables."""
        differing = self.difference_table()
        said = [self.said] if differing else []
        tables = [self.accuracy_table(), *([differing] if differing else [])]
        return intervals.page(self.as_json(), [*self.caption, *said, *self.notes], tables)

    def accuracy_table(self) -> list[list[str]]:
        """Return the cells of the accuracies, the head first."""
        first, *others = logs.shot_headings(self.settings.shot_limits)
        names = (first, "without copies", *others, "macro F1", "ECE")
        results = [result for row in self.rows for _, result in row.runs]
        copies = any(r.get("samples_clean", 0) != r.get("samples", 0) for r in results)
        figures = {
            figure: name for figure, name in zip(FIGURES, names)
            if any(row.spread(figure) for row in self.rows) and (copies or figure != "top1_clean")
        }  # fmt: skip
        known = {row.method: row.published(self.sweep.stream, self.which) for row in self.rows}
        is_published = any(any(each.values()) for each in known.values())
        head = ["method", *(["chosen", "held out"] if self.choices else []), "steps", "runs"]
        head += figures.values()
        head += ["published top-1 (many, medium, few)"] if is_published else []
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
            cells += [_published(known[row.method])] if is_published else []
            lines.append(cells)
        return [head, *lines]

    def difference_table(self) -> list[list[str]]:
        """Return the cells of the differences, the head first; [] if there are none."""
        others = [row for row in self.rows if row.differences]
        heads = dict(zip(shots.METRICS, logs.shot_headings(self.settings.shot_limits)))
        shown = [m for m in heads if any(m in row.differences for row in others)]
        lines = [
            [row.method, *(_difference(row.differences.get(m)) for m in shown)] for row in others
        ]
        return [["method", *(heads[m] for m in shown)], *lines] if others else []

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
            "notes": self.notes,
        }  # fmt: skip

    def _row_as_json(self, row: Row) -> dict[str, Any]:
        spreads = {figure: row.spread(figure) for figure in FIGURES}
        steps: Sequence[int | None] = row.steps or [None] * len(row.runs)
        return {
            "runs": [
                {
                    "seed": run.seed, "fold": run.fold, "folder": str(run.folder), "steps": count,
                    **{key: result.get(key) for key in ("code", *FIGURES)},
                }
                for (run, result), count in zip(row.runs, steps)
            ],
            "mean": {figure: spread and spread[0] for figure, spread in spreads.items()},
            "deviation": {figure: spread and spread[1] for figure, spread in spreads.items()},
            "published": row.published(self.sweep.stream, self.which),
            "differences": row.differences,
        }  # fmt: skip


def _markdown(table: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return a Markdown table, the first row its head; all but `left` columns flush right."""
    head, *rows = table
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
    sweep: Sweep, runs: Sequence[Run], which: str, baseline: str,
    choices: Sequence[Choice] = (), tuned_on: str = "",
) -> Comparison:  # fmt: skip
    """Compare those of the planned runs that are finished; notes say what the table cannot."""
    done = [(run, result) for run in runs if (result := run.result(which)) is not None]
    methods, seeds, folds = (
        list(dict.fromkeys(getattr(run, key) for run in runs)) for key in ("method", "seed", "fold")
    )
    rows = [Row(method, [each for each in done if each[0].method == method]) for method in methods]
    add_differences(rows, baseline, which)
    reasons = {run.name: published.why_none(run.place.describe(which)) for run, _ in done}
    notes = [f"{name}: {why}" for name, why in reasons.items() if why]
    if len(codes := {result.get("code") for _, result in done}) > 1:
        notes.append(f"The runs were made by {len(codes)} versions of the code.")
    notes += [
        f"--tune: {choice.method}, {words}: {reason}"
        for choice in choices
        for words, reason in choice.failed.items()
    ]
    return Comparison(sweep, which, seeds, folds, baseline, rows, notes, choices, tuned_on)
