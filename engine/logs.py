"""Run output: the terminal, the log file, the metrics of each epoch and TensorBoard."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tensorboardX import SummaryWriter

from files import write_text

if TYPE_CHECKING:
    from engine.run import RunFolder

DASH = "–"


class Log:
    """Lines to the terminal and the log file, epochs to the metrics file and TensorBoard.

    A log without a run folder (on ranks other than 0) writes nothing.
    """

    def __init__(self, run: RunFolder | None, quiet: bool = False) -> None:
        self.run, self.quiet = run, quiet
        self.board: SummaryWriter | None = None

    def line(self, text: str | None) -> None:
        """Print one line and append it to the log file; nothing if it is empty or None."""
        if self.run is not None and text:
            with self.run.log_file.open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
            if not self.quiet:
                print(text, flush=True)

    def metrics(self, values: dict[str, Any]) -> None:
        """Append the values of one epoch (missing figures are null: JSON has no NaN)."""
        if self.run is None:
            return
        with self.run.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values, allow_nan=False) + "\n")
        for name, value in values.items():
            if self.board is not None and name != "epoch" and value is not None:
                self.board.add_scalar(name, value, values["epoch"])

    @contextmanager
    def epochs(self, first: int) -> Iterator[None]:
        """Accept metrics of epochs from `first` on; remove the lines of epochs that run again."""
        if self.run is None:
            yield
            return
        kept = [m for m in self.run.epochs() if m["epoch"] < first]
        write_text(self.run.metrics_file, "".join(json.dumps(metrics) + "\n" for metrics in kept))
        self.board = SummaryWriter(str(self.run), purge_step=first)
        try:
            yield
        finally:
            self.board.close()
            self.board = None


def percent(value: float | None) -> str:
    """Return a figure with one decimal, or a dash for None and NaN."""
    return DASH if value is None or math.isnan(value) else f"{value:.1f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a text table: the first column left-aligned, the others right-aligned.

    Columns without any value are left out.
    """
    columns = [column for column in zip(head, *rows) if set(column[1:]) != {DASH}]
    lines = list(zip(*columns))
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    text = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    ]
    text.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(text)


def shot_headings(shots: Sequence[int]) -> list[str]:
    """Return the headings of the accuracy columns, with the shot limits of the data set."""
    many, few = shots
    return ["top-1", "mean", f"many >{many}", f"medium {few}..{many}", f"few <{few}"]
