"""The quick suite: `pytest -m "not slow"`, which two idle cores finish within two minutes."""

from collections.abc import Iterable
from typing import Any

import pytest


def only(quick: Iterable[Any], values: Iterable[Any]) -> list[Any]:
    """Return the values as parameters of a test; those that are not `quick` are marked slow."""
    quick = list(quick)
    return [v if v in quick else pytest.param(v, marks=pytest.mark.slow) for v in values]
