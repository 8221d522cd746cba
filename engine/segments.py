"""Segments of a long recording: overlapping windows merged into spans with one answer."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from engine.predict import UNKNOWN, Prediction, answer
from files import page

# Okabe and Ito's palette without black, which is safe for color-blind readers.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#a6761d")
GRAY = "#9aa0a8"  # for unknown, and for frames that no window with a body covers

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem }
h2 { font-size: 1rem; margin: 1.5rem 0 .3rem; overflow-wrap: anywhere }
svg { display: block; width: 100%; height: 3.2rem } table { border-collapse: collapse }
th, td { padding: .15rem 1.2rem .15rem 0; text-align: left; font-weight: 400 }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .4em }
"""


@dataclass(frozen=True)
class Segment:
    """Frames first to end - 1 with the same answer."""

    first: int
    end: int
    name: str
    probability: float  # mean over the frames


def segments(prediction: Prediction) -> list[Segment]:
    """Return the segments of a recording, in order.

    The probabilities of a frame are the mean of those of the windows that contain it; its answer is
    the most probable class, or `unknown` below the threshold. Neighboring frames with the same
    answer are one segment. Frames in no window, where nobody was seen, belong to none.
    """
    edges = np.unique(prediction.spans)  # between two of them, frames are in the same windows
    total, windows = np.zeros((len(edges) - 1, len(prediction.names))), np.zeros(len(edges) - 1)
    for (first, end), part in zip(np.searchsorted(edges, prediction.spans), prediction.windows):
        total[first:end] += part
        windows[first:end] += 1
    means = total / np.maximum(windows, 1)[:, None]
    answers = [
        answer(prediction.names, row, prediction.threshold) if covered else None
        for row, covered in zip(means, windows)
    ]
    lengths, best = np.diff(edges), means.max(axis=1)
    found: list[Segment] = []
    for name, group in groupby(range(len(answers)), key=lambda part: answers[part]):
        if name is not None:
            first, *_ = parts = list(group)
            probability = float(np.average(best[parts], weights=lengths[parts]))
            found.append(Segment(int(edges[first]), int(edges[parts[-1] + 1]), name, probability))
    return found


def time(frame: int, fps: float | None) -> str:
    """Return a frame number, or with `fps` minutes and seconds."""
    if fps is None:
        return str(frame)
    minutes, tenths = divmod(round(10 * frame / fps), 600)
    return f"{minutes}:{tenths / 10:04.1f}"


def timeline(predictions: Sequence[Prediction]) -> str:
    """Return a self-contained HTML page with one bar of colored segments per recording."""
    found = [(prediction, segments(prediction)) for prediction in predictions]
    names = dict.fromkeys(segment.name for _, each in found for segment in each)
    known = [name for name in names if name != UNKNOWN]
    colors = {name: COLORS[place % len(COLORS)] for place, name in enumerate(known)}
    bars = "".join(
        f"<h2>{html.escape(prediction.source)}</h2>{_bar(each, colors, prediction.fps)}"
        for prediction, each in found
    )
    legend = "".join(
        f'<span><i style="background:{colors.get(name, GRAY)}"></i>{html.escape(name)}</span>'
        for name in names
    )
    body = f'<h1>Segments</h1>\n<p class="legend">{legend}</p>\n{bars}'
    return page("Segments", STYLE, body)


def _bar(found: Sequence[Segment], colors: dict[str, str], fps: float | None) -> str:
    """Return the bar of one recording, and its segments as a table."""
    length = found[-1].end if found else 1
    parts = rows = ""
    for s in found:
        first, end, name = time(s.first, fps), time(s.end, fps), html.escape(s.name)
        parts += (
            f'<rect x="{s.first}" width="{s.end - s.first}" height="1" fill="'
            f'{colors.get(s.name, GRAY)}"><title>{first} to {end}: {name} {s.probability:.3f}'
            "</title></rect>"
        )
        rows += (
            f"<tr><td>{first}</td><td>{end}</td><td>{name}</td><td>{s.probability:.3f}</td></tr>"
        )
    unit = "frames" if fps is None else "minutes and seconds"
    head = f"<tr><th>from</th><th>to ({unit})</th><th>class</th><th>probability</th></tr>"
    return (
        f'<svg viewBox="0 0 {length} 1" preserveAspectRatio="none" role="img" aria-label="Timeline '
        f'of {len(found)} segments">{parts}</svg><details><summary>As a table</summary>'
        f"<table>{head}{rows}</table></details>"
    )
