"""Measurements, each a command of its own that explains itself with --help.

python -m tools.benchmark train --help
"""

from __future__ import annotations

import sys
from importlib import import_module

from errors import Parser, run_command

WHAT = {
    "train": "tools.benchmark_train",
    "test": "tools.benchmark_test",
    "feed": "tools.benchmark_feed",
    "models": "tools.benchmark_models",
    "predict": "tools.benchmark_predict",
}


def main(argv: list[str]) -> None:
    if argv and argv[0] in WHAT:
        import_module(WHAT[argv[0]]).main(argv[1:])
        return
    parser = Parser(prog="python -m tools.benchmark", description=__doc__)
    parser.add_argument("what", choices=WHAT)
    parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(run_command(main))
