"""The paper's method, its released form against golden vectors, and the shot metrics."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import graph
from errors import InputError
from longtail.brl import (
    ActionAwareWeights,
    PartialMixup,
    ReverseSampling,
    formula_counts,
    shrinking_walk,
)
from longtail.losses import CrossEntropy, Focal
from longtail.sampling import InstanceSampling, apportion, draw_rows
from longtail.shots import accuracy, groups
from longtail.stages import Stages
from tests.batch_loss import batch_loss

NTU, UCLA = graph.load("ntu_rgb_d"), graph.load("nw_ucla")
COUNTS60 = torch.tensor([int(600 * 100 ** (-c / 59)) for c in range(60)])
SPLITS = ("xsub_train_60", "xsub_train_120", "xset_train_120", "train_10")
RELEASED_MIX = {"alpha": 0.64, "permute_joints": True, "walk": True, "batch_share": True}
MIX_CASES = [
    *("base_n7", "base_ratio.25_s1", "base_s0"),
    *("rebalance_alpha.64", "rebalance_alpha0", "rebalance_alpha1", "rebalance_n7"),
    *("rebalance_ratio.25_s2", "rebalance_ratio.5_s0", "rebalance_ratio.5_s1"),
    *("rebalance_ucla", "rebalance_ucla_ratio.5"),
]


@pytest.fixture(scope="module")
def mixup(golden):
    return golden.load("mixup.npz")


def test_golden_names_every_mixup_case(golden, mixup):
    named = {name.split("|")[0] for name in mixup if "|" in name}
    assert named == {case for case in MIX_CASES if golden.whole or "ucla" in case}


@pytest.mark.parametrize("case", MIX_CASES)
def test_released_mixup(mixup, case):
    vectors = {name: mixup[f"{case}|{name}"] for name in ("changed_idx", "label_a", "label_b")}
    split = json.loads(str(mixup[f"{case}|split"]))
    skeleton, data = (UCLA, "ucla") if "ucla" in case else (NTU, "ntu")
    size = 7 if case.endswith("n7") else 16
    clips = torch.from_numpy(mixup[f"{data}_in"])[:size]
    labels = torch.from_numpy(mixup[f"{data}_label"])[:size]
    ucla = split["num_classes"] == 10
    mix = PartialMixup(
        torch.tensor([100] * 10) if ucla else COUNTS60 * 7,  # read counts that the formula ignores
        skeleton,
        **RELEASED_MIX,
        ratio=split["ratio"],
        threshold=split["im_k"] if case.startswith("rebalance") else float("inf"),
        formula=10 if ucla else 100,
    )
    draws = random.Random(int(mixup[f"{case}|seed"]))
    chosen = draws.sample(range(size), int(split["ratio"] * size))
    assert chosen == mixup[f"{case}|chosen"].tolist()
    rows, partners = shrinking_walk(size, chosen, draws.choice)
    mixed, targets = mix.combine(clips, labels, rows, partners)

    assert rows.tolist() == vectors["changed_idx"].tolist()
    expected = clips.clone()
    expected[rows] = torch.from_numpy(mixup[f"{case}|changed_keypoint"])
    assert torch.equal(mixed, expected)
    assert np.array_equal(clips, mixup[f"{data}_in"][:size])  # the released code mixes in place
    share = float(mixup[f"{case}|mix_alpha"]) if len(rows) else 1.0
    one_hot = np.eye(split["num_classes"])
    np.testing.assert_allclose(targets[0], share * one_hot[vectors["label_a"]], atol=1e-7)
    np.testing.assert_allclose(targets[1], (1 - share) * one_hot[vectors["label_b"]], atol=1e-7)


def test_released_mixup_draws_as_the_walk_does():
    mix = PartialMixup(COUNTS60, NTU, **RELEASED_MIX, ratio=0.5)
    for seed in range(20):
        rows, partners = mix.draw(16, torch.Generator().manual_seed(seed))
        chosen = torch.randperm(16, generator=torch.Generator().manual_seed(seed))[:8]
        assert set(rows.tolist()) <= set(chosen.tolist())
        assert rows.tolist() == sorted(rows.tolist()) and (rows.diff() > 1).all()
        earlier = [set(rows[: k + 1].tolist()) for k in range(len(rows))]
        assert all(int(partners[k]) not in earlier[k] for k in range(len(rows)))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.sampled_from([1 / 16, 0.5, 1.0]), st.integers(0, 10**6))
def test_paper_mixup(size, ratio, seed):
    data = torch.Generator().manual_seed(seed + 1)
    clips = torch.randn(size, 2, 3, 25, 3, generator=data)
    labels = torch.randint(60, (size,), generator=data)
    before = clips.clone(), labels.clone()
    mix = PartialMixup(COUNTS60, NTU, ratio=ratio)
    rows, partners = mix.draw(size, torch.Generator().manual_seed(seed))
    mixed, targets = mix(clips, labels, torch.Generator().manual_seed(seed))

    assert torch.equal(clips, before[0]) and torch.equal(labels, before[1])
    assert len(set(rows.tolist())) == len(rows) == int(size * ratio)
    assert (rows != partners).all() and ((partners >= 0) & (partners < size)).all()
    expected, expected_targets = clips.numpy().copy(), np.eye(60)[labels]
    lower = [v for v in range(25) if v not in NTU.upper]
    for i, j in zip(rows.tolist(), partners.tolist()):
        expected[i][:, :, lower] = clips[j].numpy()[:, :, lower]
        own, other = int(COUNTS60[labels[i]]), int(COUNTS60[labels[j]])
        share = 0 if own > 3 * other else 1 if other > 3 * own else 16 / 25
        expected_targets[i] = share * np.eye(60)[labels[i]] + (1 - share) * np.eye(60)[labels[j]]
    np.testing.assert_array_equal(mixed, expected)
    np.testing.assert_allclose(targets, expected_targets, atol=1e-6)


def test_mixup_partner_is_uniform_over_the_others():
    mix, generator = PartialMixup(COUNTS60, NTU, ratio=1.0), torch.Generator().manual_seed(0)
    table = torch.zeros(5, 5)
    for _ in range(2000):
        rows, partners = mix.draw(5, generator)
        table[rows, partners] += 1
    assert (table.diagonal() == 0).all()
    off_diagonal = table[~torch.eye(5, dtype=torch.bool)]
    assert (off_diagonal - 500).abs().max() < 5 * (500 * 0.75) ** 0.5


def test_mixup_share_follows_the_skeleton_and_may_be_fixed():
    assert PartialMixup(COUNTS60, NTU).alpha == pytest.approx(16 / 25)
    assert PartialMixup(COUNTS60, UCLA).alpha == pytest.approx(11 / 20)
    assert PartialMixup(COUNTS60, UCLA, alpha=0.64).alpha == 0.64
    fixed = PartialMixup(COUNTS60, NTU, threshold=float("inf"))
    np.testing.assert_allclose(fixed.shares(torch.tensor([0, 59]), torch.tensor([59, 0])), 0.64)
    reverse = PartialMixup(COUNTS60, NTU).shares(torch.tensor([0, 59]), torch.tensor([59, 0]))
    assert reverse.tolist() == [0, 1]
    edge = PartialMixup(torch.tensor([31, 30, 10]), NTU)  # thrice as many is not yet more
    shares = edge.shares(torch.tensor([0, 2, 1, 2]), torch.tensor([2, 0, 2, 1]))
    np.testing.assert_allclose(shares, [0, 1, 0.64, 0.64])


def test_reverse_sampling_multiplicities():
    counts = COUNTS60
    labels = torch.arange(60).repeat_interleave(counts)
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))]
    sampling = ReverseSampling(labels, counts, repeat=5)
    generator = torch.Generator().manual_seed(0)
    first, second = sampling.epoch(generator, 0.0), sampling.epoch(generator, 0.5)
    assert len(first) == len(second) == len(sampling)
    assert (labels[first].diff() != 0).float().mean() > 0.9  # not class by class
    for epoch in (first, second):
        shown = np.bincount(epoch, minlength=len(labels))
        for c in range(60):
            times = shown[labels.numpy() == c]
            n = int(counts[c])
            if c < 40:
                assert (times == 5).all()
            else:
                assert times.sum() == 3000  # 5 n_max / n_c copies of n_c members
                assert set(times) <= {3000 // n, 3000 // n + 1}
    tail = np.flatnonzero(labels.numpy() == 40)  # 3000 = 115 * 26 + 10: ten are drawn anew
    extra = [set(tail[np.bincount(e, minlength=len(labels))[tail] == 116]) for e in (first, second)]
    assert len(extra[0]) == len(extra[1]) == 10 and extra[0] != extra[1]


def test_reverse_sampling_tail_is_by_count_not_by_label():
    counts = torch.tensor([4, 4, 40, 8, 4, 20])  # descending, stable: 2 5 3 0 | 1 4
    labels = torch.arange(6).repeat_interleave(counts)
    shown = labels[ReverseSampling(labels, counts, repeat=2).epoch(None)].bincount()
    assert shown.tolist() == [8, 80, 80, 16, 80, 40]
    counts = torch.tensor([50, 40, 30, 20, 10])  # the tail begins at place 2 int(5 / 3)
    sampling = ReverseSampling(torch.arange(5).repeat_interleave(counts), counts)
    assert sampling.draws(0.0).tolist() == [50, 40, 50, 50, 50]


def test_released_sampler(golden):
    sampler = np.load(golden / "e2e" / "sampler.npz")
    labels = torch.from_numpy(sampler["labels"])
    sampling = ReverseSampling(labels, COUNTS60, repeat=5)
    for epoch in range(2):
        rows = sampling.epoch(torch.Generator().manual_seed(epoch), 0.0)
        expected = np.bincount(sampler[f"epoch{epoch}"], minlength=len(labels))
        assert rows.bincount(minlength=len(labels)).tolist() == expected.tolist()


def test_instance_sampling_and_empty_classes():
    labels = torch.tensor([0, 2, 2, 0, 0])
    sampling = InstanceSampling(labels, torch.tensor([3, 0, 2]), repeat=3)
    assert sampling.epoch(None).bincount().tolist() == [3] * 5 and len(sampling) == 15
    rows = draw_rows(labels, torch.tensor([4, 0, 3]), None)
    assert labels[rows].bincount().tolist() == [4, 0, 3]
    assert apportion(torch.tensor([1.0, 1.0, 1.0]), 10).sum() == 10


@pytest.mark.parametrize("kind", [InstanceSampling, ReverseSampling])
def test_a_fraction_of_repeat_is_shown(kind):
    """Every sample two or three times, in each epoch others three times."""
    counts = torch.tensor([8, 6, 4, 3, 2, 1])
    labels = torch.arange(6).repeat_interleave(counts)
    sampling = kind(labels, counts, repeat=2.5)
    first, second = (
        sampling.epoch(torch.Generator().manual_seed(seed)).bincount() for seed in (0, 1)
    )
    head = labels < 4  # reverse sampling shows the last two classes more often
    for shown in (first, second):
        assert shown[head].min() == 2 and shown[head].max() == 3
        per_class = labels.repeat_interleave(shown).bincount(minlength=6)
        assert (per_class - 2.5 * counts)[:4].abs().max() <= 1
        if kind is ReverseSampling:
            assert per_class[4:].tolist() == [20, 20]  # 2.5 n_max
        else:
            assert shown.sum() == len(sampling) == 60
    assert not torch.equal(first, second)
    assert kind(labels, counts, 2.0).draws(0).tolist() == kind(labels, counts, 2).draws(0).tolist()
    assert kind(labels, counts, 2).draws(0)[:4].tolist() == [16, 12, 8, 6]


@pytest.mark.parametrize("split", SPLITS)
def test_action_aware_weights_against_golden(golden, split):
    losses = golden.load("losses.npz")
    counts = torch.from_numpy(losses[f"{split}|num_class_list"])
    weights = ActionAwareWeights(counts)
    np.testing.assert_allclose(weights.beta, losses[f"{split}|weight_list"], rtol=1e-14)
    paper = losses[f"{split}|TwostageAALoss|weight"][2]  # epoch 19
    for stage_epoch in range(3):
        np.testing.assert_allclose(weights(stage_epoch), paper, rtol=1e-6)
    formula = 10 if split == "train_10" else 100
    released = ActionAwareWeights(counts * 0 + counts.max(), alternate=True, formula=formula)
    np.testing.assert_allclose(
        torch.stack([released(k) for k in range(5)]),
        losses[f"{split}|TwostageAALoss|weight"][2:],
        rtol=1e-6,
    )


def test_lists_of_the_released_imbalance_have_the_counts_of_the_formula(shared):
    """So config/released.yaml needs no formula for them."""
    names = (Path(__file__).parents[1] / "data/lists/nw-ucla_10.txt").read_text().split()
    read = torch.tensor([int(name[1:3]) for name in names]).bincount()
    counts = read[read > 0]  # actions 1 to 12 without 7 and 10
    assert torch.equal(formula_counts(counts, 10), counts.double()) and len(counts) == 10
    for path in (shared / "reference/lists").glob("*_exp_100.txt"):
        counts = torch.tensor([int(n[-3:]) for n in path.read_text().split()]).bincount()[1:]
        assert torch.equal(formula_counts(counts, 100), counts.double())
        assert not torch.equal(formula_counts(counts, 10), counts.double())


def test_action_aware_weights_of_the_paper():
    weights = ActionAwareWeights(COUNTS60)(0)
    assert weights[0] == pytest.approx(0.0410, abs=5e-5)
    assert weights[-1] == pytest.approx(4.0757, abs=5e-5)
    assert ActionAwareWeights(torch.tensor([7, 7, 7]))(0).tolist() == [1, 1, 1]
    gap = ActionAwareWeights(torch.tensor([50, 0, 10, 1]))(0)
    without = ActionAwareWeights(torch.tensor([50, 10, 1]))(0)
    assert gap[1] == 0 and torch.equal(gap[[0, 2, 3]], without)
    assert without.sum() == pytest.approx(3)


@pytest.mark.parametrize(
    "name", ["TwostageAALoss", "TwostageAALoss_every_epoch", "TwostageAALoss_fresh20"]
)
@pytest.mark.parametrize("split", SPLITS)
def test_released_action_aware_loss(golden, split, name):
    losses = golden.load("losses.npz")
    counts = torch.from_numpy(losses[f"{split}|num_class_list"])
    num_class = len(counts)
    # An instance that is first called at epoch 20 counts its refreshes from there.
    second_stage = 4 if name.endswith("fresh20") else 5
    stages = Stages(
        24,
        second_stage,
        CrossEntropy(counts),
        ActionAwareWeights(counts, alternate=True),
    )
    labels = torch.from_numpy(losses[f"{split}|label"])
    targets = torch.nn.functional.one_hot(labels, num_class).float()
    for k, epoch in enumerate(losses[f"{split}|{name}|epochs"].tolist()):
        logits = torch.from_numpy(losses[f"{split}|logits"]).requires_grad_()
        loss = batch_loss(stages.criterion(epoch), logits, targets, stages.class_weights(epoch))
        loss.backward()
        assert loss.item() == pytest.approx(losses[f"{split}|{name}|loss"][k], rel=1e-6)
        np.testing.assert_allclose(
            logits.grad, losses[f"{split}|{name}|grad"][k], rtol=1e-4, atol=1e-7
        )


def test_cross_entropy_against_numpy_and_torch():
    draws = np.random.RandomState(0)
    logits, weights = draws.standard_normal((6, 5)), draws.uniform(0.1, 3, 5)
    targets = draws.dirichlet(np.ones(5), 6)
    nll = np.log(np.exp(logits).sum(1, keepdims=True)) - logits
    loss = CrossEntropy(torch.ones(5))
    tensors = [torch.from_numpy(x) for x in (logits, targets, weights)]
    expected = (weights * targets * nll).sum() / (weights * targets).sum()
    assert batch_loss(loss, *tensors).item() == pytest.approx(expected, rel=1e-12)
    assert batch_loss(loss, *tensors[:2]).item() == pytest.approx(
        (targets * nll).sum() / 6, rel=1e-12
    )
    labels = torch.tensor([0, 3, 4, 1, 1, 2])
    hard = torch.eye(5, dtype=torch.float64)[labels]
    torch_loss = torch.nn.functional.cross_entropy(tensors[0], labels, weight=tensors[2])
    assert torch.allclose(batch_loss(loss, tensors[0], hard, tensors[2]), torch_loss, rtol=1e-12)


def test_cross_entropy_of_two_label_sets_is_the_released_heads():
    draws = torch.Generator().manual_seed(1)
    logits, weights = torch.randn(6, 5, generator=draws), torch.rand(5, generator=draws)
    first, second = torch.tensor([0, 1, 2, 3, 4, 0]), torch.tensor([0, 1, 4, 3, 4, 0])
    loss, one_hot = CrossEntropy(torch.ones(5)), torch.eye(5)
    for share in (0.0, 0.64, 1.0):
        targets = torch.stack([share * one_hot[first], (1 - share) * one_hot[second]])
        parts = [
            torch.nn.functional.cross_entropy(logits, y, weight=weights) for y in (first, second)
        ]
        expected = share * parts[0] + (1 - share) * parts[1]
        assert torch.allclose(batch_loss(loss, logits, targets, weights), expected)


def test_stages():
    loss = Focal(torch.ones(3))
    plain_from = Stages(24, 5, loss, None, "second_stage")
    assert [plain_from.stage(e) for e in (0, 18, 19, 23)] == [1, 1, 2, 2]
    assert type(plain_from.criterion(18)) is CrossEntropy and plain_from.criterion(19) is loss
    assert plain_from.class_weights(23).tolist() == [1, 1, 1]
    weights = lambda epoch: torch.full((3,), float(epoch))  # noqa: E731
    deferred = Stages(24, None, loss, weights)
    assert deferred.criterion(0) is loss and deferred.switch == 19
    assert [deferred.class_weights(e)[0].item() for e in (0, 18, 19, 23)] == [1, 1, 0, 4]
    early = Stages(24, 5, loss, weights, weights_from="start")
    assert early.class_weights(3)[0] == 3
    assert [Stages(n, None, loss, None).switch for n in (1, 2, 8, 150)] == [0, 1, 6, 119]
    with pytest.raises(InputError, match="second_stage: 25"):
        Stages(24, 25, loss, None)


def test_shots_against_numpy():
    draws = np.random.RandomState(0)
    counts = np.array([101, 100, 20, 19, 500, 3, 50])
    labels = draws.choice([0, 1, 2, 3, 4, 6], 200)  # class 5 is not tested
    scores = draws.uniform(size=(200, 7)).astype(np.float32)
    result = accuracy(scores, labels, counts)
    order = scores.argsort(1)[:, ::-1]
    right = order[:, 0] == labels
    each = {c: 100 * right[labels == c].mean() for c in set(labels)}
    assert result["top1"] == pytest.approx(100 * right.mean())
    assert result["top5"] == pytest.approx(100 * (order[:, :5] == labels[:, None]).any(1).mean())
    assert result["mean_class"] == pytest.approx(np.mean(list(each.values())))
    assert result["many"] == pytest.approx(np.mean([each[0], each[4]]))
    assert result["medium"] == pytest.approx(np.mean([each[1], each[2], each[6]]))
    assert result["few"] == pytest.approx(each[3])
    assert result["per_class"] == [pytest.approx(each[c]) if c in each else None for c in range(7)]
    assert groups(counts, (100, 20))["many"].tolist() == [True, *[False] * 3, True, False, False]


def test_shots_without_counts_or_members():
    result = accuracy(torch.eye(3), [0, 1, 1])
    assert result["top1"] == pytest.approx(200 / 3) and result["top5"] == 100
    assert [result[name] for name in ("many", "medium", "few")] == [None] * 3
    assert accuracy(torch.eye(3), [0, 1, 1], [5, 5, 5])["many"] is None
    tied = accuracy(torch.zeros(2, 3), [0, 2], [5, 5, 5])
    assert tied["per_class"] == [100, None, 0]
    json.dumps(result, allow_nan=False)
