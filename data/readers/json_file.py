"""JSON files of joints: errors name the file and the line, also in values that are no joints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from errors import InputError

WHITESPACE = " \t\n\r"


class JsonFile:
    """A JSON object read from a file, which knows on which line its parts are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.text = path.read_bytes().decode()
            self.content = json.loads(self.text)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}: line {error.lineno}: {error.msg}") from None
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise InputError(f"{path}: line {line}: not UTF-8 text") from None
        except (RecursionError, ValueError) as error:  # nested without end; an endless number
            raise InputError(f"{path}: line 1: cannot be read ({error})") from None
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error})") from error
        if not isinstance(self.content, dict):
            self.fail("is no JSON object")

    def fail(self, what: str, line: int = 1) -> None:
        raise InputError(f"{self.path}: line {line}: {what}")

    def get(self, key: str, kind: type) -> Any:
        """Return the value of `key`, which has to be of that type."""
        value = self.content.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            self.fail(f"{key!r} is missing or no {kind.__name__}")
        return value

    def joints(self, key: str, shape: tuple[int, ...]) -> np.ndarray:
        """Return the list of frames under `key` as (T, *shape) float32, all of it finite."""
        frames = self.get(key, list)
        with np.errstate(over="ignore"):
            if (array := _numbers(frames, (len(frames), *shape))) is not None:
                return array
            for t, frame in enumerate(frames):
                if _numbers(frame, shape) is None:
                    what = f"frame {t} of {key!r} is not {'x'.join(map(str, shape))} finite numbers"
                    self.fail(what, self._line(key, t))
        return np.zeros((0, *shape), np.float32)

    def _line(self, key: str, index: int) -> int:
        """Return the line on which element `index` of the list under `key` begins."""
        decoder = json.JSONDecoder()
        place = self.text.find("[", self.text.find(json.dumps(key))) + 1
        for _ in range(index):
            _, place = decoder.raw_decode(self.text, self._skip(place))
        return self.text.count("\n", 0, self._skip(place)) + 1

    def _skip(self, place: int) -> int:
        while self.text[place] in WHITESPACE + ",":
            place += 1
        return place


def _numbers(value: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return nested lists of numbers as a float32 array of that shape, None if they are not."""
    try:
        array = np.array(value)
        is_numeric = array.dtype.kind in "fiu"
        array = array.astype(np.float32) if is_numeric else array
    except (ValueError, OverflowError):  # ragged; an integer beyond all floats
        return None
    whole = is_numeric and array.shape == shape and array.size and np.isfinite(array).all()
    return array if whole else None
