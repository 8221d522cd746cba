"""One step of every method: in micro-batches, on the `meta` device, with an absent class."""

import inspect
import itertools

import numpy as np
import pytest
import torch
from torch import nn

import graph
from engine import build, config
from engine.build import find_class
from engine.config import Config
from engine.distributed import World
from engine.session import build_training
from engine.train import epoch_batches, micro_batches, training_step
from longtail.classifiers import (
    TAUS,
    NearestClassMean,
    PostHocAdjustment,
    Samples,
    TauNormalization,
)  # fmt: skip
from longtail.losses import label_weights
from tests.outputs import Outputs
from tests.tiny_runs import SMALL
from tools.sweep import method_files

METHODS = sorted(path.stem for path in (config.CONFIG_ROOT / "methods").glob("*.yaml"))
ALL = ["brl", "released", *METHODS]
CPU, META = torch.device("cpu"), torch.device("meta")
FLAT = ["model=tests.test_optimizer.Flat"]


def settings(tiny, method, *more, **values):
    files = [tiny / "tiny-lt/joint.yaml", *method_files(method)]
    own = ["num_epoch=8", "second_stage=2", "repeat=4", "feeder_args={flip: 0}", *more]
    return config.load(files, own, **values)


# --- micro-batches ---


class Seen(nn.Module):
    """A network that keeps the clips it is given."""

    def __init__(self, net):
        super().__init__()
        self.net, self.clips = net, []

    def forward(self, clips):
        if torch.is_grad_enabled():
            self.clips.append(clips)
        return self.net(clips, outputs=True)


def one_step(tiny, folder, method, batch_size, accumulate, epoch):
    """Return the loss, the weights after the step, and the clips (n, ...) before and after mixing.

    In double precision, with a network that has no batch norm.
    """
    own = settings(tiny, method, *FLAT, batch_size=batch_size, accumulate=accumulate)
    training = build_training(own, [CPU], World())
    torch.manual_seed(0)
    model = training.state.model
    nn.init.normal_(model.fc.weight)
    model.double()
    for parameter in training.method.parameters():
        parameter.data = parameter.data.double()
    training.net = Seen(model)
    training.method.begin_epoch(epoch)
    training.state.progress.epoch = epoch
    batches = epoch_batches(training)
    clips, labels, batch = next(training.feeder.batches(batches))
    loss = training_step(training, clips.double(), labels, batch, len(batches))
    assert len(training.net.clips) == accumulate
    return loss, model.state_dict(), clips.double(), torch.cat(training.net.clips)


# Equalization and GCL draw for each sample; experts and the heads of BCL and PaCo have batch norms;
# LADE estimates from a micro-batch, FSA finds its partners in it.
PER_BATCH = ("equalization", "gcl", "ride", "sade", "bcl", "paco", "lade", "fsa")


@pytest.mark.parametrize("method", [m for m in ALL if m not in PER_BATCH])
def test_a_step_is_the_same_in_any_number_of_micro_batches(tiny, tmp_path, method):
    first, *others = (
        one_step(tiny, tmp_path, method, size, 16 // size, epoch=7) for size in (16, 8, 4)
    )
    for other in others:
        torch.testing.assert_close(other[0].double(), first[0].double(), rtol=1e-5, atol=0)
        torch.testing.assert_close(other[1], first[1], rtol=1e-6, atol=1e-9)
        assert torch.equal(other[2], first[2])
        together = sorted(tuple(clip.flatten().tolist()) for clip in other[3])
        assert together == sorted(tuple(clip.flatten().tolist()) for clip in first[3])


@pytest.mark.parametrize("by", ["batch", "samples"])
def test_a_step_divides_by_what_weigh_by_says(tiny, tmp_path, by):
    """Against torch's cross entropy of the optimizer batch, fed and labeled as in the run."""
    own = settings(
        tiny, "inverse-frequency", *FLAT, "mixing=longtail.mixing.Plain", f"weigh_by={by}",
        batch_size=4, accumulate=3,
    )  # fmt: skip
    training = build_training(own, [CPU], World())
    training.method.begin_epoch(0)
    batches = epoch_batches(training)
    clips, labels, batch = next(training.feeder.batches(batches))
    weights = 1 / training.data.class_counts
    weights = weights / weights.sum() * 4
    with torch.no_grad():
        losses = nn.functional.cross_entropy(
            training.state.model(clips), labels, weights, reduction="none"
        )
    expected = losses.sum() / (12 if by == "samples" else weights[labels].sum())
    loss = training_step(training, clips, labels, batch, len(batches))
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(("batch_size", "accumulate"), [(16, 1), (8, 2), (4, 4), (2, 8)])
def test_int_n_over_16_samples_of_an_optimizer_step_are_mixed(
    tiny, tmp_path, batch_size, accumulate
):
    _, _, plain, seen = one_step(tiny, tmp_path, "brl", batch_size, accumulate, epoch=0)
    mixed = [not any(torch.equal(clip, other) for other in plain) for clip in seen]
    assert len(seen) == 16 and sum(mixed) == 1


@pytest.mark.parametrize("count", [1, 3, 4, 7, 16, 17])
@pytest.mark.parametrize("accumulate", [1, 2, 4])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("copies", [1, 2])
def test_every_row_is_in_one_micro_batch_of_one_rank(count, accumulate, world, copies):
    count = max(count, world)  # a smaller batch joins the one before it
    own = Config(batch_size=4, accumulate=accumulate)
    rows = copies * count
    dealt = [
        [list(range(rows))[part] for part in micro_batches(count, rows, own, World(rank, world))]
        for rank in range(world)
    ]
    parts = {len(each) for each in dealt}
    assert len(parts) == 1 and max(parts) <= accumulate  # as many steps of the stepper per rank
    shown = [part for each in dealt for part in each]
    assert sorted(itertools.chain(*shown)) == list(range(rows)) and all(shown)
    if count == 4 * accumulate:
        assert max(map(len, shown)) <= -(-copies * 4 // world)


# --- the meta device ---


@pytest.mark.parametrize("method", ALL)
def test_every_method_keeps_tensors_on_one_device(tiny, tmp_path, monkeypatch, method):
    """Tensors of `meta` have no values, and arithmetic of theirs with the CPU's is refused."""
    monkeypatch.setattr("engine.session.rehearse", lambda *parts: None)  # it reads scores
    own = settings(tiny, method, *SMALL, batch_size=6, accumulate=2)
    if own.classifier and "tau" in inspect.signature(find_class(own.classifier, "")).parameters:
        own = own.replace(classifier_args={"tau": 1.0})  # to choose it takes values
    training = build_training(own, [META], World(), classifier=own.classifier is not None)
    if not training.method.trains:
        return
    for epoch in (0, own.num_epoch - 1):
        training.method.begin_epoch(epoch)
        training.method.set_mode(training.net)
        training.state.progress.epoch = epoch
        batches = epoch_batches(training)
        clips, labels, batch = next(training.feeder.batches(batches))
        assert training_step(training, clips, labels, batch, len(batches)).device == META


# --- a class without samples ---

COUNTS = torch.tensor([40, 0, 21, 9, 4, 0, 1, 2])
PRESENT = torch.tensor([0, 2, 3, 4, 6, 7])
NTU = graph.load("ntu_rgb_d")


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(12, len(COUNTS))

    def forward(self, features):
        return self.fc(features)


@pytest.mark.parametrize("method", ALL)
def test_every_method_is_sane_where_classes_have_no_samples(tiny, method):
    own = settings(tiny, method)
    labels = torch.arange(len(COUNTS)).repeat_interleave(COUNTS)
    sampling = build.make(own, "sampling", labels, COUNTS, own.repeat)
    for progress in (0.0, 0.9):
        draws = sampling.draws(progress)
        assert (draws[PRESENT] > 0).all() and not draws[COUNTS == 0].any()
        shown = labels[sampling.epoch(torch.Generator().manual_seed(0), progress)]
        assert torch.equal(shown.bincount(minlength=len(COUNTS)), draws)
    rows = torch.tensor([0, 41, 62, 71, 75, 76, 5, 73, 7, 8, 9, 10, 11, 12, 13, 50])
    mix = build.make(own, "mixing", COUNTS, NTU)
    mix.begin_epoch(own.num_epoch - 1)
    clips = torch.randn(16, 2, 8, 25, 3, generator=torch.Generator().manual_seed(0))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(2 * 8 * 25 * 3, len(COUNTS)))
    mix.observe(Outputs(flat), clips, labels[rows], torch.Generator().manual_seed(1))
    clips, targets = mix(clips, labels[rows], torch.Generator().manual_seed(2))
    assert clips.isfinite().all() and not targets[..., COUNTS == 0].any()
    stages = build.make_stages(own, COUNTS)
    for epoch in (0, own.num_epoch - 1):
        weights, criterion = stages.class_weights(epoch), stages.criterion(epoch)
        assert weights.isfinite().all() and (weights[PRESENT] > 0).all()
        shape = (len(clips), 3, 8) if method in ("ride", "sade") else (len(clips), 8)
        logits = torch.zeros(shape, requires_grad=True)  # as of a network that has not learned
        entries = label_weights(targets, weights, own.weigh_by)
        loss = criterion.part(logits, torch.ones(len(clips), 4), entries, len(clips))
        loss.backward()
        assert loss.isfinite() and logits.grad.isfinite().all()
        # Every sample pushes the classes that never occur down.
        assert (logits.grad.flatten(0, -2).sum(0)[COUNTS == 0] > 0).all()


@pytest.mark.parametrize("method", [m for m in METHODS if config.load(
    method_files(m)).classifier])  # fmt: skip
def test_no_classifier_method_favors_a_class_without_samples(tiny, method):
    """As cross entropy leaves a network: short vectors and low biases where there is nothing."""
    own = settings(tiny, method)
    model = Tiny()
    features = torch.rand(200, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.fc.weight[COUNTS == 0] *= 0.01
        model.fc.bias[COUNTS == 0] = -1.5
        model.fc.bias[(COUNTS == 1) | (COUNTS == 2)] = -12.0  # else these would cover the absent
    before = model(features).argmax(1)
    assert (COUNTS[before] > 0).all()
    classifier = build.make(own, "classifier", COUNTS)
    held_out = model(features).detach(), before
    for tau in (0.5, 1.0, 2.0, "auto") if "tau" in vars(classifier) else (None,):
        changed = Tiny()
        changed.load_state_dict(model.state_dict())
        if tau is not None:
            classifier.tau = tau
        classifier.prepare(changed, Samples(lambda: held_out, lambda: (features, before)))
        logits = changed(features)
        assert logits.isfinite().all()
        if not getattr(classifier, "fresh", False):  # cRT's is yet to be trained
            assert (COUNTS[logits.argmax(1)] > 0).all()


def test_the_nearest_class_mean_is_that_of_the_largest_cosine():
    """Against each cosine computed by itself; class 3 has no samples."""
    draws = np.random.RandomState(0)
    labels = draws.randint(3, size=60)
    features = draws.standard_normal((60, 5)) + 2 * np.eye(5)[labels]
    others = draws.standard_normal((200, 5))
    model = nn.Module()
    model.fc = nn.Linear(5, 4)
    given = torch.from_numpy(features).float(), torch.from_numpy(labels)
    method = NearestClassMean(torch.tensor([20, 20, 20, 0]))
    method.prepare(model, Samples(None, lambda: given))
    means = [features[labels == k].mean(0) for k in range(3)]
    cosines = [[x @ m / np.linalg.norm(x) / np.linalg.norm(m) for m in means] for x in others]
    logits = model.fc(torch.from_numpy(others).float())
    assert logits.isfinite().all() and not method.trains
    assert logits.argmax(1).tolist() == np.argmax(cosines, 1).tolist()


@pytest.mark.parametrize("tau", [0.3, 0.8, 1.5])
def test_tau_auto_finds_the_best_of_a_grid(tau):
    """Against a plain search by the accuracy of each class, one class and one tau at a time."""
    draws = np.random.RandomState(int(10 * tau))
    counts = torch.tensor([50, 20, 5, 2])
    labels = draws.randint(4, size=400)
    prior = np.log(counts.numpy() / counts.numpy().sum())
    wanted = np.eye(4)[labels] * 1.0 + draws.standard_normal((400, 4))
    model = nn.Module()
    model.fc = nn.Linear(4, 4)
    with torch.no_grad():
        model.fc.weight.copy_(torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.5])))
        model.fc.bias.zero_()

    def mean_accuracy(scores):
        right = scores.argmax(1) == labels
        return np.mean([right[labels == k].mean() for k in range(4)])

    logits = wanted + tau * prior  # tau is what takes the prior off
    found = PostHocAdjustment(counts)
    held_out = torch.from_numpy(logits).float(), torch.from_numpy(labels)
    found.prepare(model, Samples(lambda: held_out, None))
    best = max(mean_accuracy(logits - t * prior) for t in TAUS)
    assert mean_accuracy(logits - found.tau * prior) == pytest.approx(best)
    assert abs(found.tau - tau) < 0.5
    with torch.no_grad():
        model.fc.bias.zero_()
    lengths = np.array([3.0, 2.0, 1.0, 0.5])
    logits = wanted * lengths**tau
    found = TauNormalization(counts)
    held_out = torch.from_numpy(logits).float(), torch.from_numpy(labels)
    found.prepare(model, Samples(lambda: held_out, None))
    best = max(mean_accuracy(logits / lengths**t) for t in TAUS)
    assert mean_accuracy(logits / lengths**found.tau) == pytest.approx(best)
    np.testing.assert_allclose(
        model.fc.weight.detach().diagonal(), lengths ** (1 - found.tau), rtol=1e-5
    )
