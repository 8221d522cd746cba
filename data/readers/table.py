"""The clips of a custom data set, from a CSV or from a folder of class folders.

The CSV has a header with the columns file and label, optionally split, and other columns, which are
kept. It is separated by commas, semicolons or tabs, in UTF-8, UTF-16 or cp1252. A folder has one
folder per class, or train, test and val, each with one folder per class.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from data.clip_file import SUFFIXES, clips_below, is_hidden
from data.names import decode_file, natural_order
from data.readers.splits import PARTS
from data.store import is_store
from errors import InputError

SEPARATORS = ",;\t"
# Names that the store itself uses; a column cannot have them.
RESERVED = ("name", "names", "labels", "starts", "lengths", "joints", "self")


@dataclass
class Table:
    """The clips of a data set, in order; each list has one entry per clip."""

    folder: Path  # to which the files are relative
    files: list[str]  # with / as separator
    labels: list[str]  # as in the file
    parts: list[str] | None  # 'train', 'val', 'test' or ''; None if there is no split
    where: Callable[[int], str]  # row -> position of the clip, for error messages
    columns: dict[str, list[int] | list[str]] = field(default_factory=dict)
    other_files: list[str] = field(default_factory=list)  # in class folders, but not clips


def read(source: Path) -> Table:
    """Return the table of a CSV or of a folder of class folders; InputError names the line."""
    table = _folders(source) if source.is_dir() else _csv(source)
    first: dict[str, int] = {}
    for row, file in enumerate(table.files):
        if (before := first.setdefault(sample_name(file), row)) != row:
            raise InputError(
                f"{table.where(row)}: {file} is a duplicate of {table.where(before)}; the name of "
                "a sample is its file name without the extension"
            )
    return table


def sample_name(file: str) -> str:
    """Return the sample name of a file: its path without the extension."""
    return PurePosixPath(file).with_suffix("").as_posix()


def _csv(path: Path) -> Table:
    head, rows, lines = _rows(path)

    def where(row: int) -> str:
        return f"{path}: line {lines[row]}"

    if not rows:
        raise InputError(f"{path}: contains no files")
    column = dict(zip(head, zip(*rows)))
    for row, (file, label) in enumerate(zip(column["file"], column["label"])):
        if not file or not label:
            raise InputError(f"{where(row)}: file or label is empty")
    further = {key: list(column[key]) for key in head if key not in ("", "file", "label", "split")}
    return Table(
        folder=path.parent,
        files=[file.replace("\\", "/") for file in column["file"]],
        labels=list(column["label"]),
        parts=_parts(column["split"], where) if "split" in head else None,
        where=where,
        columns={key: _numbers(values) or values for key, values in further.items()},
    )


def _rows(path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    """Return the header (in lower case), rows with as many fields, and the first line of each row.

    InputError names the line of a quote that is not closed: it would swallow the rows below it.
    """
    lines = decode_file(path).splitlines(True)
    first = next((line for line in lines if line.strip(SEPARATORS + " \r\n")), "")
    separator = max(SEPARATORS, key=first.count)
    # A blank after a quote, which `strict` takes for text
    lines = [re.sub(rf'" +(?={separator}|[\r\n]*$)', '"', line) for line in lines]
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
    head: list[str] = []
    rows, numbers, line = [], [], 1
    try:
        for row in reader:
            fields = [field.strip() for field in row]
            if broken := next((field for field in fields if len(field.splitlines()) > 1), None):
                raise InputError(
                    f"{path}: line {line}: {broken.splitlines()[0]!r} goes on in the next line, in "
                    "quotes; close the quote, or remove the line break"
                )
            if not head:
                head = _head(fields, path) if any(fields) else []
            elif any(fields[len(head) :]):
                raise InputError(f"{path}: line {line}: has more fields than the header")
            elif any(fields):  # spreadsheets write empty rows
                rows.append((fields + [""] * len(head))[: len(head)])
                numbers.append(line)
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}: line {line}: not a CSV ({error})") from None
    return head or _head([], path), rows, numbers


def _head(fields: list[str], path: Path) -> list[str]:
    head = [field.lower() for field in fields]
    if not {"file", "label"} <= set(head):
        shown = ",".join(head)[:80]
        raise InputError(f"{path}: line 1: the header is {shown!r}, not file,label[,split]")
    for key in head:
        if key and head.count(key) > 1:
            raise InputError(f"{path}: line 1: duplicate column {key!r}")
        if key in RESERVED:
            raise InputError(f"{path}: line 1: the column name {key!r} is reserved; rename it")
    return head


def _parts(words: Sequence[str], where: Callable[[int], str]) -> list[str]:
    for row, word in enumerate(words):
        if word and word.lower() not in PARTS:
            raise InputError(f"{where(row)}: split {word!r} is not train, val, test or empty")
    return [PARTS.get(word.lower(), "") for word in words]


def _numbers(values: list[str]) -> list[int] | None:
    """Return a column as integers, None if that would change the text of a value or is too large
    for int64."""
    if all(value.isdecimal() and str(int(value)) == value for value in values):
        numbers = [int(value) for value in values]
        return numbers if max(numbers) < 2**63 else None
    return None


def _folders(source: Path) -> Table:
    top = _within(source)
    parts = {PARTS.get(folder.name.lower(), "") for folder in top}
    is_split = bool(top) and "" not in parts
    if "train" in parts and len(parts - {""}) > 1 and not is_split:
        other = next(folder for folder in top if folder.name.lower() not in PARTS)
        raise InputError(
            f"{other}: is next to folders of a split (train, val or test), which contain the "
            "class folders; move it elsewhere, or rename them if they are classes"
        )
    files: list[Path] = []
    for folder in [inner for part in top for inner in _within(part)] if is_split else top:
        found = clips_below(folder)
        if not found:
            raise InputError(f"{folder}: this class folder has no {', '.join(SUFFIXES)} file")
        files += found
    known = set(files)
    outside = [path for path in clips_below(source) if path not in known]
    tables = sorted(source.glob("*.csv"))
    hint = f"; did you mean the table {tables[0]}?" if tables else ""
    if outside:
        raise InputError(
            f"{min(outside)}: is not in a class folder ({len(outside)} such files){hint}"
        )
    if not files:
        raise InputError(f"{source}: has no class folders; give a CSV, or one folder per class")
    within = {folder for path in files for folder in path.parents} - set(source.parents) - {source}
    others = [path for folder in within for path in folder.iterdir() if path.is_file()]
    others = [path for path in others if path not in known and not is_hidden(Path(path.name))]
    places = [path.relative_to(source).parts for path in files]
    return Table(
        folder=source,
        files=["/".join(place) for place in places],
        labels=[place[1 if is_split else 0] for place in places],
        parts=[PARTS[place[0].lower()] for place in places] if is_split else None,
        where=lambda row: str(files[row]),
        other_files=sorted(str(path.relative_to(source)) for path in others),
    )


def _within(folder: Path) -> list[Path]:
    """Return the folders in a folder, in natural order, without hidden ones and stores."""
    folders = [path for path in folder.iterdir() if path.is_dir() and not is_store(path)]
    folders = [path for path in folders if not is_hidden(path.relative_to(folder))]
    return sorted(folders, key=lambda path: natural_order(path.name))
