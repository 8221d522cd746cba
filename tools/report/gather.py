"""Read run folders for the page and the plots.

Missing parts of a run folder are omitted and named in the notes of the report. Samples are joined
by name, not by row order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from engine.fusion import ENSEMBLE, Scores, fuse, fusions_of, of_other_methods
from engine.run import BEST, RunFolder
from errors import InputError
from flags import STREAMS
from longtail import shots
from tools import published


class Run:
    """One run folder: its metrics by epoch, and the result of the test of one checkpoint."""

    def __init__(self, path: Path, which: str = BEST) -> None:
        folder = RunFolder(path)
        self.path, self.folder = path, folder
        self.group = path.resolve().parent.name  # name of the benchmark folder, including the tag
        self.config = folder.config()
        self.result = folder.result(which) or {}  # without a test empty
        self.facts = {**self.config, **self.result}
        self.stream = str(self.facts.get("stream") or path.resolve().name)
        self.name = self.title = ""  # by name_runs
        self._scores_file = folder.scores_file(which)

    @cached_property
    def epochs(self) -> list[dict[str, Any]]:
        return self.folder.epochs()

    @property
    def is_tested(self) -> bool:
        """Whether there are scores."""
        return self._scores_file.is_file()

    @cached_property
    def scores(self) -> Scores:
        return Scores.read(self._scores_file)


@dataclass
class Entry:
    """A row of the report: the scores of a run, or a fusion of several runs of one folder."""

    name: str
    runs: list[Run]  # one, or those that are fused
    weights: dict[str, float]  # stream -> weight
    scores: Scores
    figures: dict[str, Any]  # top1, top5, mean_class, many, medium, few, per_class in percent
    published: dict[str, float]  # metric -> published figure

    @property
    def group(self) -> str:
        return self.runs[0].group


@dataclass
class Report:
    """The content of the folders."""

    runs: list[Run]
    entries: list[Entry]
    class_counts: np.ndarray | None  # (K,) of the training list
    shots: tuple[int, int]
    notes: list[str] = field(default_factory=list)

    @property
    def lead(self) -> Entry:
        """The entry shown first: in the first folder that of the highest top-1, of equal ones that
        of most streams. The other folders are what it is compared with."""
        first = [entry for entry in self.entries if entry.group == self.runs[0].group]
        return max(first or self.entries, key=lambda e: (e.figures["top1"], len(e.weights)))

    @property
    def sentences(self) -> list[str]:
        """What the streams of the first folder gain on the same streams of the others, and lose, in
        tests of the same samples after training on the same list."""
        return [
            _sentence(own, other)
            for own, other in product(self.entries, self.entries)
            if own.group == self.entries[0].group != other.group
            and len(own.runs) == 1
            and own.weights == other.weights
            and not len(np.setxor1d(own.scores.names, other.scores.names))
            and not differing([*own.runs, *other.runs], lambda run: run.result.get("list_digest"))
            and not differing([*own.runs, *other.runs], lambda run: run.result.get("class_counts"))
        ]

    @property
    def title(self) -> str:
        """The benchmark if all runs have the same, otherwise the folders."""
        names = {run.config.get("benchmark") or run.group for run in self.runs}
        return ", ".join(names if len(names) == 1 else sorted({run.group for run in self.runs}))

    @property
    def num_class(self) -> int:
        return self.entries[0].scores.scores.shape[1] if self.entries else 0

    @property
    def shot_of_class(self) -> list[str | None]:
        """Many, medium or few for each of the K classes; None if the class counts are unknown."""
        if self.class_counts is None:
            return [None] * self.num_class
        masks = shots.groups(self.class_counts, self.shots)
        return [next(name for name in masks if masks[name][k]) for k in range(self.num_class)]

    @property
    def head_to_tail(self) -> np.ndarray:
        """The classes by descending training count; by label if the class counts are unknown."""
        if self.class_counts is None:
            return np.arange(self.num_class)
        return np.argsort(-self.class_counts, kind="stable")


def _sentence(own: Entry, other: Entry) -> str:
    """Return, e.g., `brl joint: few-shot 75.3 against 0.0, many-shot 56.0 against 79.3 (focal)`."""
    named = {"few": "few-shot", "medium": "medium-shot", "many": "many-shot", "top1": "top-1"}
    pairs = {text: (own.figures[key], other.figures[key]) for key, text in named.items()}
    compared = ", ".join(
        f"{text} {first:.1f} against {second:.1f}"
        for text, (first, second) in pairs.items()
        if first is not None and second is not None
    )
    run, baseline = own.runs[0], other.runs[0]
    return f"{run.title} {run.stream}: {compared} ({baseline.title})."


def gather(folders: Iterable[str | Path]) -> Report:
    """Read run and benchmark folders, and compute the possible fusions of each benchmark folder.

    InputError if a folder does not contain a run, or two runs are not comparable (different number
    of classes, or different labels for the same sample).
    """
    paths = [path for folder in folders for path in run_folders(Path(folder))]
    runs = [Run(path) for path in {path.resolve(): path for path in paths}.values()]
    name_runs(runs)
    check_comparable(runs)
    limits = next((run.config["shots"] for run in runs if "shots" in run.config), shots.SHOTS)
    report = Report(runs, [], None, tuple(limits))
    report.notes += [
        f"{run.name} has other shots, {run.config['shots']}; classes are grouped by {list(limits)}."
        for run, _ in differing(runs, lambda run: run.config.get("shots"))
    ]
    report.class_counts = training_counts(report)
    tested = [run for run in runs if run.is_tested]
    for run in tested:
        own, weights = {run.stream: run}, {run.stream: 1.0}
        entry = entry_of(run.name, run.stream, weights, own, report.class_counts, report.shots)
        report.entries.append(entry)
    for group in dict.fromkeys(run.group for run in runs):
        report.entries += fusions(report, group)
    report.notes += [
        f"{run.path}: no scores yet (the test has not finished); only the curves are shown."
        for run in runs
        if not run.is_tested
    ]
    report.notes += [
        f"{run.name} was tested on other samples than {first.name}; their figures are not "
        "comparable."
        for run, first in differing(tested, lambda run: {*run.scores.names.tolist()})
    ]
    reasons = [(run.name, published.why_none(run.facts)) for run in runs]
    report.notes += [f"{name}: {why}." for name, why in reasons if why]
    return report


def differing(runs: Iterable[Run], value_of: Callable[[Run], Any]) -> list[tuple[Run, Run]]:
    """Return each run with another value than the first run that has one, and this first run."""
    known = [(run, value) for run in runs if (value := value_of(run)) is not None]
    return [(run, known[0][0]) for run, value in known if value != known[0][1]]


def run_folders(folder: Path) -> list[Path]:
    """Return `folder` itself if it is a run, otherwise the runs in it, known streams first."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a run or a benchmark folder of work_dir/")
    if RunFolder(folder).exists:
        return [folder]
    found = runs_in(folder)
    if not found:
        raise InputError(
            f"{folder}: does not contain a run; train one first (python main.py --config ...)"
        )
    order = {stream: i for i, stream in enumerate(STREAMS)}
    return sorted(found, key=lambda path: (order.get(path.name, len(order)), path.name))


def runs_in(folder: Path) -> list[Path]:
    """Return the run folders that lie directly in a folder, by name."""
    return sorted(path for path in folder.iterdir() if RunFolder(path).exists)


def name_runs(runs: list[Run]) -> None:
    """Set the shortest unique name of each run: its stream, the title of its folder, or both.

    The title is the method if every folder has one of its own, else the tag if all have the same
    benchmark, else the folder's name. If two folders have one name, their path takes its place.
    """
    folders = [folder.name for folder in {run.path.resolve().parent for run in runs}]
    for run in runs:
        if folders.count(run.group) > 1:
            run.group = str(run.path.resolve().parent)
    groups = {run.group for run in runs}
    methods = {(run.group, run.config.get("method")) for run in runs}
    of_methods = len(methods) == len({m for _, m in methods if m}) == len(groups) > 1
    same_benchmark = len({run.config.get("benchmark") for run in runs}) == 1
    same_stream = len({run.stream for run in runs}) == 1
    for run in runs:
        key = "method" if of_methods else "tag"
        known = run.config.get(key) if of_methods or same_benchmark else None
        run.title = known or run.group
        several = run.title if same_stream else f"{run.title} · {run.stream}"
        run.name = run.stream if len(groups) == 1 else several
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1:
            run.name = str(run.path)


def check_comparable(runs: list[Run]) -> None:
    """Raise InputError for runs of different benchmarks, whose classes differ."""
    tested = [(run.path, run.scores) for run in runs if run.is_tested]
    for path, scores in tested:
        first, known = tested[0]
        K, count = known.scores.shape[1], scores.scores.shape[1]
        if count != K:
            raise InputError(f"{first} has {K} classes, {path} {count}; make separate reports")
        labels = dict(zip(known.names.tolist(), known.labels.tolist()))
        if any(labels.get(n, k) != k for n, k in zip(scores.names.tolist(), scores.labels)):
            raise InputError(
                f"{first} and {path} have different labels for the same samples; make "
                "separate reports"
            )


def training_counts(report: Report) -> np.ndarray | None:
    """Return the class counts of the first tested run; add a note if others differ."""
    report.notes += [
        f"{run.name} was trained on another list than {first.name}; classes are sorted and grouped "
        f"by the class counts of {first.name}."
        for run, first in differing(report.runs, lambda run: run.result.get("class_counts"))
    ]
    for run in report.runs:
        if (counts := run.result.get("class_counts")) is not None:
            return np.asarray(counts)
    report.notes.append(
        "The training list is unknown (class_counts is null): classes are in label order, and shot "
        "accuracies are omitted."
    )
    return None


def entry_of(
    name: str, published_as: str, weights: dict[str, float], runs: Mapping[str, Run],
    class_counts: Any, limits: Sequence[int],
) -> Entry:  # fmt: skip
    """Return the entry of a run or of a fusion of runs, {stream: run}.

    `published_as` is the name of the stream or the fusion in the table of published figures.
    """
    fused = [runs[stream] for stream in weights]
    scores = fuse({stream: runs[stream].scores for stream in weights}, weights)
    figures = shots.accuracy(scores.scores, scores.labels, class_counts, limits)
    known = published.figures_for((run.facts for run in fused), published_as)
    return Entry(name, fused, weights, scores, figures, known)


def fusions_made(path: Path, report: Report) -> dict[str, dict[str, float]]:
    """Return the weights {stream: weight} of the fusions that ensemble.py has written to a file; a
    damaged one is noted."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else {}
        return {
            name: {stream: float(weight) for stream, weight in row["weights"].items()}
            for name, row in rows.items()
            if len(row["weights"]) > 1
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        report.notes.append(f"{path} is damaged, and its fusions are omitted; run ensemble.py.")
        return {}


def fusions(report: Report, group: str) -> list[Entry]:
    """Return the published fusions whose streams are all in the benchmark folder."""
    runs = [run for run in report.runs if run.group == group and run.is_tested]
    streams = {run.stream: run for run in runs}
    if len(streams) < 2 or len(streams) < len(runs):
        return []  # a single stream, or several runs of the same stream
    prefix = ""
    if any(run.group != group for run in report.runs):
        prefix = f"{runs[0].title} · "
    if others := of_other_methods({run.name: run.config for run in runs}):
        report.notes.append(f"{prefix}no fusion: {'; '.join(others)}.")
        return []
    known = fusions_of(runs[0].config.get("benchmark") or group)
    for name, weights in fusions_made(runs[0].path.parent / ENSEMBLE, report).items():
        if weights.keys() <= streams.keys() and weights not in known.values():
            known[name] = weights
    missing = {stream for weights in known.values() for stream in weights} - streams.keys()
    if missing:
        named = ", ".join(stream for stream in STREAMS if stream in missing)
        report.notes.append(f"{prefix}fusions with {named} are omitted: not tested yet.")
    return [
        entry_of(prefix + name, name, weights, streams, report.class_counts, report.shots)
        for name, weights in known.items()
        if not missing & weights.keys()
    ]
