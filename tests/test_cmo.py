"""CMO: which samples are pasted, where, when, and with which labels."""

import numpy as np
import pytest
import torch

from engine import config
from engine.distributed import World
from engine.session import build_training
from errors import InputError
from tests.tiny_runs import METHODS, SMALL, run


def method_of(tiny, *more):
    words = [*SMALL, "num_epoch=9", *more]
    own = config.load([tiny / "tiny-lt/joint.yaml", METHODS / "cmo.yaml"], words)
    return build_training(own, [torch.device("cpu")], World()).method


def test_the_second_of_a_pair_is_drawn_by_the_inverse_count(tiny):
    """Sampled with weight n_y^-1 per sample's class, every class has the share 1 / K."""
    method = method_of(tiny, "repeat=12")
    rows = method.rows(torch.Generator().manual_seed(0), 0.0)
    labels = method.sampling.labels[rows]
    counts = method.sampling.class_counts.double()
    assert torch.bincount(labels[:, 0]).tolist() == (12 * counts).long().tolist()
    share = torch.bincount(labels[:, 1]).double() / len(rows)
    wanted = torch.full((4,), 0.25, dtype=torch.float64)
    torch.testing.assert_close(share, wanted, atol=1 / len(rows), rtol=0)


def test_the_target_is_the_part_that_is_left(tiny):
    method = method_of(tiny)
    torch.manual_seed(0)
    clips, labels = torch.randn(3, 2, 2, 8, 25, 3), torch.tensor([[0, 3], [1, 1], [2, 3]])
    mixed, targets = method.combine(clips, labels, 0.36, (4, 24))
    # sqrt(1 - 0.36) = 0.8: 7 of 8 frames, 20 of 25 joints; half of them around the center
    box = np.zeros((8, 25), bool)
    box[4 - 3 : 4 + 3, 24 - 10 : 25] = True
    expected = np.where(box[..., None], clips[:, 1].numpy(), clips[:, 0].numpy())
    np.testing.assert_array_equal(mixed.numpy(), expected)
    left = 1 - box.mean()
    wanted = [[left, 0, 0, 1 - left], [0, 1, 0, 0], [0, 0, left, 1 - left]]
    np.testing.assert_allclose(targets.numpy(), wanted, rtol=1e-6)


def test_the_first_and_last_epochs_and_half_of_the_batches_are_plain(tiny):
    method, generator = method_of(tiny), torch.Generator().manual_seed(0)
    clips, labels = torch.randn(2, 2, 1, 8, 25, 3), torch.tensor([[0, 3], [2, 3]])
    changed = []
    for epoch in range(9):
        method.begin_epoch(epoch)
        seen = [method.mix(None, clips, labels, generator)[0] for _ in range(200)]
        changed.append(sum(not torch.equal(own, clips[:, 0]) for own in seen))
    assert changed[:3] == changed[6:] == [0, 0, 0]
    assert all(70 < count < 120 for count in changed[3:6])


def test_another_mixing_is_refused(tiny, tmp_path):
    with pytest.raises(InputError, match=r"^mixing: objective=longtail\.cmo\.CMO"):
        run(tiny, tmp_path / "run", "cmo.yaml", more=[*SMALL, "mixing=longtail.mixing.Mixup"])
