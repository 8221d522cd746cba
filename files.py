"""Atomic writes: a temporary file in the same folder is written, synced, then renamed."""

from __future__ import annotations

import json
import lzma
import os
import tarfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from errors import InputError

# Errors that NumPy, zipfile and tarfile raise for missing, damaged or encrypted files.
UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    EOFError,
    SyntaxError,
    OverflowError,
    MemoryError,
    RuntimeError,
    tokenize.TokenError,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


@contextmanager
def reading(path: str | Path, what: str = "cannot be read") -> Iterator[None]:
    """Raise errors of a missing, damaged or encrypted file as an InputError that names it."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file or folder") from None
    except UNREADABLE as error:
        raise InputError(f"{path}: {what} ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """Return the message of an error as one line, that of NumPy about objects with the way out."""
    if any(words in str(error) for words in ("allow_pickle", "Python objects")):
        return (
            "it contains pickled Python objects, which can execute arbitrary code; save one array "
            "of numbers, all frames with the same joints and channels"
        )
    if isinstance(error, KeyError):
        return f"it has no array {error}"
    return " ".join(str(error).split())


@contextmanager
def replacing(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file that replaces `path` when the block ends without an error.

    On any error (full disk, interrupt) the temporary file is removed and `path` is unchanged.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open(mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def check_output(flag: str, target: Path, *sources: Path) -> None:
    """Raise InputError if a file that is to be written is one of those that are read."""
    _check_unread(flag, target, {source.resolve() for source in sources})


def check_outputs(flag: str, targets: Mapping[Path, Path]) -> None:
    """Raise InputError if a file of {source: file to write} is read, or is that of two sources."""
    read = {source.resolve() for source in targets}  # once: there may be many thousands
    first: dict[Path, Path] = {}
    for source, target in targets.items():
        _check_unread(flag, target, read)
        if (other := first.setdefault(target.resolve(), source)) != source:
            raise InputError(
                f"{other} and {source} would both be written to {target}; rename one of them"
            )


def _check_unread(flag: str, target: Path, read: set[Path]) -> None:
    if target.resolve() in read:
        raise InputError(f"{flag} {target}: is read, and would be overwritten; name another file")


def page(title: str, style: str, body: str, script: str = "") -> str:
    """Return a self-contained HTML page, which may load nothing; title and body are HTML."""
    allowed = "img-src data:" + (" blob:; script-src 'unsafe-inline'" if script else "")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; {allowed}">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
{f"<script>{script}</script>" if script else ""}
</body>
</html>
"""


def files_below(folder: Path) -> list[Path]:
    """Return all files in a folder and in those below it, also behind links; each folder once."""
    found: list[Path] = []
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link that leads in circles
            folders.clear()
            continue
        seen.add(real)
        found += [Path(place, name) for name in names]
    return found


def leftovers(folder: Path) -> list[Path]:
    """Return the temporary files that killed processes left in `folder`."""
    return list(folder.glob(".*.tmp"))


def sync_folder(folder: Path) -> None:
    """Sync `folder`, which makes a rename in it durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, atomically."""
    with replacing(path, "w") as file:
        file.write(text)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; ValueError for NaN (use None)."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def last_line(path: Path) -> str:
    """Return the last line of a text file that is not empty, '' if there is none."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
