"""Flags that several commands share, and the words that they take.

A command parses its flags before it imports what takes seconds, so this module imports little.
"""

from __future__ import annotations

import argparse
import os
from typing import Literal, get_args

Stream = Literal["joint", "bone", "skip", "joint-motion", "bone-motion", "skip-motion"]
STREAMS: tuple[str, ...] = get_args(Stream)
Amp = Literal["off", "bf16", "fp16", "auto"]  # auto: bf16 if the device supports it
AMPS: tuple[str, ...] = get_args(Amp)
NAN = ("refuse", "zero", "interpolate")  # treatment of joints that are NaN or infinite
AUTO = "auto"


def add_nan(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add --nan to the command line of a program that reads clips."""
    parser.add_argument(
        "--nan", choices=NAN, default="refuse", metavar="HOW",
        help="NaN joints: refuse (default), zero (unseen), or interpolate",
    )  # fmt: skip


def number_or_auto(text: str) -> int | str:
    """Return what `--jobs` says; for argparse."""
    if text == AUTO:
        return text
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, at least 1, or {AUTO}")
    return int(text)


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
