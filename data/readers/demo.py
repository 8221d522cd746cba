"""Synthetic demo data: raw files in the format of NTU RGB+D are generated, then read."""

from __future__ import annotations

import argparse
import atexit
import tempfile
from dataclasses import replace
from pathlib import Path

from data.readers import Raw, ntu, splits


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=splits.seed, default=0, help="random seed (default: 0)")


def reader(args: argparse.Namespace) -> Raw:
    from data import demo  # only this data set needs it

    folder = tempfile.TemporaryDirectory(prefix="demo-")
    atexit.register(folder.cleanup)
    demo.write_raw(Path(folder.name), seed=args.seed)
    raw = ntu.raw([Path(folder.name)], list(demo.CLASS_NAMES))
    return replace(raw, meta={**raw.meta, "seed": args.seed})
