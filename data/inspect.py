"""Look at a prepared store: what is in it, how long its tail is, whether the bodies look right.

    python -m data.inspect STORE [--protocol P] [--training-list FILE] [--sample NAME]

Prints the numbers and writes classes.png (the long-tail curve), skeletons.png (a contact sheet)
and, for a sample, an animated GIF.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

import graph
from data import long_tail, measure
from data.store import Store
from errors import InputError, Parser, run_command
from files import replacing
from graph import Skeleton

SHEET = (10, 6)  # rows (samples, each of another class) and columns (moments of each)
FRAMES_PER_SECOND = 15
MAX_FRAMES = 150  # of a GIF; longer clips are shown with frames left out
COLORS = ("tab:blue", "tab:red", "tab:green", "tab:orange", "tab:purple")  # by person


def describe(store: Store, rows: np.ndarray) -> str:
    """Return the numbers that tell whether a store is what it should be, as text."""
    lengths, counts = store.lengths[rows], class_counts(store, rows)
    quality = store.quality(rows)
    persons = np.bincount([_persons(store.clip(row)) for row in rows])
    seen = counts[counts > 0]
    lines = [
        f"{store.path}: {len(rows)} samples, {lengths.sum()} frames, layout {store.layout}",
        f"prepared from {store.meta.get('data_set', '?')}, {store.normalization or '?'}",
        f"frames of a sample: {lengths.min()} to {lengths.max()}, median {np.median(lengths):g}",
        "persons in a sample: "
        + ", ".join(f"{number} in {count}" for number, count in enumerate(persons) if count),
        *quality.lines(),
        *(f"warning: {doubt}" for doubt in quality.doubts),
        f"samples of a class: {seen.max()} to {seen.min()}, imbalance {seen.max() / seen.min():g}, "
        f"{len(seen)} of {len(counts)} classes",
    ]
    for name, column in store.columns.items():
        values = np.unique(column[rows])
        shown = ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
        lines.append(f"{name}: {len(values)} values ({shown})")
    lines += [
        f"{count:8d}  {label:3d} {name}"
        for label, (count, name) in enumerate(zip(counts, store.class_names))
    ]
    return "\n".join(lines)


def class_counts(store: Store, rows: np.ndarray) -> np.ndarray:
    """Return how many of the rows each class has, (K,)."""
    return np.bincount(store.labels[rows], minlength=len(store.class_names))


def _persons(clip: np.ndarray) -> int:
    return int(clip.any(axis=(0, 2, 3)).sum())


def draw_classes(store: Store, rows: np.ndarray, path: Path) -> None:
    """Write a picture of the samples per class, largest class first."""
    counts = class_counts(store, rows)
    order = np.argsort(-counts, kind="stable")
    figure, axes = plt.subplots(figsize=(10, 4.5), layout="constrained")
    axes.bar(np.arange(len(order)), counts[order], width=1, edgecolor="white", linewidth=0.3)
    axes.set(xlim=(-0.5, len(order) - 0.5), ylim=(0, None), ylabel="samples")
    axes.set_title(f"{store.path.name}: {len(rows)} samples of {len(order)} classes")
    shown = np.unique(np.linspace(0, len(order) - 1, 40).astype(int))
    labels = [f"{store.class_names[order[i]]} {counts[order[i]]}" for i in shown]
    axes.set_xticks(shown, labels, rotation=90, fontsize=7)
    _save(figure, path)


def draw_sheet(store: Store, rows: np.ndarray, path: Path) -> None:
    """Write a contact sheet: a sample of each of some classes, at moments from start to end."""
    labels = np.unique(store.labels[rows])
    labels = labels[np.unique(np.linspace(0, len(labels) - 1, SHEET[0]).astype(int))]
    size = (1.6 * SHEET[1], 1.7 * len(labels))
    figure, grid = plt.subplots(len(labels), SHEET[1], figsize=size, squeeze=False)
    skeleton = graph.load(store.layout)
    for line, label in zip(grid, labels):
        row = rows[store.labels[rows] == label][0]
        clip = store.clip(row)
        view = _View(clip, skeleton, store.reading.origin)
        for axes, frame in zip(line, np.linspace(0, len(clip) - 1, SHEET[1]).astype(int)):
            view.draw(axes, frame)
            axes.set_xlabel(f"frame {frame}", fontsize=7)
        line[0].set_title(
            f"{store.class_names[label]} ({store.names[row]})", loc="left", fontsize=8
        )
    figure.tight_layout()
    _save(figure, path)


def draw_sample(store: Store, row: int, path: Path) -> None:
    """Write an animated GIF of one sample."""
    clip = store.clip(row)
    view = _View(clip, graph.load(store.layout), store.reading.origin)
    figure, axes = plt.subplots(figsize=(4, 4), layout="constrained")
    title = f"{store.names[row]}: {store.class_names[store.labels[row]]}"

    def show(frame: int) -> None:
        axes.clear()
        view.draw(axes, frame)
        axes.set_title(f"{title}\nframe {frame} of {len(clip)}", fontsize=9)

    step = -(-len(clip) // MAX_FRAMES)
    movie = FuncAnimation(figure, show, frames=range(0, len(clip), step))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    movie.save(temporary, PillowWriter(fps=FRAMES_PER_SECOND))
    temporary.replace(path)
    plt.close(figure)


class _View:
    """A clip to draw: 2D poses as they are, 3D ones along their two widest axes."""

    def __init__(self, clip: np.ndarray, skeleton: Skeleton, origin: int | None) -> None:
        """`origin` is the joint that is zero because it is the origin, if there is one."""
        self.clip, self.bones = clip, np.array(skeleton.edges)
        self.seen = measure.seen(clip, origin)  # (T, M, V)
        self.is_image = skeleton.confidence or clip.shape[-1] == 2
        if self.is_image:
            self.axes = [0, 1]
        else:  # people are taller than wide
            bodies = np.where(self.seen[..., None], clip, np.nan)[self.seen.any(axis=-1)]
            extent = np.median(np.nanmax(bodies, axis=1) - np.nanmin(bodies, axis=1), axis=0)
            self.axes = np.argsort(-extent, kind="stable")[1::-1]
        points = clip[self.seen][:, self.axes]
        self.low, self.high = points.min(axis=0), points.max(axis=0)

    def draw(self, axes: Axes, frame: int) -> None:
        """Draw the persons of one frame."""
        for person, is_there, color in zip(self.clip[frame], self.seen[frame], COLORS):
            points = person[:, self.axes]
            bones = self.bones[is_there[self.bones].all(axis=1)]
            axes.add_collection(LineCollection(points[bones], colors=color, linewidths=1.2))
            axes.plot(*points[is_there].T, ".", color=color, markersize=3)
        margin = 0.05 * (self.high - self.low).max() + 1e-6
        axes.set(xlim=(self.low[0] - margin, self.high[0] + margin))
        axes.set(ylim=(self.low[1] - margin, self.high[1] + margin))
        axes.set(aspect="equal", xticks=[], yticks=[])
        if self.is_image:  # whose y grows downwards
            axes.invert_yaxis()


def _save(figure: plt.Figure, path: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    plt.close(figure)
    with replacing(path) as file:
        file.write(picture.getvalue())


def main(argv: list[str]) -> None:
    parser = Parser(prog="python -m data.inspect", description="Look at a prepared store.")
    parser.add_argument("store", type=Path)
    parser.add_argument("--protocol", help="only what this benchmark trains on")
    parser.add_argument("--training-list", help="only the samples of this list")
    parser.add_argument("--imbalance", type=float, default=100, help="what {imbalance} stands for")
    parser.add_argument("--sample", help="also write a GIF of the sample of this name")
    parser.add_argument("--out", type=Path, help="folder of the pictures (work_dir/inspect/STORE)")
    parser.add_argument("--debug", action="store_true", help="show where an error arose")
    args = parser.parse_args(argv)
    if args.training_list and not args.protocol:
        raise InputError("--training-list: name its benchmark by --protocol too")
    if "{imbalance}" not in (args.training_list or ""):
        parser.refuse(args, "--imbalance", reason="fills {imbalance} in --training-list; name one")
    store = Store.open(args.store)
    rows = np.arange(len(store))
    if args.protocol:
        rows = long_tail.training_rows(
            store, args.protocol, args.training_list, args.imbalance
        ).rows
    sample = store.rows_of([args.sample])[0] if args.sample else None
    out = args.out or Path("work_dir") / "inspect" / store.path.name
    print(describe(store, rows))
    draw_classes(store, rows, out / "classes.png")
    draw_sheet(store, rows, out / "skeletons.png")
    written = ["classes.png", "skeletons.png"]
    if sample is not None:
        written.append(f"{Path(args.sample).name}.gif")
        draw_sample(store, sample, out / written[-1])
    print(f"written to {out}: {', '.join(written)}")


if __name__ == "__main__":
    sys.exit(run_command(main))
