"""NumPy's npz files: whole arrays, or large arrays row by row."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from errors import InputError
from files import reading


def load(path: Path, keys: Iterable[str]) -> dict[str, np.ndarray]:
    """Return arrays of an npz file; InputError if it is missing or damaged, or lacks one."""
    with reading(path, "cannot be read as an npz file"):
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in keys}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("a member is not an array")
    return arrays


class Rows:
    """The rows of an array in an npz file, read one by one without loading the array."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        with reading(path, f"{key} cannot be read"):
            self.archive = zipfile.ZipFile(path)
            self.file = self.archive.open(f"{key}.npy")
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[np.lib.format.read_magic(self.file)]
            self.shape, is_fortran, self.dtype = read_header(self.file)
        if is_fortran or self.dtype.hasobject:
            raise InputError(f"{path}: {key} is not an array of numbers in C order")

    def __iter__(self) -> Iterator[np.ndarray]:
        size = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        for row in range(self.shape[0]):
            with reading(self.path, f"row {row} of {self.key} cannot be read"):
                array = np.frombuffer(self.file.read(size), self.dtype).reshape(self.shape[1:])
            yield array

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()
        self.archive.close()
