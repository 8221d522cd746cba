"""Macro F1, calibration error and log loss, each against an independent answer."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, log_loss

from longtail.shots import METRICS, SHOTS, accuracy, probability_metrics


@pytest.mark.parametrize("seed", range(5))
def test_macro_f1_and_log_loss_are_those_of_scikit_learn(seed):
    """Also where classes are never a label, never a prediction, or neither."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(60, 9))
    logits[:, 7:] -= 20  # never predicted
    labels = random.choice([0, 1, 2, 3, 7], 60)
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = probability_metrics(scores.astype(np.float32), labels)
    f1 = f1_score(labels, scores.argmax(1), average="macro", zero_division=0)
    assert found["macro_f1"] == pytest.approx(100 * f1)
    assert found["nll"] == pytest.approx(log_loss(labels, scores, labels=range(9)), rel=1e-5)
    assert found["nll"] == pytest.approx(-np.log(scores[np.arange(60), labels]).mean(), rel=1e-5)


def test_calibration_error_by_hand():
    """Four samples in three of the 15 bins, one of them at its bin's upper edge.

    (8/15, 9/15]: 0.55 wrong and 0.6 right, 50 % of them right at a confidence of 57.5 %; then 0.62
    right and 0.69 wrong, a bin each. So (2 * 7.5 + 1 * 38 + 1 * 69) / 4 = 30.5 %. Ten bins would
    put the last two together: (2 * 7.5 + 2 * 15.5) / 4.
    """
    top = np.array([0.55, 0.6, 0.62, 0.69])
    scores = np.stack([top, 1 - top], axis=1)
    assert probability_metrics(scores, [1, 0, 0, 1])["ece"] == pytest.approx(30.5)
    # a bin lower or higher would give another figure: 0.6 alone is 40 % away, 0.55 55 %
    assert probability_metrics(scores[:2], [1, 0])["ece"] == pytest.approx(7.5)


def test_calibration_of_the_top_label_of_many_classes():
    """Against the definition, bin by bin in a loop."""
    random = np.random.default_rng(0)
    scores = random.dirichlet(np.ones(5) * 0.5, 400)
    labels = np.where(random.random(400) < 0.6, scores.argmax(1), random.integers(5, size=400))
    confidence, right = scores.max(1), scores.argmax(1) == labels
    expected = 0.0
    for i in range(15):
        inside = (confidence > i / 15) & (confidence <= (i + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert probability_metrics(scores, labels)["ece"] == pytest.approx(100 * expected)


def test_a_probability_of_zero_is_a_large_loss_and_no_infinity():
    scores = np.array([[1, 0], [1, 0]], np.float32)
    assert probability_metrics(scores, [0, 1])["nll"] == pytest.approx(-np.log(2.0**-126) / 2)


def test_without_samples_there_is_nothing_to_say():
    found = probability_metrics(torch.zeros(0, 3), torch.zeros(0))
    assert found == {"macro_f1": None, "ece": None, "nll": None}


def test_the_names_of_the_metrics_are_those_of_the_accuracies():
    figures = accuracy(np.eye(3), [0, 1, 2], [200, 50, 1], SHOTS)
    assert METRICS == ("top1", "mean_class", "many", "medium", "few")
    assert [figures[name] for name in METRICS] == [100] * 5
