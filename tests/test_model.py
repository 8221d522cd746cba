"""Backbones against what the released implementations computed from the same weights."""

import json

import numpy as np
import pytest
import torch

from errors import InputError
from model import stgcnpp, upstream

LAYOUTS = {"nturgb+d": "ntu_rgb_d", "nw_ucla": "nw_ucla", "coco": "coco"}
GOLDEN = {
    "stgcnpp_b16": (stgcnpp, {}),
    "stgcnpp_b16_nw_ucla": (stgcnpp, {}),
    "stgcnpp_b16_coco": (stgcnpp, {}),
    "stgcnpp_b16_offset_post": (
        stgcnpp,
        {
            "adaptive": "offset",
            "bias_first": False,
            "graph_residual": False,
            "norm_persons": True,
            "num_blocks": 4,
            "inflate": [3],
            "down": [3],
        },
    ),
}


def released(golden, name):
    """Return (model with the released weights, released weights, vectors)."""
    module, model_args = GOLDEN[name]
    weights = torch.load(golden / f"model_{name}.pth", weights_only=True)["state_dict"]
    vectors = np.load(golden / f"model_{name}.npz")
    config = json.loads(str(vectors["cfg"]))
    model = module.Model(
        graph=LAYOUTS[config["backbone"]["graph_cfg"]["layout"]],
        num_class=config["cls_head"]["num_classes"],
        base_channels=config["backbone"]["base_channels"],
        **model_args,
    )
    model.load_state_dict(upstream.translate(weights, model))
    return model, weights, vectors


def relative(ours, theirs):
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("name", GOLDEN)
def test_released_logits(golden, name):
    model, _, vectors = released(golden, name)
    clips = torch.from_numpy(vectors["keypoint"])
    model.eval()
    with torch.no_grad():
        assert relative(model(clips).numpy(), vectors["logits_f64"]) < 1e-4


@pytest.mark.parametrize("name", [n for n in GOLDEN if n == "stgcnpp_b16"])
def test_released_gradients(golden, name):
    """Every gradient's norm in float64, each under the name that the released code gives it."""
    model, weights, _ = released(golden, name)
    vectors = np.load(golden / f"grad_{name}.npz")
    model.double().train()
    logits = model(torch.from_numpy(vectors["keypoint"]).double())
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(vectors["label"]))
    loss.backward()
    assert loss.item() == pytest.approx(float(vectors["loss_f64"]), rel=1e-6)
    gradients = upstream.split(
        {key: value.grad for key, value in model.named_parameters()},
        list(upstream.mmcv(model)),
        {key: value.shape for key, value in weights.items()},
    )
    assert set(gradients) == set(vectors["names"])
    ours = [gradients[key].norm().item() for key in vectors["names"]]
    np.testing.assert_allclose(ours, vectors["grad_norm_f64"], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(model.fc.weight.grad, vectors["grad_fc"], rtol=1e-2, atol=1e-5)


def tiny(**changes):
    return stgcnpp.Model(**{"base_channels": 8, "num_blocks": 2, "num_class": 5, **changes})


@pytest.mark.parametrize(
    ("shape", "named"),
    [
        ((1, 2, 8, 20, 3), "model_args.graph"),
        ((1, 2, 8, 25, 2), "model_args.in_channels"),
        ((1, 1, 8, 25, 3), "model_args.num_person"),
        ((2, 8, 25, 3), "(N, M, T, V, C)"),
    ],
)
def test_clips_of_another_shape_are_refused(shape, named):
    with pytest.raises(InputError) as raised:
        tiny()(torch.zeros(shape))
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


def test_features_then_classify_is_forward():
    model = tiny().eval()
    clips = torch.randn(3, 2, 9, 25, 3)
    features = model.features(clips)
    assert features.shape == (3, model.fc.in_features)
    torch.testing.assert_close(model.classify(features), model(clips))


def test_weights_that_do_not_fit_are_listed(golden):
    model, weights, _ = released(golden, "stgcnpp_b16")
    weights = dict(weights)
    weights["backbone.extra"] = weights.pop("cls_head.fc_cls.bias")
    weights["backbone.gcn.3.gcn.bn.weight"] = torch.ones(3)
    with pytest.raises(InputError) as raised:
        upstream.translate(weights, model)
    assert "missing: cls_head.fc_cls.bias" in str(raised.value)
    assert "left over: backbone.extra" in str(raised.value)
    assert "another shape: backbone.gcn.3.gcn.bn.weight (3,)" in str(raised.value)
