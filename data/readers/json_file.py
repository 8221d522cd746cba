"""JSON files of joints, with errors that name the file and the frame."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from errors import InputError
from files import reading


class JsonFile:
    """The content of a JSON file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with reading(path):
            content = path.read_bytes()
        try:
            self.content = json.loads(content.decode("utf-8-sig"))
        except json.JSONDecodeError as error:
            raise InputError(f"{path}: line {error.lineno}: {error.msg}") from None
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise InputError(f"{path}: line {line}: not UTF-8 text") from None
        except RecursionError:
            raise InputError(f"{path}: nested too deeply") from None
        except ValueError:  # of int()
            raise InputError(f"{path}: a number has too many digits") from None

    def fail(self, what: str) -> NoReturn:
        raise InputError(f"{self.path}: {what}")

    def table(self) -> dict[str, Any]:
        """Return the whole content; InputError if it is not an object."""
        if not isinstance(self.content, dict):
            self.fail("is not a JSON object")
        return self.content

    def get_list(self, key: str) -> list[Any]:
        """Return the list under `key`; InputError if it is missing or not a list."""
        value = self.table().get(key)
        if not isinstance(value, list):
            self.fail(f"{key!r} is missing or not a list")
        return value

    def joints(self, key: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """Return the list of frames under `key` as (T, *shape) float32; they need not be finite.

        Without `shape`, the shape of the first frame is used, and the file can be the list itself.
        """
        is_list = shape is None and isinstance(self.content, list)
        frames = self.content if is_list else self.get_list(key)
        arrays = []
        for t, frame in enumerate(frames):
            array = to_numbers(frame)
            if shape is None:
                shape = () if array is None else array.shape
            if array is None or shape == () or array.shape != shape:
                self.fail(f"frame {t}: expected {'x'.join(map(str, shape)) or 'joints of'} numbers")
            arrays.append(array)
        shape = (0,) if shape is None else shape
        return np.stack(arrays) if arrays else np.zeros((0, *shape), np.float32)


def to_numbers(value: Any) -> np.ndarray | None:
    """Return nested lists of numbers as a float32 array, None for anything else; null is NaN."""
    try:
        array = np.array(value)
        if array.dtype.kind == "O":
            array = array.astype(float)
        if array.dtype.kind not in "fiu":
            return None
        with np.errstate(over="ignore"):
            return array.astype(np.float32)
    except (ValueError, OverflowError, TypeError):  # ragged; an integer too large; an object
        return None
