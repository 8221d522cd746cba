"""Whether two methods differ: paired bootstrap over test clips and seeds, Holm's correction.

A difference of two accuracies is a weighted sum over the test clips: what clip i adds to it is
w_i (a_i - b_i), where a_i and b_i say whether each method is right (`clip_weights`). The clips are
the same for both methods and for all seeds of a fold, so all resamples are paired.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95  # of an interval; Holm's correction keeps the error of all rows below 1 - LEVEL
BLOCK = 200  # resamples at a time, which bounds the memory: BLOCK x clips


@dataclass(frozen=True)
class Difference:
    """A difference of accuracies in percentage points, with its percentile interval."""

    value: float
    low: float
    high: float
    p: float  # two-sided


def clip_weights(labels: np.ndarray, classes: np.ndarray | None = None) -> np.ndarray:
    """Return the weight (n,) of each test clip in an accuracy in percent.

    `classes` is a mask (K,): the accuracy is the mean of those classes that have test clips, all
    of the same weight. None: top-1, the mean of the clips. All weights are 0 if no class of the
    mask has a clip.
    """
    if classes is None:
        return np.full(len(labels), 100 / len(labels))
    per_class = np.bincount(labels, minlength=len(classes))
    tested = classes & (per_class > 0)
    return tested[labels] * 100 / (max(tested.sum(), 1) * per_class[labels])


def paired_bootstrap(
    parts: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """Return resampled differences (resamples, D) of two methods.

    Args:
        parts: for each fold (one, if the test split is fixed) what each test clip adds to each of D
            differences under each seed, (S, n, D); the same seeds in all folds
        labels: for each fold (n,) int64: clips are resampled within their class (`strata`), which
            keeps the composition of the test split
        resamples: how many
        seed: of the resampling itself

    A resample draws S seeds with replacement, and in each fold, independently of the seeds, clips
    with replacement: the pigeonhole bootstrap of a crossed design (Owen, "The pigeonhole
    bootstrap", Annals of Applied Statistics 2007). The mean over folds is taken; these are not
    resampled. Resamples of n clips have (n - 1) / n of the variance, which matters in small
    classes, so the deviation of how often a clip is drawn is scaled by sqrt(n / (n - 1)) (Rao and
    Wu, "Resampling inference with complex survey data", JASA 1988). With one seed the spread is
    that of the test clips alone; with S seeds the variance between seeds is underestimated by the
    factor (S - 1) / S.
    """
    random = np.random.default_rng(seed)
    seeds, number = len(parts[0]), parts[0].shape[2]
    chosen = random.integers(seeds, size=(resamples, seeds))
    total = np.zeros((resamples, number))
    for part, label in zip(parts, labels):
        flat = part.transpose(1, 0, 2).reshape(len(label), -1)  # (n, S D)
        sums = np.concatenate([counts @ flat for counts in _draws(label, resamples, random)])
        sums = sums.reshape(resamples, seeds, number)
        total += np.take_along_axis(sums, chosen[:, :, None], axis=1).mean(axis=1)
    return total / len(parts)


def strata(labels: np.ndarray) -> np.ndarray:
    """Return the stratum (n,) of each test clip: its class.

    One clip alone says nothing of the variance of its class. So classes with one clip are one
    stratum, or a single one belongs to the smallest other class ("collapsed strata": Cochran,
    Sampling Techniques, 5A.12): the intervals are then too wide rather than too narrow.
    """
    sizes = np.bincount(labels)
    alone = sizes[labels] == 1
    if not alone.any() or len(labels) == 1:
        return labels
    several = np.flatnonzero(sizes > 1)
    home = labels[alone][0]
    if alone.sum() == 1:
        home = several[sizes[several].argmin()]
    return np.where(alone, home, labels)


def _draws(labels: np.ndarray, resamples: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield how often each clip is drawn, scaled around 1, (BLOCK, n) at a time.

    Each stratum keeps its size.
    """
    labels = strata(labels)
    order = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels)[labels[order]]  # of the stratum of each clip, in order
    starts = np.searchsorted(labels[order], labels[order])
    own = np.bincount(labels)[labels]  # of each clip
    scale = np.sqrt(own / np.maximum(own - 1, 1))
    for first in range(0, resamples, BLOCK):
        rows = min(BLOCK, resamples - first)
        drawn = order[starts + (random.random((rows, len(labels))) * sizes).astype(np.int64)]
        places = drawn + len(labels) * np.arange(rows)[:, None]
        counts = np.bincount(places.ravel(), minlength=rows * len(labels))
        yield 1 + scale * (counts.reshape(rows, len(labels)) - 1)


def differences(
    parts: Sequence[np.ndarray], labels: Sequence[np.ndarray], **how: int
) -> list[Difference]:
    """Return the D differences with intervals; arguments as for `paired_bootstrap`."""
    values = np.mean([part.sum(axis=1).mean(axis=0) for part in parts], axis=0)  # (D,)
    resampled = paired_bootstrap(parts, labels, **how)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=0)
    # Sums of 1/n leave some 1e-13 of what is exactly 0: resamples that tie count on both sides.
    below, above = (resampled <= 1e-9).sum(axis=0), (resampled >= -1e-9).sum(axis=0)
    p = np.minimum(1.0, 2 * (1 + np.minimum(below, above)) / (1 + len(resampled)))
    return [Difference(*map(float, each)) for each in zip(values, low, high, p)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for multiple tests: Holm, Scandinavian Journal of Statistics 1979.

    The i-th smallest of m, from 0, is multiplied by m - i; none is less than one before it, or more
    than 1.
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    scaled = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(scaled, 1)
    return adjusted.tolist()
