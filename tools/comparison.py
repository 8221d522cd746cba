"""What a comparison shows: means and deviations, and differences with their intervals."""

from __future__ import annotations

import html
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

import files
from engine import logs
from engine.fusion import Scores
from engine.run import BEST, code_version
from errors import InputError
from longtail import shots
from longtail.significance import LEVEL, clip_weights, differences, holm
from tools import published
from tools.report import intervals
from tools.report.page import STYLE_SHEET
from tools.sweep import Run, Sweep
from tools.tuning import Choice

# Of result.json; top1_clean is shown where it differs
FIGURES = ("top1", "top1_clean", *shots.METRICS[1:], "macro_f1", "ece")
# In the results of runs that are compared
SAME = ("list_digest", "class_counts", "store_fingerprint")
FEW_SEEDS = 5  # of fewer a bootstrap underestimates the variance between them by a quarter or more


# --- the numbers ---


# Finished runs of a method, with their configurations and results
Finished = Sequence[tuple[Run, dict[str, Any]]]


def hits(run: Run, which: str) -> tuple[Scores, np.ndarray]:
    """Return a run's scores, by name, and whether each test clip is right (n,) float64."""
    scores = Scores.read(run.place.scores_file(which))
    scores = scores.in_order_of(np.sort(scores.names))
    right = shots.hits(torch.as_tensor(scores.scores), torch.as_tensor(scores.labels).long(), 1)
    return scores, right.double().numpy()


def weights_of(
    labels: np.ndarray, class_counts: Sequence[int], limits: tuple[int, int]
) -> np.ndarray:
    """Return the weight of each test clip in METRICS, (n, 5); all are 0 in one without a class."""
    groups = [mask.numpy() for mask in shots.groups(class_counts, limits).values()]
    masks = [None, np.ones(len(class_counts), bool), *groups]
    return np.stack([clip_weights(labels, mask) for mask in masks], axis=1)


def pairs(runs: Finished, baseline: Finished) -> tuple[list[int], list[str | None]]:
    """Return the seeds that both methods have on every fold, and these folds."""
    others = {(run.seed, run.fold) for run, _ in baseline}
    cells = [cell for run, _ in runs if (cell := (run.seed, run.fold)) in others]
    folds = list(dict.fromkeys(fold for _, fold in cells))
    every = dict.fromkeys(seed for seed, _ in cells)
    return [seed for seed in every if all((seed, fold) in cells for fold in folds)], folds


def paired_parts(
    runs: Finished, baseline: Finished, which: str
) -> tuple[list[str], list[np.ndarray], list[np.ndarray]]:
    """Return the metrics, and what each clip adds to the differences, as `differences` takes it.

    The runs are those of `pairs`. A metric is left out if a run has no class for it.
    """
    both = [{(run.seed, run.fold): (run, r) for run, r in each} for each in (runs, baseline)]
    seeds, folds = pairs(runs, baseline)
    known = np.ones(len(shots.METRICS), bool)
    parts, labels = [], []
    for fold in folds if seeds else ():
        of_seeds = []
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
            weights = weights_of(own.labels, result["class_counts"], run.settings.shot_limits)
            known &= weights.any(axis=0)
            of_seeds.append(weights * (right - others)[:, None])
        parts.append(np.stack(of_seeds))  # (S, n, 5)
        labels.append(own.labels)
    metrics = [metric for metric, is_known in zip(shots.METRICS, known) if is_known]
    return metrics, [part[..., known] for part in parts], labels


def all_differences(
    finished: Mapping[str, Finished], baseline: str, which: str
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return {method: {metric: difference to the baseline}}, {} for the baseline.

    Holm's correction is over the methods, for each metric.
    """
    rows: dict[str, dict[str, dict[str, Any]]] = {method: {} for method in finished}
    for method in [each for each in rows if each != baseline]:
        metrics, parts, labels = paired_parts(finished[method], finished[baseline], which)
        if parts:
            rows[method] = dict(zip(metrics, map(asdict, differences(parts, labels))))
    for metric in shots.METRICS:
        several = [row[metric] for row in rows.values() if metric in row]
        for each, p in zip(several, holm([each["p"] for each in several])):
            each |= {"p_holm": p, "different": p < 1 - LEVEL}
    return rows


def numbers_of(finished: Finished, stream: str, which: str) -> dict[str, Any]:
    """Return the results of a method's runs, and mean and sample standard deviation over them."""
    try:
        steps: list[int | None] = [run.steps for run, _ in finished]
    except InputError:  # a training list is not there
        steps = [None] * len(finished)
    results = [result for _, result in finished]
    known = published.figures_for(results, stream)
    values = {
        figure: [result[figure] for result in results if result.get(figure) is not None]
        for figure in FIGURES
    }
    return {
        "runs": [
            {
                "seed": run.seed, "fold": run.fold, "folder": str(run.folder), "steps": count,
                **{key: result.get(key) for key in ("code", *FIGURES)},
            }
            for (run, result), count in zip(finished, steps)
        ],
        "mean": {figure: statistics.mean(v) if v else None for figure, v in values.items()},
        "deviation": {f: statistics.stdev(v) if len(v) > 1 else None for f, v in values.items()},
        "published": {metric: known.get(metric) for metric in shots.METRICS},
    }  # fmt: skip


def compare(
    sweep: Sweep, runs: Sequence[Run], which: str, baseline: str,
    choices: Sequence[Choice] = (), tuned_on: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Return all numbers of a comparison, of those of the planned runs that are finished.

    `tuned_on`: which share and seeds the trials of the `choices` had.
    """
    methods, seeds, folds = (
        list(dict.fromkeys(getattr(run, key) for run in runs)) for key in ("method", "seed", "fold")
    )
    done = [(run, run.place.describe(which)) for run in runs if run.is_finished]
    finished = {method: [each for each in done if each[0].method == method] for method in methods}
    differing = all_differences(finished, baseline, which)
    settings = sweep.resolve("brl", seeds[0], folds[0])
    reasons = {run.name: published.why_none(result) for run, result in done}
    notes = [f"{name}: {why}" for name, why in reasons.items() if why]
    if len(codes := {result.get("code") for _, result in done}) > 1:
        notes.append(f"The runs were made by {len(codes)} versions of the code.")
    paired = {method: pairs(its, finished[baseline]) for method, its in finished.items()}
    notes += fewer(finished, {method: paired[method] for method in methods if differing[method]},
                   seeds, folds)  # fmt: skip
    notes += [
        f"--tune: {choice.method}, {words}: {reason}"
        for choice in choices
        for words, reason in choice.failed.items()
    ]
    return {
        "benchmark": settings.benchmark, "stream": sweep.stream, "checkpoint": which,
        "selected_on": "held-out training samples" if settings.val_split else "the test split",
        "shots": list(settings.shot_limits), "seeds": seeds, "folds": [f for f in folds if f],
        "equal_steps": sweep.equal_steps, "overrides": list(sweep.overrides),
        "variance": variance(seeds, folds, "{seed}" in (settings.training_list or "")),
        "copies": any(r.get("samples_clean", 0) != r.get("samples", 0) for _, r in done),
        "baseline": baseline, "code": code_version(), "tuned_on": tuned_on or None,
        "choices": [asdict(choice) | {"shown": choice.shown} for choice in choices],
        "methods": {
            method: numbers_of(its, sweep.stream, which)
            | {"differences": differing[method], "paired_seeds": paired[method][0]}
            for method, its in finished.items()
        },
        "notes": notes,
    }  # fmt: skip


def fewer(
    finished: Mapping[str, Finished], paired: Mapping[str, tuple[list[int], list[str | None]]],
    seeds: Sequence[int], folds: Sequence[str | None],
) -> list[str]:  # fmt: skip
    """Return notes on figures that are of fewer runs than their method has, and on differences of
    fewer `paired` seeds or folds than there are."""
    notes: dict[str, list[str]] = {}  # the methods of each
    for method, its in finished.items():
        for group in shots.GROUPS:
            known = sum(result.get(group) is not None for _, result in its)
            if 0 < known < len(its):
                text = f"{group} of {known} of {len(its)} runs, as the others test no such class"
                notes.setdefault(text, []).append(method)
        own_seeds, own_folds = paired.get(method, (seeds, folds))
        if len(own_seeds) < len(seeds) or len(own_folds) < len(folds):
            text = f"differences of {len(own_seeds)} of {len(seeds)} seeds"
            text += f" and {len(own_folds)} of {len(folds)} folds" if len(folds) > 1 else ""
            notes.setdefault(f"{text}, whose runs both methods have", []).append(method)
    return [f"{', '.join(several)}: {text}." for text, several in notes.items()]


def variance(seeds: Sequence[int], folds: Sequence[str | None], drawn: bool) -> str:
    """Return what the runs of a method differ in, which their deviation is of; `drawn`: each seed
    has its own training list."""
    kind = "each with its own draw of the training list" if drawn else "one training list for all"
    over = [f"{len(seeds)} seeds ({kind})"] if len(seeds) > 1 else []
    over += [f"{len(folds)} folds of persons"] if len(folds) > 1 else []
    if not over:
        return "one run per method, no deviation"
    return f"mean ± standard deviation over {' times '.join(over)}"


# --- the text: all of these take what `compare` returns ---


def caption(found: Mapping[str, Any]) -> list[str]:
    steps = "equal optimizer steps" if found["equal_steps"] else "each method's own epochs"
    lines = [
        f"{found['benchmark']}, {found['stream']}, {found['checkpoint']}.pt; {steps}; "
        f"{found['variance']}. Percent; ECE: lower is better."
    ]
    if found["overrides"]:
        lines.append(f"Set for all runs: {' '.join(found['overrides'])}.")
    if found["checkpoint"] == BEST:
        lines.append(f"best.pt was chosen by top-1 on {found['selected_on']}.")
    if found["choices"]:
        lines.append(f"Values chosen by mean class accuracy (held out) on {found['tuned_on']}.")
    return lines


def legend(found: Mapping[str, Any]) -> str:
    """Return how the differences were computed, and what the marks mean."""
    seeds = [len(its["paired_seeds"]) for its in found["methods"].values() if its["differences"]]
    over = "test clips and seeds" if max(seeds) > 1 else "test clips (one seed)"
    text = (
        f"Differences to {found['baseline']} in percentage points, with {LEVEL:.0%} intervals of a "
        f"bootstrap paired over {over}. ▲ higher, ▼ lower: different at {1 - LEVEL:.2f} after "
        f"Holm's correction over {len(seeds)} methods; ○ not shown to differ."
    )
    if max(seeds) > 1 and min(seeds) < FEW_SEEDS:
        text += f" With fewer than {FEW_SEEDS} seeds the intervals are too narrow."
    return text


def accuracy_table(found: Mapping[str, Any]) -> list[list[str]]:
    """Return the cells of the accuracies, the head first."""
    methods, choices = found["methods"], found["choices"]
    first, *others = logs.shot_headings(found["shots"])
    names = (first, "without copies", *others, "macro F1", "ECE")
    figures = {
        figure: name
        for figure, name in zip(FIGURES, names)
        if any(its["mean"][figure] is not None for its in methods.values())
        and (found["copies"] or figure != "top1_clean")
    }
    is_published = any(any(its["published"].values()) for its in methods.values())
    head = ["method", *(["chosen", "held out"] if choices else []), "steps", "runs"]
    head += figures.values()
    head += ["published top-1 (many, medium, few)"] if is_published else []
    lines = []
    for method, its in methods.items():
        cells = [method]
        if choices:
            own = [choice for choice in choices if choice["method"] == method]
            shown = dict.fromkeys(choice["shown"] for choice in own)
            reached = statistics.mean(choice["held_out"] for choice in own) if own else None
            cells += ["; ".join(shown) or logs.DASH, logs.percent(reached)]
        cells += [_range([run["steps"] for run in its["runs"]]), str(len(its["runs"]))]
        cells += [_plus_minus(its["mean"][figure], its["deviation"][figure]) for figure in figures]
        cells += [_published(its["published"])] if is_published else []
        lines.append(cells)
    return [head, *lines]


def difference_table(found: Mapping[str, Any]) -> list[list[str]]:
    """Return the cells of the differences, the head first; [] if there are none."""
    rows = {m: its["differences"] for m, its in found["methods"].items() if its["differences"]}
    heads = dict(zip(shots.METRICS, logs.shot_headings(found["shots"])))
    shown = [metric for metric in heads if any(metric in row for row in rows.values())]
    lines = [[m, *(_difference(row.get(metric)) for metric in shown)] for m, row in rows.items()]
    return [["method", *(heads[metric] for metric in shown)], *lines] if rows else []


def markdown(found: Mapping[str, Any]) -> str:
    left = 2 if found["choices"] else 1
    parts = [*caption(found), markdown_table(accuracy_table(found), left)]
    if differing := difference_table(found):
        parts += [legend(found), markdown_table(differing)]
    return "\n\n".join([*parts, *found["notes"]]) + "\n"


def page(found: Mapping[str, Any]) -> str:
    """Return a self-contained HTML page: the chart of the differences, and the tables."""
    title = html.escape(f"{found['benchmark']}, {found['stream']}")
    tables = [table for table in (accuracy_table(found), difference_table(found)) if table]
    said = [legend(found)] if len(tables) > 1 else []
    lines = [*caption(found), *said, *found["notes"]]
    paragraphs = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    parts = [intervals.chart(found), *map(_html_table, tables)]
    sections = [f'<section><div class="scroll">{part}</div></section>' for part in parts]
    body = f"""<header class="top"><div class="wide"><h1>{title}</h1>{paragraphs}</div></header>
<main class="wide">
{"".join(sections)}
</main>"""
    return files.page(title, STYLE_SHEET, body)


def _html_table(cells: Sequence[Sequence[str]]) -> str:
    head, *rows = ([html.escape(cell) for cell in row] for row in cells)
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def markdown_table(cells: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return a Markdown table, the first row its head; all but `left` columns flush right."""
    head, *rows = cells
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def _plus_minus(mean: float | None, deviation: float | None) -> str:
    """Return `mean ± deviation`, the mean alone, or a dash."""
    return logs.percent(mean) + ("" if deviation is None else f" ± {deviation:.1f}")


def _range(numbers: Sequence[int | None]) -> str:
    known = [number for number in numbers if number is not None]
    ends = sorted({min(known), max(known)}) if known else []
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
