"""LADE: its bounds against a loop, and the parts of a batch."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from engine import config
from engine.distributed import World
from engine.session import build_training
from errors import InputError
from tests.tiny_runs import METHODS, SMALL, run


def training_of(tiny, *more):
    own = config.load([tiny / "tiny-lt/joint.yaml", METHODS / "lade.yaml"], [*SMALL, *more])
    return build_training(own, [torch.device("cpu")], World())


def by_a_loop(logits, labels, counts, regularization):
    shares, num_class = counts / counts.sum(), len(counts)
    bounds = []
    for c in range(num_class):
        own = [z[c] for z, label in zip(logits, labels) if label == c]
        first = np.mean(own) if own else 0.0
        second = np.log(np.mean([np.exp(z[c]) / (num_class * shares[c]) for z in logits]))
        bounds.append(first - second - regularization * second**2)
    return np.array(bounds)


def test_the_loss_is_the_balanced_softmax_less_the_bounds(tiny):
    training = training_of(tiny, "objective_args.weight=0.7", "objective_args.regularization=0.3")
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 0, 2, 1, 2, 0])
    counts = training.data.class_counts

    class Net(torch.nn.Module):
        def forward(self, rows):
            from model.backbone import Output

            return Output(logits[rows], logits[rows], {})

    method, rows = training.method, torch.arange(6)
    targets = method.weigh(one_hot(labels, 4).double())
    loss = method.loss(Net(), rows, targets, 6)
    bounds = by_a_loop(logits.numpy(), labels.numpy(), counts.double().numpy(), 0.3)
    plain = cross_entropy(logits + counts.double().log(), labels)
    expected = plain - 0.7 * (counts / counts.sum()).double() @ torch.from_numpy(bounds)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    # micro-batches of three: the mean of the bounds of both
    halves = sum(method.loss(Net(), rows[part], targets[part], 6)
                 for part in (slice(0, 3), slice(3, 6)))  # fmt: skip
    means = np.mean([by_a_loop(logits[part].numpy(), labels[part].numpy(),
                               counts.double().numpy(), 0.3)
                     for part in (slice(0, 3), slice(3, 6))], 0)  # fmt: skip
    expected = plain - 0.7 * (counts / counts.sum()).double() @ torch.from_numpy(means)
    assert halves.item() == pytest.approx(expected.item(), rel=1e-5)


def test_class_weights_are_refused(tiny, tmp_path):
    more = [*SMALL, "class_weights=longtail.weights.InverseFrequency"]
    with pytest.raises(InputError, match=r"^class_weights: objective=longtail\.lade\.LADE"):
        run(tiny, tmp_path / "run", "lade.yaml", more=more)


def test_experts_are_refused_by_the_key(tiny, tmp_path):
    with pytest.raises(InputError, match=r"^objective: .*one linear classifier"):
        run(tiny, tmp_path / "run", "lade.yaml", more=[*SMALL, "model=model.experts.Model"])
