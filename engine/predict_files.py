"""`main.py --phase predict`: classify files, print a table and write a JSON or CSV file."""

from __future__ import annotations

import csv
import dataclasses
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data import clip_file
from data.names import natural_order
from engine import logs
from engine.predict import Prediction, PreparedClip, Recognizer, answer, best
from errors import InputError
from files import write_json, write_text

FILES_AT_ONCE = 256  # files whose windows are computed together: limits the memory


def run(
    recognizer: Recognizer, inputs: Sequence[str | Path], output: str | Path | None = None,
    quiet: bool = False, **how: Any,
) -> list[Prediction]:  # fmt: skip
    """Predict files and folders of files, print a table and write `output` (.json or .csv).

    `how` are arguments of `read` and Recognizer.prepare: nan, image_size, window, stride. A file
    that cannot be used is named and skipped; their number is in an InputError at the end.
    """
    output = None if output is None else Path(output)
    if output is not None and output.suffix not in WRITERS:
        raise InputError(f"--output {output}: must end in {' or '.join(WRITERS)}")
    files = find_files(inputs)
    predictions: list[Prediction] = []
    failed: dict[str, str] = {}
    bar = tqdm(total=len(files), unit="file", leave=False, disable=logs.progress_bar_off(quiet))
    with bar:
        for first in range(0, len(files), FILES_AT_ONCE):
            ready = []
            for path in files[first : first + FILES_AT_ONCE]:
                try:
                    ready.append(read(recognizer, path, **how))
                except InputError as error:
                    if len(files) == 1:
                        raise
                    failed[str(path)] = logs.describe(error)
                    bar.write(f"error: {failed[str(path)]}", file=sys.stderr)
            predictions += recognizer.score(ready) if ready else []
            bar.update(min(FILES_AT_ONCE, len(files) - first))
    for prediction in predictions:
        if prediction.warning:
            print(f"warning: {prediction.source}: {prediction.warning}", file=sys.stderr)
    if predictions and not quiet:
        print(table(predictions))
    if output is not None:
        WRITERS[output.suffix](output, recognizer, predictions, failed)
    if failed:
        raise InputError(f"{len(failed)} of {len(files)} files could not be used, see above")
    return predictions


def find_files(inputs: Sequence[str | Path]) -> list[Path]:
    """Return the files, and those in the folders that have a known ending, in natural
    order."""
    files: list[Path] = []
    for path in map(Path, inputs):
        if path.is_dir():
            within = [file for file in path.rglob("*") if file.suffix in clip_file.SUFFIXES]
            if not within:
                raise InputError(f"--input {path}: no {', '.join(clip_file.SUFFIXES)} file in it")
            files += sorted(within, key=lambda file: natural_order(file.as_posix()))
        else:
            files.append(path)
    return files


def read(
    recognizer: Recognizer, path: Path, image_size: tuple[float, float] | None = None,
    nan: str = "refuse", **how: Any,
) -> PreparedClip:  # fmt: skip
    """Return the prepared clip of a file; InputError names the file if it cannot be used."""
    clip = clip_file.read(path, nan)
    wanted = recognizer.takes.skeleton.name
    if clip.layout not in (None, wanted):
        raise InputError(f"{path}: has layout {clip.layout}, but the network takes {wanted}")
    size = clip.image_size_or(image_size, path)
    ready = recognizer.prepare(clip.joints, str(path), size, **how)
    doubts = "; ".join(filter(None, (clip.doubt, ready.warning)))
    return dataclasses.replace(ready, warning=doubts)


def table(predictions: Sequence[Prediction]) -> str:
    """Return the three most probable classes of each file, and of its windows if there are several.

    With a threshold, the answer comes before them.
    """
    names, threshold = predictions[0].names, predictions[0].threshold
    count = min(3, len(names))

    def row(title: str, probabilities: np.ndarray) -> list[str]:
        answers = [answer(names, probabilities, threshold)] if threshold else []
        top = best(names, probabilities, count)
        return [title, *answers, *(f"{name} {probability:.3f}" for name, probability in top)]

    rows = []
    for prediction in predictions:
        rows.append(row(prediction.source, prediction.probabilities))
        if len(prediction.spans) > 1:
            for (first, end), part in zip(prediction.spans.tolist(), prediction.windows):
                rows.append(row(f"  frames {first} to {end - 1}", part))
    head = ["file", *(["answer"] if threshold else []), *("first", "second", "third")[:count]]
    return logs.table(head, rows)


def write_as_json(
    path: Path, recognizer: Recognizer, predictions: Sequence[Prediction], failed: dict[str, str]
) -> None:
    def described(probabilities: np.ndarray) -> dict[str, Any]:
        name = answer(recognizer.names, probabilities, recognizer.threshold)
        return {"class": name, "probabilities": np.round(probabilities.astype(float), 6).tolist()}

    value = {
        "class_names": list(recognizer.names),
        "threshold": recognizer.threshold,
        "checkpoints": [
            {
                "weights": str(member.path),
                "stream": member.config.stream,
                "weight": weight,
                "temperature": member.calibration.temperature,
            }
            for member, weight in zip(recognizer.members, recognizer.weights)
        ],
        "predictions": [
            {
                "file": prediction.source,
                **({"warning": prediction.warning} if prediction.warning else {}),
                **described(prediction.probabilities),
                "windows": [
                    {"first_frame": first, "last_frame": end - 1, **described(part)}
                    for (first, end), part in zip(prediction.spans.tolist(), prediction.windows)
                ],
            }
            for prediction in predictions
        ],
        "failed": failed,
    }
    write_json(path, value)


def write_as_csv(
    path: Path, recognizer: Recognizer, predictions: Sequence[Prediction], failed: dict[str, str]
) -> None:
    """One row per file (window `all`) and one per window if there are several; failed files have
    none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "window", "first_frame", "last_frame", "class", *recognizer.names])
    for prediction in predictions:
        spans = prediction.spans.tolist()
        parts: list[Any] = [("all", (spans[0][0], spans[-1][1]), prediction.probabilities)]
        if len(spans) > 1:
            parts += zip(range(len(spans)), spans, prediction.windows)
        for window, (first, end), part in parts:
            name = answer(recognizer.names, part, recognizer.threshold)
            figures = [f"{probability:.6f}" for probability in part]
            writer.writerow([prediction.source, window, first, end - 1, name, *figures])
    write_text(path, text.getvalue())


WRITERS = {".json": write_as_json, ".csv": write_as_csv}
