"""Train, test and apply skeleton action recognition on long-tailed data.

python main.py --config config/ntu60-xsub-lt/joint.yaml --device 0 1
python main.py --phase test --weights work_dir/ntu60-xsub-lt/joint/best.pt
python main.py --phase predict --weights work_dir/ntu60-xsub-lt/*/best.pt --input clip.skeleton
"""

from __future__ import annotations

import argparse
import re
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

import flags
from errors import InputError, Parser, run_command
from flags import STREAMS

PHASES = ("train", "test", "predict", "classifier")
# The phases that accept each flag. With *: only together with --config; without it the value in the
# checkpoint is used.
USED_BY = {
    flag: phases
    for phases, flags in {
        "train classifier test predict":
            "--phase --config --set --weights --device --amp --quiet --debug",
        "train classifier test* predict*": "--stream",
        "train classifier test": "--work-dir",
        "train classifier test*": "--tag",
        "train classifier":
            "--store --seed --val-split --check --resume --overwrite --compile --accumulate",
        "train": "--new-head --jobs",
        "predict":
            "--input --output --window --stride --segments --fps --per-person --threshold "
            "--image-size --nan",
    }.items()
    for flag in flags.split()
}  # fmt: skip


def make_parser() -> Parser:
    parser = Parser(
        prog="main.py",
        usage="main.py --config FILE... | --store FOLDER | --phase test|predict --weights FILE...",
        description=__doc__,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, 4, 30),
        epilog="docs/configuration.md documents every key of a configuration file.",
    )
    add = parser.add_argument_group("run").add_argument
    add("--phase", choices=PHASES, default="train", metavar="PHASE",
        help="train (default), classifier (second stage), test, or predict")  # fmt: skip
    add("--config", nargs="+", default=[], metavar="FILE",
        help="YAML files; later ones override earlier ones")  # fmt: skip
    add("--store", metavar="FOLDER",
        help="train on this prepared store, and report; --config: other methods")  # fmt: skip
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="overrides",
        help="override any key, also a.b=value, in any order")  # fmt: skip
    add("--stream", nargs="+", choices=(*STREAMS, "all"), metavar="NAME",
        help=f"{', '.join(STREAMS)}, all")  # fmt: skip
    add("--weights", nargs="+", default=[], metavar="FILE",
        help="checkpoint, or several for predict")  # fmt: skip
    add("--new-head", action="store_true", help="train --weights for other classes")
    add("--seed", type=int, metavar="N", help="random seed (default: 0)")
    add("--val-split", type=float, metavar="F",
        help="validate on this fraction of the training list")  # fmt: skip

    add = parser.add_argument_group("device and folder").add_argument
    add("--device", nargs="+", metavar="D",
        help="GPU indices, or cpu (default: GPU 0 if there is one)")  # fmt: skip
    add("--jobs", type=flags.number_or_auto, metavar="N", help="streams side by side, or auto")
    add("--work-dir", type=Path, metavar="DIR", help="folder of this run")
    add("--tag", metavar="T", help="suffix of the run folder (default: from the overrides)")
    add("--check", action="store_true", help="say what is missing, or how long the run takes")
    add("--resume", action="store_true", help="continue from last.pt")
    add("--overwrite", action="store_true", help="discard the run in the folder")

    add = parser.add_argument_group("computation").add_argument
    add("--amp", choices=flags.AMPS, metavar="KIND",
        help="autocast: off, bf16, fp16, or auto (bf16 if the device supports it)")  # fmt: skip
    add("--compile", action="store_true", default=None, help="use torch.compile")
    add("--accumulate", type=int, metavar="B", help="accumulate gradients over B batches")

    predict = parser.add_argument_group("predict")
    add = predict.add_argument
    add("--input", nargs="+", default=[], metavar="FILE",
        help="clips (.skeleton, .json, .npy, .npz) or folders with clips")  # fmt: skip
    add("--output", metavar="FILE", help="write predictions as .json, .csv, or .html (a timeline)")
    add("--window", type=int, metavar="T", help="classify a sliding window of T frames")
    add("--stride", type=int, metavar="T", help="frames between windows (default: half a window)")
    add("--segments", action="store_true", help="merge the windows into segments with one class")
    add("--fps", type=float, metavar="F", help="frames per second, for times of segments")
    add("--per-person", action="store_true", help="classify each body of a clip by itself")
    add("--threshold", type=float, metavar="P", help="answer `unknown` below this probability")
    add("--image-size", type=float, nargs=2, metavar=("H", "W"),
        help="image height and width, for 2D poses in pixels")  # fmt: skip
    flags.add_nan(predict)

    add = parser.add_argument_group("output").add_argument
    add("--quiet", action="store_true", help="print errors only")
    return parser


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the options; InputError for a flag that the phase does not use (see USED_BY)."""
    parser = make_parser()
    options = parser.parse_args(argv)
    # A key of a checkpoint's own configuration and its flag are one; --store is more than its key.
    words = [] if options.config else options.overrides
    keys = [f"--{re.split('[.=]', word)[0].strip().replace('_', '-')}" for word in words]
    keys = [flag for flag in keys if flag in USED_BY and flag != "--store"]
    for flag in [*parser.given(options), *keys]:
        phases = USED_BY[flag].split()
        if f"{options.phase}*" in phases and not options.config:
            raise InputError(
                f"{flag}: the checkpoint has its own value; omit the flag, or add --config"
            )
        if options.phase not in (phase.rstrip("*") for phase in phases):
            users = ", ".join(phase.rstrip("*") for phase in phases)
            raise InputError(f"{flag}: --phase {options.phase} does not use it, only {users}")
    if options.resume and options.overwrite:
        raise InputError("--resume continues a run and --overwrite discards it; give one of them")
    # What the processes of --jobs are told, besides what each has of its own
    options.words = parser.words(
        options, "--stream", "--jobs", "--device", "--work-dir", "--quiet"
    )  # fmt: skip
    return options


def main(argv: list[str]) -> None:
    options = parse(argv)
    # Only now: torch takes seconds to import, and --help or a misspelled flag do not need it.
    from engine import commands

    folders = commands.run(options)
    if len(folders) > 1:
        import ensemble

        named = [] if "all" in options.stream else ["--streams", *options.stream]
        quiet = ["--quiet"] if options.quiet else []
        ensemble.main([f"--folder={folders[0].parent}", *named, *quiet])
    if folders and options.store:
        from tools.report.__main__ import main as report

        folder = folders[0] if options.work_dir and len(folders) == 1 else folders[0].parent
        with redirect_stdout(None) if options.quiet else nullcontext():
            report([str(folder)])


if __name__ == "__main__":
    sys.exit(run_command(main))
