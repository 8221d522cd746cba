"""The store: round trip, errors of damaged files, atomic writes, statistics of the clips."""

import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data import measure, normalize
from data.store import Store, StoreWriter, copies
from errors import InputError

SHAPE = (2, 3, 3)
CLASSES = ["wave", "kick", "bow"]


def clip(seed: int, frames: int, persons: int = 2) -> np.ndarray:
    random = np.random.RandomState(seed)
    return random.standard_normal((frames, persons, 3, 3)).astype(np.float32)


def write(path: Path, clips: list[np.ndarray], labels: list[int]) -> Store:
    with StoreWriter(path, "ntu_rgb_d", CLASSES, SHAPE, source=["here"]) as writer:
        for i, (joints, label) in enumerate(zip(clips, labels)):
            writer.add(f"clip{i}", label, joints, subject=10 + i, split="train")
    return Store.open(path)


def test_store_round_trip(tmp_path: Path) -> None:
    clips = [clip(0, 4), clip(1, 1, persons=1), clip(2, 9)]
    store = write(tmp_path / "s", clips, [2, 0, 1])
    assert len(store) == 3 and store.layout == "ntu_rgb_d" and store.class_names == CLASSES
    assert store.joints.shape == (14, 2, 3, 3) and isinstance(store.joints, np.memmap)
    assert store.names.tolist() == ["clip0", "clip1", "clip2"]
    assert store.labels.tolist() == [2, 0, 1] and store.labels.dtype == np.int64
    assert store.starts.tolist() == [0, 4, 5] and store.lengths.tolist() == [4, 1, 9]
    assert store.columns["subject"].tolist() == [10, 11, 12]
    assert store.columns["split"].tolist() == ["train"] * 3
    assert store.meta["source"] == ["here"]
    np.testing.assert_array_equal(store.clip(0), clips[0])
    np.testing.assert_array_equal(store.clip(2), clips[2])
    np.testing.assert_array_equal(store.clip(1)[:, :1], clips[1])
    assert not store.clip(1)[:, 1].any()
    assert np.load(tmp_path / "s" / "joints.npy").shape == (14, 2, 3, 3)  # readable by plain NumPy
    assert store.rows_of(["clip2", "clip0"], "list").tolist() == [2, 0]
    with pytest.raises(InputError, match=r"list: 1 of 2 names .* the first is 'clip7'"):
        store.rows_of(["clip0", "clip7"], "list")
    with pytest.raises(InputError, match=r"--sample: 'clip' is not in .*did you mean clip"):
        store.rows_of(["clip"], "--sample")


def test_missing_store_error_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.prepare nw-ucla FOLDER_OR_NPZ --out .*nw-ucla"):
        Store.open(tmp_path / "nw-ucla")
    with pytest.raises(InputError, match=r"data\.prepare NAME SOURCE"):
        Store.open(tmp_path / "mine")


@pytest.mark.parametrize(
    "joints, label, words",
    [
        (clip(0, 3, persons=3), 0, "persons"),
        (np.zeros((3, 2, 4, 3), np.float32), 0, "joints"),
        (clip(0, 3), 3, "label 3 exceeds the 3 classes"),
        (clip(0, 3), -1, "label -1"),
        (clip(0, 0), 0, "no frames"),
        (np.full((3, 2, 3, 3), np.nan), 0, "NaN"),
    ],
)
def test_invalid_clip_is_rejected_by_name(tmp_path: Path, joints, label, words) -> None:
    with StoreWriter(tmp_path / "s", "ntu_rgb_d", CLASSES, SHAPE) as writer:
        writer.add("good", 0, clip(0, 2))
        with pytest.raises(InputError, match=f"bad.*{words}"):
            writer.add("bad", label, joints)
        with pytest.raises(InputError, match=r"good: duplicate name"):
            writer.add("good", 0, clip(0, 2))
        with pytest.raises(InputError, match=r"more.*columns \['subject'\], not \[\]"):
            writer.add("more", 0, clip(0, 2), subject=1)
    assert Store.open(tmp_path / "s").names.tolist() == ["good"]


def test_error_removes_partial_store_and_keeps_older_store(tmp_path: Path) -> None:
    write(tmp_path / "s", [clip(0, 4)], [0])
    writer = StoreWriter(tmp_path / "s", "ntu_rgb_d", CLASSES, SHAPE)
    with pytest.raises(ZeroDivisionError), writer:
        writer.add("new", 0, clip(1, 2))
        raise ZeroDivisionError
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]
    assert Store.open(tmp_path / "s").names.tolist() == ["clip0"]
    with pytest.raises(InputError, match="no usable samples"):
        StoreWriter(tmp_path / "empty", "ntu_rgb_d", CLASSES, SHAPE).__exit__(None, None, None)
    assert not (tmp_path / "empty").exists()
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "S001.skeleton").touch()
    (tmp_path / "array").mkdir()
    np.save(tmp_path / "array/joints.npy", np.ones(3))  # the user's, of the same name
    for name in ("raw", "array"):
        with pytest.raises(InputError, match="contains other files"):
            StoreWriter(tmp_path / name, "ntu_rgb_d", CLASSES, SHAPE)


def test_a_store_of_another_source_is_not_replaced(tmp_path: Path) -> None:
    """As when the second half of a data set is given to a command of its own."""
    for source in (["b.zip"], ["/a.zip"], ["/a.zip"]):  # of an unknown folder; the same again
        with StoreWriter(tmp_path / "s", "ntu_rgb_d", CLASSES, SHAPE, source=source) as writer:
            writer.add("clip", 0, clip(0, 4))
    with pytest.raises(InputError, match=r"contains a store of .*a.zip, which would be replaced"):
        StoreWriter(tmp_path / "s", "ntu_rgb_d", CLASSES, SHAPE, source=["/b.zip"])
    assert Store.open(tmp_path / "s").names.tolist() == ["clip"]


def test_write_error_names_the_store_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the file size simulates a full disk; both make a write fail."""
    write(tmp_path / "s", [clip(0, 4)], [0])
    for frames in (10, 2000):  # fits in the buffer, which is flushed at the end; exceeds the buffer
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
        try:
            with pytest.raises(OSError, match=re.escape(f"'{tmp_path / 's'}'")):
                write(tmp_path / "s", [clip(1, frames)], [0])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert [entry.name for entry in tmp_path.iterdir()] == ["s"]
    np.testing.assert_array_equal(Store.open(tmp_path / "s").clip(0), clip(0, 4))


def test_symbolic_link_to_store_is_kept(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "s").symlink_to(tmp_path / "disk" / "stored")
    for frames in (4, 7):  # the first store, then a replacement
        assert write(tmp_path / "s", [clip(0, frames)], [0]).lengths.tolist() == [frames]
        assert (tmp_path / "s").is_symlink() and len(Store.open(tmp_path / "disk" / "stored")) == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["disk", "s"]
    assert [entry.name for entry in (tmp_path / "disk").iterdir()] == ["stored"]


def test_killed_writer_leaves_no_store_and_next_writer_cleans_up(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np\n"
        "from data.store import StoreWriter\n"
        f"writer = StoreWriter(sys.argv[1], 'ntu_rgb_d', ['a'], {SHAPE})\n"
        "writer.add('one', 0, np.ones((5, 2, 3, 3)))\n"
        "writer.file.flush()\n"
        "print('written', flush=True)\n"
        "sys.stdin.read()\n"
    )
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-c", code, str(tmp_path / "s")]
    with subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert len(list(tmp_path.glob(".s.*.partial"))) == 1
    with pytest.raises(InputError, match="is not a prepared store"):
        Store.open(tmp_path / "s")
    write(tmp_path / "s", [clip(0, 4)], [0])
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]


def test_a_store_is_put_back_if_its_writer_was_killed_between_two_renames(tmp_path: Path) -> None:
    write(tmp_path / "s", [clip(0, 4)], [0])
    process = subprocess.Popen(["true"])
    process.wait()
    (tmp_path / "s").rename(tmp_path / f".s.{process.pid}.older")
    with StoreWriter(tmp_path / "s", "ntu_rgb_d", CLASSES, SHAPE) as writer:
        assert Store.open(tmp_path / "s").names.tolist() == ["clip0"]
        writer.add("new", 0, clip(1, 2))
    assert Store.open(tmp_path / "s").names.tolist() == ["new"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]


def test_partial_store_of_living_process_is_kept(tmp_path: Path) -> None:
    """Only folders of dead processes are removed; another writer can be active."""
    active = tmp_path / f".s.{os.getppid()}.partial"
    active.mkdir()
    write(tmp_path / "s", [clip(0, 4)], [0])
    assert active.is_dir()


def test_files_are_synced_before_the_store_is_renamed(tmp_path: Path, monkeypatch) -> None:
    """Each file is synced at its full size, then the folder is renamed and its parent synced."""
    synced, own = [], os.fsync

    def fsync(descriptor: int) -> None:
        own(descriptor)
        status = os.fstat(descriptor)
        synced.append((status.st_ino, status.st_size, (tmp_path / "s").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write(tmp_path / "s", [clip(0, 4)], [0])
    for file in (tmp_path / "s").iterdir():
        assert (file.stat().st_ino, file.stat().st_size, False) in synced
    assert synced[-1][::2] == (tmp_path.stat().st_ino, True)


def test_damaged_store_is_one_line_error(tmp_path: Path) -> None:
    path = tmp_path / "s"
    write(path, [clip(0, 4), clip(1, 6)], [0, 1])
    whole = {file.name: file.read_bytes() for file in path.iterdir()}
    meta = json.loads(whole["meta.json"])

    def index(**changes: list[int]) -> bytes:
        file = io.BytesIO()
        np.savez(file, **{**np.load(path / "index.npz"), **changes})
        return file.getvalue()

    damages = {
        "meta.json": [
            b"{",
            json.dumps({**meta, "class_names": ["wave"]}).encode(),
            json.dumps({**meta, "format": 2}).encode(),
        ],
        "index.npz": [
            whole["index.npz"][:200],
            b"",
            index(starts=[0, 5]),
            index(lengths=[4, 5]),
            index(labels=[0, 1, 1]),
            index(subject=[10]),
        ],
        "joints.npy": [
            whole["joints.npy"][:-300],
            whole["joints.npy"][:20],
            b"",
            whole["joints.npy"].replace(b"{", b"(", 1),  # a header that cannot be tokenized
        ],
    }
    for name, contents in damages.items():
        for content in contents:
            (path / name).write_bytes(content)
            with pytest.raises(InputError, match=f"{path}: the store is damaged") as caught:
                Store.open(path)
            assert "\n" not in str(caught.value)
        (path / name).write_bytes(whole[name])
    assert len(Store.open(path)) == 2


def test_copies_are_bit_identical_clips(tmp_path: Path) -> None:
    one, other = clip(0, 5), clip(1, 5)
    nearly = one.copy()
    nearly[0, 0, 0, 0] = np.nextafter(nearly[0, 0, 0, 0], np.float32(9))
    zero, negative = other * 1, other * 1
    zero[0, 0, 0, 0], negative[0, 0, 0, 0] = 0.0, -0.0  # equal as numbers
    clips = [one, other, one.copy(), nearly, one[:4], clip(7, 5), zero, negative]
    store = write(tmp_path / "s", clips, [0] * 8)
    mask = copies(store, np.array([2, 3, 4, 5, 1, 7]), np.array([0, 1, 6]))
    assert mask.tolist() == [True, False, False, False, True, False]
    assert copies(store, np.array([0]), np.array([], np.int64)).tolist() == [False]


def body(height: float, frames: int = 4, seed: int = 0) -> np.ndarray:
    """A clip (T, 1, 25, 3) of a body whose largest extent is `height`, along z."""
    random = np.random.default_rng(seed)
    clip = random.uniform(0.01, 0.2, (frames, 1, 25, 3)) * height
    clip[:, :, 0, 2], clip[:, :, 3, 2] = 0.01 * height, 1.01 * height
    return clip


def test_statistics_of_sizes_and_unusual_clips(tmp_path: Path) -> None:
    clips = {f"clip{i}": body(1 + 0.1 * i, seed=i) for i in range(7)}
    clips["child"] = body(0.3)
    clips["giant"] = body(1300)
    clips["still"] = np.repeat(body(1.3, frames=1, seed=9), 4, axis=0)
    clips["again"] = clips["clip2"]
    clips["single"] = body(1.3, frames=1, seed=10)
    clips["clip1"][1, 0, 7:12] = 0  # five unseen joints
    with StoreWriter(
        tmp_path / "s", "ntu_rgb_d", CLASSES, (2, 25, 3), normalization="none"
    ) as writer:
        for name, joints in clips.items():
            writer.add(name, 0, joints)
        quality = writer.quality()
    sizes = [1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 0.3, 1300, 1.3, 1.2, 1.3]
    expected = np.percentile(sizes, (5, 50, 95))
    store = Store.open(tmp_path / "s")
    np.testing.assert_allclose(store.meta["size"], expected, rtol=1e-6)
    assert quality == store.quality(np.arange(len(store)))
    assert quality.far == ("giant",) and quality.frozen == ("still",)
    assert quality.duplicates == (("again", "clip2"),)
    assert quality.unseen == pytest.approx(5 / (25 * (4 * 11 + 1)))
    sizes, odd = quality.lines()
    assert "1.3" in sizes and "0.44 %" in sizes
    assert "1 (giant)" in odd and "1 (still)" in odd and "1 (again of clip2)" in odd
    assert not quality.doubts
    assert store.quality(np.array([0, 1])).far == ()


@pytest.mark.parametrize(("unit", "factor"), [(1000, "0.001"), (100, "0.01"), (39.37, "0.0254")])
def test_warning_about_units_contains_the_factor(tmp_path: Path, unit: float, factor: str) -> None:
    with StoreWriter(tmp_path / "s", "ntu_rgb_d", CLASSES, (1, 25, 3)) as writer:
        writer.add("a", 0, body(1.6 * unit))
        (doubt,) = writer.quality().doubts
    assert f"multiply the positions by {factor}" in doubt


@pytest.mark.parametrize("normalization", ["image", "st-gcn"])
def test_store_of_scaled_poses_rejects_pixels(tmp_path: Path, normalization: str) -> None:
    poses = np.random.default_rng(0).uniform(20, 230, (5, 1, 18, 3))
    meta = {"normalization": normalization}
    with StoreWriter(tmp_path / "s", "openpose", CLASSES, (2, 18, 3), **meta) as writer:
        writer.add("good", 0, poses / 400 - 0.2)
        with pytest.raises(InputError, match=r"bad: positions up to 2.* look like pixels"):
            writer.add("bad", 0, poses)
    assert Store.open(tmp_path / "s").names.tolist() == ["good"]


def test_warning_about_poses_with_wrong_scale(tmp_path: Path) -> None:
    poses = np.random.default_rng(0).uniform(0.1, 0.9, (5, 1, 17, 3))
    meta = {"layout": "coco", "class_names": CLASSES, "shape": (1, 17, 3), "normalization": "none"}
    for factor, words in [(1, "relative to the image"), (400, "scale pixels with"), (None, None)]:
        with StoreWriter(tmp_path / "s", **meta) as writer:
            writer.add("a", 0, poses * [factor, factor, 1] if factor else poses * 2 - 1)
            doubts = writer.quality().doubts
        assert [words in doubt for doubt in doubts] == [True] * bool(words)


def test_joint_at_origin_is_seen_and_unseen_joint_is_not() -> None:
    clip = np.random.RandomState(0).standard_normal((6, 2, 4, 3))
    clip[:3, 0, 1] = 0  # the origin; the joint moves from frame 3 on
    clip[4, 0, 1] = clip[5, 0, 2] = clip[2, 0] = clip[0, 1, 1] = 0  # unseen
    expected = np.ones((6, 2, 4), bool)
    expected[4, 0, 1] = expected[5, 0, 2] = expected[2, 0] = expected[0, 1, 1] = False
    np.testing.assert_array_equal(measure.seen(clip, origin=1), expected)
    expected[:3, 0, 1] = False
    np.testing.assert_array_equal(measure.seen(clip), expected)
    clip[:, 0, 1] = 0  # a joint that never moves
    assert measure.seen(clip, origin=1)[[0, 1, 3, 4, 5], 0, 1].all()


def test_reading_origin_equals_joint_at_zero_for_each_normalization(tmp_path: Path) -> None:
    clip = np.random.RandomState(0).standard_normal((6, 1, 25, 3)) + 3
    for name in normalize.NORMALIZATIONS:
        if name in ("image", "st-gcn", "pixels"):
            continue
        meta = {"normalization": name, "centre": 20}
        joints = normalize.NORMALIZATIONS[name](clip, normalize.Terms(center=20))
        with StoreWriter(tmp_path / "s", "ntu_rgb_d", CLASSES, (1, 25, 3), **meta) as writer:
            writer.add("a", 0, joints)
        store = Store.open(tmp_path / "s")
        zero = np.flatnonzero(~store.clip(0)[0, 0].any(axis=-1)).tolist()
        assert zero == ([] if store.reading.origin is None else [store.reading.origin])
        assert measure.seen(store.clip(0), store.reading.origin).all()


def test_store_of_earlier_version_is_read(tmp_path: Path) -> None:
    with StoreWriter(
        tmp_path / "s", "ntu_rgb_d", CLASSES, (1, 25, 3), normalisation="centred", centre=20
    ) as writer:
        writer.add("a", 0, body(1))
    store = Store.open(tmp_path / "s")
    assert (store.normalization, store.reading.origin) == ("centered", 20)


def test_large_index_opens_quickly(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", "ntu_rgb_d", CLASSES, (1, 1, 1)) as writer:
        frame = np.ones((1, 1, 1, 1), np.float32)
        for i in range(20_000):
            writer.add(f"S001C001P001R001A{i:06d}", 0, frame, subject=1)
    start = time.process_time()
    store = Store.open(tmp_path / "s")
    assert time.process_time() - start < 2  # CPU time of this process
    assert store.rows_of([store.names[-1]], "list").tolist() == [19_999]
