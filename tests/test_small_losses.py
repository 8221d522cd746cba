"""Losses that shift, scale or smooth, each against its formula in NumPy."""

import numpy as np
import pytest
import torch

from longtail.experts import SkillDiverse
from longtail.losses import (
    GaussianClouded,
    LabelAwareSmoothing,
    LogitAdjustment,
    VectorScaling,
)
from tests.batch_loss import batch_loss

COUNTS = np.array([40, 9, 100, 3])
LOGITS = np.random.RandomState(0).standard_normal((6, 4))
LABELS = np.array([0, 1, 2, 3, 2, 0])


def nll(logits):
    """-log softmax of each row at its label (N,)."""
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return -np.log(shares[np.arange(6), LABELS])


def loss(kind, logits=LOGITS, **args):
    targets = torch.nn.functional.one_hot(torch.from_numpy(LABELS), 4).double()
    criterion = kind(torch.from_numpy(COUNTS), **args)
    return batch_loss(criterion, torch.from_numpy(logits), targets).item()


def test_vector_scaling():
    scaled = (COUNTS / 100) ** 0.3 * LOGITS + np.log(COUNTS / COUNTS.sum())
    assert loss(VectorScaling) == pytest.approx(nll(scaled).mean(), rel=1e-6)
    assert loss(VectorScaling, gamma=0.0) == pytest.approx(loss(LogitAdjustment))


def test_label_aware_smoothing():
    share = 0.1 + 0.2 * np.sin(np.pi / 2 * (COUNTS - 3) / 97)[LABELS]
    every = -np.log(np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)).mean(1)
    expected = ((1 - share) * nll(LOGITS) + share * every).mean()
    assert loss(LabelAwareSmoothing, head=0.3, tail=0.1) == pytest.approx(expected, rel=1e-6)
    even = LabelAwareSmoothing(torch.tensor([5, 5]))  # all classes are the rarest
    assert even.epsilon.tolist() == [0, 0]


def test_gaussian_clouded_logits():
    noise = np.random.RandomState(1).standard_normal((6, 4)) * 3  # some beyond the bound
    rarity = np.log(100 / COUNTS)
    clouded = LOGITS - 30 * 0.5 * np.minimum(abs(noise) / 3, 1) * rarity / rarity.max()
    criterion = GaussianClouded(torch.from_numpy(COUNTS))
    matrix = criterion.loss_matrix(torch.from_numpy(LOGITS), torch.from_numpy(noise))
    np.testing.assert_allclose(matrix[np.arange(6), LABELS], nll(clouded), rtol=1e-6)
    assert GaussianClouded(torch.tensor([5, 5])).reach.tolist() == [0, 0]


def test_three_skills():
    logits = np.random.RandomState(2).standard_normal((6, 3, 4))
    prior = COUNTS / COUNTS.sum()
    mirrored = prior[[1, 0, 3, 2]]  # 100, 40, 9, 3 at the places of 3, 9, 40, 100
    shifts = (0, np.log(prior), np.log(prior) - 2 * np.log(mirrored))
    expected = sum(nll(logits[:, e] + shift).mean() for e, shift in enumerate(shifts))
    assert loss(SkillDiverse, logits) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="logits of three experts"):
        loss(SkillDiverse)
