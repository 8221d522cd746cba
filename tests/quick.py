"""The quick suite, `pytest -m "not slow"`: two minutes on two idle cores are its budget."""

from collections.abc import Iterable
from typing import Any

import pytest


def only(quick: Iterable[Any], values: Iterable[Any]) -> list[Any]:
    """Return the values as parameters of a test; those that are not `quick` are marked slow.

    A tuple is the values of several parameters.
    """
    quick = list(quick)
    return [
        pytest.param(
            *(value if isinstance(value, tuple) else (value,)),
            marks=[] if value in quick else [pytest.mark.slow],
        )
        for value in values
    ]
