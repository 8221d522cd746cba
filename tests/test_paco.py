"""PaCo: its loss against a loop, its queue and averaged network, over ranks, and whole runs."""

import copy

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn.functional import normalize, one_hot

from engine import config
from engine.distributed import World
from engine.session import build_training
from engine.train import epoch_batches, training_step
from errors import InputError
from longtail.paco import parametric_contrast
from tests.test_distributed import on_two_ranks
from tests.tiny_runs import METHODS, SMALL, assert_resumes, run


def by_a_loop(logits, label, similarities, key_labels, alpha):
    """The loss of one anchor; `similarities` are those to the keys without the anchor itself."""
    below = np.exp(logits).sum() + np.exp(similarities).sum()
    terms = [np.log(np.exp(logits[label]) / below)]
    weights = [1.0]
    for value, key in zip(similarities, key_labels):
        if key == label:
            terms.append(np.log(np.exp(value) / below))
            weights.append(alpha)
    return -np.dot(weights, terms) / sum(weights)


def training_of(tiny, *more):
    words = [*SMALL, "batch_size=6", "num_epoch=2", "objective_args.queue=10", *more]
    own = config.load([tiny / "tiny-lt/joint.yaml", METHODS / "paco.yaml"], words)
    return build_training(own, [torch.device("cpu")], World())


def test_a_queue_fills_and_the_loss_counts_its_keys(tiny):
    training = training_of(tiny)
    method, net = training.method, training.net.eval()
    method.eval()  # batch norm of the projection
    prior = (training.data.class_counts / training.data.class_counts.sum()).log().numpy()
    kept, kept_labels = np.zeros((0, 32)), np.zeros(0, dtype=int)
    for clips, labels, batch in training.feeder.batches(epoch_batches(training)[:2]):
        assert clips.shape[:2] == (6, 2)
        clips, targets = method.mix(net, clips, labels, batch.generator)
        output = net(clips[:, 0])
        queries = normalize(method.projection(output.features)).detach().double().numpy()
        keys = method.project_second(clips[:, 1]).double().numpy()
        method.training = True
        loss = method.loss(net, clips, targets, len(clips))
        method.training = False
        against = np.concatenate([queries, keys, kept])
        against_labels = np.concatenate([labels, labels, kept_labels])
        similarity = queries @ against.T / 0.05
        logits = output.logits.detach().double().numpy() + prior
        expected = [
            by_a_loop(logits[i], int(labels[i]), np.delete(similarity[i], i),
                      np.delete(against_labels, i), 0.01)
            for i in range(6)
        ]  # fmt: skip
        assert loss.item() == pytest.approx(np.mean(expected), rel=1e-4)
        kept = np.concatenate([keys, kept])[:10]
        kept_labels = np.concatenate([labels, kept_labels])[:10]
        held = len(kept)
        np.testing.assert_allclose(method.queue[:held], kept, rtol=1e-5, atol=1e-6)
        assert method.queue_labels[:held].argmax(1).tolist() == kept_labels.tolist()
        assert not method.queue_labels[held:].any()
    loss.backward()
    assert method.projection[0].weight.grad.any()
    assert all(p.grad is None for p in method.average.parameters())


def test_the_copy_is_the_moving_average_of_the_network(tiny):
    training = training_of(tiny, "objective_args.momentum=0.9")
    method, model = training.method, training.state.model
    network, projection = method.average
    for name, value in model.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name
    before = copy.deepcopy(network.state_dict()), copy.deepcopy(projection.state_dict())
    batches = epoch_batches(training)
    clips, labels, batch = next(training.feeder.batches(batches))
    training_step(training, clips, labels, batch, len(batches))
    pairs = [(before[0], network, model), (before[1], projection, method.projection)]
    for then, average, trained in pairs:
        moved = 0
        for name, now in trained.state_dict().items():
            if now.is_floating_point():
                expected = 0.9 * then[name] + 0.1 * now
                torch.testing.assert_close(average.state_dict()[name], expected)
                moved += bool((now != then[name]).any())
        assert moved > 3


@pytest.mark.slow
def test_a_run_is_resumed_with_its_queue(tiny, tmp_path, untested):
    def train(folder, *flags):
        run(tiny, folder, "paco.yaml", more=[*SMALL, "batch_size=6", *flags])

    state = assert_resumes(train, 1, tmp_path / "whole", tmp_path / "cut")
    assert {"queue", "queue_labels", "average.0.fc.weight"} <= state["training"]["method"].keys()


@pytest.mark.parametrize("word", ["mixing=longtail.mixing.Mixup", "loss=longtail.losses.Focal"])
def test_what_it_does_not_use_is_refused(tiny, tmp_path, word):
    key = word.partition("=")[0]
    with pytest.raises(InputError, match=rf"^{key}: objective=longtail\.paco\.PaCo"):
        run(tiny, tmp_path / "run", "paco.yaml", more=[*SMALL, word])


def test_an_anchor_is_not_its_own_key():
    """With one more key, of its class and as near as can be, on its own place: no effect."""
    torch.manual_seed(0)
    logits, labels = torch.randn(1, 3), one_hot(torch.tensor([1]), 3).float()
    similarity, alike = torch.randn(1, 4), torch.tensor([[1.0, 0, 1, 0]])
    others = torch.tensor([[True, True, True, True]])
    plain = parametric_contrast(logits, labels, similarity, alike, others, 0.5)
    extended = parametric_contrast(
        logits, labels, torch.cat([similarity, torch.full((1, 1), 20.0)], 1),
        torch.cat([alike, torch.zeros(1, 1)], 1), torch.tensor([[True] * 4 + [False]]), 0.5,
    )  # fmt: skip
    torch.testing.assert_close(extended, plain)


def _contrast_a_part(rank, folder, tiny):
    """On each of two ranks: the losses of its part sum to those of one process; so do queues."""
    torch.manual_seed(0)
    logits, labels = torch.randn(7, 4), one_hot(torch.tensor([0, 1, 0, 2, 2, 1, 0]), 4).float()
    queries, keys = normalize(torch.randn(7, 32)), normalize(torch.randn(7, 32))
    method = training_of(tiny).method
    whole = copy.deepcopy(method)
    expected = whole.contrasted(logits, queries, keys, labels)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    mine = World(rank, 2).local_rows(7)
    part = method.contrasted(logits[mine], queries[mine], keys[mine], labels[mine])
    order = torch.cat([torch.arange(7)[World(r, 2).local_rows(7)] for r in range(2)])
    torch.testing.assert_close(part, expected[mine])
    torch.testing.assert_close(method.queue[:7], keys[order])
    assert method.queue_labels[:7].tolist() == labels[order].tolist()
    dist.destroy_process_group()


@pytest.mark.slow
def test_ranks_contrast_with_the_samples_of_all(tmp_path, tiny):
    on_two_ranks(_contrast_a_part, (str(tmp_path), tiny))
