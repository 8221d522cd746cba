"""What comes after the loss, against arithmetic by hand: steps, clipping, averages, the rate."""

import copy
import math

import pytest
import torch
from torch import nn

import graph
from engine import config
from engine.build import find_class
from engine.config import Config
from engine.distributed import World
from engine.optimizer import check_schedule, fused, lr_factor
from engine.session import build_training
from engine.state import TrainState
from engine.train import epoch_batches, training_step
from errors import InputError
from longtail.sampling import InstanceSampling
from model.backbone import Output

CPU = torch.device("cpu")
PLAIN = {"optimizer_args": {}, "schedule": "constant", "batch_size": 16, "lr": 0.5}


def batches(count):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 8, 3, generator=generator, dtype=torch.float64)


def loss_of(net, batch):
    return net(batch).square().mean()


def network():
    torch.manual_seed(0)
    return nn.Linear(3, 2).double()


def state_of(net, **values):
    return TrainState(Config(**PLAIN, **values), net, nn.Module(), CPU)


def test_accumulated_gradients_equal_one_step():
    """The learning rate grows with accumulation; a step leaves no gradient to the next."""
    net, data = network(), batches(4)
    state, expected = state_of(net, accumulate=2), copy.deepcopy(net)
    for part in (data[:2], data[2:]):
        loss = sum(loss_of(expected, batch) for batch in part)
        gradients = torch.autograd.grad(loss, list(expected.parameters()))
        with torch.no_grad():
            for weight, gradient in zip(expected.parameters(), gradients):
                weight -= 2 * PLAIN["lr"] * gradient
        for batch in part:
            state.backward(loss_of(net, batch))
        state.set_lr(0.0)
        state.update()
    torch.testing.assert_close(net.state_dict(), expected.state_dict())


@pytest.mark.parametrize(
    ("name", "amp", "together"),
    [("SGD", "off", True), ("SGD", "bf16", True), ("SGD", "fp16", False), ("AdamW", "fp16", True)],
)
def test_a_first_step_that_the_scaler_skips_leaves_no_trace(name, amp, together):
    """torch's fused SGD would keep uninitialized memory as its momentum."""
    config = Config(optimizer=f"torch.optim.{name}", amp=amp, optimizer_args={})
    chosen = fused(config, torch.device("cuda"))
    assert chosen == ({"fused": True} if together else {})
    assert fused(config, CPU) == {}
    weight, momentum = nn.Parameter(torch.ones(3)), {"momentum": 0.9} if name == "SGD" else {}
    optimizer = find_class(config.optimizer, "optimizer")([weight], lr=0.1, **momentum, **chosen)
    scaler = torch.amp.GradScaler("cpu", enabled=amp == "fp16")
    scaler.scale(weight.sum() * (torch.inf if amp == "fp16" else 0)).backward()
    scaler.step(optimizer)
    assert not any(value.any() for value in optimizer.state[weight].values() if value is not None)


class Flat(nn.Module):
    """Logits from a clip's mean over persons and frames: no batch norm, which sees a batch."""

    def __init__(self, num_class, **others):
        super().__init__()
        self.fc = nn.Linear(75, num_class)
        self.skeleton, self.num_class = graph.load("ntu_rgb_d"), num_class
        self.num_person, self.in_channels = 2, 3

    def forward(self, clips, outputs=False):
        features = clips.mean((1, 2)).flatten(1)
        logits = self.fc(features)
        return Output(logits, features, {}) if outputs else logits


@pytest.mark.parametrize("batch_size", [2, 3])
def test_an_epoch_of_accumulated_batches_is_one_of_large_batches(tiny, batch_size):
    """10 draws in steps of 6 and 4: of 2 as 2 2 2 and 2 2, of 3 as 3 3 and 3 1."""
    settings = [
        "model=tests.test_optimizer.Flat", "sampling=tests.test_optimizer.Ten",
        "mixing=longtail.mixing.Plain", "class_weights=null",
    ]  # fmt: skip
    weights = []
    for size, accumulate in ((6, 1), (batch_size, 6 // batch_size)):
        own = config.load(
            [tiny / "tiny-lt/joint.yaml"], settings, batch_size=size, accumulate=accumulate
        )
        training = build_training(own, [CPU], World())
        training.feeder.train = False  # the same frames, whatever batch a clip is in
        training.feeder.table = training.feeder._table()
        steps = epoch_batches(training)
        for clips, labels, batch in training.feeder.batches(steps):
            training_step(training, clips, labels, batch, len(steps))
        weights.append(training.state.model.state_dict())
    torch.testing.assert_close(*weights)


class Ten(InstanceSampling):
    def draws(self, progress):
        return torch.tensor([4, 3, 2, 1])


@pytest.mark.parametrize("amp", ["off", "fp16"])
def test_the_gradient_is_clipped_at_its_own_scale(amp):
    """A step of plain gradient descent is then rate * clip_grad long, whatever fp16 scales by."""
    net = network().float()
    before = torch.cat([weight.detach().flatten() for weight in net.parameters()])
    state = state_of(net, clip_grad=0.01, amp=amp)
    state.backward(loss_of(net, batches(1)[0].float()))
    state.set_lr(0.0)
    state.update()
    after = torch.cat([weight.detach().flatten() for weight in net.parameters()])
    assert (after - before).norm().item() == pytest.approx(0.5 * 0.01, rel=1e-3)


def test_averaged_weights_follow_by_their_decay():
    net = nn.Sequential(network(), nn.BatchNorm1d(2).double())
    state, average = state_of(net, ema=0.9), {}
    for batch in batches(4):
        state.backward(loss_of(net, batch))
        state.set_lr(0.0)
        state.update()
        with torch.no_grad():  # what a method does after the step is averaged too
            net[0].weight.clamp_(max=0.1)
        state.end_step()
        for name, value in net.state_dict().items():
            old = average.get(name, value)
            average[name] = 0.9 * old + 0.1 * value if value.is_floating_point() else value.clone()
    torch.testing.assert_close(dict(state.evaluated.state_dict()), average)


@pytest.mark.parametrize(
    ("settings", "epoch", "expected"),
    [
        ({"schedule": "cosine"}, 0, 1),
        ({"schedule": "cosine"}, 6, math.cos(math.pi / 8) ** 2),
        ({"schedule": "cosine"}, 24, 0),
        ({"schedule": "cosine", "schedule_args": {"warm_up": 4}}, 0, 0.25),
        ({"schedule": "cosine", "schedule_args": {"warm_up": 4}}, 1, 0.5),
        ({"schedule": "cosine", "schedule_args": {"warm_up": 4}}, 1.99, 0.5),
        ({"schedule": "cosine", "schedule_args": {"warm_up": 4}}, 3.5, 1),
        ({"schedule": "cosine", "schedule_args": {"warm_up": 4}}, 4, 1),
        ({"schedule": "cosine", "schedule_args": {"warm_up": 4}}, 14, 0.5),
        ({"schedule": "cosine", "schedule_args": {"warm_up": 4}}, 24, 0),
        ({"schedule": "step", "schedule_args": {"milestones": [10, 20]}}, 9.99, 1),
        ({"schedule": "step", "schedule_args": {"milestones": [10, 20]}}, 10, 0.1),
        ({"schedule": "step", "schedule_args": {"milestones": [10, 20], "gamma": 0.5}}, 21, 0.25),
        ({"schedule": "constant"}, 23, 1),
        ({"schedule": "constant", "schedule_args": {"warm_up": 2.5}}, 1, 0.8),
        ({"schedule": "constant", "schedule_args": {"warm_up": 2.5}}, 2, 1),
    ],
)
def test_learning_rate_over_the_epochs(settings, epoch, expected):
    assert lr_factor(Config(**settings), epoch) == pytest.approx(expected, abs=1e-12)


def test_the_rate_of_ctr_gcns_recipe():
    """Its adjust_learning_rate: warm-up of 5 epochs, then 0.1 to the number of steps passed."""
    recipe = config.load([config.CONFIG_ROOT / "methods/shap-mix-recipe.yaml"])
    expected = [
        (epoch + 1) / 5 if epoch < 5 else 0.1 ** sum(epoch >= step for step in (60, 80))
        for epoch in range(100)
    ]
    assert [lr_factor(recipe, epoch + 0.3) for epoch in range(100)] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("schedule", "args", "said"),
    [
        ("cosine", {"gamma": 0.1}, "schedule_args.gamma: schedule=cosine does not use it"),
        ("constant", {"milestones": [1]}, "schedule=constant does not use it, only warm_up"),
        ("step", {"milestone": [1]}, "did you mean milestones"),
        ("step", {"gamma": 0.5}, "schedule=step needs schedule_args.milestones"),
        ("step", {"milestones": []}, "schedule=step needs schedule_args.milestones"),
        ("step", {"milestones": 3}, "schedule_args.milestones must be a rising list of epochs"),
        ("step", {"milestones": [3, 1]}, "milestones must be a rising list"),
        ("step", {"milestones": [1], "gamma": 0}, "gamma must be above 0"),
        ("cosine", {"warm_up": 24}, "warm_up must be at least 0 and below 24, not 24"),
        ("cosine", {"warm_up": -1}, "warm_up must be"),
        ("cosine", {"warm_up": True}, "warm_up must be"),
        ("cosine", {"warm_up": None}, "warm_up must be"),
    ],
)
def test_arguments_that_a_schedule_does_not_use_are_refused(schedule, args, said):
    with pytest.raises(InputError, match=said):
        check_schedule(Config(schedule=schedule, schedule_args=args))
