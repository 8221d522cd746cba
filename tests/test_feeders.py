"""feeders/: frame choice, augmentation, streams and batches against the released pipelines."""

import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import graph
from data.store import Store
from errors import InputError
from feeders import augment, nw_ucla, source
from feeders import frames as choice
from feeders.skeleton import Batch, Draws, Feeder
from feeders.streams import NAMES, Stream

SHORT = {"j": "joint", "b": "bone", "k": "skip"}
SHORT |= {f"{key}m": f"{name}-motion" for key, name in SHORT.items()}
ALMOST_ONE = 1 - 2**-24  # the largest value that torch.rand can give


def make_store(clips: list[np.ndarray], layout: str = "ntu_rgb_d", path: Path | None = None):
    """Return a store of clips (T, m, V, C) with two persons, memory-mapped if `path` is given."""
    lengths = np.array([len(clip) for clip in clips])
    persons = max(clip.shape[1] for clip in clips)
    joints = np.zeros((lengths.sum(), persons, *clips[0].shape[2:]), np.float32)
    starts = lengths.cumsum() - lengths
    for start, clip in zip(starts, clips):
        joints[start : start + len(clip), : clip.shape[1]] = clip
    if path is not None:
        np.save(path / "joints.npy", joints)
        joints = np.load(path / "joints.npy", mmap_mode="r")
    names = np.array([f"sample{i}" for i in range(len(clips))])
    labels = np.arange(len(clips)) % 3
    meta = {"layout": layout, "class_names": list("abc")}
    return Store(path or Path("made-up"), joints, names, labels, starts, lengths, {}, meta)


def random_clips(lengths, persons=2, joints=25, channels=3, seed=0):
    draw = np.random.default_rng(seed)
    return [draw.normal(size=(n, persons, joints, channels)).astype("f4") for n in lengths]


def as_drawn(random_state: np.random.RandomState, length: int, frames: int) -> np.ndarray:
    """Draw as the released sampler does in training; return the values that `sample` takes."""
    drawn = np.zeros(frames + 3, np.float32)
    random_state.rand()
    random_state.randint(1)
    jitter = drawn[2:]
    if length < frames:
        jitter[0] = (random_state.randint(length) + 0.5) / length
    elif length < 2 * frames:
        jitter[:] = 0.5
        jitter[random_state.choice(frames + 1, length - frames, replace=False)] = 0.1
    else:
        sizes = np.diff(np.arange(frames + 1) * length // frames)
        jitter[:-1] = (random_state.randint(sizes) + 0.5) / sizes
    return drawn


# --- which frames ---


def test_frames_equal_the_released(golden):
    vectors, normal = (
        np.load(golden / "tf_uniformsample.npz"),
        np.load(golden / "tf_prenormalize3d.npz"),
    )
    annotations = np.load(golden / "tf_annotations.npz")
    seen = 0
    for key in vectors.files:
        if key.startswith("nw_ucla"):
            continue
        *clip, mode, frames, clips = key.split("|")
        if clip[0].startswith("nokp"):
            length = int(clip[0].removeprefix("nokp_t"))
        elif clip[1] == "prenorm":
            length = int(normal[f"{clip[0]}|total_frames"])
        else:
            length = annotations[f"in|{clip[0]}"].shape[1]
        settings = {}
        if mode.startswith("test_p"):
            part = eval(mode.removeprefix("test_p"), {})
            settings["p_interval"] = part if isinstance(part, tuple) else (part, part)
        elif mode.startswith("train_seed"):
            seed = int(mode.removeprefix("train_seed"))
            settings |= {"random": np.random.RandomState(seed), "train": True}
            drawn = torch.from_numpy(as_drawn(np.random.RandomState(seed), length, int(frames)))
            batched = choice.sample(torch.tensor([length]), drawn[None, None])
            np.testing.assert_array_equal(batched.flatten(), vectors[key], err_msg=key)
        chosen = choice.uniform_sample(length, int(frames), int(clips), **settings)
        np.testing.assert_array_equal(chosen.ravel(), vectors[key], err_msg=key)
        seen += 1
    assert seen == 220


def test_nw_ucla_frames_equal_the_released(golden):
    vectors = np.load(golden / "tf_uniformsample.npz")
    keys = [key for key in vectors.files if key.startswith("nw_ucla_original")]
    for key in keys:
        _, length, mode, frames = key.split("|")
        length, frames = int(length.removeprefix("t")), int(frames)
        if mode.startswith("test"):
            chosen = choice.linspace(length, frames)
        else:
            urn = list(range(length)) * choice.NUM_PICKS
            members = random.Random(3).sample(range(len(urn)), frames)
            drawn = (torch.tensor([members + members[:7]]) + 0.5) / len(urn)
            chosen = choice.sorted_draw(torch.tensor([length]), drawn, frames)
        np.testing.assert_array_equal(chosen.ravel(), vectors[key], err_msg=key)
    assert len(keys) == 14


@pytest.mark.parametrize("length", [5, 13, 40])  # shorter than T, than 2 T, longer
def test_training_frames_follow_the_released_distribution(length):
    frames, repeats, part = 8, 4000, (0.6, 1.0)
    state = np.random.RandomState(1)
    expected = [
        choice.uniform_sample(length, frames, 1, part, state, train=True)[0] for _ in range(repeats)
    ]
    drawn = torch.rand(repeats, 1, frames + 3, generator=torch.Generator().manual_seed(2))
    found = choice.sample(torch.full((repeats,), length), drawn, part)[:, 0].numpy()
    for place in range(frames):
        counts = [
            np.bincount(np.asarray(chosen)[:, place], minlength=length)
            for chosen in (expected, found)
        ]
        assert chi_square_is_plausible(*counts)
        pairs = [
            np.bincount((np.asarray(c)[:, place] - np.asarray(c)[:, 0]) % length, minlength=length)
            for c in (expected, found)
        ]
        assert chi_square_is_plausible(*pairs)


def chi_square_is_plausible(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two histograms of equally many draws differ by less than five sigma."""
    both = (first + second)[first + second > 0]
    statistic = ((first - second)[first + second > 0] ** 2 / both).sum()
    freedom = max(len(both) - 1, 1)
    return statistic < freedom + 5 * np.sqrt(2 * freedom)


def test_sorted_draw_is_without_replacement():
    """Two frames, 100 times each: 150 of 200 leave at least 50 of each; with replacement not."""
    lengths, generator = torch.full((300,), 2), torch.Generator().manual_seed(0)
    drawn = torch.rand(300, 600, generator=generator)
    picks = choice.sorted_draw(lengths, drawn, 150)[:, 0].sum(1)  # hypergeometric
    assert picks.min() >= 50 and picks.max() <= 100
    assert abs(picks.float().mean() - 75) < 5 * np.sqrt(9.42 / 300)
    assert 0.75 < picks.float().var() / 9.42 < 1.25  # 150 / 4 * 50 / 199


@pytest.mark.parametrize("value", [0.0, 0.5, ALMOST_ONE])
def test_drawn_frames_stay_within_the_clip(value):
    lengths = torch.tensor([1, 2, 63, 64, 65, 127, 128, 129, 300, 4097])
    for part in ((1, 1), (0.5, 1), (0.1, 0.1)):
        chosen = choice.sample(lengths, torch.full((10, 2, 67), value), part)
        assert chosen.min() >= 0
        assert (chosen < lengths[:, None, None]).all()
    chosen = choice.sorted_draw(lengths, torch.full((10, 208), value), 52)
    assert chosen.min() >= 0
    assert (chosen < lengths[:, None, None]).all()


# --- augmentation ---


def test_augmentation_equals_the_released(golden):
    vectors = np.load(golden / "tf_augment.npz")
    clip = torch.from_numpy(vectors["in"])[None]  # (1, M, T, V, C) float64
    flip = torch.tensor(graph.load("ntu_rgb_d").flip)
    none = torch.zeros(1, 3, dtype=torch.float64)
    for seed in (0, 1):

        def drawn(size, seed=seed):
            return torch.from_numpy(np.random.RandomState(seed).uniform(-size, size, (1, 3)))

        def check(name, found, seed=seed):
            np.testing.assert_allclose(found[0], vectors[f"{name}|seed{seed}"], rtol=0, atol=1e-12)

        check("RandomScale0.1", augment.transform(clip, augment.matrices(drawn(0.1), none)))
        for name, size in (("RandomRot", 0.3), ("RandomRot0.5", 0.5)):
            check(name, augment.transform(clip, augment.matrices(none, drawn(size))))
        for name, chance in (("Spatial_Flip1", 1.0), ("Spatial_Flip0.5", 0.5)):
            flipped = torch.tensor([random.Random(seed).random() < chance])
            check(name, clip[..., augment.joint_order(flipped, flip)[0], :])


def test_2d_flip_equals_the_released(golden):
    """The released flip mirrors pixels; the store holds x from -1 to 1: its mirror is -x."""
    vectors = np.load(golden / "tf_k400.npz")
    height, width = vectors["in|img_shape"]

    def stored(name):
        pixels = vectors[f"{name}|keypoint"]  # (M, T, V, 2)
        normal = (pixels - np.array([width, height]) / 2) / (np.array([width, height]) / 2)
        normal[(pixels == 0).all(-1)] = 0
        scored = np.concatenate([normal, vectors[f"{name}|keypoint_score"][..., None]], -1)
        return scored.swapaxes(0, 1).astype("f4")  # (T, M, V, 3)

    store = make_store([stored("flip_in")], "coco")
    feeder = Feeder(store, [0], frames=30, train=True, mirror=True, scale=0, rotate=0)
    draws = Draws(torch.zeros(1, 3), torch.zeros(1, 3), torch.tensor([True]), torch.zeros(1, 1, 33))
    found = feeder.make(torch.tensor([0]), draws)[0]
    np.testing.assert_allclose(found.swapaxes(0, 1), stored("flip1"), rtol=0, atol=1e-6)


def test_2d_augmentation_leaves_the_score():
    clips = torch.rand(4, 1, 5, 17, 3)
    scale, angles = torch.rand(4, 3), torch.rand(4, 3)
    matrices = augment.matrices(scale, angles, torch.tensor([True, False] * 2), planar=True)
    found = augment.transform(clips, matrices)
    torch.testing.assert_close(found[..., 2], clips[..., 2])
    flat = clips[..., :2].flatten(1, 3) * (1 + scale[:, None, :2])
    turn = torch.view_as_complex(flat.contiguous()) * torch.polar(torch.ones(4, 1), -angles[:, 2:])
    turn.real[::2] *= -1
    expected = torch.view_as_real(turn).view(4, 1, 5, 17, 2)
    torch.testing.assert_close(found[..., :2], expected)


# --- streams ---


def test_streams_equal_the_released(golden):
    vectors = np.load(golden / "tf_genskefeat.npz")
    annotations = np.load(golden / "tf_annotations.npz")
    normal = np.load(golden / "tf_prenormalize3d.npz")
    layouts = {"nturgb+d": "ntu_rgb_d", "nw_ucla": "nw_ucla", "coco": "coco"}
    seen = 0
    for key in vectors.files:
        layout, clip, *form, feature = key.split("|")
        if feature not in SHORT:
            continue
        if layout == "nturgb+d":
            joints = annotations[f"in|{clip}"] if form == ["raw"] else normal[f"{clip}|keypoint"]
        elif layout == "nw_ucla":
            joints = vectors[f"{layout}|{clip}|in"]
        else:
            points = "in_kp" if form == ["raw"] else "prenormalize2d"
            joints = vectors[f"{layout}|{clip}|{points}"]
            score = vectors[f"{layout}|{clip}|in_score"]
            joints = np.concatenate([joints, score[..., None]], -1)
        frames = torch.from_numpy(joints.swapaxes(0, 1).astype("f4"))  # (T, M, V, C)
        stream = Stream(SHORT[feature], graph.load(layouts[layout]), frames.shape[-1])
        found = stream(frames, torch.tensor([len(frames)])).swapaxes(0, 1)
        tolerance = 4e-3 if "f16" in clip else 1e-6  # the released code subtracts in float16
        np.testing.assert_allclose(found, vectors[key], rtol=0, atol=tolerance, err_msg=key)
        seen += 1
    assert seen == 58


@pytest.mark.parametrize("layout", ["coco", "openpose"])
def test_a_skip_of_2d_data_follows_its_definition(layout):
    skeleton = graph.load(layout)
    frames = np.random.default_rng(0).random((6, 1, skeleton.num_joints, 3), np.float32)
    found = Stream("skip", skeleton, 3)(torch.from_numpy(frames), torch.tensor([6])).numpy()
    for joint, parent in enumerate(skeleton.parent):
        grandparent = skeleton.parent[parent]
        skip = frames[:, :, joint] - frames[:, :, grandparent]
        if grandparent == parent:  # the parent is the root
            skip = np.zeros_like(skip)
        skip[..., 2] = (frames[:, :, joint, 2] + frames[:, :, grandparent, 2]) / 2
        np.testing.assert_allclose(found[:, :, joint], skip, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", ["joint-motion", "skip-motion"])
def test_motion_does_not_leak_from_clip_to_clip(name):
    stream = Stream(name, graph.load("coco"), 3)
    parts = [torch.rand(n, 2, 17, 3) for n in (4, 1, 7)]
    together = stream(torch.cat(parts), torch.tensor([4, 1, 7]))
    alone = [stream(part, torch.tensor([len(part)])) for part in parts]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=0)
    assert not together[[3, 4, 11]].any()


# --- whole pipelines ---


@pytest.fixture(scope="module")
def released(golden):
    """The golden pipelines, the names of their clips, and a store of these clips, normalised."""
    normal = np.load(golden / "tf_prenormalize3d.npz")
    names = [k.split("|")[0] for k in normal.files if k.endswith("|keypoint") and "ucla" not in k]
    clips = [normal[f"{name}|keypoint"].swapaxes(0, 1) for name in names]
    return np.load(golden / "tf_pipelines.npz"), names, make_store(clips)


@pytest.mark.parametrize("feature", ["j", "k", "km"])
@pytest.mark.parametrize(("mode", "clips"), [("val", 1), ("test", 10)])
def test_test_batches_equal_the_released(released, feature, mode, clips):
    vectors, names, store = released
    rows = [i for i, name in enumerate(names) if f"{feature}|{mode}|{name}" in vectors.files]
    feeder = Feeder(store, rows, SHORT[feature], clips=clips)
    found = feeder.batch(torch.arange(len(rows))).unflatten(0, (len(rows), clips))
    for clip, row in zip(found, rows):
        expected = vectors[f"{feature}|{mode}|{names[row]}"]
        np.testing.assert_allclose(clip, expected, rtol=0, atol=1e-6, err_msg=names[row])
    assert rows


def test_training_batches_equal_the_released(released):
    """The released order of draws: scale, rotation and frames from NumPy, the flip from random."""
    vectors, names, store = released
    keys = [key for key in vectors.files if key.startswith("j|train")]
    feeder = Feeder(store, np.arange(len(names)), train=True)
    rows, drawn = [], []
    for key in keys:
        _, mode, name = key.split("|")
        rows.append(names.index(name))
        seed = int(mode.removeprefix("train_seed"))
        state = np.random.RandomState(seed)
        scale, angles = state.uniform(-0.1, 0.1, 3), state.uniform(-0.3, 0.3, 3)
        length = int(store.lengths[rows[-1]])
        drawn.append(
            (scale, angles, random.Random(seed).random() < 0.5, as_drawn(state, length, 64)[None])
        )
    scale, angles, flip, jitter = (torch.tensor(np.array(values)) for values in zip(*drawn))
    found = feeder.make(torch.tensor(rows), Draws(scale.float(), angles.float(), flip, jitter))
    for clip, key in zip(found, keys):
        np.testing.assert_allclose(clip, vectors[key][0], rtol=0, atol=2e-6, err_msg=key)
    assert len(keys) == 9


@pytest.mark.parametrize("feature", ["j", "b", "jm", "bm"])
def test_k400_equals_the_released(golden, feature):
    """The released k400 configurations leave pixels as they are, and sample at random in tests."""
    vectors = np.load(golden / "tf_k400.npz")
    points, score = vectors["squeeze_max2|keypoint"], vectors["squeeze_max2|keypoint_score"]
    clip = np.concatenate([points, score[..., None]], -1).swapaxes(0, 1).astype("f4")
    store = make_store([clip], "coco")
    found = Feeder(store, [0], SHORT[feature], frames=100).batch(torch.tensor([0]))
    expected = vectors[f"k400|{feature}|val_pipeline+test_mode"]
    tolerance = {"rtol": 0, "atol": 1e-6 if feature[0] == "j" else 2e-5}
    tolerance["atol"] = 0.26 if feature == "jm" else tolerance["atol"]
    np.testing.assert_allclose(found, expected, **tolerance)
    for mode, clips in (("val", 1), ("test", 10)):
        feeder = Feeder(store, [0], SHORT[feature], frames=100, clips=clips)
        chosen = choice.uniform_sample(
            len(clip), 100, clips, random=np.random.RandomState(0), train=True
        )
        feeder.table.indices[0] = torch.from_numpy(chosen)
        found = feeder.batch(torch.tensor([0]))
        np.testing.assert_allclose(
            found, vectors[f"k400|{feature}|{mode}_pipeline|npseed0"], **tolerance
        )
