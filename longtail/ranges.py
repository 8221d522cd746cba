"""The values that a method's arguments may have, as annotations of its constructor:

    def __init__(self, class_counts: Tensor, gamma: NotNegative = 2.0) -> None:

and those of the keys of a configuration (engine/config.py). `engine.config.broken_rule` reads them;
most formulas would compute with a value out of range, and give a wrong result without a word.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True)
class Range:
    """The numbers from low to high; `above`: without low itself, `below`: without high."""

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        over = value > self.low if self.above else value >= self.low
        return over and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        text = f"{'above' if self.above else 'at least'} {self.low:g}"
        if self.high == math.inf:
            return f"{text} and finite" if self.below else text
        return f"{text} and {'below' if self.below else 'at most'} {self.high:g}"


Share = Annotated[float, Range(0, 1)]
Factor = Annotated[float, Range(0, 1, below=True)]  # of a moving average, or a smoothing
Positive = Annotated[float, Range(0, above=True)]
NotNegative = Annotated[float, Range(0)]
Ratio = Annotated[float, Range(1)]  # of a larger count to a smaller one
Count = Annotated[int, Range(1)]
Epochs = Annotated[int, Range(0)]
Seed = Annotated[int, Range(0)]
# Of keys of a configuration, which are finite
Part = Annotated[float, Range(0, 1, above=True, below=True)]
Rate = Annotated[float, Range(0, above=True, below=True)]
Amount = Annotated[float, Range(0, below=True)]
Multiple = Annotated[float, Range(1, below=True)]
