"""Errors that a user can fix, the command-line parser, and the exit codes of all commands.

Exit codes: 0 success; 2 bad configuration or input; 75 stopped by SIGTERM, can be resumed; 1 other.
"""

from __future__ import annotations

import argparse
import difflib
import io
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

BAD_INPUT = 2
RESUMABLE = 75
# A path that does not exist, or is not of the expected kind (file or directory).
WRONG_PATH = FileNotFoundError | FileExistsError | IsADirectoryError | NotADirectoryError


class InputError(ValueError):
    """Bad configuration or data; the message is one line that names the file or key and the fix."""


class Stopped(Exception):
    """The run received SIGTERM and has saved the state that `--resume` needs."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ' (did you mean X?)' with the known word closest to `word`, or '' if none is close."""
    matches = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {matches[0]}?)" if matches else ""


def check_word(key: str, word: Any, known: Iterable[str]) -> None:
    """Raise InputError for a value of `key` that is none of the known words."""
    words = list(known)
    if word not in words:
        hint = nearest(str(word), words)
        raise InputError(f"{key} must be one of {', '.join(words)}, not {word!r}{hint}")


class Parser(argparse.ArgumentParser):
    """An argument parser that raises InputError; for an unknown flag it suggests the closest.

    Every command has --debug, which `run_command` reads.
    """

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **settings)
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see --help")

    def parse_args(  # type: ignore[override]  # its overloads differ in the namespace's type
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flag = unknown[0].partition("=")[0]
            hint = nearest(flag, _flags(self))
            raise InputError(f"unknown argument {flag}{hint}; see --help")
        return options

    def given(self, options: argparse.Namespace) -> list[str]:
        """Return the flags with values other than their defaults, in the order of --help."""
        return [
            action.option_strings[-1]
            for action in self._actions
            if action.option_strings
            and getattr(options, action.dest, action.default) != action.default
        ]

    def words(self, options: argparse.Namespace, *without: str) -> list[str]:
        """Return a command line that says what `options` say, except the flags of `without`."""
        words: list[str] = []
        for action in self._actions:
            flag = action.option_strings[-1] if action.option_strings else ""
            if flag in self.given(options) and flag not in without:
                value = getattr(options, action.dest)
                values = [] if action.nargs == 0 else value if isinstance(value, list) else [value]
                words += [flag, *map(str, values)]
        return words

    def refuse(self, options: argparse.Namespace, *flags: str, reason: str) -> None:
        """Raise InputError for the first of `flags` that is given, so that none is ignored."""
        for flag in self.given(options):
            if flag in flags:
                raise InputError(f"{flag}: {reason}")

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """Raise InputError for a repeated flag, of which argparse would use only the last."""
        seen: set[str] = set()
        for word in sys.argv[1:] if args is None else args:
            action = self._option_string_actions.get(word.partition("=")[0])
            if action is None or action.nargs == 0 or isinstance(action, argparse._ExtendAction):
                continue
            if action.dest in seen:
                raise InputError(f"{action.option_strings[-1]} is given twice; give it once")
            seen.add(action.dest)
        return super().parse_known_args(args, namespace)


def _flags(parser: argparse.ArgumentParser) -> list[str]:
    """Return the flags of a parser and of its subcommands."""
    flags: list[str] = []
    for action in parser._actions:
        flags += action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            flags += [flag for command in action.choices.values() for flag in _flags(command)]
    return flags


def run_command(main: Callable[[list[str]], None], argv: list[str] | None = None) -> int:
    """Run `main(argv)` and return the exit code.

    An error prints one line; with --debug it is raised, with its traceback.
    """
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):  # a terminal without ± prints an escape sequence
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        main(argv)
    except Stopped as stop:
        print(f"stopped: {stop}", file=sys.stderr)
        return RESUMABLE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if "--debug" in argv:
            raise
        if isinstance(error, InputError | OSError):
            print(f"error: {error}", file=sys.stderr)
        else:
            reason = " ".join(str(error).split())
            message = f"{type(error).__name__}: {reason} (--debug shows the traceback)"
            print(f"error: {message}", file=sys.stderr)
        return BAD_INPUT if isinstance(error, InputError | WRONG_PATH) else 1
    return 0
