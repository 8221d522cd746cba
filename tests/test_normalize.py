"""Normalization: equal to the released classes (golden vectors), and correct by definition."""

from pathlib import Path

import numpy as np
import pytest

from data import normalize


def test_upright_equals_released_class(golden: Path) -> None:
    annotations = np.load(golden / "tf_annotations.npz")
    expected = np.load(golden / "tf_prenormalize3d.npz")
    for key in annotations.files:
        name = key.removeprefix("in|")
        joints = normalize.upright(annotations[key].swapaxes(0, 1))
        if name == "m1_t20_zero":  # no body: skipped in a store
            assert joints.shape == (0, 1, 25, 3)
            continue
        reference = expected[f"{name}|keypoint"].swapaxes(0, 1)
        assert joints.dtype == np.float32 and len(joints) == expected[f"{name}|total_frames"]
        # float32 against float64: equal up to the last bit.
        np.testing.assert_allclose(joints, reference, rtol=2e-7, atol=1e-7, err_msg=name)
    joints = normalize.upright(expected["nw_ucla_in"].swapaxes(0, 1))
    reference = expected["nw_ucla|keypoint"].swapaxes(0, 1)
    np.testing.assert_allclose(joints, reference, rtol=2e-7, atol=1e-7)


def test_unaligned_equals_the_released_class_without_alignment(golden: Path) -> None:
    clip = np.load(golden / "tf_annotations.npz")["in|m2_t20"].swapaxes(0, 1)
    expected = np.load(golden / "tf_prenormalize3d.npz")["m2_t20|nospine"].swapaxes(0, 1)
    joints = normalize.apply("unaligned", clip, normalize.Terms())
    assert joints.dtype == np.float32
    np.testing.assert_array_equal(joints, expected)
    assert normalize.origin("unaligned", 25, None) == 1
    assert not np.allclose(joints, normalize.upright(clip))


@pytest.mark.parametrize("name", ["coco|m1_t20", "coco|m2_t50"])
def test_to_image_equals_released_class(golden, name: str) -> None:
    vectors = golden.load("tf_genskefeat.npz")
    score = vectors[f"{name}|in_score"][..., None]
    joints = np.concatenate([vectors[f"{name}|in_kp"], score], axis=-1)
    for suffix, size in {"": (1080, 1920), "_480x640": (480, 640)}.items():
        scaled = normalize.to_image(joints, *size)
        np.testing.assert_array_equal(scaled[..., :2], vectors[f"{name}|prenormalize2d{suffix}"])
        np.testing.assert_array_equal(scaled[..., 2:], score)


def test_upright_takes_the_body_with_more_frames_for_the_first() -> None:
    """Strictly more: of two that are there equally long the order stays."""
    clip = np.random.RandomState(5).standard_normal((6, 2, 25, 3))
    exchanged = clip[:, ::-1].copy()
    exchanged[:2, 0] = 0
    expected = clip.copy()
    expected[:2, 1] = 0
    np.testing.assert_array_equal(normalize.upright(exchanged), normalize.upright(expected))
    assert not np.array_equal(normalize.upright(clip), normalize.upright(clip[:, ::-1]))


@pytest.mark.parametrize("main", [0, 1, 2])
def test_upright_takes_the_body_with_most_frames_of_three(main: int) -> None:
    clip = np.random.RandomState(5).standard_normal((6, 3, 25, 3))
    clip[2:, 1:] = 0  # the first body has six frames, the others two
    expected = normalize.upright(clip)
    order = np.arange(3)
    order[[0, main]] = main, 0
    assert len(expected) == 6
    np.testing.assert_array_equal(normalize.upright(clip[:, order]), expected)


def test_to_image_keeps_missing_joints_zero_but_not_joints_in_the_corner() -> None:
    poses = np.full((2, 2, 3, 3), 100.0)
    poses[0, 0, 1] = 0  # not found
    poses[0, 0, 2, 2] = 0  # not found either: the position is ignored
    poses[1, 0, 0, :2] = 0  # found in the corner
    poses[1, 1] = 0
    scaled = normalize.to_image(poses, height=200, width=400)
    np.testing.assert_array_equal(scaled[0, 0], [[-0.5, 0, 100], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(scaled[1, 0, 0], [-1, -1, 100])
    assert not scaled[1, 1].any()
    without_score = normalize.to_image(poses[..., :2], height=200, width=400)
    np.testing.assert_array_equal(without_score[0, 0], [[-0.5, 0], [0, 0], [-0.5, 0]])


@pytest.mark.parametrize("name", ["image", "st-gcn"])
def test_pixels_and_scaled_positions_give_the_same_poses(name: str) -> None:
    random = np.random.default_rng(0)
    relative = np.concatenate([random.uniform(0, 1, (6, 2, 18, 2)), np.ones((6, 2, 18, 1))], -1)
    pixels, scaled = relative * [640, 480, 1], relative * [2, 2, 1] - [1, 1, 0]
    pixels[2, :, 4] = scaled[2, :, 4] = 0
    scaled[3, :, 5, 2] = pixels[3, :, 5, 2] = 0
    how = normalize.NORMALIZATIONS[name]
    of_pixels = how(pixels, normalize.Terms(image_size=(480, 640)))
    np.testing.assert_allclose(of_pixels, how(scaled, normalize.Terms()), atol=1e-6)
    assert not of_pixels[2, :, 4].any() and not of_pixels[3, :, 5].any()
    assert of_pixels.any(axis=-1).sum() == 6 * 2 * 18 - 4
    half = 1 if name == "image" else 0.5
    expected = (relative[0, 0, :, :2] - 0.5) * half / 0.5
    np.testing.assert_allclose(of_pixels[0, 0, :, :2], expected, atol=1e-6)


def test_upright_aligns_shoulders_and_keeps_lengths() -> None:
    random = np.random.RandomState(3)
    clip = random.standard_normal((6, 2, 25, 3))
    clip[2, 0] = 0  # no first body: the frame is dropped
    clip[4, 1] = 0  # no second body: stays zero
    clip[5, 0, 7] = 0  # an unseen joint: stays zero
    clip[1, 0, 9, :2] = 0  # a joint on an axis is not unseen
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
def test_shortest_rotation_is_in_the_plane_of_vector_and_axis(axis: int) -> None:
    random = np.random.RandomState(axis)
    onto = np.eye(3)[axis]
    for vector in random.standard_normal((20, 3)):
        turn = normalize.shortest_rotation(vector, axis)
        np.testing.assert_allclose(turn @ vector, np.linalg.norm(vector) * onto, atol=1e-12)
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        across = np.cross(vector, onto)  # the rotation axis is fixed
        np.testing.assert_allclose(turn @ across, across, atol=1e-12)
    for still in (onto, -onto, np.zeros(3)):
        np.testing.assert_array_equal(normalize.shortest_rotation(still, axis), np.eye(3))


def test_nw_ucla_moves_joint_1_of_first_frame_to_origin() -> None:
    clip = np.arange(4 * 20 * 3, dtype=np.float32).reshape(4, 1, 20, 3)
    joints = normalize.nw_ucla(clip)
    assert not joints[0, 0, 1].any()
    np.testing.assert_array_equal(joints[2] - joints[0], clip[2] - clip[0])


def centered(clip: np.ndarray, center: int) -> np.ndarray:
    return normalize.NORMALIZATIONS["centered"](clip, normalize.Terms(center))


def test_centered_keeps_unseen_joints_zero() -> None:
    clip = np.random.RandomState(0).standard_normal((4, 2, 5, 3))
    clip[2, 0, 3] = clip[3, 1] = 0
    joints = centered(clip, 2)
    lost = (clip == 0).all(axis=-1)
    assert not joints[lost].any()
    np.testing.assert_array_equal(joints[~lost], (clip - clip[0, 0, 2])[~lost])


def test_centered_uses_first_frame_with_seen_center() -> None:
    clip = np.random.RandomState(0).standard_normal((5, 2, 4, 3)) + 3
    clip[:2, 0, 2] = 0  # the center is unseen in the first two frames
    lost = (clip == 0).all(axis=-1)
    joints = centered(clip, 2)
    np.testing.assert_array_equal(joints[~lost], (clip - clip[2, 0, 2])[~lost])
    assert not joints[lost].any()


def test_centered_uses_mean_of_first_seen_joints_without_center() -> None:
    clip = np.random.RandomState(0).standard_normal((5, 2, 4, 3)) + 3
    clip[:, 0, 2] = clip[0, 0] = clip[1, 0, 3] = 0
    joints = centered(clip, 2)
    np.testing.assert_allclose(joints[4, 1, 1], clip[4, 1, 1] - clip[1, 0, :2].mean(axis=0))
    clip[:, 0] = 0  # only the second body is present
    np.testing.assert_array_equal(centered(clip, 2)[3, 1], clip[3, 1] - clip[0, 1, 2])
    np.testing.assert_array_equal(centered(clip * 0, 2), clip * 0)


def test_centered_with_unseen_center_at_start_of_nw_ucla_clips(
    shared: Path,
) -> None:
    arrays = np.load(shared / "data/nw_ucla.npz")
    for clip in np.split(arrays["frames"], arrays["offsets"][1:-1])[:100:5]:
        whole, lost = clip[:, None], clip[:, None].copy()
        lost[: len(clip) // 3, 0, 2] = 0
        shift = clip[len(clip) // 3, 2] - clip[0, 2]
        seen = lost.any(axis=-1)
        moved = normalize.centered(whole, 2) - shift
        np.testing.assert_allclose(normalize.centered(lost, 2)[seen], moved[seen], atol=1e-5)


def test_normalization_names_of_earlier_versions() -> None:
    assert normalize.name_in({"normalisation": "centred"}) == "centered"
    assert normalize.name_in({"normalization": "upright"}) == "upright"
    assert normalize.name_in({"normalisation": None}) is None
    assert set(normalize.USUAL.values()) <= set(normalize.NORMALIZATIONS)
