"""The values that a method's arguments may have, as annotations of its constructor:

    def __init__(self, class_counts: Tensor, gamma: NotNegative = 2.0) -> None:

`engine.build.make` refuses a value of a configuration that is not in the range; most formulas would
compute with it, and give a wrong result without a word.
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
            return text
        return f"{text} and {'below' if self.below else 'at most'} {self.high:g}"


Share = Annotated[float, Range(0, 1)]
Factor = Annotated[float, Range(0, 1, below=True)]  # of a moving average, or a smoothing
Positive = Annotated[float, Range(0, above=True)]
NotNegative = Annotated[float, Range(0)]
Ratio = Annotated[float, Range(1)]  # of a larger count to a smaller one
Count = Annotated[int, Range(1)]
Epochs = Annotated[int, Range(0)]
