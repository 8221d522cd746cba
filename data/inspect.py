"""Inspect a prepared store.

    python -m data.inspect STORE [--protocol P] [--training-list FILE] [--sample NAME]

Prints statistics and writes classes.png (the long-tail curve), skeletons.png (a contact sheet)
and, with --sample, an animated GIF.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

import graph
from data import long_tail
from data.names import file_name
from data.store import Store
from data.view import pose
from errors import InputError, Parser, run_command
from files import replacing
from graph import Skeleton

SHEET = (6, 6)  # rows (one sample per class) and columns (frames of the sample)
FRAMES_PER_SECOND = 15
MAX_FRAMES = 150  # of a GIF; longer clips are subsampled
# Sides of the body, in Okabe and Ito's palette, which is safe for color-blind readers; further
# persons are paler.
SIDES = {"left": "#0072b2", "right": "#d55e00", "": "#63676f"}
PALER = 0.4


def describe(store: Store, rows: np.ndarray) -> str:
    """Return the statistics of these rows of a store, as text."""
    lengths, counts = store.lengths[rows], class_counts(store, rows)
    quality = store.quality(rows)
    persons = np.bincount([store.clip(row).any(axis=(0, 2, 3)).sum() for row in rows])
    seen = counts[counts > 0]
    lines = [
        f"{store.path}: {len(rows)} samples, {lengths.sum()} frames, layout {store.layout}",
        f"prepared from {store.meta.get('data_set', '?')}, {store.normalization or '?'}",
        f"frames per sample: {lengths.min()} to {lengths.max()}, median {np.median(lengths):g}",
        "samples "
        + "; ".join(
            f"with {number} person{'s' if number != 1 else ''}: {count}"
            for number, count in enumerate(persons)
            if count
        ),
        *quality.lines(),
        *(f"warning: {doubt}" for doubt in quality.doubts),
        f"samples per class: {seen.max()} to {seen.min()}, imbalance {seen.max() / seen.min():g}, "
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
    """Return the number of rows of each class, (K,)."""
    return np.bincount(store.labels[rows], minlength=len(store.class_names))


def draw_classes(store: Store, rows: np.ndarray, path: Path) -> None:
    """Write a bar chart of the samples per class, largest class first."""
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
    """Write a contact sheet: one row per class, with frames of a sample from start to end."""
    labels = np.unique(store.labels[rows])
    labels = labels[np.unique(np.linspace(0, len(labels) - 1, SHEET[0]).astype(int))]
    size = (1.5 * SHEET[1] + 1, 1.75 * len(labels) + 0.4)
    figure, grid = plt.subplots(
        len(labels), SHEET[1], figsize=size, squeeze=False, layout="constrained"
    )
    skeleton = graph.load(store.layout)
    for line, label in zip(grid, labels):
        row = rows[store.labels[rows] == label][0]
        points = pose(store.clip(row), skeleton, store.reading.origin)
        for axes, frame in zip(line, np.linspace(0, len(points) - 1, SHEET[1]).astype(int)):
            draw_persons(axes, points[frame], skeleton)
            axes.spines[:].set_visible(False)
            axes.set_xlabel(f"frame {frame}", fontsize=7, color=SIDES[""], labelpad=1)
        line[0].set_ylabel(f"{store.class_names[label]}\n{store.names[row]}", fontsize=8)
    handles = [
        Line2D([], [], color=color, linewidth=3, label=side)
        for side, color in SIDES.items() if side
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    _save(figure, path)


def draw_sample(store: Store, row: int, path: Path) -> None:
    """Write an animated GIF of one sample."""
    skeleton = graph.load(store.layout)
    points = pose(store.clip(row), skeleton, store.reading.origin)
    figure, axes = plt.subplots(figsize=(4, 4), layout="constrained")
    title = f"{store.names[row]}: {store.class_names[store.labels[row]]}"

    def show(frame: int) -> None:
        axes.clear()
        draw_persons(axes, points[frame], skeleton)
        axes.set_title(f"{title}\nframe {frame} of {len(points)}", fontsize=9)

    step = -(-len(points) // MAX_FRAMES)
    movie = FuncAnimation(figure, show, frames=range(0, len(points), step))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    movie.save(temporary, PillowWriter(fps=FRAMES_PER_SECOND))
    temporary.replace(path)
    plt.close(figure)


def draw_persons(axes: Axes, points: np.ndarray, skeleton: Skeleton) -> None:
    """Draw the persons of one frame, (M, V, 3) from `view.pose`, without joints that are NaN."""
    bones = np.array(skeleton.edges)
    colors = np.array([SIDES.get(joint.split(" ")[0], SIDES[""]) for joint in skeleton.joints])
    for m, person in enumerate(points[..., :2]):
        alpha = PALER if m else 1.0
        lines = LineCollection(person[bones], colors=colors[bones[:, 0]], linewidths=2.2)
        lines.set(alpha=alpha, capstyle="round")
        axes.add_collection(lines)
        x, y = person.T
        axes.scatter(x, y, s=7, c=colors, alpha=alpha)
    axes.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal", xticks=[], yticks=[])


def _save(figure: plt.Figure, path: Path) -> None:
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=120)
    plt.close(figure)


def main(argv: list[str]) -> None:
    parser = Parser(prog="python -m data.inspect", description=__doc__)
    add = parser.add_argument
    add("store", type=Path, help="folder of the store")
    add("--protocol", help="only the training split of this benchmark")
    add("--training-list", help="only the samples in this list")
    add("--imbalance", type=float, default=100,
        help="value of {imbalance} in --training-list (default: 100)")  # fmt: skip
    add("--sample", metavar="NAME", help="also write a GIF of this sample")
    add("--out", type=Path, help="folder of the pictures (default: work_dir/inspect/STORE)")
    args = parser.parse_args(argv)
    if args.training_list and not args.protocol:
        raise InputError("--training-list: give its benchmark with --protocol too")
    if "{imbalance}" not in (args.training_list or ""):
        parser.refuse(args, "--imbalance", reason="applies only to {imbalance} in --training-list")
    store = Store.open(args.store)
    rows = np.arange(len(store))
    if args.protocol:
        rows = long_tail.training_rows(
            store, args.protocol, args.training_list, args.imbalance
        ).rows
    sample = store.rows_of([args.sample], "--sample")[0] if args.sample else None
    out = args.out or Path("work_dir") / "inspect" / store.path.name
    print(describe(store, rows))
    draw_classes(store, rows, out / "classes.png")
    draw_sheet(store, rows, out / "skeletons.png")
    written = ["classes.png", "skeletons.png"]
    if sample is not None:
        written.append(f"{file_name(args.sample)}.gif")
        draw_sample(store, sample, out / written[-1])
    print(f"written to {out}: {', '.join(written)}")


if __name__ == "__main__":
    sys.exit(run_command(main))
