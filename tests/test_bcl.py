"""BCL: its loss against a loop, over ranks, and whole runs."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import normalize, one_hot

from engine import config
from engine.distributed import World
from engine.session import build_training
from engine.train import epoch_batches
from errors import InputError
from longtail.bcl import balanced_contrast, head
from longtail.ranks import gather_over_ranks
from tests.test_distributed import on_two_ranks
from tests.tiny_runs import METHODS, SMALL, assert_resumes, run


def by_a_loop(anchors, labels, keys, key_labels, own, temperature):
    losses = []
    for i, anchor in enumerate(anchors):
        others = [j for j in range(len(keys)) if j != own[i]]
        rise = {j: np.exp(anchor @ keys[j] / temperature) for j in others}
        classes = [[j for j in others if key_labels[j] == c] for c in set(key_labels)]
        below = sum(np.mean([rise[j] for j in members]) for members in classes if members)
        losses.append(-np.mean([np.log(rise[j] / below) for j in others
                                if key_labels[j] == labels[i]]))  # fmt: skip
    return losses


def test_the_contrast_averages_over_each_class_and_leaves_the_anchor_out():
    torch.manual_seed(0)
    labels = torch.tensor([0, 0, 0, 0, 2, 2, 1, 1])  # four samples in two views
    keys = normalize(torch.randn(12, 5, dtype=torch.float64))  # and a prototype for each class
    key_labels, own = torch.cat([labels, torch.arange(4)]), torch.arange(8)
    ours = balanced_contrast(
        keys[:8], one_hot(labels, 4).double(), keys, one_hot(key_labels, 4).double(), own, 1 / 0.1
    )
    arrays = (x.numpy() for x in (keys[:8], labels, keys, key_labels, own))
    np.testing.assert_allclose(ours, by_a_loop(*arrays, 0.1), rtol=1e-10)


def training_of(tiny, *more):
    words = [*SMALL, "batch_size=6", "num_epoch=2", *more]
    own = config.load([tiny / "tiny-lt/joint.yaml", METHODS / "bcl.yaml"], words)
    return build_training(own, [torch.device("cpu")], World())


def test_the_first_view_is_classified_and_the_others_are_contrasted(tiny):
    training = training_of(tiny)
    method, net = training.method, training.net.eval()
    ((clips, labels, batch), *_) = training.feeder.batches(epoch_batches(training)[:1])
    assert clips.shape[:2] == (6, 3)
    clips, targets = method.mix(net, clips, labels, batch.generator)
    loss = method.loss(net, clips, targets, len(clips))
    prior = training.data.class_counts.log()
    views = [net(clips[:, view]) for view in range(3)]
    classified = nn.functional.cross_entropy(views[0].logits + prior, labels)
    method.contrast = 0.0
    torch.testing.assert_close(method.loss(net, clips, targets, len(clips)), classified)
    features = torch.stack([view.features for view in views], 1).flatten(0, 1)
    projected = normalize(method.projection(features)).unflatten(0, (6, 3))[:, 1:].flatten(0, 1)
    prototypes = normalize(method.prototypes(training.state.model.fc.weight))
    keys, twice = torch.cat([projected, prototypes]), labels.repeat_interleave(2)
    arrays = (x.detach().double().numpy() for x in (projected, twice, keys))
    key_labels = torch.cat([twice, torch.arange(4)]).numpy()
    expected = 0.35 * np.mean(by_a_loop(*arrays, key_labels, np.arange(12), 0.1))
    assert (loss - classified).item() == pytest.approx(expected, rel=1e-4)
    loss.backward()
    assert method.prototypes[0].weight.grad.any()
    saved = {name.partition(".")[0] for name in method.state_dict()}
    assert {"projection", "prototypes"} <= saved and "classifier_of_model" not in saved


@pytest.mark.slow
def test_a_run_is_resumed_with_its_heads(tiny, tmp_path, untested):
    more = [*SMALL, "batch_size=6"]

    def train(folder, *flags):
        run(tiny, folder, "bcl.yaml", more=[*more, *flags])

    assert_resumes(train, 1, tmp_path / "whole", tmp_path / "cut")


def test_mixed_labels_are_refused(tiny, tmp_path):
    with pytest.raises(InputError, match=r"^mixing: objective=longtail\.bcl\.BCL"):
        run(tiny, tmp_path / "run", "bcl.yaml", more=[*SMALL, "mixing=longtail.mixing.Mixup"])


def _contrast_a_part(rank, folder):
    """On each of two ranks: gradients of the contrast of uneven parts, against the whole's."""
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    values, labels = torch.randn(7, 5), one_hot(torch.tensor([0, 1, 0, 2, 2, 1, 0]), 3).float()

    def losses(z, labels, keys, key_labels, first):
        prototypes = torch.eye(3, 4)
        keys, key_labels = torch.cat([keys, prototypes]), torch.cat([key_labels, torch.eye(3)])
        own = torch.arange(first, first + len(z))
        return balanced_contrast(z, labels, keys, key_labels, own, 10.0)

    net = nn.Linear(5, 4)
    whole = normalize(net(values))
    losses(whole, labels, whole, labels, 0).mean().backward()
    expected = net.weight.grad.clone()
    net.zero_grad()
    mine, world = World(rank, 2).local_rows(7), World(rank, 2)
    wrapped = nn.parallel.DistributedDataParallel(net)
    part = normalize(wrapped(values[mine]))
    both, first = gather_over_ranks(torch.cat([part, labels[mine]], 1))
    assert first == (0 if rank == 0 else 4) and len(both) == 7
    loss = losses(part, labels[mine], *both.split([4, 3], 1), first).sum() / 7
    (world.size * loss).backward()
    torch.testing.assert_close(net.weight.grad, expected)
    dist.destroy_process_group()


@pytest.mark.slow
def test_ranks_contrast_with_the_samples_of_all(tmp_path):
    on_two_ranks(_contrast_a_part, (str(tmp_path),))


def test_a_batch_of_one_sample_is_projected():
    """The last batch of an epoch may have one: it has no variance, so the running one counts."""
    torch.manual_seed(0)
    projection = head(6, 4)
    projection(3 + torch.randn(20, 6))
    kept = projection[1].running_mean.clone()
    row = torch.randn(1, 6)
    found = projection(row)
    assert torch.equal(projection[1].running_mean, kept)
    torch.testing.assert_close(found, projection.eval()(row))


def test_a_loss_that_needs_features_takes_those_of_the_first_view(tiny):
    training = training_of(
        tiny, "loss=longtail.losses.InfluenceBalanced", "objective_args.contrast=0"
    )
    method, net = training.method, training.net.eval()
    ((clips, labels, batch), *_) = training.feeder.batches(epoch_batches(training)[:1])
    clips, targets = method.mix(net, clips, labels, batch.generator)
    first = net(clips[:, 0])
    nll = nn.functional.cross_entropy(first.logits, labels, reduction="none")
    influence = 2 * (1 - (-nll).exp()) * first.features.abs().sum(1)
    loss = method.loss(net, clips, targets, len(clips))
    torch.testing.assert_close(loss, (1000 * nll / (influence + 1e-3)).mean(), rtol=1e-4, atol=0)
