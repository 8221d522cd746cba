"""feeders/: frame choice, augmentation, streams and batches against the released pipelines."""

import ast
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import graph
from benchmarks import feed as feed_benchmark
from data.store import Store
from engine import config
from errors import InputError, run_command
from feeders import augment, source
from feeders import frames as choice
from feeders.augment import Augmentation
from feeders.frames import Even, Uniform
from feeders.skeleton import Batch, Draws, Feeder
from feeders.streams import Stream
from flags import STREAMS

SHORT = {"j": "joint", "b": "bone", "k": "skip"}
SHORT |= {f"{key}m": f"{name}-motion" for key, name in SHORT.items()}
# NW-UCLA's protocol, by values
NW_UCLA = {
    "frames": 52,
    "choice": Even(),
    "box": True,
    "augmentation": Augmentation(scale=0, rotate=(math.pi / 3, math.pi / 3, 0), flip=0),
}
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
    return Store(path=path or Path("made-up"), joints=joints, names=names, labels=labels,
                 starts=starts, lengths=lengths, meta=meta)  # fmt: skip


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


def released_in_training(
    random: np.random.RandomState, length: int, frames: int, clips=1, p_interval=(1, 1)
) -> np.ndarray:
    """Return (S, T) as the released sampler draws frames in training."""
    low, high = p_interval
    chosen = np.zeros((clips, frames), np.int64)
    for clip in chosen:
        part = int((random.rand() * (high - low) + low) * length)
        offset = random.randint(length - part + 1)
        if part < frames:
            clip[:] = np.arange(frames) + random.randint(part)
        elif part < 2 * frames:
            gaps = np.zeros(frames + 1, np.int64)
            gaps[random.choice(frames + 1, part - frames, replace=False)] = 1
            clip[:] = np.arange(frames) + gaps.cumsum()[:-1]
        else:
            bounds = np.arange(frames + 1) * part // frames
            clip[:] = bounds[:-1] + random.randint(np.diff(bounds))
        clip += offset
    return chosen % length


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
        interval = (1, 1)
        if mode.startswith("test_p"):
            part = ast.literal_eval(mode.removeprefix("test_p"))
            interval = part if isinstance(part, tuple) else (part, part)
        if mode.startswith("train_seed"):
            state, again = (
                np.random.RandomState(int(mode.removeprefix("train_seed"))) for _ in "12"
            )
            chosen = released_in_training(state, length, int(frames), int(clips))
            drawn = torch.from_numpy(as_drawn(again, length, int(frames)))
            batched = Uniform().train(torch.tensor([length]), drawn[None, None], int(frames))
            np.testing.assert_array_equal(batched.flatten(), vectors[key], err_msg=key)
        else:
            chosen = choice.uniform_sample(length, int(frames), int(clips), interval)
        np.testing.assert_array_equal(chosen.ravel(), vectors[key], err_msg=key)
        seen += 1
    assert seen == (220 if golden.whole else 88)


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
            chosen = Even().train(torch.tensor([length]), drawn[:, None], frames)
        np.testing.assert_array_equal(chosen.ravel(), vectors[key], err_msg=key)
    assert len(keys) == 14


def test_batched_frames_equal_the_reference_at_every_length():
    frames, lengths = 8, torch.arange(1, 60)
    drawn = [as_drawn(np.random.RandomState(n), n, frames) for n in lengths.tolist()]
    found = Uniform().train(lengths, torch.from_numpy(np.array(drawn))[:, None], frames)
    for chosen, n in zip(found, lengths.tolist()):
        expected = released_in_training(np.random.RandomState(n), n, frames)
        np.testing.assert_array_equal(chosen, expected)


@pytest.mark.parametrize("length", [5, 13, 40])  # shorter than T, than 2 T, longer
def test_training_frames_follow_the_released_distribution(length):
    frames, repeats, part = 8, 4000, (0.6, 1.0)
    state = np.random.RandomState(1)
    expected = [released_in_training(state, length, frames, 1, part)[0] for _ in range(repeats)]
    drawn = torch.rand(repeats, 1, frames + 3, generator=torch.Generator().manual_seed(2))
    found = Uniform(part).train(torch.full((repeats,), length), drawn, frames)[:, 0].numpy()
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
    picks = Even().train(lengths, drawn[:, None], 150)[:, 0].sum(1)  # hypergeometric
    assert picks.min() >= 50 and picks.max() <= 100
    assert abs(picks.float().mean() - 75) < 5 * np.sqrt(9.42 / 300)
    assert 0.75 < picks.float().var() / 9.42 < 1.25  # 150 / 4 * 50 / 199


@pytest.mark.parametrize("value", [0.0, 0.5, ALMOST_ONE])
def test_drawn_frames_stay_within_the_clip(value):
    lengths = torch.tensor([1, 2, 63, 64, 65, 127, 128, 129, 300, 4097])
    for part in ((1, 1), (0.5, 1), (0.1, 0.1)):
        chosen = Uniform(part).train(lengths, torch.full((10, 2, 67), value), 64)
        assert chosen.min() >= 0
        assert (chosen < lengths[:, None, None]).all()
    chosen = Even().train(lengths, torch.full((10, 1, 208), value), 52)
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
        sizes = {"RandomRot": 0.3} | ({"RandomRot0.5": 0.5} if golden.whole else {})
        for name, size in sizes.items():
            check(name, augment.transform(clip, augment.matrices(none, drawn(size))))
        for name, chance in (("Spatial_Flip1", 1.0), ("Spatial_Flip0.5", 0.5)):
            flipped = torch.tensor([random.Random(seed).random() < chance])
            check(name, augment.exchange(clip, flipped, flip))


def test_2d_flip_equals_the_released(golden):
    """The released flip mirrors pixels; the store holds x from -1 to 1: its mirror is -x."""
    vectors = golden.load("tf_k400.npz")
    height, width = vectors["in|img_shape"]

    def stored(name):
        pixels = vectors[f"{name}|keypoint"]  # (M, T, V, 2)
        normal = (pixels - np.array([width, height]) / 2) / (np.array([width, height]) / 2)
        normal[(pixels == 0).all(-1)] = 0
        scored = np.concatenate([normal, vectors[f"{name}|keypoint_score"][..., None]], -1)
        return scored.swapaxes(0, 1).astype("f4")  # (T, M, V, 3)

    store = make_store([stored("flip_in")], "coco")
    feeder = Feeder(store, [0], frames=30, train=True, augmentation=Augmentation(0, 0, mirror=True))
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
    assert seen == (58 if golden.whole else 20)


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
    """The golden pipelines, the names of their clips, and a store of these clips, normalized."""
    normal = np.load(golden / "tf_prenormalize3d.npz")
    names = [k.split("|")[0] for k in normal.files if k.endswith("|keypoint") and "ucla" not in k]
    clips = [normal[f"{name}|keypoint"].swapaxes(0, 1) for name in names]
    return np.load(golden / "tf_pipelines.npz"), names, make_store(clips)


@pytest.mark.parametrize("feature", ["j", "k", "km"])
@pytest.mark.parametrize(("mode", "clips"), [("val", 1), ("test", 10)])
def test_test_batches_equal_the_released(golden, released, feature, mode, clips):
    vectors, names, store = released
    rows = [i for i, name in enumerate(names) if f"{feature}|{mode}|{name}" in vectors.files]
    if not rows and not golden.whole:
        pytest.skip(f"needs {feature}|{mode} of ../shared/golden/tf_pipelines.npz")
    feeder = Feeder(store, rows, SHORT[feature], clips=clips)
    found = feeder.batch(torch.arange(len(rows))).unflatten(0, (len(rows), clips))
    for clip, row in zip(found, rows):
        expected = vectors[f"{feature}|{mode}|{names[row]}"]
        np.testing.assert_allclose(clip, expected, rtol=0, atol=1e-6, err_msg=names[row])
    assert rows


def test_training_batches_equal_the_released(golden, released):
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
    assert len(keys) == (9 if golden.whole else 1)


@pytest.mark.parametrize("feature", ["j", "b", "jm", "bm"])
def test_k400_equals_the_released(golden, feature):
    """The released k400 configurations leave pixels as they are, and sample at random in tests."""
    vectors = golden.load("tf_k400.npz")
    points, score = vectors["squeeze|keypoint"], vectors["squeeze|keypoint_score"]
    people = np.concatenate([points, score[..., None]], -1)
    clip = people[:2].swapaxes(0, 1).astype("f4")  # the network takes the first two
    store, row = make_store([clip], "coco"), torch.tensor([0])
    folder = config.CONFIG_ROOT / "k400"
    recipe = config.load([folder / "joint.yaml", folder / "released.yaml"])
    settings = {
        "stream": SHORT[feature], "frames": recipe.frames,
        "sampled_motion": recipe.feeder_args.get("sampled_motion", False),
    }  # fmt: skip
    cases = [("val_pipeline+test_mode", 1, None)]
    for mode, clips in (("val", 1), ("test", 10)):
        state = np.random.RandomState(0)
        chosen = released_in_training(state, len(clip), 100, clips)
        cases.append((f"{mode}_pipeline|npseed0", clips, torch.from_numpy(chosen)))
    for key, clips, chosen in cases:
        feeder = Feeder(store, [0], clips=clips, **settings)
        if chosen is not None:
            feeder.table[0][0] = chosen
        expected = vectors[f"k400|{feature}|{key}"]
        np.testing.assert_allclose(feeder.batch(row), expected, rtol=0, atol=1e-5, err_msg=key)


# --- NW-UCLA ---


def field_feeder(clip, angles, chosen):
    """CTR-GCN's feeder_ucla in plain NumPy: rotate the rows, scale into the box, choose frames."""
    (cx, cy, _), (sx, sy, _) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, sx], [0, -sx, cx]])
    about_y = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    points = clip.reshape(-1, 3).astype(np.float64) @ about_y @ about_x
    low, high = points.min(0), points.max(0)
    box = ((points - low) / (high - low) * 2 - 1).reshape(clip.shape)
    return box[chosen].swapaxes(0, 1)  # (M, T, V, C)


@pytest.mark.parametrize("resident", [True, False])
def test_nw_ucla_follows_the_field(resident):
    clips = random_clips([30, 1, 80, 9], persons=1, joints=20)
    store = make_store(clips, "nw_ucla")
    rows = torch.tensor([2, 0, 1, 2])
    test = Feeder(store, np.arange(4), resident=resident, **NW_UCLA)
    for row, found in zip(rows.tolist(), test.batch(rows)):
        chosen = np.floor(np.linspace(0, len(clips[row]) - 1, 52)).astype(int)
        expected = field_feeder(clips[row], np.zeros(3), chosen)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    train = Feeder(store, np.arange(4), train=True, resident=resident, **NW_UCLA)
    draws = train.draw(rows, torch.Generator().manual_seed(0))
    chosen = Even().train(test.source.lengths[rows], draws.frames, 52)[:, 0].numpy()
    for i, (row, found) in enumerate(zip(rows.tolist(), train.make(rows, draws))):
        expected = field_feeder(clips[row], draws.angles[i].numpy(), chosen[i])
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        assert (np.diff(chosen[i]) >= 0).all() and chosen[i].max() < len(clips[row])


def test_nw_ucla_turns_about_x_and_y_by_up_to_60_degrees():
    store = make_store(random_clips([9], persons=1, joints=20), "nw_ucla")
    feeder = Feeder(store, [0], train=True, **NW_UCLA)
    rows = torch.zeros(2000, dtype=torch.int64)
    angles = feeder.draw(rows, torch.Generator().manual_seed(0)).angles.rad2deg()
    assert not angles[:, 2].any()
    assert (angles[:, :2].amax(0) > 59).all() and (angles.amin(0)[:2] < -59).all()
    assert angles.abs().max() <= 60.001 and angles[:, :2].mean(0).abs().max() < 5 * 35 / 2000**0.5


def test_nw_ucla_takes_the_stream_after_the_box():
    (clip,) = random_clips([7], persons=1, joints=20)
    clip[..., 1] = 0.5  # an axis without extent must not divide by zero
    store = make_store([clip], "nw_ucla")
    rows = torch.tensor([0])
    joints, bones, motion = (
        Feeder(store, [0], stream, **NW_UCLA | {"frames": 7}).batch(rows)[0]
        for stream in ("joint", "bone", "joint-motion")
    )
    assert (joints[..., 1] == -1).all()
    parent = list(graph.load("nw_ucla").parent)
    torch.testing.assert_close(bones, joints - joints[:, :, parent], rtol=0, atol=0)
    torch.testing.assert_close(motion[:, :-1], joints.diff(dim=1), rtol=0, atol=0)
    assert not motion[:, -1].any()


@pytest.mark.parametrize("angle", [None, 0.4])
def test_the_box_of_2d_poses_leaves_their_score(angle):
    (clip,) = random_clips([7], joints=17)
    settings = NW_UCLA | {"frames": 7, "choice": Uniform()}  # all seven frames
    feeder = Feeder(make_store([clip], "coco"), [0], train=angle is not None, **settings)
    draws = None
    if angle is not None:
        angles, none = torch.tensor([[0.3, -0.2, angle]]), torch.tensor([False])
        draws = Draws(torch.zeros(1, 3), angles, none, torch.rand(1, 1, 10))
    found = feeder.make(torch.tensor([0]), draws)[0].numpy().swapaxes(0, 1)
    turned = (clip[..., 0] + 1j * clip[..., 1]) * np.exp(1j * (angle or 0))
    for channel, axis in enumerate((turned.real, turned.imag)):
        expected = (axis - axis.min()) / np.ptp(axis) * 2 - 1
        np.testing.assert_allclose(found[..., channel], expected, atol=1e-5)
    np.testing.assert_array_equal(found[..., 2], clip[..., 2])


def test_motion_between_chosen_frames_of_a_box_is_computed_once():
    store = make_store(random_clips([90], persons=1, joints=20), "nw_ucla")
    joints, motion = (
        Feeder(store, [0], stream, sampled_motion=True, **NW_UCLA).batch(torch.tensor([0]))[0]
        for stream in ("joint", "joint-motion")
    )
    torch.testing.assert_close(motion[:, :-1], joints.diff(dim=1), rtol=0, atol=0)
    assert not motion[:, -1].any()


# --- batches, wherever the frames lie ---

FEEDERS = [
    ("ntu_rgb_d", {}),
    ("ntu_rgb_d", {"train": True, "choice": Uniform((0.5, 1)), "views": 2}),
    ("coco", {"train": True, "augmentation": Augmentation(mirror=True), "sampled_motion": True}),
    ("openpose", {"clips": 3}),
    ("nw_ucla", {"train": True, **NW_UCLA}),
]


@pytest.fixture
def few_at_once(monkeypatch):
    """Load a resident store in several parts, as a large one is."""
    monkeypatch.setattr(source, "CLIPS_PER_COPY", 3)


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize(("layout", "settings"), FEEDERS)
def test_mapped_batches_equal_resident_ones(tmp_path, few_at_once, layout, settings, stream):
    lengths = np.random.default_rng(1).integers(1, 150, 12)
    clips = random_clips(lengths, joints=graph.load(layout).num_joints)
    rows = np.array([7, 3, 3, 0, 11, 5, 9, 1])
    feeders = [
        Feeder(make_store(clips, layout, path), rows, stream, resident=resident, **settings)
        for path, resident in ((tmp_path, False), (None, True))
    ]
    assert [feeder.where.split(" ")[0] for feeder in feeders] == ["memory-mapped,", "on"]
    order = torch.randperm(len(rows)).repeat(6).split(5)
    epochs = [
        feeder.batches(Batch(part, step, seed=100 + step) for step, part in enumerate(order))
        for feeder in feeders
    ]
    for step, (mapped, resident) in enumerate(zip(*epochs, strict=True)):
        assert mapped[2].step == resident[2].step == step
        torch.testing.assert_close(mapped[0], resident[0], rtol=0, atol=0)
        torch.testing.assert_close(mapped[1], resident[1], rtol=0, atol=0)
        assert mapped[0].shape[-4] == 2
    assert step == len(order) - 1


def test_rows_are_positions_within_the_feeder():
    clips = random_clips([70, 30, 200])
    store = make_store(clips)
    feeder = Feeder(store, [2, 0])
    assert feeder.names == ["sample2", "sample0"] and feeder.labels.tolist() == [2, 0]
    found = feeder.batch(torch.tensor([1, 0, 1]))
    for clip, row in zip(found, (0, 2, 0)):
        chosen = choice.uniform_sample(len(clips[row]), 64)[0]
        np.testing.assert_array_equal(clip, clips[row][chosen].swapaxes(0, 1))


def test_draws_depend_on_the_generator_alone(tmp_path):
    """Rows fed with a seed come out the same whatever came before; another seed changes them."""
    feeder = Feeder(make_store(random_clips([90] * 8)), np.arange(8), train=True)
    rows = torch.arange(8)

    def fed(seed):
        torch.rand(3)
        return next(feeder.batches([Batch(rows, seed=seed)]))[0]

    assert torch.equal(fed(1), fed(1)) and not torch.equal(fed(1), fed(2))
    several = Feeder(make_store(random_clips([90] * 8)), np.arange(8), train=True, clips=3)
    assert several.batch(rows).shape == (24, 2, 64, 25, 3)


def test_training_draws_have_the_stated_range():
    feeder = Feeder(
        make_store(random_clips([90])), [0], train=True, augmentation=Augmentation(flip=0.25)
    )
    draws = feeder.draw(torch.zeros(4000, dtype=torch.int64), torch.Generator().manual_seed(0))
    for values, bound in ((draws.scale, 0.1), (draws.angles, 0.3)):
        assert 0.99 * bound < values.max() <= bound and -bound <= values.min() < -0.99 * bound
        assert values.mean(0).abs().max() < 5 * bound / np.sqrt(3 * 4000)
    assert abs(draws.flip.float().mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 4000)


def test_with_clips_shares_the_frames():
    feeder = Feeder(make_store(random_clips([70, 30])), [0, 1])
    ten = feeder.with_clips(10)
    expected = Feeder(make_store(random_clips([70, 30])), [0, 1], clips=10)
    rows = torch.tensor([1, 0])
    assert ten.source is feeder.source and feeder.clips == 1
    assert torch.equal(ten.batch(rows), expected.batch(rows))


def test_a_part_of_each_clip_is_taken_in_testing_too():
    (clip,) = random_clips([200])
    found = Feeder(make_store([clip]), [0], clips=2, choice=Uniform((0.5, 0.5))).batch(
        torch.tensor([0])
    )
    chosen = choice.uniform_sample(200, 64, 2, (0.5, 0.5))
    assert chosen[0].max() - chosen[0].min() < 100
    np.testing.assert_array_equal(found, clip[chosen].swapaxes(1, 2))


def test_all_clips_of_a_sample_are_augmented_alike():
    store, rows = make_store(random_clips([90, 40])), torch.tensor([0, 1])
    one, two = (Feeder(store, [0, 1], train=True, clips=clips) for clips in (1, 2))
    draws = two.draw(rows, torch.Generator().manual_seed(0))
    draws = replace(draws, flip=torch.tensor([True, False]))
    together = two.make(rows, draws).unflatten(0, (2, 2))
    for clip in (0, 1):
        alone = one.make(rows, replace(draws, frames=draws.frames[:, clip : clip + 1]))
        torch.testing.assert_close(together[:, clip], alone, rtol=0, atol=0)


def test_data_without_depth_turns_in_its_plane():
    """Of x and y alone every length stays, whatever is drawn for the other two axes."""
    feeder = Feeder(make_store(random_clips([64], channels=2)), [0], train=True)
    rows, none = torch.tensor([0]), torch.tensor([False])
    angles, frames = torch.tensor([[0.3, -0.2, 0.1]]), torch.rand(1, 1, 67)
    found = feeder.make(rows, Draws(torch.zeros(1, 3), angles, none, frames))
    still = feeder.make(rows, Draws(torch.zeros(1, 3), 0 * angles, none, frames))
    turned = torch.view_as_complex(still) * complex(np.cos(0.1), -np.sin(0.1))
    torch.testing.assert_close(found, torch.view_as_real(turned))


# --- several views of a sample ---


@pytest.mark.parametrize("settings", [{}, NW_UCLA])
def test_views_are_independent_augmentations_of_the_same_samples(settings):
    layout = "nw_ucla" if settings else "ntu_rgb_d"
    store = make_store(random_clips([90, 40], joints=graph.load(layout).num_joints), layout)
    two = Feeder(store, [0, 1], train=True, views=2, **settings)
    one = Feeder(store, [0, 1], train=True, **settings)
    clips, labels, _ = next(two.batches([torch.tensor([1, 0])], torch.Generator().manual_seed(3)))
    assert labels.tolist() == [1, 0]
    repeated = torch.tensor([1, 1, 0, 0])
    expected = one.batch(repeated, torch.Generator().manual_seed(3))
    assert torch.equal(clips, expected.unflatten(0, (2, 2)))
    assert not torch.equal(clips[:, 0], clips[:, 1])


# --- what a user can mend ---


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stream": "bones"}, "stream: 'bones'.*did you mean bone"),
        ({"skeleton": graph.load("coco")}, "25 joints .as ntu_rgb_d has., but .*graph=coco"),
        ({"frames": 0}, "frames: 0"),
        ({"clips": 10, "choice": Even()}, "test_clips: 10.*set test_clips to 1"),
        ({"train": True, "box": True}, "feeder_args.scale: .*set scale to 0"),
        ({"rows": []}, "made-up: this split has no samples"),
        ({"clips": 0}, "test_clips: 0"),
    ],
)
def test_feeder_rejects_wrong_stores_and_values(settings, message):
    with pytest.raises(InputError, match=message):
        Feeder(**{"store": make_store(random_clips([9])), "rows": [0], **settings})


@pytest.mark.parametrize(("key", "value"), [("flip", 2), ("flip", -0.1), ("scale", -1)])
def test_an_impossible_augmentation_is_refused(key, value):
    with pytest.raises(InputError, match=rf"feeder_args\.{key}: {value}"):
        Augmentation(**{key: value})


def test_a_share_beyond_the_clip_is_refused():
    with pytest.raises(InputError, match=r"feeder_args\.p_interval: 0.5 to 1.5"):
        Uniform((0.5, 1.5))


def test_pixels_are_not_mirrored_about_their_corner():
    store = make_store(random_clips([9], joints=17), "coco")
    Feeder(store, [0], train=True, augmentation=Augmentation(mirror=True))
    store.meta["normalisation"] = "pixels"
    Feeder(store, [0], augmentation=Augmentation(mirror=True))  # in testing nothing is mirrored
    with pytest.raises(InputError, match=r"feeder_args\.mirror: made-up contains pixels"):
        Feeder(store, [0], train=True, augmentation=Augmentation(mirror=True))


def test_flip_rejects_layouts_with_asymmetric_parents():
    skeleton = graph.load("nw_ucla")
    lopsided = type(skeleton)(**{**vars(skeleton), "parent": (1, 4, *skeleton.parent[2:])})
    store = make_store(random_clips([9], joints=20), "nw_ucla")
    with pytest.raises(InputError, match=r"feeder_args\.flip"):
        Feeder(store, [0], "bone", train=True, skeleton=lopsided)
    Feeder(store, [0], "joint", train=True, skeleton=lopsided)
    with pytest.raises(InputError, match="test_clips: 10"):
        Feeder(store, [0], clips=10, **NW_UCLA)


# --- speed ---


def test_the_benchmark_counts_what_was_fed(tmp_path):
    """A run's rate times its time is the samples fed; the table names every way of feeding."""
    out = tmp_path / "rates.json"
    command = "--samples 20 --seconds 0.05 --repeats 1 --stream bone --json"
    assert run_command(feed_benchmark.main, [*command.split(), str(out)]) == 0
    rates = json.loads(out.read_text())["results"]
    assert [(rate["mode"], rate["frames"].split(",")[0]) for rate in rates] == [
        (mode, frames)
        for frames in ("on the device (cpu)", "memory-mapped")
        for mode in ("train", "test")
    ]
    assert all(rate["samples_per_second"] > 0 for rate in rates)


def test_feeding_is_fast_enough():
    """Twenty times the released pipeline's 276 samples/s a core; a loaded machine gets slack."""
    feeder = Feeder(make_store(random_clips([100] * 200)), np.arange(200), train=True)
    rates = [feed_benchmark.feed(feeder, 16, torch.Generator(), 0.2)[1] for _ in range(5)]
    assert max(rates) > 10 * feed_benchmark.RELEASED["train"]


@pytest.mark.parametrize(
    ("device", "free", "gigabytes", "kept"),
    [
        ("cuda", 10, 4.9, True),
        ("cuda", 10, 5.1, False),
        ("cpu", None, 1.0, True),
        ("cpu", None, 1.1, False),
    ],
)
def test_frames_stay_on_the_device_where_there_is_room(monkeypatch, device, free, gigabytes, kept):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free * 10**9, 80 * 10**9))
    assert source.fits(int(gigabytes * 10**9), torch.device(device)) == kept


@pytest.mark.parametrize("views", [1, 2])
def test_groups_are_fed_as_the_samples_they_consist_of(views):
    """Rows (N, G): labels (N, G), and clips with an axis G, of the values that flat rows have."""
    store = make_store(random_clips([9, 12, 20, 31, 8, 14]))
    feeder = Feeder(store, np.arange(6), frames=8, train=True, views=views)
    pairs = torch.tensor([[0, 4], [2, 2], [5, 1]])
    ((clips, labels, _),) = feeder.batches([Batch(pairs, seed=3)])
    ((flat, flat_labels, _),) = feeder.batches([Batch(pairs.flatten(), seed=3)])
    assert labels.tolist() == [[0, 1], [2, 2], [2, 1]]
    assert torch.equal(labels.flatten(), flat_labels)
    assert clips.shape == (3, 2, *([2] if views == 2 else []), 2, 8, 25, 3)
    assert torch.equal(clips.flatten(0, 1), flat)


@pytest.mark.parametrize("stream", ["joint", "bone", "skip-motion"])
def test_streams_of_a_process_read_a_store_once(tiny, stream, monkeypatch):
    """The frames are those of a stream by itself, although the store is not read again."""
    opened = Store.open(tiny / "store")
    rows = np.arange(2, len(opened))
    alone = Feeder(opened, rows, stream).source.kept
    read = []
    own = source.Source._copy
    monkeypatch.setattr(
        source.Source, "_copy",
        lambda self, clips, prepare: read.append(clips is self.mapped) or own(self, clips, prepare),
    )  # fmt: skip
    with source.shared_frames():
        Feeder(opened, rows, "bone-motion")
        shared = Feeder(opened, rows, stream).source.kept
        assert read.count(True) == 1
        Feeder(opened, rows[1:], stream)
        assert read.count(True) == 2, "other rows are other frames"
    torch.testing.assert_close(shared.frames, alone.frames, rtol=0, atol=0)
    Feeder(opened, rows, stream)
    assert read.count(True) == 3, "nothing is kept afterwards"


def test_frames_that_do_not_fit_twice_are_not_shared(tiny, monkeypatch):
    opened = Store.open(tiny / "store")
    monkeypatch.setattr(source, "fits", lambda nbytes, device: nbytes <= opened.joints.nbytes)
    with source.shared_frames():
        Feeder(opened, np.arange(len(opened)), "bone")
        assert source._shared == {}
