"""Feeding, mixing and the losses never wait for the device: seen without one, on `meta` tensors.

Those have no values: whoever asks for one fails. What is sent to them is what a GPU would be sent;
a copy that is not `non_blocking` would wait for all that the GPU had been given before.
"""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import graph
from data.store import Store
from feeders import skeleton
from feeders.augment import Augmentation
from feeders.frames import Even
from longtail import brl, experts, losses, mixing
from tests.batch_loss import batch_loss
from tests.outputs import Outputs

META = torch.device("meta")
NW_UCLA = {"choice": Even(), "box": True, "augmentation": Augmentation(scale=0, flip=0)}
NTU = graph.load("ntu_rgb_d")
COUNTS = torch.tensor([9, 5, 2, 1])


class NoWaiting(TorchDispatchMode):
    """Fails at a copy to the device that would wait for it."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, kwargs = function.overloadpacket.__name__, kwargs or {}
        if name == "_to_copy" and kwargs.get("device") == META and args[0].device != META:
            assert kwargs.get("non_blocking"), f"{tuple(args[0].shape)} is sent, and waited for"
        if name.startswith("index") and args[0].device == META and isinstance(args[1], list):
            assert all(index is None or index.device == META for index in args[1])
        return function(*args, **kwargs)


MIXINGS = {
    "plain": lambda: mixing.Plain(COUNTS),
    "mixup": lambda: mixing.Mixup(COUNTS),
    "remix": lambda: mixing.Mixup(COUNTS, kappa=3.0),
    "partial": lambda: brl.PartialMixup(COUNTS, NTU, ratio=0.5),
    "released": lambda: brl.PartialMixup(COUNTS, NTU, ratio=0.5, walk=True, batch_share=True),
    "shap": lambda: mixing.ShapMix(COUNTS, NTU, mixup=0.5, warm_up=0),
}


@pytest.mark.parametrize("name", MIXINGS)
def test_mixing_does_not_synchronize_with_the_device(name):
    mix, generator = MIXINGS[name]().to(META), torch.Generator().manual_seed(0)
    net = Outputs(nn.Sequential(nn.Flatten(), nn.Linear(2 * 64 * 25 * 3, 4))).to(META)
    clips = torch.empty(16, 2, 64, 25, 3, device=META)
    labels = torch.empty(16, dtype=torch.int64, device=META)

    def step():
        mix.observe(net, clips, labels, generator)
        return mix(clips, labels, generator)

    with NoWaiting():
        for _ in range(6):
            assert step()[1].device == META


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("stream", ["joint", "skip-motion"])
@pytest.mark.parametrize("settings", [{}, NW_UCLA])
def test_feeding_does_not_synchronize_with_the_device(
    tiny, monkeypatch, settings, stream, resident
):
    # asked once, while the feeder is built
    monkeypatch.setattr(skeleton.Stream, "commutes_with", lambda stream, flip: True)
    store = Store.open(tiny / "store")
    rows = np.arange(len(store))
    fed = skeleton.Feeder(
        store, rows, stream, 8, train=True, device=META, resident=resident, **settings
    )
    batches = torch.arange(len(store)).split(5)
    generator = torch.Generator().manual_seed(0)
    with NoWaiting():
        for clips, labels, _ in fed.batches(batches, generator):
            assert clips.shape[1:] == (2, 8, 25, 3) and clips.device == labels.device == META


LOSSES = [
    losses.CrossEntropy, losses.Focal, losses.LogitAdjustment, losses.LDAM, losses.Equalization,
    losses.KPS, losses.Gumbel, losses.InfluenceBalanced, experts.Diversity,
]  # fmt: skip


@pytest.mark.parametrize("kind", LOSSES)
def test_losses_do_not_synchronize_with_the_device(kind):
    loss, weights = kind(COUNTS).to(META), torch.ones(4, device=META)
    shape = (16, 3, 4) if kind is experts.Diversity else (16, 4)
    logits = torch.empty(shape, device=META, requires_grad=True)
    targets = torch.empty(16, 4, device=META)
    features = torch.empty(16, 8, device=META)
    with NoWaiting():
        batch_loss(loss, logits, targets, weights, features).backward()
    assert logits.grad.device == META
