"""Calibrate the probabilities of a run by temperature scaling; --phase predict uses them.

python -m tools.calibrate work_dir/nw-ucla-lt/joint
python -m tools.calibrate work_dir/nw-ucla-lt/joint --coverage 0.9

Fits a temperature on the training samples that the run held out (--val-split), and with --coverage
the threshold that this share of them reaches: below it prediction answers `unknown`. Both are kept
in the checkpoint.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from engine import checkpoint, logs, samples
from engine.distributed import World, choose_devices
from engine.fusion import Scores
from engine.predict import UNKNOWN
from engine.run import BEST, LAST, RunFolder
from errors import InputError, Parser, run_command
from longtail import shots
from longtail.calibration import FLATTEST, SHARPEST, fit_temperature, tempered, threshold_for


def table(found: dict[str, Any], parts: dict[str, Scores]) -> str:
    """Return ECE and NLL of each part before and after; with a threshold also the share of the
    samples that reach it, and their accuracy."""
    head = ["", "samples", "ECE before", "after", "NLL before", "after"]
    head += [] if found["threshold"] is None else ["answered", "right of these"]
    rows = []
    for name, scores in parts.items():
        probabilities = tempered(scores.scores, found["temperature"])
        before = shots.probability_metrics(scores.scores, scores.labels)
        after = shots.probability_metrics(probabilities, scores.labels)
        cells = [name, str(len(scores.labels))]
        cells += [logs.percent(each["ece"]) for each in (before, after)]
        cells += [f"{each['nll']:.3f}" for each in (before, after)]
        if found["threshold"] is not None:
            answered = probabilities.max(axis=1) >= found["threshold"]
            right = (probabilities.argmax(axis=1) == scores.labels)[answered]
            cells.append(logs.percent(100 * answered.mean()))
            cells.append(logs.percent(100 * right.mean() if len(right) else None))
        rows.append(cells)
    return logs.table(head, rows)


def main(argv: list[str]) -> None:
    parser = Parser(prog="python -m tools.calibrate", description=__doc__)
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="folder of a run that was trained with --val-split")
    add("--which", choices=(BEST, LAST), default=BEST, help="checkpoint (default: best)")
    add("--coverage", type=float, metavar="C", help="share of the clips to answer, from 0 to 1")
    add("--device", nargs="+", metavar="D", help="GPU index, or cpu")
    options = parser.parse_args(argv)
    if options.coverage is not None and not 0 < options.coverage <= 1:
        raise InputError(f"--coverage: must be more than 0 and at most 1, not {options.coverage}")
    run = RunFolder(options.run)
    path = run.checkpoint(options.which)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; name the folder of a run")
    if options.coverage is not None and UNKNOWN in checkpoint.read(path).get("class_names", ()):
        raise InputError(
            f"--coverage: a class of {path} is called {UNKNOWN}, as is the answer below a "
            "threshold; rename the class"
        )
    with run.lock():
        scores = samples.score_held_out(path, choose_devices(options.device, World())[0])
        temperature, threshold = fit_temperature(scores.scores, scores.labels), None
        if options.coverage is not None:
            threshold = threshold_for(tempered(scores.scores, temperature), options.coverage)
        found = {
            "temperature": temperature, "threshold": threshold, "coverage": options.coverage,
            "samples": len(scores.labels),
        }  # fmt: skip
        checkpoint.save(path, checkpoint.read(path) | {"calibration": found})
    parts = {"held-out training samples": scores}
    if (file := run.scores_file(options.which)).is_file():
        parts["test split"] = Scores.read(file)
    said = "" if threshold is None else f", threshold {np.round(threshold, 4)}"
    print(f"{path}: temperature {temperature:.3f}{said}")
    print(table(found, parts))
    if (scores.scores.argmax(axis=1) == scores.labels).all():
        print(
            f"all {found['samples']} held-out samples are right, so the temperature is a guess; "
            "hold out more: --val-split"
        )
    elif not 1 / SHARPEST * 1.01 < temperature < 1 / FLATTEST * 0.99:
        print("the temperature is at the end of what is tried: the probabilities are far off")


if __name__ == "__main__":
    sys.exit(run_command(main))
