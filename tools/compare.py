"""Compare methods on one benchmark: run what is missing, then one table beside the published one.

python -m tools.compare --benchmark nw-ucla-lt --methods brl,ldam-drw --seeds 0 1 2
python -m tools.compare --benchmark nw-ucla-lt --methods brl,ldam-drw --seeds 0 1 2 --dry-run

A method is a file of config/methods, config/released.yaml (`released`), or `brl`: the benchmark as
it is. Several processes, also of several machines that share the folder, may work on one sweep:
main.py locks the folder of a run while it works there. With --dry-run the lines printed are
commands of their own, to be spread by other means.
"""

from __future__ import annotations

import csv
import io
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from engine import config, logs, recipe
from engine.run import LAST, RunFolder
from errors import BAD_INPUT, InputError, Parser, Stopped, nearest, run_command
from feeders.streams import NAMES as STREAMS
from files import write_text
from longtail.shots import METRICS
from tools import published

MAIN = Path(__file__).resolve().parents[1] / "main.py"
POLL = 5.0  # seconds between two looks at a run that another process makes


@dataclass(frozen=True)
class Run:
    """One method with one seed: where it lies, what main.py is told, the run it starts from."""

    method: str
    seed: int
    folder: Path
    settings: config.Config = field(compare=False)
    arguments: tuple[str, ...]
    needs: Run | None = None

    def check(self) -> None:
        """Raise InputError if the folder, or the needed run's, holds a run with other values."""
        if self.needs is not None:
            self.needs.check()
        if changed := self.place.changed_keys(self.settings):
            raise InputError(
                f"{self.folder} contains a run with other values of {', '.join(changed)}; "
                "another --work-dir keeps both"
            )

    @property
    def place(self) -> RunFolder:
        return RunFolder(self.folder)

    def result(self, which: str = LAST) -> dict[str, Any] | None:
        """Return the result of the last or best checkpoint; None while the run is not finished."""
        return self.place.result(which) if self.place.is_finished(self.settings) else None


def method_files(method: str, benchmark: Path = config.CONFIG_ROOT) -> list[Path]:
    """Return the configuration file of a method, none for brl; InputError names the known ones."""
    files = recipe.method_files(benchmark)
    if method not in (known := [*files, recipe.BRL]):
        raise InputError(
            f"--methods {method}: no such method{nearest(method, known)}; known: {', '.join(known)}"
        )
    return [files[method]] if method in files else []


@dataclass(frozen=True)
class Sweep:
    """What all runs of a comparison share."""

    benchmark: Path  # its folder of configurations
    stream: str = "joint"
    root: Path = Path("work_dir")
    overrides: tuple[str, ...] = ()
    options: tuple[str, ...] = ()  # for main.py: --device and the like

    def plan(self, method: str, seed: int) -> Run:
        """Return the run of a method; a classifier method needs the run of its parent file."""
        files = [self.benchmark / f"{self.stream}.yaml", *method_files(method, self.benchmark)]
        settings = config.resolve(files, self.overrides, seed=seed)
        folder = config.run_folder(settings, self.root)
        arguments = ["--config", *map(shown, files), "--seed", str(seed), *self.options]
        if self.overrides:
            arguments += ["--set", *self.overrides]
        if self.root != Path("work_dir"):
            arguments += ["--work-dir", str(folder)]
        needs = None
        if settings.classifier is not None:
            needs = self.plan(Path(yaml.safe_load(files[-1].read_text())["base"]).stem, seed)
            arguments += ["--phase", "classifier", "--weights", str(needs.place.checkpoint(LAST))]
        return Run(method, seed, folder, settings, tuple(arguments), needs)

    def command(self, run: Run, shared: bool = False) -> str:
        """Return one plain command that makes a run. One that starts from another's weights is a
        call of this tool, which makes or awaits that one first; so is a `shared` run, one that
        others start from: as it is claimed, none of them makes it a second time."""
        if run.needs is None and not shared:
            return shlex.join(["python", "main.py", *run.arguments, "--resume"])
        words = ["python", "-m", "tools.compare", "--benchmark", self.benchmark.name]
        words += ["--methods", run.method, "--seeds", str(run.seed), "--stream", self.stream]
        words += ["--work-dir", str(self.root), *self.options]
        return shlex.join([*words, *(["--set", *self.overrides] if self.overrides else [])])


def shown(path: Path) -> str:
    """Return a path relative to the current folder where it lies below it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def execute(run: Run) -> str:
    """Make a run, and the one it needs; returns 'done', 'busy' (elsewhere) or what went wrong.

    main.py locks the folder of its run, so of several calls that start one run one makes it.
    """
    while run.needs is not None and run.needs.result() is None:
        state = execute(run.needs)
        if state not in ("done", "busy"):
            return state
        if state == "busy":
            time.sleep(POLL)
    if run.result() is not None:
        return "done"
    if run.place.is_locked:
        return "busy"
    print(f"{run.method}, seed {run.seed}: {run.folder}", flush=True)
    code = supervise([sys.executable, str(MAIN), *run.arguments, "--resume"])
    if code == BAD_INPUT and run.place.is_locked:  # another call was faster
        return "busy"
    return "done" if code == 0 else f"exit code {code}"


def supervise(command: Sequence[str]) -> int:
    """Run a command to its end, which is at the latest that of this process."""
    process = subprocess.Popen(command)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()  # main.py saves, to be resumed
            process.wait()


# --- the table ---


def summarise(results: Sequence[dict[str, Any]]) -> dict[str, tuple[float, float | None] | None]:
    """Return (mean, sample standard deviation) of each metric over seeds; None where there is none.

    One seed has no deviation.
    """
    summary: dict[str, tuple[float, float | None] | None] = {}
    for metric in METRICS:
        values = [result[metric] for result in results if result[metric] is not None]
        deviation = statistics.stdev(values) if len(values) > 1 else None
        summary[metric] = (statistics.mean(values), deviation) if values else None
    return summary


def tabulate(sweep: Sweep, runs: Sequence[Run], which: str) -> tuple[str, str]:
    """Return the comparison as (CSV, Markdown), methods in the order of the runs."""
    settings = config.resolve([sweep.benchmark / f"{sweep.stream}.yaml"], sweep.overrides)
    heads = logs.shot_headings(settings.shots)
    buffer = io.StringIO()
    rows = csv.writer(buffer, lineterminator="\n")
    deviations = [name for metric in METRICS for name in (metric, f"{metric}_sd")]
    rows.writerow(["method", "stream", "checkpoint", "seeds", *deviations]
                  + [f"published_{metric}" for metric in METRICS])  # fmt: skip
    lines = [
        f"{settings.benchmark}, {sweep.stream}, {which}.pt; mean ± standard deviation over seeds",
        "",
        "| method | seeds | " + " | ".join(heads) + " | published top-1 (many, medium, few) |",
        "| --- | ---: |" + " ---: |" * (len(heads) + 1),
    ]
    notes: list[str] = []
    for method in dict.fromkeys(run.method for run in runs):
        own = [run for run in runs if run.method == method]
        done = {run.seed: run.result(which) for run in own}
        done = {seed: result for seed, result in done.items() if result is not None}
        summary = summarise(list(done.values()))
        facts = [run.place.describe(which) for run in own if run.seed in done]
        others = [published.beside(facts, sweep.stream, metric) for metric in METRICS]
        notes += [
            f"{run.method}, seed {run.seed}: {why}"
            for run, fact in zip((run for run in own if run.seed in done), facts)
            if (why := published.why_none(fact))
        ]
        flat = [value for metric in METRICS for value in summary[metric] or (None, None)]
        rows.writerow([method, sweep.stream, which, " ".join(map(str, done))]
                      + ["" if value is None else f"{value:.3f}" for value in flat]
                      + ["" if value is None else value for value in others])  # fmt: skip
        shots = [logs.percent(value) for value in others[2:]]
        beside = logs.percent(others[0])
        if any(value is not None for value in others[2:]):
            beside += f" ({', '.join(shots)})"
        cells = [spread(summary[metric]) for metric in METRICS]
        lines.append(f"| {method} | {len(done)} | {' | '.join(cells)} | {beside} |")
    lines += [f"\n{note}" for note in dict.fromkeys(notes)]
    return buffer.getvalue(), "\n".join(lines) + "\n"


def spread(figure: tuple[float, float | None] | None) -> str:
    """Return `mean ± deviation`, the mean alone, or a dash."""
    if figure is None or figure[1] is None:
        return logs.percent(figure and figure[0])
    return f"{figure[0]:.1f} ± {figure[1]:.1f}"


def main(argv: list[str]) -> None:
    parser = Parser(prog="python -m tools.compare", description=__doc__)
    add = parser.add_argument
    add("--benchmark", required=True, help="e.g. nw-ucla-lt or ntu120/xset")
    add("--methods", required=True, help="names with commas between")
    add("--seeds", type=int, nargs="+", default=[0])
    add("--stream", choices=STREAMS, default="joint")
    add("--which", choices=("last", "best"), default="last", help="best is chosen on the test set")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="overrides")
    add("--device", nargs="+", metavar="D", help="GPU indices, or cpu")
    add("--work-dir", type=Path, default=Path("work_dir"), help="root of the runs; one a --set")
    add("--output", type=Path, metavar="PATH", help="the tables are PATH.csv and PATH.md")
    add("--dry-run", action="store_true", help="print a command for each run that is missing")
    add("--quiet", action="store_true", help="pass --quiet on to main.py")
    add("--debug", action="store_true", help="errors with their traceback")
    options = parser.parse_args(argv)
    if options.dry_run:
        parser.refuse(options, "--which", "--output", reason="--dry-run makes no table")
    passed = ["--device", *options.device] if options.device else []
    sweep = Sweep(
        config.benchmark_folder(options.benchmark),
        options.stream,
        options.work_dir,
        tuple(options.overrides),
        (*passed, *(["--quiet"] if options.quiet else [])),
    )
    methods = [name.strip() for name in options.methods.split(",") if name.strip()]
    if not methods:
        raise InputError("--methods: names none; e.g. --methods brl,cross-entropy")
    runs = [sweep.plan(method, seed) for seed in options.seeds for method in methods]
    for run in runs:
        run.check()
    if options.dry_run:
        needed = {run.needs for run in runs}
        for run in dict.fromkeys(runs):
            if run.result() is None:
                print(sweep.command(run, shared=run in needed))
        return
    signal.signal(signal.SIGTERM, stop)
    states = {run: execute(run) for run in runs}
    table, text = tabulate(sweep, runs, options.which)
    output = options.output or options.work_dir / f"compare-{sweep.benchmark.name}-{options.stream}"
    write_text(output.with_name(f"{output.name}.csv"), table)
    write_text(output.with_name(f"{output.name}.md"), text)
    print(text)
    for run, state in states.items():
        if state == "busy":
            print(f"{run.folder}: another process is at it; call again for the whole table")
    failed = [f"{run.folder} ({s})" for run, s in states.items() if s not in ("done", "busy")]
    if failed:
        raise ChildProcessError(f"failed: {', '.join(failed)}")


def stop(*_: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not break off the saving
    raise Stopped("the run under way was saved; the same call continues")


if __name__ == "__main__":
    sys.exit(run_command(main))
