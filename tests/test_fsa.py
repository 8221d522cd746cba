"""FSA: what a tail feature borrows, from whom, and what of the network it trains."""

import numpy as np
import pytest
import torch

from engine import config
from engine.distributed import World
from engine.session import build_training
from errors import InputError
from tests.tiny_runs import METHODS, SMALL, run, weights


def method_of(tiny, whole, *more):
    own = config.load([tiny / "tiny-lt/joint.yaml", METHODS / "fsa.yaml"], more)
    return build_training(
        own, [torch.device("cpu")], World(), whole / "last.pt", classifier=True
    ).method


def test_tail_features_borrow_generic_channels_of_the_most_confusing_sample(tiny, whole):
    """Against NumPy, channel by channel. Of four classes the last two are the tail."""
    method = method_of(tiny, whole, "objective_args.specific=0.7", "objective_args.generic=0.5")
    K, D = method.first_stage.shape
    random = np.random.default_rng(0)
    features, logits = random.normal(size=(6, D)), random.normal(size=(6, K))
    labels = np.array([0, 3, 1, 2, 3, 0])
    made, usable = method.augment(*map(torch.tensor, (features, logits, labels)))
    w = method.first_stage.numpy().astype(float)
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    def shares(i):
        a = w[labels[i]] * features[i]
        return (a - a.min()) / (a.max() - a.min())

    borrowed = 0
    for i, y in enumerate(labels):
        j = max((j for j in range(6) if labels[j] < 2), key=lambda j: chances[j, y])
        for c in range(D):
            takes = shares(i)[c] < 0.7 and shares(j)[c] < 0.5
            borrowed += takes
            assert made[i, c] == pytest.approx(features[j if takes else i, c])
    assert 0 < borrowed < 6 * D
    assert usable.tolist() == [False, True, False, True, True, False]


def test_without_a_head_class_nothing_is_augmented(tiny, whole):
    method = method_of(tiny, whole)
    K, D = method.first_stage.shape
    made = method.augment(torch.randn(3, D), torch.randn(3, K), torch.tensor([3, 2, 3]))
    assert made[1].tolist() == [False] * 3


def test_it_trains_the_classifier_alone_and_otherwise_than_crt(tiny, whole, tmp_path):
    flags = ["--phase", "classifier", "--weights", str(whole / "last.pt")]
    made = {}
    for weight in (0, 1):
        more = [f"objective_args.weight={weight}", "num_epoch=1", *flags]
        run(tiny, tmp_path / str(weight), "fsa.yaml", more=more)
        made[weight] = weights(tmp_path / str(weight) / "last.pt")
    before = weights(whole / "last.pt")
    for state in made.values():
        changed = {name for name, value in state.items() if not torch.equal(value, before[name])}
        assert changed == {"fc.weight", "fc.bias"}
    assert not torch.equal(made[0]["fc.weight"], made[1]["fc.weight"])


def test_it_needs_no_values_on_the_device(tiny, whole):
    method = method_of(tiny, whole).to("meta")
    K, D = method.first_stage.shape
    rows = torch.empty(5, D, device="meta"), torch.empty(5, K, device="meta")
    made, usable = method.augment(*rows, torch.empty(5, dtype=torch.int64, device="meta"))
    assert made.shape == (5, D) and usable.shape == (5,)


def test_mixing_is_refused(tiny, whole, tmp_path):
    more = [*SMALL[:0], "mixing=longtail.mixing.Mixup", "--phase", "classifier"]
    with pytest.raises(InputError, match=r"^mixing: objective=longtail\.fsa\.FSA"):
        run(tiny, tmp_path / "run", "fsa.yaml", more=[*more, "--weights", str(whole / "last.pt")])
