"""BoneMixup: whose directions, whose lengths, which partners."""

import numpy as np
import pytest
import torch

import graph
from errors import InputError
from longtail.bone_mixing import BoneMixup
from longtail.brl import PartialMixup
from tests.tiny_runs import SMALL, run

COUNTS = torch.tensor([40, 20, 4])
LABELS = torch.tensor([0, 1, 2, 0, 1, 0, 2, 1])


def bodies(layout, seed=0, persons=2):
    skeleton = graph.load(layout)
    torch.manual_seed(seed)
    return skeleton, torch.randn(len(LABELS), persons, 5, skeleton.num_joints, 3)


@pytest.mark.parametrize("layout", ["ntu_rgb_d", "nw_ucla", "coco", "openpose", "h36m"])
def test_lower_bones_have_the_partners_directions_and_own_lengths(layout):
    """Against NumPy, bone by bone; the upper body stays where it is."""
    skeleton, clips = bodies(layout)
    others = clips.flip(0)
    made = BoneMixup(COUNTS, skeleton).graft(clips, others).numpy()
    own, other = clips.numpy(), others.numpy()
    size = 2 if skeleton.confidence else 3
    upper = [v for v in range(skeleton.num_joints) if v in skeleton.upper]
    np.testing.assert_array_equal(made[..., upper, :], own[..., upper, :])
    for v in sorted(set(range(skeleton.num_joints)) - set(upper)):
        above = skeleton.parent[v]
        if above == v:
            np.testing.assert_array_equal(made[..., v, :], own[..., v, :])
            continue
        bone, mine, theirs = (
            (x[..., v, :] - x[..., above, :])[..., :size] for x in (made, own, other)
        )
        lengths = [np.linalg.norm(x, axis=-1, keepdims=True) for x in (bone, mine, theirs)]
        np.testing.assert_allclose(lengths[0], lengths[1], rtol=1e-4)
        np.testing.assert_allclose(bone / lengths[0], theirs / lengths[2], atol=1e-4)
        np.testing.assert_array_equal(made[..., v, size:], other[..., v, size:])


def test_absent_persons_and_unseen_bones_stay_own():
    skeleton, clips = bodies("nw_ucla")
    others = clips.flip(0).clone()
    others[:, 1] = 0  # the partner's second person is absent
    clips[0, 1] = 0  # as is this sample's own
    made = BoneMixup(COUNTS, skeleton).graft(clips, others)
    torch.testing.assert_close(made[:, 1], clips[:, 1], atol=1e-5, rtol=1e-5)
    assert not made[0, 1].any() and not torch.equal(made[1:, 0], clips[1:, 0])


def test_partners_are_drawn_by_class_and_never_oneself():
    skeleton, _ = bodies("nw_ucla")
    mixing = BoneMixup(COUNTS, skeleton, ratio=1.0, power=1.0)
    noise = torch.rand(40_000, 8, generator=torch.Generator().manual_seed(0))
    noise[:, 3] = 0
    chosen = torch.bincount(mixing.choose(noise, LABELS), minlength=8) / 40_000
    weight = 1 / COUNTS[LABELS].double()
    weight[3] = 0
    assert chosen[3] == 0
    torch.testing.assert_close(chosen.double(), weight / weight.sum(), atol=0.01, rtol=0)


def test_targets_are_those_of_partial_mixup():
    skeleton, clips = bodies("ntu_rgb_d")
    mixing = BoneMixup(COUNTS, skeleton, ratio=1.0, align=False, power=0.0)
    made, targets = mixing(clips, LABELS, torch.Generator().manual_seed(1))
    plain = PartialMixup(COUNTS, skeleton, ratio=1.0)
    upper = list(skeleton.upper)
    lower = [v for v in range(25) if v not in upper]
    partner = torch.stack(
        [(clips[:, ..., lower, :] == m[..., lower, :]).flatten(1).all(1) for m in made]
    )
    partner = partner.int().argmax(1)
    assert (partner != torch.arange(8)).all()
    expected = plain.combine(clips, LABELS, torch.arange(8), partner)
    torch.testing.assert_close(made, expected[0])
    torch.testing.assert_close(targets, expected[1])
    one, same = mixing(clips[:1], LABELS[:1])
    assert torch.equal(one, clips[:1]) and same.tolist() == [[1, 0, 0]]


def test_it_needs_no_values_on_the_device():
    skeleton, clips = bodies("ntu_rgb_d")
    mixing = BoneMixup(COUNTS, skeleton, ratio=0.5).to("meta")
    made, targets = mixing(clips.to("meta"), LABELS.to("meta"), torch.Generator())
    assert made.shape == clips.shape and targets.shape == (8, 3) and made.is_meta


def test_bones_are_not_taken_for_positions(tiny, tmp_path):
    with pytest.raises(InputError, match="takes positions, which stream bone does not have"):
        run(tiny, tmp_path / "run", "bone-mixup.yaml", more=[*SMALL, "stream=bone"])
    assert not (tmp_path / "run").exists()


def test_it_trains(tiny, tmp_path):
    more = [*SMALL, "mixing_args.ratio=0.5", "num_epoch=1", "test_clips=1"]
    run(tiny, tmp_path / "run", "bone-mixup.yaml", more=more)
    assert (tmp_path / "run/result.json").is_file()
