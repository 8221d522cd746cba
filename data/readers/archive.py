"""The files of a data set, in a folder or in a zip or tar archive."""

from __future__ import annotations

import tarfile
import zipfile
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path, PurePosixPath

from errors import InputError
from files import UNREADABLE, files_below

DAMAGED = (*UNREADABLE, tarfile.TarError, LZMAError)


@dataclass(frozen=True)
class File:
    """One file; members of an archive are kept in memory, other files are read on demand."""

    path: str  # for error messages; of a member: archive:member
    name: str  # without folders
    content: bytes | None = None

    def read(self) -> bytes:
        if self.content is not None:
            return self.content
        try:
            return Path(self.path).read_bytes()
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error})") from error


def list_files(source: Path, suffix: str) -> list[File]:
    """Return the files of a folder or archive whose names end in `suffix`, sorted by name.

    Names that begin with a dot (added to archives by macOS) are skipped. InputError if the source
    cannot be read or contains no such file.
    """
    if source.is_dir():
        within = (path for path in files_below(source) if path.name.endswith(suffix))
        files = [File(str(path), path.name) for path in within]
    else:
        files = [
            File(f"{source}:{member}", PurePosixPath(member.replace("\\", "/")).name, content)
            for member, content in _members(source, suffix)
        ]
    files = sorted((f for f in files if not f.name.startswith(".")), key=lambda f: f.name)
    if not files:
        raise InputError(f"{source}: contains no *{suffix} files")
    return files


def _members(source: Path, suffix: str) -> list[tuple[str, bytes]]:
    """Return name and content of the members of an archive that end in `suffix`."""
    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    try:
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as archive:
                names = [name for name in archive.namelist() if name.endswith(suffix)]
                return [(name, archive.read(name)) for name in names]
        with tarfile.open(source) as archive:
            return [
                (member.name, file.read())
                for member in archive
                # of links, extractfile would return the file that they name, or raise KeyError
                if member.isfile() and member.name.endswith(suffix)
                if (file := archive.extractfile(member)) is not None
            ]
    except DAMAGED as error:
        reason = " ".join(str(error).split())  # tarfile lists all formats, one per line
        raise InputError(
            f"{source}: not a folder or a readable zip or tar archive ({reason})"
        ) from error
