"""The files of a data set, in folders or in zip or tar archives."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PureWindowsPath

from errors import InputError
from files import files_below, reading


@dataclass(frozen=True)
class File:
    """A file, or a member of an archive; those of tar archives are kept in memory."""

    place: str  # the file, or the archive
    member: str = ""
    content: bytes | None = None

    @property
    def path(self) -> str:
        """The file for error messages; of a member: archive:member."""
        return f"{self.place}:{self.member}" if self.member else self.place

    @property
    def name(self) -> str:
        """The name without folders, which either slash separates in archives."""
        return PureWindowsPath(self.member).name if self.member else Path(self.place).name

    @property
    def stem(self) -> str:
        return Path(self.name).stem

    def read(self) -> bytes:
        if self.content is not None:
            return self.content
        with reading(self.path):
            if self.member:
                return _open_zip(self.place).read(self.member)
            return Path(self.place).read_bytes()


def list_files(suffix: str, *sources: Path) -> list[File]:
    """Return the files of folders and archives whose names end in `suffix`, sorted by name.

    Names that begin with a dot (added to archives by macOS) are skipped. InputError if a source
    cannot be read, or none contains such a file.
    """
    found = [file for source in sources for file in _files(source, suffix)]
    found = [file for file in found if not file.name.startswith(".")]
    if not found:
        archives = [path for source in sources for path in source.glob("*.zip")]
        hint = (
            f"; give the zip files instead of the folder, e.g. {min(archives)}" if archives else ""
        )
        raise InputError(f"{', '.join(map(str, sources))}: contains no *{suffix} files{hint}")
    return sorted(found, key=lambda file: file.name)


def _files(source: Path, suffix: str) -> Iterator[File]:
    if source.is_dir():
        yield from (File(str(path)) for path in files_below(source) if path.name.endswith(suffix))
    elif source.name.endswith(suffix):
        yield File(str(source))
    else:
        with reading(source, "not a folder or a readable zip or tar archive"):
            yield from _members(source, suffix)


def _members(source: Path, suffix: str) -> Iterator[File]:
    if zipfile.is_zipfile(source):
        for name in _open_zip(str(source)).namelist():
            if name.endswith(suffix):
                yield File(str(source), name)
        return
    with tarfile.open(source) as archive:
        for member in archive:
            # of links, extractfile would return the file that they name, or raise KeyError
            file = archive.extractfile(member) if member.isfile() else None
            if file is not None and member.name.endswith(suffix):
                yield File(str(source), member.name, file.read())


@cache
def _open_zip(path: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)
