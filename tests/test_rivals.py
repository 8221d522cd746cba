"""Mixing, sampling and two-stage classifiers of the rivals."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import graph
from longtail import experts
from longtail.brl import PartialMixup
from longtail.classifiers import (
    LearnableScaling,
    MaxNorm,
    PostHocAdjustment,
    Retraining,
    TauNormalization,
)
from longtail.losses import LDAM
from longtail.mixing import Mixup, Plain, ShapMix
from longtail.sampling import PowerSampling, ProgressiveSampling, RepeatFactorSampling
from model import experts as network
from tests.batch_loss import batch_loss
from tests.outputs import Outputs

COUNTS = torch.tensor([60, 40, 25, 10, 4, 1])
LABELS = torch.arange(6).repeat_interleave(COUNTS)
NTU = graph.load("ntu_rgb_d")


class Tiny(nn.Module):
    """A model with the interface of a backbone: features, classifier, dropout between them."""

    def __init__(self, joints=25, num_class=6, frames=64):
        super().__init__()
        self.body = nn.Linear(frames * joints * 3, 8)
        self.norm = nn.BatchNorm1d(8)
        self.fc = nn.Linear(8, num_class)

    def forward(self, clips):
        return self.fc(self.norm(self.body(clips.mean(1).flatten(1))))


def batch(count, frames=64, joints=25, seed=0):
    draws = torch.Generator().manual_seed(seed)
    clips = torch.randn(count, 2, frames, joints, 3, generator=draws)
    return clips, torch.randint(6, (count,), generator=draws)


# --- sampling ---


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_power_sampling(power):
    sampling = PowerSampling(LABELS, COUNTS, repeat=3, power=power)
    rows = sampling.epoch(torch.Generator().manual_seed(0), 0.3)
    assert len(rows) == len(sampling) == 3 * len(LABELS)
    shown = np.bincount(LABELS[rows], minlength=6)
    share = COUNTS.numpy() ** power
    np.testing.assert_allclose(shown, share / share.sum() * len(rows), atol=1)
    times = np.bincount(rows, minlength=len(LABELS))
    for members in torch.arange(6)[:, None] == LABELS:  # as even within a class as it goes
        assert np.ptp(times[members]) <= 1


def test_progressive_sampling_goes_from_instance_to_balanced():
    sampling = ProgressiveSampling(LABELS, COUNTS, repeat=2)
    assert sampling.draws(0.0).tolist() == (2 * COUNTS).tolist()
    halfway = (COUNTS / 140 + 1 / 6) / 2 * 280
    np.testing.assert_allclose(sampling.draws(0.5), halfway, atol=1)
    np.testing.assert_allclose(sampling.draws(1.0), 280 / 6, atol=1)
    for t in (0.0, 0.3, 0.9):
        shown = LABELS[sampling.epoch(None, t)].bincount(minlength=6)
        assert shown.sum() == len(sampling)
        np.testing.assert_allclose(shown, (1 - t) * 2 * COUNTS + t * 280 / 6, atol=1)


def test_repeat_factor_sampling():
    sampling = RepeatFactorSampling(LABELS, COUNTS, repeat=2, threshold=0.1)
    factor = np.maximum(1, np.sqrt(0.1 * 140 / COUNTS.numpy()))
    np.testing.assert_array_equal(sampling.draws(0.0), np.round(2 * factor * COUNTS.numpy()))
    assert RepeatFactorSampling(LABELS, COUNTS).threshold == pytest.approx(1 / 6)


# --- mixing ---


def test_plain():
    clips, labels = batch(3)
    mixed, targets = Plain(COUNTS)(clips, labels)
    assert mixed is clips
    np.testing.assert_array_equal(targets, np.eye(6)[labels])


def test_mixup_against_numpy():
    clips, labels = batch(5)
    before = clips.clone()
    partners = torch.tensor([1, 0, 4, 3, 2])
    mixed, targets = Mixup(COUNTS).combine(clips, labels, partners, 0.3)
    assert torch.equal(clips, before)
    x, y = clips.numpy(), np.eye(6)[labels]
    np.testing.assert_allclose(mixed, 0.3 * x + 0.7 * x[partners], atol=1e-6)
    np.testing.assert_allclose(targets, 0.3 * y + 0.7 * y[partners], atol=1e-6)


def test_mixup_draws_beta_shares_and_repeats():
    mix, (clips, labels) = Mixup(COUNTS, alpha=0.5), batch(2, frames=1)
    clips = torch.stack([torch.zeros_like(clips[0]), torch.ones_like(clips[0])])
    generator = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(4000):
        value = mix(clips, labels, generator)[0][1].mean().item()
        shares.append(value)
    shares = np.array(shares)
    mixed = shares[(shares < 1)]  # the identity permutation leaves the sample as it is
    assert len(mixed) / 4000 == pytest.approx(0.5, abs=0.04)
    assert mixed.mean() == pytest.approx(0.5, abs=0.03)
    assert mixed.var() == pytest.approx(1 / 8, abs=0.01)  # of Beta(1/2, 1/2)
    first, second = (mix(*batch(6), torch.Generator().manual_seed(7)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second))


@pytest.mark.parametrize("lam", [0.2, 0.45, 0.55, 0.8])
def test_remix_gives_the_label_to_the_rarer_class(lam):
    mix = Mixup(COUNTS, kappa=3.0)
    own = torch.tensor([0, 5, 0, 3])
    other = torch.tensor([5, 0, 1, 3])
    head_to_tail = 0 if lam < 0.5 else lam
    tail_to_head = 1 if 1 - lam < 0.5 else lam
    expected = [head_to_tail, tail_to_head, lam, lam]
    np.testing.assert_allclose(mix.shares(own, other, lam), expected, atol=1e-7)
    tenfold = Mixup(COUNTS, kappa=10.0).shares(torch.tensor([1, 4]), torch.tensor([4, 1]), lam)
    np.testing.assert_allclose(tenfold, [head_to_tail, tail_to_head], atol=1e-7)  # 40 and 4


def test_body_part_cutmix_has_a_fixed_share():
    mix = PartialMixup(COUNTS, NTU, threshold=float("inf"), ratio=1.0)
    clips, labels = batch(6)
    targets = mix(clips, labels, torch.Generator().manual_seed(0))[1]
    assert {round(v, 4) for v in targets.unique().tolist()} <= {0.0, 0.36, 0.64, 1.0}


# --- Shap-Mix ---


def shap_mix(**arguments):
    return ShapMix(COUNTS, NTU, **arguments)


def test_shap_mix_subsets():
    mix = shap_mix()
    assert len(set(mix.subsets)) == 20 and mix.masks.shape == (20, 25)
    for subset, mask, other in zip(mix.subsets, mix.masks, mix.masks.flip(0)):
        joints = sorted(j for part in subset for j in NTU.parts[part])
        assert mask.nonzero().flatten().tolist() == joints
        assert torch.equal(other, ~mask)
    sizes = [len(mix.subsets[mix.draw_coalition(None)[0]]) for _ in range(300)]
    assert 100 < sizes.count(2) < 200
    assert mix.draw_coalition(None)[1] == []
    mix.begin_epoch(5)
    coalitions = [mix.draw_coalition(None) for _ in range(300)]
    assert all(not set(mix.subsets[s]) & set(r) for s, r in coalitions)
    assert {len(r) for _, r in coalitions} == {0, 1, 2, 3}


def test_shap_mix_pastes_a_segment_of_some_parts():
    mix, (clips, labels) = shap_mix(mixup=0.0), batch(6)
    before, resized = clips.clone(), []
    for seed in range(5):
        both, targets = mix(clips, labels, torch.Generator().manual_seed(seed))
        assert torch.equal(clips, before) and torch.equal(both[:6], clips)
        np.testing.assert_array_equal(targets[:6], 2 * np.eye(6)[labels])
        changed = (both[6:] != clips).any(-1).all(1)  # (N, T, V)
        shift = None
        for i in range(6):
            frames, joints = changed[i].any(1), changed[i].any(0)
            assert torch.equal(changed[i], frames[:, None] & joints)  # a block
            first, length = int(frames.nonzero()[0]), int(frames.sum())
            assert frames[first : first + length].all()
            assert length % 4 == 0 and 28 <= length <= 44 and first % 4 == 0
            assert any(torch.equal(joints, mask) for mask in mix.masks)
            # Every pasted frame is a frame of one donor, in order.
            block = both[6 + i][:, frames][:, :, joints]
            donors = [
                j
                for j in range(6)
                if (clips[j][:, :, joints][:, :, None] == block[:, None]).all(-1).all(-1).all(0)
                .any(0).all()
            ]  # fmt: skip
            assert len(donors) == 1
            assert shift in (None, (donors[0] - i) % 6)
            shift = (donors[0] - i) % 6
            equal = (clips[donors[0]][:, :, joints][:, :, None] == block[:, None]).all(-1).all(-1)
            source = equal.all(0).float().argmax(0)  # the donor's frame of each pasted frame
            place = torch.arange(length)
            spans = {4 * n: place * (4 * n) // length for n in range(length // 4, 17)}
            fitting = [n for n, span in spans.items() if torch.equal(source - source[0], span)]
            assert len(fitting) == 1 and source[0] % 4 == 0
            resized.append(fitting[0] > length)
            lam = length * int(joints.sum()) / (64 * 25)
            expected = (1 - lam) * np.eye(6)[labels[i]] + lam * np.eye(6)[labels[donors[0]]]
            np.testing.assert_allclose(targets[6 + i], 2 * expected, atol=1e-5)
        assert shift != 0
    assert any(resized)


@pytest.mark.parametrize(
    ("frames", "shortest", "longest"), [(64, 28, 44), (52, 24, 36), (100, 44, 68), (16, 8, 12)]
)
def test_shap_mix_segment_is_a_share_of_the_clip(frames, shortest, longest):
    """28 to 44 of 64 frames, and the nearest multiples of four to those shares of other lengths."""
    mix, (clips, labels) = shap_mix(mixup=0.0), batch(2, frames)
    lengths = set()
    for seed in range(100):
        mixed = mix(clips, labels, torch.Generator().manual_seed(seed))[0][2:]
        lengths.add(int((mixed != clips).any(-1).any(-1).any(1)[0].sum()))
    assert lengths == set(range(shortest, longest + 1, 4))
    with pytest.raises(ValueError, match="segment"):
        shap_mix(segment=(28, 44))


def test_shap_mix_plain_mixup_half():
    mix, (clips, labels) = shap_mix(mixup=1.0), batch(4)
    both, targets = mix(clips, labels, torch.Generator().manual_seed(0))
    candidates = []
    for shift in (1, 2, 3):
        other = clips.roll(-shift, 0)
        lam = ((both[4:] - clips) / (other - clips)).median()
        if torch.allclose(both[4:], (1 - lam) * clips + lam * other, atol=1e-5):
            own, donor = np.eye(6)[labels], np.eye(6)[labels.roll(-shift)]
            np.testing.assert_allclose(
                targets[4:], 2 * ((1 - lam) * own + lam * donor).numpy(), atol=1e-5
            )
            candidates.append(shift)
    assert len(candidates) == 1


def test_shap_mix_mixes_a_quarter_of_the_batches_plainly():
    mix, (clips, labels) = shap_mix(), batch(2, frames=4)
    generator = torch.Generator().manual_seed(0)
    halves = [mix(clips, labels, generator)[0][2:] for _ in range(400)]
    plain = sum(bool((half != clips).all()) for half in halves)
    assert plain / 400 == pytest.approx(0.25, abs=0.07)


def test_shap_mix_chooses_for_the_rarer_class():
    mix = shap_mix()
    mix.begin_epoch(5)
    own = torch.zeros(6, 20)
    own[0, 3] = own[5, 7] = 50.0  # classes that one subset each tells
    mix.saliency = own
    uniform = torch.rand(4, generator=torch.Generator().manual_seed(0))
    head, tail = torch.zeros(4, dtype=torch.int64), torch.full((4,), 5)
    assert mix.choose(head, tail, uniform).tolist() == [7] * 4  # the rare donor's parts pasted
    kept = 19 - mix.choose(tail, head, uniform)
    assert kept.tolist() == [7] * 4  # the rare sample's own parts kept
    assert (19 - mix.choose(head, head, uniform)).tolist() == [3] * 4
    mix.begin_epoch(4)
    uniform = (torch.arange(20) + 0.5) / 20
    assert mix.choose(head[:1].expand(20), tail[:1].expand(20), uniform).tolist() == [*range(20)]


def test_shap_mix_saliency_against_a_loop():
    mix, (clips, labels) = shap_mix(), batch(9)
    model = Tiny().train()
    statistics = copy.deepcopy(model.state_dict())
    table, memory = torch.zeros(6, 20), 0.9
    parts = [list(p) for p in NTU.parts]
    for step, epoch in enumerate((0, 5, 5, 6)):
        mix.begin_epoch(epoch)
        draws = torch.Generator().manual_seed(step)
        subset, coalition = mix.draw_coalition(torch.Generator().manual_seed(step))
        mix.observe(Outputs(model).train(model.training), clips, labels, draws)
        assert model.training
        mean = clips.mean(0)  # the same batch every time
        inside = sorted(v for part in mix.subsets[subset] for v in parts[part])
        rest = [v for part in coalition for v in parts[part]]
        with torch.no_grad():
            model.eval()
            for i, label in enumerate(labels.tolist()):
                present, absent = mean.clone(), mean.clone()
                for joints, clip in ((rest, absent), (rest + inside, present)):
                    clip[:, :, joints] = clips[i][:, :, joints]
                p = [model(c[None]).softmax(1)[0, label] for c in (present, absent)]
                gain = (p[0] - p[1]).relu() * 10 / len(inside)
                keep = memory if epoch > 5 else 0.0
                table[label, subset] = keep * table[label, subset] + (1 - keep) * gain
            model.train()
        np.testing.assert_allclose(mix.saliency, table, atol=1e-6)
    assert torch.equal(clips, batch(9)[0])  # what is observed is left as it is
    shap_mix().observe(Outputs(model).eval(), clips, labels, None)
    assert not model.training  # as a backbone that is frozen
    model.train()
    assert all(torch.equal(v, statistics[k]) for k, v in model.state_dict().items())
    resumed = shap_mix()
    resumed.load_state_dict(copy.deepcopy(mix.state_dict()))
    for each in (mix, resumed):
        each.begin_epoch(7)
        each.observe(Outputs(model), clips + 1, labels, torch.Generator().manual_seed(9))
    assert torch.equal(mix.saliency, resumed.saliency)
    assert torch.equal(mix.mean_clip, resumed.mean_clip)
    np.testing.assert_allclose(mix.mean_clip, clips.mean(0) + 0.2, atol=1e-5)


@pytest.mark.parametrize(("layout", "frames"), [("nw_ucla", 52), ("coco", 100), ("ntu_rgb_d", 8)])
def test_shap_mix_on_other_layouts_and_lengths(layout, frames):
    skeleton = graph.load(layout)
    mix = ShapMix(COUNTS, skeleton)
    clips, labels = batch(5, frames, skeleton.num_joints)
    for seed in range(20):
        both, targets = mix(clips, labels, torch.Generator().manual_seed(seed))
        assert both.shape == (10, *clips.shape[1:])
        np.testing.assert_allclose(targets.sum(1), 2, atol=1e-5)
    assert mix(clips[:1], labels[:1])[0].shape[0] == 2


# --- two-stage classifiers ---


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01)


def train(model, method, steps=5, make=sgd):
    """Take some steps as the classifier phase would."""
    optimizer = make([p for p in model.parameters() if p.requires_grad])
    clips, labels = batch(16)
    model.eval()
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(clips), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step(model)


def test_retraining_touches_the_classifier_only():
    model = Tiny()
    before = copy.deepcopy(model.state_dict())
    method = Retraining(COUNTS)
    method.prepare(model, None)
    assert not torch.equal(model.fc.weight, before["fc.weight"])
    drawn = model.fc.weight.detach().clone()
    train(model, method)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == (not name.startswith("fc.")), name
    assert not torch.equal(model.fc.weight, drawn)


@pytest.mark.parametrize("make", [sgd, torch.optim.Adam, torch.optim.AdamW])
def test_learnable_scaling_is_descent_on_the_factors_of_the_logits(make):
    model = Tiny()
    features = nn.Sequential(model.body, model.norm)
    with torch.no_grad():
        model.fc.bias += 1.0  # so that it matters
    start, bias = model.fc.weight.detach().clone(), model.fc.bias.detach().clone()
    names = set(model.state_dict())
    twin = copy.deepcopy(features).eval()
    method = LearnableScaling(COUNTS)
    method.prepare(model, None)
    train(model, method, make=make)
    # The same with the factors as a parameter of their own, as in the authors' code.
    scales = torch.ones(6, 1, requires_grad=True)
    optimizer = make([scales])
    clips, labels = batch(16)
    hidden = twin(clips.mean(1).flatten(1)).detach()
    for _ in range(5):
        optimizer.zero_grad()
        logits = scales[:, 0] * (hidden @ start.T + bias)
        nn.functional.cross_entropy(logits, labels).backward()
        optimizer.step()
    scales = scales.detach()
    np.testing.assert_allclose(model.fc.weight.detach(), scales * start, atol=1e-6)
    np.testing.assert_allclose(model.fc.bias.detach(), scales[:, 0] * bias, atol=1e-6)
    assert (scales - 1).abs().min() > 1e-4 and set(model.state_dict()) == names
    plain = Tiny()  # what is saved is a plain network's
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(plain.eval()(clips), model.eval()(clips))


def test_max_norm_keeps_class_vectors_in_the_ball():
    model = Tiny()
    with torch.no_grad():
        model.fc.weight[0] *= 5
    start = model.fc.weight.detach().clone()
    norms = start.norm(dim=1)
    radius = norms.min() + 0.1 * (norms.max() - norms.min())
    method = MaxNorm(COUNTS)
    method.prepare(model, None)
    assert torch.allclose(model.fc.weight[0], start[0] * radius / start[0].norm())
    assert torch.equal(model.fc.weight[norms.argmin()], start[norms.argmin()])
    train(model, method, steps=20)
    assert (model.fc.weight.norm(dim=1) <= radius * (1 + 1e-6)).all()
    fixed = MaxNorm(COUNTS, radius=0.1)
    fixed.prepare(model, None)
    np.testing.assert_allclose(model.fc.weight.detach().norm(dim=1), 0.1, rtol=1e-5)


def test_tau_normalization():
    model = Tiny()
    weight = model.fc.weight.detach().numpy().copy()
    TauNormalization(COUNTS, tau=0.7).prepare(model, None)
    lengths = np.linalg.norm(weight, axis=1, keepdims=True)
    np.testing.assert_allclose(model.fc.weight.detach(), weight / lengths**0.7, rtol=1e-5)
    assert not model.fc.bias.any()
    assert not TauNormalization.trains


def test_post_hoc_adjustment_takes_the_prior_off():
    model = Tiny().eval()
    clips, _ = batch(3)
    logits = model(clips).detach()
    PostHocAdjustment(COUNTS, tau=1.3).prepare(model, None)
    expected = logits - 1.3 * (COUNTS / COUNTS.sum()).log()
    np.testing.assert_allclose(model(clips).detach(), expected, atol=1e-5)


# --- experts ---


def small_experts(**arguments):
    torch.manual_seed(0)
    return network.Model(num_class=6, base_channels=8, num_blocks=5, inflate=(3,), down=(3,),
                         **arguments)  # fmt: skip


def test_experts_share_the_early_blocks_and_average():
    model, (clips, _) = small_experts(), batch(4, frames=8)
    assert len(model.trunk.blocks) == 2 and [len(b) for b in model.branches] == [3, 3, 3]
    start = copy.deepcopy(model)
    each = model(clips)
    assert each.shape == (4, 3, 6)
    # Each expert is the backbone itself, on blocks of which the first are the same.
    for number in range(3):
        single = copy.deepcopy(start.trunk)
        single.blocks = nn.Sequential(*start.trunk.blocks, *copy.deepcopy(start.branches[number]))
        single.fc = start.heads[number]
        assert torch.allclose(single.train()(clips), each[:, number], atol=1e-5)
    assert not torch.allclose(each[:, 0], each[:, 1])
    each.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.eval()
    logits = model(clips)
    assert logits.shape == (4, 6)
    model.training = True  # the same statistics, all experts
    assert torch.allclose(model(clips).mean(1), logits)


def test_diversity_loss_against_numpy():
    draws = np.random.RandomState(0)
    logits, labels = draws.standard_normal((4, 3, 6)), np.array([0, 5, 2, 2])
    weights, n = draws.uniform(0.5, 2, 6), COUNTS.numpy()
    loss = experts.Diversity(COUNTS, scale=2.0, diversity=0.3)
    ldam = LDAM(COUNTS, scale=2.0)
    given = [torch.from_numpy(x) for x in (logits, np.eye(6)[labels], weights)]

    def softmax(z):
        return np.exp(z) / np.exp(z).sum(-1, keepdims=True)

    psi = 0.05 * 6 * n / n.sum() + 0.95
    temperature = psi / psi.max()
    assert temperature.argmax() == 0 and temperature[5] < 0.9
    mean = softmax(logits.mean(1) / temperature)
    expected = 0
    for number in range(3):
        expected += batch_loss(ldam, given[0][:, number], *given[1:]).item()
        own = softmax(logits[:, number] / temperature)
        divergence = (mean * np.log(mean / own)).sum(1).mean()
        expected -= 0.3 * temperature.mean() ** 2 * divergence
    assert batch_loss(loss, *given).item() == pytest.approx(expected, rel=1e-6)
    one = batch_loss(loss, given[0][:, 0], *given[1:])
    assert torch.allclose(one, batch_loss(ldam, given[0][:, 0], *given[1:]))
