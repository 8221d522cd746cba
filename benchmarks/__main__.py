"""Measurements of speed and memory; each subcommand has its own --help.

python -m benchmarks train --help
python -m benchmarks gpu --json gpu.json
"""

from __future__ import annotations

import sys
from importlib import import_module

from errors import Parser, run_command

NAMES = ("train", "test", "feed", "models", "predict", "data", "gpu")


def main(argv: list[str]) -> None:
    if argv and argv[0] in NAMES:
        import_module(f"benchmarks.{argv[0]}").main(argv[1:])
        return
    parser = Parser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(run_command(main))
