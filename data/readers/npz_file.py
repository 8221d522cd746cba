"""NumPy's npz files: whole arrays, or large arrays row by row."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from errors import InputError
from files import UNREADABLE


def load(path: Path, keys: Iterable[str]) -> dict[str, np.ndarray]:
    """Return arrays of an npz file; InputError if it is missing or damaged, or lacks one."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in keys}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("a member is not an array")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file or folder") from None
    except UNREADABLE as error:
        raise InputError(f"{path}: cannot be read as an npz file ({reason(error)})") from error
    return arrays


def reason(error: Exception) -> str:
    """Return why NumPy cannot read a file, as one line."""
    if any(words in str(error) for words in ("allow_pickle", "Python objects")):
        return (
            "it contains pickled Python objects, which can execute arbitrary code; save one array "
            "of numbers, all frames with the same joints and channels"
        )
    if isinstance(error, KeyError):
        return f"it has no array {error}"
    return " ".join(str(error).split())


class Rows:
    """The rows of an array in an npz file, read one by one without loading the array."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        try:
            self.archive = zipfile.ZipFile(path)
            self.file = self.archive.open(f"{key}.npy")
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[np.lib.format.read_magic(self.file)]
            self.shape, is_fortran, self.dtype = read_header(self.file)
        except UNREADABLE as error:
            raise InputError(f"{path}: {key} cannot be read ({reason(error)})") from error
        if is_fortran or self.dtype.hasobject:
            raise InputError(f"{path}: {key} is not an array of numbers in C order")

    def __iter__(self) -> Iterator[np.ndarray]:
        size = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        for row in range(self.shape[0]):
            try:
                array = np.frombuffer(self.file.read(size), self.dtype).reshape(self.shape[1:])
            except UNREADABLE as error:
                raise InputError(f"{self.path}: {self.key}: row {row}: {reason(error)}") from error
            yield array

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()
        self.archive.close()
