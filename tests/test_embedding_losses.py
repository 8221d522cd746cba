"""Losses on what a backbone gives besides logits, against the released implementations."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from longtail.class_contrast import ClassContrast
from longtail.latent_prior import LatentPrior


def network(num_class, width=1):
    """What a loss asks of a network."""
    return SimpleNamespace(num_class=num_class, fc=nn.Linear(width, num_class))


def f64(array):
    return torch.from_numpy(np.asarray(array)).double()


@pytest.mark.parametrize(
    ("case", "args"),
    [("default", {}), ("threshold", {"temperature": 0.2, "momentum": 0.7, "threshold": 0.5})],
)
def test_class_contrast_over_six_batches(golden, case, args):
    """Loss, memory and gradients after each call of one instance."""
    vectors = np.load(golden / "loss_protogcn_csc.npz")
    saved = {key.removeprefix(f"{case}|"): vectors[key] for key in vectors if key.startswith(case)}
    contrast = ClassContrast(network(10), width=16, weight=1.0, **args).double()
    contrast.memory = f64(saved["bank_start"]).t().contiguous()
    for call, feature in enumerate(f64(saved["feature"])):
        weight, bias = (f64(saved[f"fc_{leaf}"]).requires_grad_() for leaf in ("weight", "bias"))
        feature.requires_grad_()
        label = torch.from_numpy(saved["label"][call])
        logits = f64(saved["logits"][call]).requires_grad_()
        loss = contrast(F.linear(feature, weight, bias), logits, F.one_hot(label, 10))
        loss.backward()
        assert logits.grad is None
        assert loss.item() == pytest.approx(saved["loss_f64"][call], rel=1e-6)
        for ours, name in (
            (contrast.memory.t(), "bank"), (feature.grad, "grad_feature"),
            (weight.grad, "grad_fc_weight"), (bias.grad, "grad_fc_bias"),
        ):  # fmt: skip
            np.testing.assert_allclose(ours, saved[f"{name}_f64"][call], rtol=1e-6, atol=1e-9)


def test_class_contrast_memory_is_saved_and_moves_in_training_only():
    torch.manual_seed(0)
    contrast = ClassContrast(network(3), width=4)
    embedding, label = torch.randn(5, 4), torch.tensor([0, 1, 1, 2, 0])
    logits = 9 * F.one_hot(label, 3).float()  # all recognized
    label = F.one_hot(label, 3)
    before = contrast.state_dict()["memory"].clone()
    contrast.eval()(embedding, logits, label)
    assert torch.equal(contrast.memory, before)
    contrast.train()(embedding.bfloat16(), logits, label)
    mean = embedding.bfloat16().float()[1:3].mean(0)
    torch.testing.assert_close(contrast.state_dict()["memory"][1], 0.9 * before[1] + 0.1 * mean)


@pytest.mark.parametrize("size", ["", "big|"])
@pytest.mark.parametrize("case", ["mixed", "one_class", "all_classes", "no_repeat"])
def test_latent_prior(golden, case, size):
    vectors = np.load(golden / "loss_infogcn.npz")
    weights = vectors[f"{case}|{size}lambda_2"], vectors[f"{case}|{size}lambda_1"]
    prior = LatentPrior(network(10, 16), *map(float, weights)).double()
    prior.prior = f64(vectors[f"{case}|z_prior"])
    latent, logits = (f64(vectors[f"{case}|{key}"]).requires_grad_() for key in ("z", "logits"))
    label = torch.from_numpy(vectors[f"{case}|y"])
    loss = F.cross_entropy(logits, label, label_smoothing=0.1)
    loss = loss + prior(latent, logits, F.one_hot(label, 10))
    loss.backward()
    assert loss.item() == pytest.approx(float(vectors[f"{case}|{size}loss_f64"]), rel=1e-6)
    expected = vectors[f"{case}|{size}grad_z_f64"]
    np.testing.assert_allclose(latent.grad, expected, rtol=1e-6, atol=1e-12)


def test_latent_prior_means_are_orthogonal_and_saved():
    prior = LatentPrior(network(10, 16), gain=3.0)
    products = prior.state_dict()["prior"] @ prior.prior.t()
    torch.testing.assert_close(products, 9 * torch.eye(10), rtol=1e-5, atol=1e-5)
