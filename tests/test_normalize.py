"""Normalisation equals the released classes (golden vectors) and is what its words say."""

from pathlib import Path

import numpy as np
import pytest

from data import normalize


def test_upright_equals_the_released_class(golden: Path) -> None:
    annotations = np.load(golden / "tf_annotations.npz")
    expected = np.load(golden / "tf_prenormalize3d.npz")
    for key in annotations.files:
        name = key.removeprefix("in|")
        joints = normalize.upright(annotations[key].swapaxes(0, 1))
        if name == "m1_t20_zero":  # left out of a store: nobody is in it
            assert joints.shape == (0, 1, 25, 3)
            continue
        reference = expected[f"{name}|keypoint"].swapaxes(0, 1)
        assert joints.dtype == np.float32 and len(joints) == expected[f"{name}|total_frames"]
        # The float32 of the reference's float64, but for its last bit.
        np.testing.assert_allclose(joints, reference, rtol=2e-7, atol=1e-7, err_msg=name)
    joints = normalize.upright(expected["nw_ucla_in"].swapaxes(0, 1))
    reference = expected["nw_ucla|keypoint"].swapaxes(0, 1)
    np.testing.assert_allclose(joints, reference, rtol=2e-7, atol=1e-7)


def test_to_image_equals_the_released_class(golden: Path) -> None:
    vectors = np.load(golden / "tf_genskefeat.npz")
    for name in ("coco|m1_t20", "coco|m2_t50"):
        score = vectors[f"{name}|in_score"][..., None]
        joints = np.concatenate([vectors[f"{name}|in_kp"], score], axis=-1)
        for suffix, size in {"": (1080, 1920), "_480x640": (480, 640)}.items():
            scaled = normalize.to_image(joints, *size)
            np.testing.assert_array_equal(
                scaled[..., :2], vectors[f"{name}|prenormalize2d{suffix}"]
            )
            np.testing.assert_array_equal(scaled[..., 2:], score)


def test_in_an_image_absent_bodies_stay_zero_and_joints_in_its_corner_do_not() -> None:
    poses = np.full((2, 2, 3, 3), 100.0)
    poses[0, 0, 1] = 0  # not found: score 0
    poses[1, 1] = 0
    scaled = normalize.to_image(poses, height=200, width=400)
    np.testing.assert_array_equal(scaled[0, 0, 1], [-1, -1, 0])
    np.testing.assert_array_equal(scaled[0, 1], [[-0.5, 0, 100]] * 3)
    assert not scaled[1, 1].any()


def test_upright_puts_the_spine_on_z_and_keeps_shapes() -> None:
    random = np.random.RandomState(3)
    clip = random.standard_normal((6, 2, 25, 3))
    clip[2, 0] = 0  # no first body: the frame goes
    clip[4, 1] = 0  # no second body: stays zero
    clip[5, 0, 7] = 0  # a lost joint: stays zero
    clip[1, 0, 9, :2] = 0  # one that lies on an axis is not lost
    joints = normalize.upright(clip)
    assert joints.shape == (5, 2, 25, 3)
    assert not joints[0, 0, 1].any() and not joints[3, 1].any() and not joints[4, 0, 7].any()
    x_shoulders = joints[0, 0, 8] - joints[0, 0, 4]
    np.testing.assert_allclose(x_shoulders[1:], 0, atol=1e-6)
    assert x_shoulders[0] > 0
    kept = clip[[0, 1, 3, 4, 5]]
    there = np.abs(kept[:, 0]).sum(-1) > 0
    lengths = np.linalg.norm(kept[:, 0] - kept[0, 0, 1], axis=-1)
    np.testing.assert_allclose(np.linalg.norm(joints[:, 0], axis=-1), lengths * there, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 2])
def test_the_shortest_rotation_turns_in_the_plane_of_both(axis: int) -> None:
    random = np.random.RandomState(axis)
    onto = np.eye(3)[axis]
    for vector in random.standard_normal((20, 3)):
        turn = normalize.shortest_rotation(vector, axis)
        np.testing.assert_allclose(turn @ vector, np.linalg.norm(vector) * onto, atol=1e-12)
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        across = np.cross(vector, onto)  # the axis of the turn stays
        np.testing.assert_allclose(turn @ across, across, atol=1e-12)
    for still in (onto, -onto, np.zeros(3)):
        np.testing.assert_array_equal(normalize.shortest_rotation(still, axis), np.eye(3))


def test_centred_moves_joint_1_of_the_first_frame_to_the_origin() -> None:
    clip = np.arange(4 * 20 * 3, dtype=np.float32).reshape(4, 1, 20, 3)
    joints = normalize.centred(clip)
    assert not joints[0, 0, 1].any()
    np.testing.assert_array_equal(joints[2] - joints[0], clip[2] - clip[0])


def test_a_clip_centred_on_a_joint_of_its_own_keeps_lost_joints_at_zero() -> None:
    clip = np.random.RandomState(0).standard_normal((4, 2, 5, 3))
    clip[2, 0, 3] = clip[3, 1] = 0
    joints = normalize.normalise(clip, "centred", centre=2)
    lost = (clip == 0).all(axis=-1)
    assert not joints[lost].any()
    np.testing.assert_array_equal(joints[~lost], (clip - clip[0, 0, 2])[~lost])
