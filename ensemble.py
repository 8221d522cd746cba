"""Fuse the streams of a benchmark by the weighted sum of their class probabilities.

python ensemble.py --dataset ntu120/xset
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine import logs, recipe
from engine.config import CONFIG_ROOT, benchmark_folder, folder_name, load, tag_of
from engine.fusion import ENSEMBLE, fusions_of, of_other_methods
from engine.run import RunFolder
from errors import InputError, Parser, run_command
from files import write_json
from flags import STREAMS
from longtail import shots
from tools import published
from tools.report.gather import Run, differing, entry_of


def baseline_folder(folder: Path, baseline: str) -> Path:
    """Return the folder that contains the baseline of the runs in `folder`.

    If `baseline` names a method (a file of config/methods, `released`, or `brl`, which has no
    file), the baseline are the runs with that file and the other values of these runs: for runs
    with the tag if50, cross-entropy is in cross-entropy-if50. Any other word is the whole tag.
    """
    written = [path for name in STREAMS if (path := RunFolder(folder / name).config_file).is_file()]
    benchmark, names = folder.name, [] if baseline == recipe.BRL else [baseline]
    if written:
        settings = load(written[:1])
        benchmark = settings.benchmark or folder.name
        own = CONFIG_ROOT / benchmark / f"{settings.stream}.yaml"
        if own.is_file() and baseline in (recipe.BRL, *recipe.method_files()):
            baseline = tag_of(names, settings, load([own]))
    return folder.with_name(folder_name(benchmark, baseline))


def weighted(streams: Sequence[str], weights: Sequence[float] | None) -> dict[str, float]:
    """Return the fusion of --streams with --weights (default: 1); InputError if invalid."""
    weights = weights or [1.0] * len(streams)
    if len(weights) != len(streams):
        raise InputError(f"{len(streams)} --streams, but {len(weights)} --weights")
    if not all(0 < weight < math.inf for weight in weights):
        raise InputError(f"--weights: {weights}, but each must be greater than 0")
    if len(set(streams)) < len(streams):
        raise InputError(f"--streams: {' '.join(streams)} contains a stream twice")
    return dict(zip(streams, weights))


def check_alike(runs: Sequence[Run], key: str, what: str = "trained on another list") -> None:
    """Raise InputError for runs that differ in a key: shot accuracies would be of other classes."""
    for run, first in differing(runs, lambda run: run.facts.get(key)):
        raise InputError(f"{run.path} was {what} than {first.path}: their {key} differ")


def tested_runs(folder: Path, which: str) -> dict[str, Run]:
    """Return the runs of a work folder that have scores, by stream."""
    runs = {stream: Run(folder / stream, which) for stream in STREAMS}
    return {stream: run for stream, run in runs.items() if run.is_tested}


def compare(
    folder: Path, chosen: Sequence[str] | None = None, weights: Sequence[float] | None = None,
    which: str = "best", baseline: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Evaluate the single streams and the possible fusions of a work folder.

    Returns {"rows": {name: {"weights", "published", top1, mean_class, many, medium, few, ...}},
    "missing": streams without scores}. With `chosen` streams, their fusion (default weights: 1)
    replaces the published fusions. The single streams of a `baseline` folder are the first rows;
    their names start with the name of that folder.
    """
    runs = tested_runs(folder, which)
    missing = [stream for stream in chosen or STREAMS if stream not in runs]
    if not runs or (chosen and missing):
        needed = ", ".join(missing)
        raise InputError(
            f"{folder}: no scores for {needed}; train with main.py, or test with --phase test"
        )
    others = {} if baseline is None else tested_runs(baseline, which)
    if baseline is not None and not others:
        raise InputError(f"--baseline: {baseline} has no scores")
    runs = {stream: runs[stream] for stream in chosen or runs}
    first = next(iter(runs.values()))
    benchmark = first.facts.get("benchmark", folder.name)
    limits, counts = first.facts.get("shots", shots.SHOTS), first.facts.get("class_counts")
    for run in runs.values():
        num_class = run.scores.scores.shape[1]
        if counts is not None and len(counts) != num_class:
            raise InputError(
                f"{run.path}: scores have {num_class} classes, but class_counts in result.json has "
                f"{len(counts)}; test again: main.py --phase test"
            )
    check_alike([*runs.values(), *others.values()], "class_counts")
    check_alike([*runs.values()], "list_digest")
    check_alike([*runs.values()], "shots", "tested with other shots")
    if chosen:
        fusions = {"+".join(chosen): weighted(chosen, weights)}
    else:
        known = fusions_of(benchmark)
        fusions = {name: each for name, each in known.items() if each.keys() <= runs.keys()}
    fusions = {name: {name: 1.0} for name in runs} | fusions
    entries = [
        entry_of(f"{run.group} {name}", name, {name: 1.0}, others, counts, limits)
        for name, run in others.items()
    ]
    entries += [entry_of(name, name, each, runs, counts, limits) for name, each in fusions.items()]
    return {
        "benchmark": benchmark,
        "which": which,
        "shots": list(limits),
        "missing": missing,
        "notes": notes_on(runs, others),
        "rows": {
            entry.name: {
                "weights": entry.weights, "published": entry.published.get("top1"), **entry.figures
            }
            for entry in entries
        },
    }  # fmt: skip


def notes_on(runs: Mapping[str, Run], others: Mapping[str, Run]) -> list[str]:
    """Return what a reader of the table must know of runs and those of a baseline, by stream."""
    facts = {stream: run.facts for stream, run in runs.items()}
    notes = of_other_methods(facts)
    every = [*runs.values(), *others.values()]
    for run, first in differing(every, lambda run: run.facts.get("test_clips")):
        notes.append(
            f"{run.path} was tested with test_clips={run.facts['test_clips']}, {first.path} with "
            f"{first.facts['test_clips']}"
        )
    if len(codes := {each["code"] for each in facts.values() if each.get("code")}) > 1:
        notes.append(f"the streams were trained by {len(codes)} versions of the code")
    why_not = {stream: published.why_none(each) for stream, each in facts.items()}
    return notes + [f"{stream}: {why}" for stream, why in why_not.items() if why]


def table(result: dict[str, Any]) -> str:
    """Return the result as a text table: single streams, then fusions, with the published top-1."""
    rows = [
        [
            name,
            ":".join(f"{weight:g}" for weight in row["weights"].values()),
            *(logs.percent(row[key]) for key in shots.METRICS),
            logs.percent(row["published"]),
        ]
        for name, row in result["rows"].items()
    ]
    head = ["streams", "weights", *logs.shot_headings(result["shots"]), "published"]
    return logs.table(head, rows)


def main(argv: list[str]) -> None:
    parser = Parser(prog="ensemble.py", description=__doc__)
    add = parser.add_argument
    add("--dataset", help="benchmark, e.g. ntu120/xset")
    add("--streams", nargs="+", choices=STREAMS, help="fuse only these streams")
    add("--weights", nargs="+", type=float, help="one per stream of --streams (default: 1)")
    add("--tag", help="tag of the runs to fuse")
    add("--baseline", metavar="METHOD", help="also show the streams of this method (or tag)")
    add("--which", choices=("best", "last"), default="best",
        help="checkpoint whose scores are fused (default: best)")  # fmt: skip
    add("--work-dir", type=Path, default=Path("work_dir"),
        help="root of all runs (default: work_dir)")  # fmt: skip
    add("--folder", type=Path, help="folder with one subfolder per stream (instead of --dataset)")
    add("--quiet", action="store_true", help="write ensemble.json, print nothing")
    options = parser.parse_args(argv)
    if options.weights and not options.streams:
        raise InputError("--weights needs --streams, in the same order")
    if options.folder is not None:
        reason = "cannot be combined with --folder, which already selects the runs"
        parser.refuse(options, "--dataset", "--tag", "--work-dir", reason=reason)
    elif options.dataset is None:
        raise InputError("--dataset is missing, e.g. --dataset ntu120/xset")
    folder = options.folder
    if folder is None:
        name = benchmark_folder(options.dataset).name
        folder = options.work_dir / folder_name(name, options.tag)
    baseline = baseline_folder(folder, options.baseline) if options.baseline else None
    result = compare(folder, options.streams, options.weights, options.which, baseline)
    write_json(folder / ENSEMBLE, result)
    if options.quiet:
        return
    print("\n".join([table(result), *result["notes"]]))
    if result["missing"]:
        print(f"missing streams: {', '.join(result['missing'])}")
    print(f"written to {folder / ENSEMBLE}")


if __name__ == "__main__":
    sys.exit(run_command(main))
