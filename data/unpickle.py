"""Load annotation pickles safely: only NumPy arrays and plain containers are allowed."""

from __future__ import annotations

import collections
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from errors import InputError
from files import reading

_core: Any = np._core  # type: ignore[attr-defined]  # pickles name it, NumPy's types do not
# The functions that pickles of arrays call, with the module names of NumPy 1 and NumPy 2.
_ARRAYS = {
    "_reconstruct": _core.multiarray._reconstruct,
    "scalar": _core.multiarray.scalar,
    "_frombuffer": _core.numeric._frombuffer,
}
ALLOWED = {
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")
        for module in ("multiarray", "numeric")
        for name, function in _ARRAYS.items()
    },
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): collections.OrderedDict,
    # Python 2's bytes. The codec is ignored, because some codecs decompress without a limit.
    ("_codecs", "encode"): lambda text, codec="latin1": text.encode("latin1"),
    **{
        (module, kind.__name__): kind
        for module in ("builtins", "__builtin__")
        for kind in (set, frozenset, bytearray, complex)
    },
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise InputError(
                f"it calls {module}.{name}; only NumPy arrays and plain containers are allowed"
            ) from None


def load(path: str | Path) -> Any:
    """Return the content of a pickle file; InputError if it is damaged or not allowed."""
    path = Path(path)
    with reading(path), path.open("rb") as file:
        try:
            return _Unpickler(file, encoding="latin1").load()
        except InputError as error:
            raise InputError(f"{path}: cannot be read as a pickle of arrays ({error})") from None
        except MemoryError:
            raise InputError(f"{path}: does not fit into memory, or is damaged") from None
        except OSError:  # of the disk
            raise
        except Exception as error:  # a damaged pickle can raise any exception
            raise InputError(f"{path}: is damaged or not a pickle") from error
