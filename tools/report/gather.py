"""Run folders to the numbers that a page or a plot shows.

A run folder holds what design section 1 lists; whatever is missing is left out of the report and
named in its notes. Samples are joined by NAME, never by row order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine.fusion import Scores, fuse, fusions_of
from engine.run import LAST, RunFolder
from errors import InputError
from feeders.streams import NAMES as STREAMS
from longtail import shots
from tools import published


@dataclass
class Run:
    """One run folder: its metrics by epoch, and the results of its tests, None before them."""

    path: Path
    group: str  # the benchmark folder, with its tag
    stream: str
    config: dict[str, Any]
    epochs: list[dict[str, Any]]
    result: dict[str, Any] | None  # of the best checkpoint
    last: dict[str, Any] | None  # of the last one
    scores: Scores | None
    name: str = ""

    @property
    def facts(self) -> dict[str, Any]:
        """Its configuration and its result as one mapping."""
        return {**self.config, **(self.result or {})}


@dataclass
class Entry:
    """A line of the report: a run's scores, or a fusion of several runs of one folder."""

    name: str
    group: str
    weights: dict[str, float]  # of each stream; one stream for a run
    scores: Scores
    figures: dict[str, Any]  # top1, top5, mean_class, many, medium, few, per_class in percent
    run: int | None = None  # its place in Report.runs; None for a fusion
    published: dict[str, float] = field(default_factory=dict)  # metric -> its own published figure


@dataclass
class Report:
    """What was found in the folders."""

    runs: list[Run]
    entries: list[Entry]
    class_counts: np.ndarray | None  # (K,) of the training list
    shots: tuple[int, int]
    notes: list[str] = field(default_factory=list)

    @property
    def lead(self) -> Entry:
        """The entry shown first: the widest fusion, or the best run."""
        return max(self.entries, key=lambda e: (len(e.weights), e.figures["top1"]))

    @property
    def title(self) -> str:
        """The benchmark, if it is one, else the folders."""
        names = {run.config.get("benchmark") or run.group for run in self.runs}
        return ", ".join(names if len(names) == 1 else sorted({run.group for run in self.runs}))

    @property
    def num_class(self) -> int:
        return self.entries[0].scores.scores.shape[1] if self.entries else 0

    @property
    def shot_of_class(self) -> list[str | None]:
        """Many, medium or few for each of the K classes; None where no training list is known."""
        if self.class_counts is None:
            return [None] * self.num_class
        masks = shots.groups(self.class_counts, self.shots)
        return [next(name for name in masks if masks[name][k]) for k in range(self.num_class)]

    @property
    def head_to_tail(self) -> np.ndarray:
        """The classes by training count, descending; by label where no training list is known."""
        if self.class_counts is None:
            return np.arange(self.num_class)
        return np.argsort(-self.class_counts, kind="stable")

    def first(self, key: str, default: Any = None) -> Any:
        """Return the first run's value of a configuration key."""
        return next((run.config[key] for run in self.runs if key in run.config), default)


def gather(folders: Iterable[str | Path]) -> Report:
    """Read run and benchmark folders, and fuse what each benchmark folder allows.

    Raises InputError where a folder does not contain a run, or two runs cannot stand side by side
    (another number of classes, or another label for the same sample).
    """
    paths = [path for folder in folders for path in run_folders(Path(folder))]
    runs = [read_run(path) for path in {path.resolve(): path for path in paths}.values()]
    name_runs(runs)
    check_comparable(runs)
    report = Report(runs, [], None, shots.SHOTS)
    report.shots = tuple(report.first("shots", report.shots))
    report.class_counts = training_counts(report)
    report.entries = [
        judged(report, run.name, {run.stream: 1}, run.scores, [run], i)
        for i, run in enumerate(runs)
        if run.scores is not None
    ]
    for group in dict.fromkeys(run.group for run in runs):
        report.entries += fusions(report, group)
    report.notes += [
        f"{run.path}: no scores yet (its test has not ended); only its curves are shown."
        for run in runs
        if run.scores is None
    ]
    reasons = [(run.name, published.why_none(run.facts)) for run in runs]
    report.notes += [f"{name}: {why}." for name, why in reasons if why]
    return report


def run_folders(folder: Path) -> list[Path]:
    """Return `folder` itself if it is a run, else the runs within it, the known streams first."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a run or a benchmark folder of work_dir/")
    if RunFolder(folder).exists:
        return [folder]
    found = [path for path in folder.iterdir() if path.is_dir() and RunFolder(path).exists]
    if not found:
        raise InputError(
            f"{folder}: does not contain a run; train one first (python main.py --config ...)"
        )
    order = {stream: i for i, stream in enumerate(STREAMS)}
    return sorted(found, key=lambda path: (order.get(path.name, len(order)), path.name))


def read_run(path: Path) -> Run:
    """Read one run folder; files that are not there yet are None or empty."""
    folder = RunFolder(path)
    config, result, scores = folder.config(), folder.result(), folder.scores_file()
    return Run(
        path=path,
        group=path.resolve().parent.name,
        stream=config.get("stream") or (result or {}).get("stream") or path.resolve().name,
        config=config,
        epochs=folder.epochs(),
        result=result,
        last=folder.result(LAST),
        scores=Scores.read(scores) if scores.is_file() else None,
    )


def name_runs(runs: list[Run]) -> None:
    """Give each run the shortest name that tells it from the others: its stream, tag, or both."""
    same_group = len({run.group for run in runs}) == 1
    same_stream = len({run.stream for run in runs}) == 1
    for run in runs:
        whole = f"{group_name(run, runs)} · {run.stream}"
        run.name = run.stream if same_group else group_name(run, runs) if same_stream else whole
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1:
            run.name = str(run.path)


def group_name(run: Run, runs: list[Run]) -> str:
    """Return the tag of a run among runs of the same benchmark, else its folder's name."""
    benchmarks = {other.config.get("benchmark") for other in runs}
    return (run.config.get("tag") or run.group) if len(benchmarks) == 1 else run.group


def check_comparable(runs: list[Run]) -> None:
    """Refuse runs of different benchmarks: their classes do not mean the same."""
    tested = [run for run in runs if run.scores is not None]
    if not tested:
        return
    first, K = tested[0], tested[0].scores.scores.shape[1]
    labels = dict(zip(first.scores.names.tolist(), first.scores.labels.tolist()))
    for run in tested:
        names, scores = run.scores.names.tolist(), run.scores.scores
        if scores.shape[1] != K:
            raise InputError(
                f"{first.path} has {K} classes, {run.path} {scores.shape[1]}; report them apart"
            )
        if any(labels.get(name, k) != k for name, k in zip(names, run.scores.labels.tolist())):
            raise InputError(
                f"{first.path} and {run.path} label the same samples differently; report them apart"
            )


def training_counts(report: Report) -> np.ndarray | None:
    """Return the class counts that the first tested run was trained on; note what departs."""
    known = [r for r in report.runs if r.result and r.result.get("class_counts") is not None]
    if not known:
        report.notes.append(
            "No training list is known (class_counts is null): classes stand in label order, and"
            " the shot figures are left out."
        )
        return None
    counts = np.asarray(known[0].result["class_counts"])
    for run in known[1:]:
        if not np.array_equal(run.result["class_counts"], counts):
            report.notes.append(
                f"{run.name} was trained on another list than {known[0].name}; all are ordered and"
                f" grouped by the counts of {known[0].name}."
            )
    return counts


def judged(
    report: Report, name: str, weights: dict[str, float], scores: Scores, runs: list[Run],
    place: int | None = None,
) -> Entry:  # fmt: skip
    """Return the entry of one run, or of a fusion of several."""
    figures = shots.accuracy(scores.scores, scores.labels, report.class_counts, report.shots)
    streams = f"{len(weights)}-stream" if len(weights) > 1 else next(iter(weights))
    known = {
        metric: published.beside([run.facts for run in runs], streams, metric)
        for metric in shots.METRICS
    }
    known = {metric: value for metric, value in known.items() if value is not None}
    return Entry(name, runs[0].group, weights, scores, figures, place, known)


def fusions(report: Report, group: str) -> list[Entry]:
    """Return the published fusions that the streams of one benchmark folder allow."""
    runs = [r for r in report.runs if r.group == group and r.scores is not None]
    streams = {run.stream: run.scores for run in runs}
    if len(streams) < 2 or len(streams) < len(runs):
        return []  # one stream, or one stream several times over: nothing to fuse
    prefix = ""
    if any(run.group != group for run in report.runs):
        prefix = f"{group_name(runs[0], report.runs)} · "
    known = fusions_of(runs[0].config.get("benchmark") or group)
    missing = {stream for weights in known.values() for stream in weights} - streams.keys()
    if missing:
        named = ", ".join(stream for stream in STREAMS if stream in missing)
        report.notes.append(f"{prefix}no fusion that needs {named}: not tested yet.")
    return [
        judged(
            report, prefix + name, weights, fuse(streams, weights),
            [run for run in runs if run.stream in weights],
        )
        for name, weights in known.items()
        if not missing & weights.keys()
    ]  # fmt: skip
