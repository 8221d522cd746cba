"""Losses and class weights: golden vectors of the released forms, NumPy, autograd, invariances."""

import numpy as np
import pytest
import torch

from errors import InputError
from longtail.experts import Diversity
from longtail.losses import (
    KPS,
    LDAM,
    CrossEntropy,
    Equalization,
    Focal,
    Gumbel,
    InfluenceBalanced,
    LogitAdjustment,
    label_weights,
)
from longtail.stages import Stages
from longtail.weights import EffectiveNumber, InverseFrequency
from tests.batch_loss import batch_loss

SPLITS = ("xsub_train_60", "xsub_train_120", "xset_train_120", "train_10")
COUNTS = torch.tensor([60, 40, 25, 10, 4, 1])
LOSSES = {
    "cross entropy": CrossEntropy(COUNTS),
    "focal": Focal(COUNTS),
    "focal, gamma 1/2": Focal(COUNTS, gamma=0.5),
    "balanced softmax": LogitAdjustment(COUNTS),
    "logit adjustment": LogitAdjustment(COUNTS, tau=1.5),
    "LDAM": LDAM(COUNTS),
    "LDAM, scale 1": LDAM(COUNTS, scale=1.0),
    "LDAM, rescaled": LDAM(COUNTS, rescale=True),
    "KPS": KPS(COUNTS),
    "KPS, scale 1": KPS(COUNTS, max_margin=0.5, scale=1.0),
    "KPS, first stage": KPS(COUNTS).first_stage,
    "Gumbel": Gumbel(COUNTS),
    "Gumbel, softmax": Gumbel(COUNTS, softmax=True),
    "equalization": Equalization(COUNTS, gamma=1.0),
    "equalization, head": Equalization(COUNTS, gamma=1.0, masked="head"),
}


@pytest.fixture(scope="module")
def losses(golden):
    return golden.load("losses.npz")


def check_sequence(losses, split, name, stages, tolerance=2e-6):
    """Compare loss and gradient at each epoch that a golden sequence holds."""
    logits = torch.from_numpy(losses[f"{split}|logits"])
    num_class = logits.shape[1]
    targets = torch.eye(num_class)[torch.from_numpy(losses[f"{split}|label"])]
    for k, epoch in enumerate(losses[f"{split}|{name}|epochs"].tolist()):
        leaf = logits.clone().requires_grad_()
        torch.manual_seed(1000 + epoch)
        loss = batch_loss(stages.criterion(epoch), leaf, targets, stages.class_weights(epoch))
        loss.backward()
        assert loss.item() == pytest.approx(losses[f"{split}|{name}|loss"][k], rel=tolerance)
        expected = losses[f"{split}|{name}|grad"][k]
        atol = 1e-6 * np.abs(expected).max()
        np.testing.assert_allclose(leaf.grad, expected, rtol=1e-3, atol=max(atol, 1e-8))


def released(name, counts):
    """Return the Stages that repeat a released loss, as config/released.yaml's values would."""
    plain, deferred = CrossEntropy(counts), {"loss_from": "second_stage"}
    length, criterion, weights, extra = {
        "CrossEntropyLoss": (5, plain, None, {}),
        # It counts to weigh by inverse frequency, but overwrites its weights by ones first ...
        "TwostageWeightedLoss": (5, plain, None, {}),
        "TwostageWeightedLoss_every_epoch": (5, plain, None, {}),
        # ... unless it is first called in the second stage.
        "TwostageWeightedLoss_fresh20": (5, plain, InverseFrequency(counts), {}),
        "TwostageFocalLoss": (5, Focal(counts), None, deferred),
        "FocalLoss": (5, Focal(counts), None, {}),
        "TwostageCBLoss": (5, plain, EffectiveNumber(counts, beta=0.999), {}),
        "TwostageCBLoss_every_epoch": (5, plain, EffectiveNumber(counts, beta=0.999), {}),
        "TwostageCBLoss_fresh20": (5, plain, EffectiveNumber(counts, beta=0.999), {}),
        "TwostageLDAMLoss": (
            5,
            LDAM(counts, rescale=True),
            EffectiveNumber(counts, beta=0.999999),
            {},
        ),
        "TwostageBalancedSoftmax": (5, LogitAdjustment(counts), None, {}),
        "KPSLoss": (8, KPS(counts, max_margin=0.5, scale=1.0), None, {}),
        "GumbelCE": (4, Gumbel(counts, softmax=True), None, deferred),
        "TwostageEQL_seeded": (
            5,
            Equalization(counts, gamma=1 - 0.00176, masked="head"),
            None,
            deferred,
        ),
    }[name]
    return Stages(24, length, criterion, weights, **extra)


@pytest.mark.parametrize("split", SPLITS)
def test_released_losses(losses, split):
    counts = torch.from_numpy(losses[f"{split}|num_class_list"])
    names = {key.split("|")[1] for key in losses if key.endswith("|epochs")}
    elsewhere = {name for name in names if name.startswith("TwostageAA")}  # test_brl.py
    forced = {"TwostageEQL_rand0", "TwostageEQL_forced"}  # below
    for name in sorted(names - elsewhere - forced):
        check_sequence(losses, split, name, released(name, counts))


@pytest.mark.parametrize("split", SPLITS)
def test_released_class_weights(losses, split):
    counts = torch.from_numpy(losses[f"{split}|num_class_list"])
    for name, beta in (("TwostageCBLoss", 0.999), ("TwostageLDAMLoss", 0.999999)):
        expected = losses[f"{split}|{name}|weight"][2]
        np.testing.assert_allclose(EffectiveNumber(counts, beta)(0), expected, rtol=1e-5)
    ratio = InverseFrequency(counts)(0).numpy() / losses[f"{split}|weight_class_list"]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)


@pytest.mark.parametrize("split", SPLITS)
def test_released_equalization_with_given_draws(losses, split):
    counts = torch.from_numpy(losses[f"{split}|num_class_list"])
    logits = torch.from_numpy(losses[f"{split}|logits"])
    label = torch.from_numpy(losses[f"{split}|label"])
    loss = Equalization(counts, gamma=1 - 0.00176, masked="head")
    tail = ~loss.spared.numpy()
    np.testing.assert_array_equal(tail, losses[f"{split}|TwostageEQL|tail_flag"])
    forced = torch.from_numpy(losses[f"{split}|TwostageEQL_forced|rand"])
    for name, draws in (("forced", forced), ("rand0", torch.zeros_like(logits))):
        vectors = f"{split}|TwostageEQL_{name}"
        for k, epoch in enumerate(losses[f"{vectors}|epochs"].tolist()):
            leaf = logits.clone().requires_grad_()
            costs = (
                CrossEntropy(counts).loss_matrix(leaf)
                if epoch < 19
                else loss.loss_matrix(leaf, draws)
            )
            value = costs.gather(1, label[:, None]).mean()
            value.backward()
            assert value.item() == pytest.approx(losses[f"{vectors}|loss"][k], rel=2e-6)
            grad = losses[f"{vectors}|grad"][k]
            np.testing.assert_allclose(leaf.grad, grad, rtol=1e-3, atol=1e-7)


def softmax_nll(logits, k):
    return np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[k]


def test_loss_matrices_against_numpy():
    """The paper's formulas, one sample and label at a time."""
    draws = np.random.RandomState(0)
    logits, n = draws.standard_normal((5, 6)) * 3, COUNTS.numpy().astype(float)
    margins = n**-0.25 * 0.5 / (n**-0.25).max()
    slopes = np.log(50 * n / n.min()) / np.log(50)
    uniform = draws.uniform(size=(5, 6))

    def focal(z, k):
        return (1 - np.exp(-softmax_nll(z, k))) ** 2 * softmax_nll(z, k)

    # Of cosines; the network's logits are cosines times the scale.
    def ldam(cosines, k):
        cosines = cosines.copy()
        cosines[k] -= margins[k]
        return softmax_nll(30 * cosines, k)

    def kps(cosines, k, margin, scale, second):
        cosines = slopes * cosines
        cosines[k] -= slopes[::-1][k] * margin / slopes.max()
        stretch = np.clip(slopes[::-1][k] * scale, scale, 50) if second else scale
        return softmax_nll(cosines * stretch, k)

    def gumbel(z, k):
        q = np.exp(-np.exp(-np.clip(z, -4, 10)))
        return -np.log(q[k]) - np.log(1 - np.delete(q, k)).sum()

    def equalization(z, k, row):
        spared = (np.arange(6) >= 4) & (uniform[row] < 0.6)  # from place 2 int(6 / 3) on
        spared[k] = False
        return -np.log(np.exp(z[k]) / np.exp(z[~spared]).sum())

    forms = {
        "focal": focal,
        "balanced softmax": lambda z, k: -np.log(n[k] * np.exp(z[k]) / (n * np.exp(z)).sum()),
        "logit adjustment": lambda z, k: softmax_nll(z + 1.5 * np.log(n / n.sum()), k),
        "LDAM": lambda z, k: ldam(z / 30, k),
        "LDAM, rescaled": ldam,
        "KPS": lambda z, k: kps(z / 15, k, 0.2, 15, True),
        "KPS, scale 1": lambda z, k: kps(z, k, 0.5, 1, True),
        "KPS, first stage": lambda z, k: kps(z / 15, k, 0.2, 15, False),
        "Gumbel": gumbel,
    }
    for name, form in forms.items():
        expected = [[form(z, k) for k in range(6)] for z in logits]
        found = LOSSES[name].loss_matrix(torch.from_numpy(logits))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6, err_msg=name)
    found = Equalization(COUNTS, gamma=0.6).loss_matrix(*map(torch.from_numpy, (logits, uniform)))
    expected = [[equalization(z, k, row) for k in range(6)] for row, z in enumerate(logits)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_influence_balanced_against_numpy():
    draws = np.random.RandomState(1)
    logits, features = draws.standard_normal((5, 6)), draws.standard_normal((5, 8))
    labels, weights = np.array([0, 5, 2, 2, 4]), InverseFrequency(COUNTS)(0).double().numpy()
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = 0
    for p, h, k in zip(chances, features, labels):
        influence = np.abs(p - np.eye(6)[k]).sum() * np.abs(h).sum()
        expected += weights[k] * -np.log(p[k]) * 1000 / (influence + 1e-3) / 5
    logits, targets, weights, features = map(
        torch.from_numpy, (logits, np.eye(6)[labels], weights, features)
    )
    entries = label_weights(targets, weights, "samples")
    loss = InfluenceBalanced(COUNTS).part(logits, features, entries, 5)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_class_weights_against_numpy():
    n = COUNTS.numpy().astype(float)
    raw = (1 - 0.9999) / (1 - 0.9999**n)
    np.testing.assert_allclose(EffectiveNumber(COUNTS)(0), raw / raw.sum() * 6, rtol=1e-6)
    np.testing.assert_allclose(InverseFrequency(COUNTS)(3), 6 / n / (1 / n).sum(), rtol=1e-6)
    gap = InverseFrequency(torch.tensor([4, 0, 1]))(0)
    np.testing.assert_allclose(gap, [0.4, 0, 1.6], rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_against_finite_differences(name):
    draws = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 6, dtype=torch.float64, generator=draws, requires_grad=True)
    targets = torch.rand(4, 6, dtype=torch.float64, generator=draws).softmax(1)
    weights = torch.rand(6, dtype=torch.float64, generator=draws)
    loss = LOSSES[name].double()
    for arguments in ((targets,), (targets, weights), (torch.stack([targets, targets]) / 2,)):
        assert torch.autograd.gradcheck(
            lambda z, rest=arguments: batch_loss(loss, z, *rest), logits
        )


def test_gradients_of_influence_balanced():
    draws = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 6, dtype=torch.float64, generator=draws, requires_grad=True)
    features = torch.randn(4, 8, dtype=torch.float64, generator=draws, requires_grad=True)
    targets = torch.rand(4, 6, dtype=torch.float64, generator=draws).softmax(1)
    loss = InfluenceBalanced(COUNTS)
    assert torch.autograd.gradcheck(
        lambda z, h: batch_loss(loss, z, targets, features=h), (logits, features)
    )


def test_gradients_of_the_experts_loss():
    """Against central differences of the loss with the experts' mean held where it is."""
    draws = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 6, dtype=torch.float64, generator=draws, requires_grad=True)
    targets = torch.rand(2, 6, dtype=torch.float64, generator=draws).softmax(1)
    loss = Diversity(COUNTS, scale=2.0, diversity=0.3).double()
    (grad,) = torch.autograd.grad(batch_loss(loss, logits, targets), logits)

    mean = (logits.detach().mean(1, keepdim=True) / loss.temperature).softmax(-1)

    def with_fixed_mean(z):
        own = (z / loss.temperature).log_softmax(-1)
        divergence = (mean * (mean.log() - own)).sum() / len(z)
        ldam = LDAM(COUNTS, scale=2.0).double()
        margins = sum(batch_loss(ldam, z[:, e], targets) for e in range(3))
        return margins - 0.3 * loss.temperature.mean() ** 2 * divergence

    for place in np.ndindex(2, 3, 6):
        step = torch.zeros_like(logits)
        step[place] = 1e-5
        ends = [with_fixed_mean(logits.detach() + sign * step) for sign in (1, -1)]
        assert grad[place].item() == pytest.approx((ends[0] - ends[1]).item() / 2e-5, abs=1e-8)


def test_gradients_of_equalization_with_draws():
    draws = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 6, dtype=torch.float64, generator=draws, requires_grad=True)
    uniform = torch.rand(4, 6, generator=draws)
    loss = Equalization(COUNTS, gamma=0.5)
    assert torch.autograd.gradcheck(lambda z: loss.loss_matrix(z, uniform), logits)


@pytest.mark.parametrize("name", [*LOSSES, "influence balanced", "experts"])
def test_finite_where_float16_logits_are_large(name):
    signs = torch.tensor([[1.0, -1, 1, -1, 1, -1], [-1, -1, -1, -1, -1, 1], [0, 0, 0, 0, 0, 1]])
    logits = (100 * signs).half().float().requires_grad_()  # the loop hands them on as float32
    weights = InverseFrequency(COUNTS)(0)
    for label in range(6):
        targets = torch.eye(6)[[label] * 3]
        with torch.autocast("cpu", torch.float16):
            if name == "influence balanced":
                features = torch.ones(3, 2)
                loss = batch_loss(InfluenceBalanced(COUNTS), logits, targets, features=features)
            elif name == "experts":
                experts = torch.stack([logits, -logits, logits.flip(1)], 1)
                loss = batch_loss(Diversity(COUNTS), experts, targets, weights)
            else:
                loss = batch_loss(LOSSES[name].float(), logits, targets, weights)
        (grad,) = torch.autograd.grad(loss, logits)
        assert loss.isfinite() and grad.isfinite().all()


def test_finite_with_a_class_without_samples():
    counts = torch.tensor([9, 0, 3])
    logits, targets = torch.randn(3, 3), torch.eye(3)[[0, 2, 2]]
    for kind in (Focal, LogitAdjustment, LDAM, KPS, Gumbel, Equalization):
        leaf = logits.clone().requires_grad_()
        batch_loss(kind(counts), leaf, targets, InverseFrequency(counts)(0)).backward()
        assert leaf.grad.isfinite().all()
    loss, without = KPS(counts), KPS(counts[[0, 2]])  # an empty class is as one of the rarest
    for name in ("slopes", "margins", "stretch"):
        values = getattr(loss, name)
        assert torch.equal(values[[0, 2]], getattr(without, name)) and values[1] == values[2]


def test_invariances_that_the_papers_state():
    draws = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 6, generator=draws)
    targets = torch.rand(7, 6, generator=draws).softmax(1)
    plain = batch_loss(CrossEntropy(COUNTS), logits, targets)
    equal = torch.full((6,), 12)
    same = {
        "focal, gamma 0": Focal(COUNTS, gamma=0.0),
        "LDAM, margin 0": LDAM(COUNTS, max_margin=0.0, scale=1.0),
        "balanced softmax, equal counts": LogitAdjustment(equal),
        "logit adjustment, tau 0": LogitAdjustment(COUNTS, tau=0.0),
        "equalization, gamma 0": Equalization(COUNTS, gamma=0.0),
        "KPS, equal counts, margin 0": KPS(equal, max_margin=0.0, scale=1.0),
    }
    for name, loss in same.items():
        assert torch.allclose(batch_loss(loss, logits, targets), plain, atol=1e-6), name
    equally = EffectiveNumber(COUNTS, beta=0.0)(0)
    balanced = batch_loss(CrossEntropy(COUNTS), logits, targets, equally)
    assert torch.allclose(balanced, plain)
    nearly = EffectiveNumber(COUNTS, beta=1 - 1e-9)(0)
    assert torch.allclose(nearly, InverseFrequency(COUNTS)(0), rtol=1e-5)


def test_a_mixed_target_costs_the_mean_of_its_labels():
    draws = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 6, generator=draws)
    for name, loss in LOSSES.items():
        each = [batch_loss(loss.float(), logits, torch.eye(6)[[k]]) for k in (1, 5)]
        mixed = batch_loss(loss, logits, 0.3 * torch.eye(6)[[1]] + 0.7 * torch.eye(6)[[5]])
        assert torch.allclose(mixed, 0.3 * each[0] + 0.7 * each[1], rtol=1e-5), name


def test_the_order_of_the_classes_does_not_matter():
    """Tail, margins and slopes go by count, not by label."""
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    logits = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    kinds = [Focal, LogitAdjustment, LDAM, KPS, lambda n: KPS(n).first_stage, Gumbel]
    kinds += [lambda n: Equalization(n, gamma=1.0)]
    for kind in kinds:
        costs, permuted = (
            kind(COUNTS).loss_matrix(logits),
            kind(COUNTS[order]).loss_matrix(logits[:, order]),
        )
        assert torch.allclose(costs[:, order], permuted, rtol=1e-4)
    weights = EffectiveNumber(COUNTS)(0)
    assert torch.allclose(EffectiveNumber(COUNTS[order])(0), weights[order])


def test_equalization_spares_only_the_tail_and_only_by_chance():
    loss, logits = Equalization(COUNTS, gamma=0.7), torch.zeros(4000, 6)
    torch.manual_seed(0)
    costs = loss.loss_matrix(logits)
    # Of six equal logits, those of the last third may be left out: log 4, 5 or 6.
    seen = costs[:, 0].exp().round()
    np.testing.assert_allclose(costs[:, 0].exp(), seen, rtol=1e-5)
    shares = [(seen == value).float().mean().item() for value in (4, 5, 6)]
    assert shares == pytest.approx([0.49, 0.42, 0.09], abs=0.03)
    # Under label 5 that class itself stays.
    assert {4.0, 5.0, 6.0} - set(costs[:, 5].exp().round().tolist()) == {4.0}
    rare = Equalization(COUNTS, gamma=1.0, threshold=0.1)  # n_j < 14
    assert rare.spared.tolist() == [False, False, False, True, True, True]


@pytest.mark.parametrize(
    ("counts", "tail"),
    [
        ([50, 50, 50, 5, 5, 5], [4, 5]),  # a step list
        ([7, 7, 7, 7, 7, 7, 7, 7, 7], [6, 7, 8]),
        ([5, 50, 5, 50, 5, 50], [2, 4]),  # of ties the first labels have the first places
        ([9, 0, 6, 3, 0, 0], [3]),  # three classes with samples: the last is a third
        ([9, 0, 6, 3, 5, 1], [3, 4, 5]),
    ],
)
def test_equalization_has_the_last_third_by_place_as_its_tail(counts, tail):
    spared = Equalization(torch.tensor(counts)).spared
    assert spared.nonzero().flatten().tolist() == tail
    draws = torch.zeros(1, len(counts))
    costs = Equalization(torch.tensor(counts)).loss_matrix(torch.zeros(1, len(counts)), draws)
    assert costs[0, 0].exp().item() == pytest.approx(len(counts) - len(tail))


def test_label_weights_against_torch():
    """by batch: torch's weighted cross entropy of labels; by samples: its losses' plain mean."""
    draws = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 6, dtype=torch.float64, generator=draws)
    labels = torch.randint(6, (7,), generator=draws)
    weights = torch.rand(6, dtype=torch.float64, generator=draws)
    targets = torch.eye(6, dtype=torch.float64)[labels]
    matrix = CrossEntropy(COUNTS).loss_matrix(logits)
    torch_loss = torch.nn.functional.cross_entropy
    for by, expected in (
        ("batch", torch_loss(logits, labels, weights)),
        ("samples", torch_loss(logits, labels, weights, reduction="none").mean()),
    ):
        assert torch.allclose((label_weights(targets, weights, by) * matrix).sum(), expected)
        doubled = torch.cat([targets, targets]) * 2  # as Shap-Mix's: two losses are added up
        twice = (label_weights(doubled, weights, by) * matrix.repeat(2, 1)).sum()
        assert torch.allclose(twice, 2 * expected)
    soft = torch.rand(7, 6, dtype=torch.float64, generator=draws).softmax(1)
    expected = torch_loss(logits, soft, weights)  # torch divides by N where labels are soft
    assert torch.allclose((label_weights(soft, weights, "samples") * matrix).sum(), expected)


@pytest.mark.parametrize("name", [*LOSSES, "influence balanced", "experts"])
@pytest.mark.parametrize("by", ["batch", "samples"])
@pytest.mark.parametrize("sets", [1, 2])
def test_the_parts_of_a_batch_add_up_to_its_loss(name, by, sets):
    draws = torch.Generator().manual_seed(0)
    shape = (7, 3, 6) if name == "experts" else (7, 6)
    logits = torch.randn(shape, dtype=torch.float64, generator=draws, requires_grad=True)
    features = torch.randn(7, 8, dtype=torch.float64, generator=draws)
    targets = torch.rand(sets, 7, 6, dtype=torch.float64, generator=draws).flatten(1).softmax(1)
    targets = 7 * targets.view(sets, 7, 6) / sets if sets > 1 else targets.view(7, 6).softmax(1)
    entries = label_weights(targets, torch.rand(6, dtype=torch.float64, generator=draws), by)
    others = {"influence balanced": InfluenceBalanced(COUNTS), "experts": Diversity(COUNTS)}
    loss = (LOSSES | others)[name].double()
    whole, *parts = (
        loss.part(logits[rows], features[rows], entries[rows], 7)
        for rows in (slice(None), slice(0, 7, 3), slice(1, 7, 3), slice(2, 7, 3))
    )  # fmt: skip
    gradients = [torch.autograd.grad(each, logits)[0] for each in (whole, sum(parts))]
    torch.testing.assert_close(sum(parts), whole)
    torch.testing.assert_close(*gradients)


def test_a_loss_that_overrides_what_the_loop_does_not_call_is_refused():
    for name, instead in (("costs", "loss_matrix"), ("forward", "part")):
        with pytest.raises(InputError, match=f"override {instead} instead of {name}"):
            type("Mine", (CrossEntropy,), {name: lambda self, logits: logits})
