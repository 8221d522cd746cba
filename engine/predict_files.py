"""`main.py --phase predict`: classify files, print a table and write a JSON or CSV file."""

from __future__ import annotations

import csv
import dataclasses
import io
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data import clip_file
from engine import logs
from engine.predict import Prediction, PreparedClip, Recognizer, answer, best
from engine.segments import Segment, segments, time, timeline
from errors import InputError
from files import check_output, json_text, write_text

FILES_AT_ONCE = 256  # files whose windows are computed together: limits the memory


def run(
    recognizer: Recognizer, inputs: Sequence[str | Path], output: str | Path | None = None,
    quiet: bool = False, segmented: bool = False, **how: Any,
) -> list[Prediction]:  # fmt: skip
    """Predict files and folders of files as `classify` does.

    `how` are arguments of `read` and Recognizer.prepare: nan, image_size, per_person, fps, window,
    stride.
    """
    prepared = partial(read, recognizer, **how)
    return classify(recognizer, find_files(inputs), prepared, output, quiet, segmented)


def classify(
    recognizer: Recognizer | None, files: Sequence[Path],
    prepared: Callable[[Path], list[PreparedClip]], output: str | Path | None = None,
    quiet: bool = False, segmented: bool = False,
) -> list[Prediction]:  # fmt: skip
    """Predict the clips that `prepared` reads from each file, print a table and write `output`.

    With `segmented` the table and the output have segments instead of windows. A file that cannot
    be used is named and skipped; their number is in an InputError at the end. Without a recognizer
    the files are only read.
    """
    if output is not None:
        check_form(Path(output), segmented)
        check_output("--output", Path(output), *files)
    for member in recognizer.members if recognizer else ():
        if member.doubt:
            print(f"warning: {member.doubt}", file=sys.stderr)
    predictions: list[Prediction] = []
    failed: dict[str, str] = {}
    is_off = quiet or len(files) == 1 or None
    with tqdm(total=len(files), unit="file", leave=False, disable=is_off) as bar:
        for first in range(0, len(files), FILES_AT_ONCE):
            ready = []
            for path in files[first : first + FILES_AT_ONCE]:
                try:
                    ready += prepared(path)
                except InputError as error:
                    if len(files) == 1:
                        raise
                    failed[str(path)] = str(error)
                    bar.write(f"error: {error}", file=sys.stderr)
                bar.update()
            predictions += recognizer.score(ready) if recognizer and ready else []
    for prediction in predictions:
        if prediction.warning:
            print(f"warning: {prediction.source}: {prediction.warning}", file=sys.stderr)
    if output is not None and recognizer is not None:
        write(Path(output), recognizer, predictions, failed, segmented)
    if predictions and not quiet:
        print(table_of_segments(predictions) if segmented else table(predictions))
    if failed:
        raise InputError(f"{len(failed)} of {len(files)} files could not be used, see above")
    return predictions


def check_form(output: Path, segmented: bool) -> None:
    """Raise InputError if there is no form of output for the ending of a file."""
    if output.suffix not in (".json", ".csv", ".html"):
        raise InputError(f"--output {output}: must end in .json or .csv or .html")
    if output.suffix == ".html" and not segmented:
        raise InputError(f"--output {output}: a timeline shows segments; add --segments --window T")


def write(
    output: Path, recognizer: Recognizer, predictions: Sequence[Prediction],
    failed: dict[str, str], segmented: bool,
) -> None:  # fmt: skip
    """Write the predictions, and in JSON also {file: why it failed}."""
    if output.suffix == ".html":
        text = timeline(predictions)
    elif output.suffix == ".csv":
        rows = (rows_of_segments if segmented else rows_of_windows)(recognizer, predictions)
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows(rows)
        text = lines.getvalue()
    else:
        content = (values_of_segments if segmented else values_of_windows)(recognizer, predictions)
        head = {"class_names": list(recognizer.names), "threshold": recognizer.threshold}
        text = json_text({**head, **content, "failed": failed})
    write_text(output, text)


def find_files(inputs: Sequence[str | Path]) -> list[Path]:
    """Return the files, and those in the folders that have a known ending, in natural order.

    The arrays of prepared stores are not clips.
    """
    files: list[Path] = []
    for path in map(Path, inputs):
        if path.is_dir():
            files += clip_file.clips_of(path, f"--input {path}")
        else:
            files.append(path)
    return files


def read(
    recognizer: Recognizer, path: Path, image_size: tuple[float, float] | None = None,
    nan: str = "refuse", per_person: bool = False, fps: float | None = None, **how: Any,
) -> list[PreparedClip]:  # fmt: skip
    """Return the prepared clip of a file, or one per person that is seen in it.

    InputError names the file if it cannot be used.
    """
    skeleton = recognizer.takes.skeleton
    clip = clip_file.read(path, nan, skeleton.score)
    wanted = skeleton.name
    if clip.layout not in (None, wanted):
        raise InputError(f"{path}: has layout {clip.layout}, but the network takes {wanted}")
    size = image_size
    if recognizer.takes.takes_image_size:  # else one in the file is of no use
        size = clip.image_size_or(image_size, path)
    fps = clip.fps_or(fps, path)
    prepared = []
    for source, joints in bodies(clip.joints, str(path), per_person).items():
        ready = recognizer.prepare(joints, source, size, frames=clip.frames, **how)
        doubts = "; ".join(filter(None, (clip.doubt, ready.warning)))
        prepared.append(dataclasses.replace(ready, warning=doubts, fps=fps))
    return prepared


def bodies(joints: np.ndarray, source: str, per_person: bool) -> dict[str, np.ndarray]:
    """Return {name: clip (T, M, V, C)}: the whole clip, or each person seen in it by itself."""
    seen = np.flatnonzero(joints.any(axis=(0, 2, 3))).tolist() if per_person else []
    apart = {f"{source} person {m + 1}": joints[:, [m]] for m in seen}
    return apart or {source: joints}


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


def table_of_segments(predictions: Sequence[Prediction]) -> str:
    """Return the segments of each file: from, to, class and probability."""
    rows = []
    for prediction in predictions:
        for number, s in enumerate(segments(prediction)):
            source = "" if number else prediction.source
            span = [time(s.first, prediction.fps), time(s.end, prediction.fps)]
            rows.append([source, *span, s.name, f"{s.probability:.3f}"])
    return logs.table(["file", "from", "to", "class", "probability"], rows)


def values_of_windows(recognizer: Recognizer, predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Return the probabilities of each file and window, and what they were computed with."""

    def described(probabilities: np.ndarray) -> dict[str, Any]:
        name = answer(recognizer.names, probabilities, recognizer.threshold)
        return {"class": name, "probabilities": np.round(probabilities.astype(float), 6).tolist()}

    checkpoints = [
        {
            "weights": str(member.path),
            "stream": member.config.stream,
            "weight": weight,
            "temperature": member.temperature,
        }
        for member, weight in zip(recognizer.members, recognizer.weights)
    ]
    entries = [
        {
            **_source(prediction),
            **described(prediction.probabilities),
            "windows": [
                {"first_frame": first, "last_frame": end - 1, **described(part)}
                for (first, end), part in zip(prediction.spans.tolist(), prediction.windows)
            ],
        }
        for prediction in predictions
    ]
    return {"checkpoints": checkpoints, "predictions": entries}


def values_of_segments(_: Recognizer, predictions: Sequence[Prediction]) -> dict[str, Any]:
    def described(s: Segment, fps: float | None) -> dict[str, Any]:
        seconds = {} if fps is None else {"start": s.first / fps, "end": s.end / fps}
        return {"first_frame": s.first, "last_frame": s.end - 1, **seconds,
                "class": s.name, "probability": round(s.probability, 6)}  # fmt: skip

    entries = [
        {**_source(p), "fps": p.fps, "segments": [described(s, p.fps) for s in segments(p)]}
        for p in predictions
    ]
    return {"files": entries}


def _source(prediction: Prediction) -> dict[str, str]:
    warning = {"warning": prediction.warning} if prediction.warning else {}
    return {"file": prediction.source, **warning}


def rows_of_windows(recognizer: Recognizer, predictions: Sequence[Prediction]) -> list[list[Any]]:
    """Return the head, and a row per file (window `all`) and per window if there are several;
    failed files have none."""
    head = ["file", "window", "first_frame", "last_frame", "class", *recognizer.names]
    rows: list[list[Any]] = [head]
    for prediction in predictions:
        spans = prediction.spans.tolist()
        parts: list[Any] = [("all", (spans[0][0], spans[-1][1]), prediction.probabilities)]
        if len(spans) > 1:
            parts += zip(range(len(spans)), spans, prediction.windows)
        for window, (first, end), part in parts:
            name = answer(recognizer.names, part, recognizer.threshold)
            figures = (f"{probability:.6f}" for probability in part)
            rows.append([prediction.source, window, first, end - 1, name, *figures])
    return rows


def rows_of_segments(_: Recognizer, predictions: Sequence[Prediction]) -> list[list[Any]]:
    """Return the head, and a row per segment; `from` and `to` are frames, or seconds if fps is
    known."""
    rows: list[list[Any]] = [["file", "from", "to", "class", "probability"]]
    for p in predictions:
        for s in segments(p):
            span = (s.first, s.end) if p.fps is None else (s.first / p.fps, s.end / p.fps)
            rows.append([p.source, *span, s.name, f"{s.probability:.6f}"])
    return rows
