"""An HTML report of the results.

python -m tools.report work_dir/ntu60-xsub-lt work_dir/ntu60-xsub-lt-cross-entropy
python -m tools.report work_dir    # an overview of all runs
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import graph
from data import names
from data.store import Store
from errors import InputError, Parser, run_command
from files import write_text
from tools.report import clips, overview, page
from tools.report.gather import Report, differing, gather


def main(argv: list[str]) -> None:
    """Write the page and, with `--figures`, the plots; print their paths."""
    args = parse(argv)
    out = args.out or args.folders[0] / "report.html"
    if len(args.folders) == 1 and (runs := overview.runs_below(args.folders[0])):
        if args.figures:
            raise InputError(f"--figures: of a benchmark folder, not of all of {args.folders[0]}")
        write_text(out, overview.render(args.folders[0], runs, out))
        print(f"{out}: {len(runs)} runs")
        return
    report = gather(args.folders)
    store = Store.open(args.store) if args.store else None
    drawn: list[dict[str, Any]] = []
    try:
        paths = [run.config["store"] for run in report.runs if "store" in run.config]
        if store is None and paths:
            store = Store.open(paths[0])
        if store and report.entries:
            drawn = clips.draw(report, store, args.clips)
    except InputError as error:
        report.notes.append(f"Clips are not drawn: {error}")
    classes = class_names(report, store)
    edges = graph.load(store.layout).edges if store else ()
    write_text(out, page.render(page.encode(report, classes, drawn, edges)))
    for note in report.notes:
        print(f"note: {note}")
    print(f"{out} ({out.stat().st_size / 1e6:.1f} MB)")
    if args.figures:
        from tools import plots  # matplotlib takes a second to load

        for file in plots.save_all(report, classes, args.figures):
            print(file)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m tools.report", description=__doc__)
    add = parser.add_argument
    add("folders", nargs="+", type=Path, metavar="FOLDER",
        help="run folder, benchmark folder, or the folder of all")  # fmt: skip
    add("--out", type=Path, metavar="FILE",
        help="output file (default: report.html in the first folder)")  # fmt: skip
    add("--store", type=Path, metavar="DIR",
        help="prepared store (default: from the configuration)")  # fmt: skip
    add("--clips", type=int, default=12, metavar="N", help="draw the N hardest clips (default: 12)")
    add("--figures", type=Path, metavar="DIR", help="also write plots to DIR, as PNG and PDF")
    return parser.parse_args(argv)


def class_names(report: Report, store: Store | None) -> list[str]:
    """Return the names of the K classes: those that the runs were tested with, else those in the
    store, else numbers."""
    K = report.num_class
    report.notes += [
        f"{run.name} has other class names than {first.name}, whose are shown."
        for run, first in differing(report.runs, lambda run: run.facts.get("class_names"))
    ]
    for run in report.runs:
        if own := run.facts.get("class_names"):
            return list(own)
    if store and len(store.class_names) >= K:
        return store.class_names[:K]  # a store of NTU 120 can be used for NTU 60
    return names.numbered(range(K))


if __name__ == "__main__":
    sys.exit(run_command(main))
