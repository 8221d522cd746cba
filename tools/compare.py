"""Compare methods on one benchmark: run what is missing, then one table.

python -m tools.compare --benchmark nw-ucla-lt --methods brl,ldam-drw --seeds 0 1 2 --equal-steps
python -m tools.compare ... --tune lr=0.5x,1x,2x loss_args.tau=0.5,1,2 --jobs auto

A method is a file of config/methods, config/released.yaml (`released`), a YAML file of your own, or
`brl`: the benchmark as it is. --store data/mine in place of --benchmark compares on own data. With
`--set 'training_list=data/lists/NAME_{imbalance}_shuffle{seed}.txt'` each seed draws which classes
are rare, and their samples. Several calls, also on several machines that share the folder, may work
on one comparison: main.py locks the folder of a run while it works there. --dry-run prints one
command per job, for xargs or Slurm.

PATH.json has all numbers: of each run, of each method (means, deviations), and its differences to
the baseline (value, low, high, p, p_holm, different), in percent.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flags
from engine import config, jobs
from engine.run import BEST, LAST
from errors import InputError, Parser, run_command
from files import write_json, write_text
from flags import STREAMS
from tools import comparison
from tools.report import intervals
from tools.sweep import LIST_KEYS, WORK_DIR, Run, Sweep, training_list
from tools.tuning import Tuned, as_chosen, tune


def job_lines(runs: Sequence[Run], devices: Sequence[str] | None) -> list[str]:
    """Return a shell line per job that is missing: a run, then the runs that start from it."""
    chains: dict[Run, list[Run]] = {}
    for run in (run for run in dict.fromkeys(runs) if not run.is_finished):
        root = run.needs if run.needs and not run.needs.is_finished else run
        chains.setdefault(root, [root])
        if run != root:
            chains[root].append(run)
    device = ["--device", *devices] if devices else []
    return [
        " && ".join(shlex.join(["python", "main.py", *run.arguments, *device]) for run in chain)
        for chain in chains.values()
    ]


def make_parser() -> Parser:
    parser = Parser(prog="python -m tools.compare", description=__doc__)

    def add(flag: str, text: str = "", **how: Any) -> None:
        parser.add_argument(flag, help=text, **how)

    seeds = {"type": int, "nargs": "+", "metavar": "N"}
    words = {"nargs": "+", "action": "extend", "default": []}
    add("--benchmark", "e.g. nw-ucla-lt or ntu120/xset")
    add("--store", "in place of a benchmark: a prepared store with a split", metavar="FOLDER")
    add("--methods", "comma-separated names, or files of your own (.yaml)", required=True)
    add("--baseline", "reference method (default: cross-entropy, else the first)")
    add("--seeds", "random seeds, a run of each method per seed (default: 0)", default=[0], **seeds)
    add("--folds", "K folds of persons in place of the usual split", type=int, metavar="K")
    add(
        "--equal-steps",
        "every method takes the optimizer steps of the longest one: its epochs grow (repeat)",
        action="store_true",
    )
    add(
        "--tune",
        "choose a value for each method that has the key; 0.5x: a multiple of its own value; "
        "KEY+KEY=V,V: the same value for both",
        metavar="KEY=V,V",
        **words,
    )
    add("--tune-seeds", "seeds of the trials (default: those of --seeds)", **seeds)
    add("--tune-split", "share of the training list that the trials hold out (default: 0.2)",
        type=float, default=0.2, metavar="F")  # fmt: skip
    add("--stream", f"{', '.join(STREAMS)} (default: joint)", choices=STREAMS, default="joint",
        metavar="NAME")  # fmt: skip
    add("--which", "checkpoint (default: last; best is chosen on the test split)",
        choices=(LAST, BEST), default=LAST)  # fmt: skip
    add("--set", "override any key for all runs", metavar="KEY=VALUE", dest="overrides", **words)
    add("--device", "GPU indices, or cpu", nargs="+", metavar="D")
    add("--jobs", "runs side by side, dealt to the GPUs; auto: as many as fit, or one per CPU core",
        type=flags.number_or_auto, default=1, metavar="N")  # fmt: skip
    add("--work-dir", "root of the runs (default: work_dir); use another for other values of --set",
        type=Path, default=WORK_DIR, metavar="DIR")  # fmt: skip
    add("--output", "write PATH.md, .json, .svg and .html", type=Path, metavar="PATH")
    add("--dry-run", "print a command for each job that is missing", action="store_true")
    add("--quiet", "errors and the table only", action="store_true")
    return parser


def parse(argv: list[str]) -> Any:
    """Return the options, `methods` as a tuple, `tune` as Tuned; InputError for what cannot be."""
    parser = make_parser()
    options = parser.parse_args(argv)
    if options.dry_run:
        parser.refuse(options, "--which", "--output", "--jobs", "--quiet",
                      reason="--dry-run makes no run and no table")  # fmt: skip
    if not options.tune:
        parser.refuse(options, "--tune-seeds", "--tune-split", reason="there is no --tune")
    if (options.benchmark is None) == (options.store is None):
        raise InputError("--benchmark NAME, or --store FOLDER for data of your own: give one")
    names = [name.strip() for name in options.methods.split(",") if name.strip()]
    options.methods = tuple(dict.fromkeys(names))
    if not options.methods:
        raise InputError("--methods: names none; e.g. --methods brl,cross-entropy")
    if options.baseline is None:
        usual = "cross-entropy"
        options.baseline = usual if usual in options.methods else options.methods[0]
    if options.baseline not in options.methods:
        raise InputError(f"--baseline {options.baseline}: is not among --methods")
    if options.folds is not None and options.folds < 2:
        raise InputError(f"--folds must be at least 2, not {options.folds}")
    for word in options.overrides:
        if word.partition("=")[0].strip() == "stream":
            raise InputError(f"--set {word}: give --stream, by which the table is named")
    options.seeds = list(dict.fromkeys(options.seeds))
    options.tune = [Tuned.parse(text) for text in options.tune]
    if options.equal_steps and any("repeat" in each.keys for each in options.tune):
        raise InputError("--tune repeat: --equal-steps sets it; leave one out")
    return options


def check_alike(sweep: Sweep, seed: int, fold: str | None) -> None:
    """Raise InputError, before anything is trained, for a method that has other shots or another
    training list than the first one, or the folder of another one."""
    settings = {
        method: sweep.resolve(method, seed, fold) for method in (*sweep.methods, *sweep.trained)
    }
    first = sweep.methods[0]
    for method in sweep.methods:
        one, own = settings[first], settings[method]
        if own.shot_limits != one.shot_limits:
            raise InputError(
                f"{method} has shots {own.shots}, {first} has {one.shots}; give one pair to all: "
                "--set shots=[MANY,FEW]"
            )
        keys = [key for key in LIST_KEYS if getattr(own, key) != getattr(one, key)]
        if keys and not same_list(one, own):
            raise InputError(
                f"{method} has another training list than {first}, so they cannot be compared: "
                f"{', '.join(keys)} must be the same for all, by --set"
            )
    owners: dict[str, str] = {}  # by the rest of their folders' names
    for method, own in settings.items():
        other = owners.setdefault(own.tag, method)
        file, its = sweep.files(method)[-1], sweep.files(other)[-1]
        if file.resolve() != its.resolve():
            raise InputError(
                f"--methods {method}: its runs would have the folders of {other}; rename the file"
            )


def same_list(one: config.Config, other: config.Config) -> bool:
    """Return whether two runs train on the same samples; True if a list or a store is not there."""
    try:
        (labels, *of_one), (others, *of_other) = map(training_list, (one, other))
    except InputError:
        return True
    return of_one == of_other and labels.tolist() == others.tolist()


def main(argv: list[str]) -> None:
    options = parse(argv)
    folder = config.benchmark_folder(options.benchmark) if options.benchmark else None
    sweep = Sweep(
        folder, options.methods, options.stream, options.work_dir, tuple(options.overrides),
        options.equal_steps, options.store,
    )  # fmt: skip
    folds = [f"{k + 1}/{options.folds}" for k in range(options.folds)] if options.folds else [None]

    def make(runs: Sequence[Run]) -> dict[jobs.Job, str] | None:
        for run in runs:
            run.check()
        if not options.dry_run:
            missing = [run for run in runs if not run.is_finished]
            slots = jobs.make_slots(options.jobs, options.device, missing)
            return jobs.run_all(missing, slots, options.work_dir / "jobs", options.quiet)
        lines = job_lines(runs, options.device)
        for line in lines:
            print(line)
        return None if lines else {}

    check_alike(sweep, options.seeds[0], folds[0])
    trials = list(dict.fromkeys(options.tune_seeds or options.seeds))
    choices = tune(sweep, options.tune, trials, folds, options.tune_split, options.which, make)
    if choices is None:
        print("the runs with the chosen values follow: call again when these are done",
              file=sys.stderr)  # fmt: skip
        return
    runs = [
        sweep.plan(method, seed, fold, as_chosen(choices))
        for seed in options.seeds
        for fold in folds
        for method in options.methods
    ]
    failures = make(runs)
    if options.dry_run or failures is None:
        return
    by_person = "the persons of " if runs[0].settings.val_by == "subject" else ""
    tuned_on = (
        f"{options.tune_split:.0%} of {by_person}the training list, held out from trials with "
        f"seeds {' '.join(map(str, trials))}"
    )
    found = comparison.compare(
        sweep, runs, options.which, options.baseline, choices, tuned_on if choices else ""
    )
    found["notes"] += [f"failed: {run.name}: {reason}" for run, reason in failures.items()]
    name = "-".join(filter(None, ("compare", found["benchmark"], sweep.tag, options.stream)))
    write(found, options.output or options.work_dir / name)
    jobs.check(failures)


def write(found: Mapping[str, Any], output: Path) -> None:
    """Write the table, the numbers, the chart and the page, and print the table."""
    text = comparison.markdown(found)
    write_text(output.with_name(f"{output.name}.md"), text)
    write_text(output.with_name(f"{output.name}.html"), comparison.page(found))
    drawing = output.with_name(f"{output.name}.svg")
    if drawn := intervals.chart(found):
        write_text(drawing, drawn)
    else:
        drawing.unlink(missing_ok=True)  # of an earlier comparison
    write_json(output.with_name(f"{output.name}.json"), found)
    print(text)


if __name__ == "__main__":
    sys.exit(run_command(main))
