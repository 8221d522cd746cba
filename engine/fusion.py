"""Fusion of streams: the weighted sum of their class probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from errors import InputError
from flags import STREAMS

# The paper's fusions: streams and their weights.
FUSIONS: dict[str, dict[str, float]] = {
    "2-stream": {"joint": 1, "bone": 1},
    "4-stream": {"joint": 2, "bone": 2, "joint-motion": 1, "bone-motion": 1},
    "6-stream": dict(zip(STREAMS, (2, 2, 2, 1, 1, 1))),
}
OTHER_FUSIONS: dict[str, dict[str, dict[str, float]]] = {
    "k400": {"4-stream": {"joint": 3, "bone": 3, "joint-motion": 1, "bone-motion": 1}}
}
# Also holds for the sums of float16 probabilities.
SUM_TOLERANCE = 1e-3

# The keys by which the streams of one method are alike
OF_METHOD = (
    "method", "objective", "loss", "loss_args", "mixing", "mixing_args", "sampling",
    "class_weights", "classifier", "model",
)  # fmt: skip
ENSEMBLE = "ensemble.json"  # of ensemble.py, in the folder of the streams


def of_other_methods(configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each run, {name: configuration}, that is not of the first one's method
    or backbone: their fusion is that of neither."""
    (first, own), *others = configs.items()
    found = {name: [k for k in OF_METHOD if own.get(k) != its.get(k)] for name, its in others}
    return [
        f"{name} is of another method or backbone than {first} (it differs in {', '.join(keys)})"
        for name, keys in found.items()
        if keys
    ]


@dataclass(frozen=True)
class Scores:
    """One stream's test: names (N,), labels (N,), class probabilities (N, K)."""

    names: np.ndarray
    labels: np.ndarray
    scores: np.ndarray

    @classmethod
    def read(cls, path: Path) -> Scores:
        """Read a score file; InputError if it is damaged or has another format."""
        try:
            with np.load(path, allow_pickle=False) as file:
                read = cls(file["names"], file["labels"], file["scores"])
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise InputError(
                f"{path}: not a score file ({error}); write it again with main.py --phase test"
            ) from None
        for wrong in read.faults():
            raise InputError(f"{path}: {wrong}; write it again with main.py --phase test")
        return read

    def faults(self) -> Iterator[str]:
        """Yield a description of each wrong type, shape or range."""
        names, labels, scores = self.names, self.labels, self.scores
        for key, array, kinds, wanted in (
            ("names", names, "U", "text"),
            ("labels", labels, "iu", "whole numbers"),
            ("scores", scores, "f", "floating-point numbers"),
        ):
            if array.dtype.kind not in kinds:
                yield f"{key} must be {wanted}, not {array.dtype}"
        shapes = [array.shape for array in (names, labels)]
        if shapes != [scores.shape[:1]] * 2 or scores.ndim != 2 or not scores.size:
            yield (
                f"names (N,), labels (N,) and scores (N, K) have different lengths: "
                f"{names.shape}, {labels.shape}, {scores.shape}"
            )
        if not np.isfinite(scores).all():
            yield "scores are not finite"
        sums = scores.sum(axis=1, dtype=np.float64)
        broken = np.flatnonzero((scores.min(axis=1) < 0) | (np.abs(sums - 1) > SUM_TOLERANCE))
        if len(broken):
            yield (
                f"scores must be probabilities (at least 0, each row sums to 1), but the row of "
                f"{names[broken[0]]} has the sum {sums[broken[0]]:.4g} and the minimum "
                f"{scores[broken[0]].min():.4g} ({len(broken)} of {len(scores)} rows; logits?)"
            )
        if labels.min() < 0 or labels.max() >= scores.shape[1]:
            yield (
                f"labels range from {labels.min()} to {labels.max()}, but scores of "
                f"{scores.shape[1]} classes need 0 to {scores.shape[1] - 1}"
            )
        if len(np.unique(names)) != len(names):
            yield "a sample name occurs twice"

    def in_order_of(self, names: np.ndarray) -> Scores:
        """Return the same samples in the order of `names` (N,), the same set of names."""
        order = np.argsort(self.names)
        rows = order[np.searchsorted(self.names, names, sorter=order)]
        return Scores(self.names[rows], self.labels[rows], self.scores[rows])


def fuse(streams: Mapping[str, Scores], weights: Mapping[str, float]) -> Scores:
    """Return the weighted sum of the streams' probabilities, normalized to rows of sum 1.

    Samples are joined by name. Raises InputError if two streams differ in samples, labels or number
    of classes.
    """
    first_name, *_ = weights
    first = streams[first_name]
    total = np.zeros(first.scores.shape, dtype=np.float64)
    for name, weight in weights.items():
        stream = streams[name]
        differing = np.setxor1d(first.names, stream.names)
        if len(differing):
            raise InputError(
                f"{first_name} and {name} have different samples ({len(differing)} differ, e.g. "
                f"{differing[0]}): test both with the same store and protocol"
            )
        stream = stream.in_order_of(first.names)
        if stream.scores.shape != first.scores.shape:
            raise InputError(f"{first_name} and {name} have different numbers of classes")
        if (stream.labels != first.labels).any():
            raise InputError(f"{first_name} and {name} have different labels for the same samples")
        total += weight * stream.scores
    return Scores(first.names, first.labels, (total / sum(weights.values())).astype(np.float32))


def fusions_of(benchmark: str) -> dict[str, dict[str, float]]:
    """Return the published fusions of a benchmark: name -> {stream: weight}."""
    return FUSIONS | OTHER_FUSIONS.get(benchmark, {})
