"""Temperature scaling, and a rejection threshold; the calibration error is in shots.py."""

from __future__ import annotations

import numpy as np

# 1 / temperature is sought between these; held-out samples that are all right have no end.
SHARPEST, FLATTEST = 20.0, 0.05
LEAST = np.finfo(np.float32).tiny  # stands for a probability of 0


def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return probabilities (N, K) proportional to p^(1 / temperature), of the same type.

    Of one clip that is the softmax of logits / temperature. The order of the classes stays.
    """
    if temperature == 1:
        return probabilities
    logits = np.log(np.maximum(probabilities.astype(np.float64), LEAST)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(probabilities.dtype)


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature under which labels (N,) have the least negative log-likelihood.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2. The likelihood
    is concave in b = 1 / temperature, so its slope, the mean of log p_y - E[log p] with the
    expectation under p^b, is 0 at one place: it is bisected.
    """
    logits = np.log(np.maximum(probabilities.astype(np.float64), LEAST))  # (N, K)
    own = logits[np.arange(len(labels)), labels].mean()
    low, high = FLATTEST, SHARPEST
    for _ in range(60):
        middle = (low + high) / 2
        expected = (tempered(probabilities.astype(np.float64), 1 / middle) * logits).sum(1).mean()
        low, high = (middle, high) if own >= expected else (low, middle)
    return 2 / (low + high)


def threshold_for(probabilities: np.ndarray, coverage: float) -> float:
    """Return the highest threshold that at least a share `coverage` of the rows (N, K) reaches."""
    confidence = np.sort(probabilities.max(axis=1))[::-1]
    return float(confidence[max(1, int(np.ceil(coverage * len(confidence) - 1e-9))) - 1])
