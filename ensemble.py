"""Fuse the streams of a benchmark by the weighted sum of their class probabilities.

python ensemble.py --dataset ntu120/xset
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine import logs
from engine.config import CONFIG_ROOT, benchmark_folder, folder_name, load, tag_of
from engine.fusion import (
    ENSEMBLE,
    Scores,
    fuse,
    fusions_of,
    of_other_methods,
    read_streams,
)
from engine.run import RunFolder
from errors import InputError, Parser, run_command
from files import write_json
from flags import STREAMS
from longtail import shots
from tools import published


def baseline_folder(folder: Path, baseline: str) -> Path:
    """Return the folder that contains the baseline of the runs in `folder`.

    If `baseline` names a method (a file of config/methods, `released`, or `brl`, which has no
    file), the baseline are the runs with that file and the other values of these runs: for runs
    with the tag if50, cross-entropy is in cross-entropy-if50. Any other word is the whole tag.
    """
    files = [CONFIG_ROOT / "methods" / f"{baseline}.yaml", CONFIG_ROOT / f"{baseline}.yaml"]
    written = [path for name in STREAMS if (path := folder / name / "config.yaml").is_file()]
    benchmark, names = folder.name, [] if baseline == "brl" else [baseline]
    if written:
        settings = load(written[:1])
        benchmark = settings.benchmark or folder.name
        own = CONFIG_ROOT / benchmark / f"{settings.stream}.yaml"
        if own.is_file() and (baseline == "brl" or any(file.is_file() for file in files)):
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


def check_alike(
    folder: Path, streams: Mapping[str, Scores], runs: Mapping[str, Mapping[str, Any]]
) -> None:
    """Raise InputError for streams whose shot accuracies would be of different classes.

    `runs` are the descriptions of the streams' runs; the first is what the others must be like.
    """
    (first, run), *_ = runs.items()
    counts, limits = run.get("class_counts"), run.get("shots", shots.SHOTS)
    for name, scores in streams.items():
        num_class = scores.scores.shape[1]
        if counts is not None and len(counts) != num_class:
            raise InputError(
                f"{folder / name}: scores have {num_class} classes, but class_counts in "
                f"result.json has {len(counts)}; test again: main.py --phase test"
            )
        for key in ("class_counts", "list_digest"):
            own, theirs = run.get(key), runs[name].get(key)
            if None not in (own, theirs) and own != theirs:
                raise InputError(
                    f"{folder / name} was trained on another list than {folder / first}: their "
                    f"{key} differ"
                )
        if tuple(runs[name].get("shots", limits)) != tuple(limits):
            raise InputError(
                f"{folder / name} has other shots than {folder / first}: test both with the same"
            )


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
    streams = read_streams(folder, which)
    missing = [stream for stream in chosen or STREAMS if stream not in streams]
    if not streams or (chosen and missing):
        needed = ", ".join(missing)
        raise InputError(
            f"{folder}: no scores for {needed}; train with main.py, or test with --phase test"
        )
    runs = {name: RunFolder(folder / name).describe(which) for name in streams}
    run = next(iter(runs.values()))
    benchmark = run.get("benchmark", folder.name)
    if chosen:
        fusions = {"+".join(chosen): weighted(chosen, weights)}
    else:
        fusions = {
            name: fusion
            for name, fusion in fusions_of(benchmark).items()
            if all(stream in streams for stream in fusion)
        }
    singles = {name: {name: 1.0} for name in (chosen or streams)}
    others = {} if baseline is None else read_streams(baseline, which)
    if baseline is not None and not others:
        raise InputError(f"--baseline: {baseline} has no scores")
    limits = tuple(run.get("shots", shots.SHOTS))
    counts = run.get("class_counts")
    check_alike(folder, streams, runs)
    base = baseline or folder
    other_runs = {name: RunFolder(base / name).describe(which) for name in others}
    for name, other in other_runs.items():
        theirs = other.get("class_counts")
        if None not in (counts, theirs) and theirs != counts:
            raise InputError(
                f"--baseline: {base / name} was trained on another list than {folder}: their "
                "class_counts differ, so many, medium and few would be different classes"
            )

    def evaluate(fused: Scores, **facts: Any) -> dict[str, Any]:
        return facts | shots.accuracy(fused.scores, fused.labels, counts, limits)

    rows = {
        f"{base.name} {name}": evaluate(
            scores, weights={name: 1.0}, published=published.figure_for([other_runs[name]], name)
        )
        for name, scores in others.items()
    }  # fmt: skip
    for name, fusion in {**singles, **fusions}.items():
        fused = fuse(streams, fusion)
        figure = published.figure_for([runs[stream] for stream in fusion], name)
        rows[name] = evaluate(fused, weights=fusion, published=figure)
    return {
        "benchmark": benchmark,
        "which": which,
        "shots": list(limits),
        "missing": missing,
        "notes": of_other_methods(runs)
        + [f"{name}: {why}" for name in runs if (why := published.why_none(runs[name]))],
        "rows": rows,
    }


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
    parser = Parser(
        prog="ensemble.py",
        description="Fuse the streams of a benchmark by the weighted sum of their probabilities.",
    )
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
