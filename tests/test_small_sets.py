"""The small Kinect v1 sets: reading the published files, and their errors."""

import csv
import re
import shutil
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

import graph
from data import long_tail, prepare, protocols
from data.readers import kinder_gator, msr_action3d, utd_mhad
from data.store import Store
from errors import run_command
from tests import quick

PUBLISHED = {  # samples, classes, persons, samples without a body
    "utd-mhad": (861, 27, 8, []),
    "msr-action3d": (566, 20, 10, ["a13_s09_e02"]),
    "utkinect": (199, 10, 10, ["s10_e02_carry"]),
    "kinder-gator": (1159, 58, 20, []),
}
SIZES = {  # training samples, test samples, list at the benchmark's imbalance: largest, smallest
    "utd-mhad": (431, 430, 10, 15, 1),
    "msr-action3d": (291, 275, 10, 9, 1),
    "utkinect": (100, 99, 5, 10, 2),
    "kinder-gator": (580, 579, 10, 10, 1),
}
# The joints of layout nw_ucla in the numbering of the sets' documentation, from 0.
UTD_OF = "3 2 1 0 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19"
MSR_OF = "6 3 2 19 0 7 9 11 1 8 10 12 4 13 15 17 5 14 16 18"


def run(*argv: object) -> int:
    return run_command(prepare.main, [*map(str, argv), "--workers", "1"])


def relative(joints: np.ndarray) -> np.ndarray:
    """Joints (T, 20, 3) relative to the shoulder center of the first frame, float32."""
    joints = joints.astype(np.float32)
    return joints - joints[0, 2]


# ---------------------------------------------------------------- synthetic files


def matlab(name: str, array: np.ndarray) -> bytes:
    """A MATLAB 5 file of one array of doubles, uncompressed, written by hand."""

    def element(kind: int, data: bytes) -> bytes:
        return struct.pack("<II", kind, len(data)) + data + b"\0" * (-len(data) % 8)

    matrix = element(6, struct.pack("<II", 6, 0))  # class double
    matrix += element(5, struct.pack(f"<{array.ndim}i", *array.shape))
    matrix += element(1, name.encode())
    matrix += element(9, array.astype("<f8").tobytes(order="F"))
    head = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    return head + element(14, matrix)


def body(seed: int, frames: int) -> np.ndarray:
    """Joints (T, 20, 3) in layout order, with six decimals."""
    return np.random.RandomState(seed).uniform(-1, 1, (frames, 20, 3)).round(6)


def in_order(joints: np.ndarray, order: str) -> np.ndarray:
    """The joints in the order of the data set."""
    own = np.empty_like(joints)
    own[:, [int(place) for place in order.split()]] = joints
    return own


def write_utd(folder: Path) -> dict[str, tuple[int, int, np.ndarray]]:
    joints = {"a1_s1_t1": body(0, 5), "a27_s2_t4": body(1, 3)}
    for name, clip in joints.items():
        content = matlab("d_skel", in_order(clip, UTD_OF).transpose(1, 2, 0))
        (folder / f"{name}_skeleton.mat").write_bytes(content)
    (folder / "a1_s1_t1_inertial.mat").write_bytes(b"another sensor")
    return {"a1_s1_t1": (0, 1, joints["a1_s1_t1"]), "a27_s2_t4": (26, 2, joints["a27_s2_t4"])}


def write_msr(folder: Path) -> dict[str, tuple[int, int, np.ndarray]]:
    joints = {"a01_s01_e01": body(2, 4), "a20_s10_e03": body(3, 2)}
    for name, clip in joints.items():
        own = in_order(clip, MSR_OF)
        own = np.insert(own, 1, 0, axis=0)  # a frame without a body
        text = "".join(f"{x:f} {y:f} {z:f} 1.000000\n" for x, y, z in own.reshape(-1, 3))
        (folder / f"{name}_skeleton3D.txt").write_text(text)
    (folder / "a13_s09_e02_skeleton3D.txt").write_text("0 0 0 0\n" * 40)
    (folder / "notes.txt").write_text("not a clip")
    return {"a01_s01_e01": (0, 1, joints["a01_s01_e01"]), "a20_s10_e03": (19, 10, body(3, 2))}


def write_utkinect(folder: Path) -> dict[str, tuple[int, int, np.ndarray]]:
    recording = body(4, 9)
    frames = [190, 190, 192, 196, 200, 204, 208, 210, 214]
    text = "".join(
        f"{n}   " + "  ".join(f"{x:f}" for x in frame.ravel()) + "  \n"
        for n, frame in zip(frames, recording)
    )
    (folder / "joints_s03_e02.txt").write_text(text)
    ranges = "s03_e02\nwalk: 190 196\nsitDown: 200 204 \ncarry:  NaN NaN\n"
    (folder / "actionLabel.txt").write_text(ranges)
    modified = ranges.replace("200 204", "201 210")
    (folder / "actionLabel_modified.txt").write_text(modified)
    return {
        "s03_e02_walk": (0, 3, recording[:4]),
        "s03_e02_sitDown": (1, 3, recording[5:8]),
    }


def write_kinder(folder: Path) -> dict[str, tuple[int, int, np.ndarray]]:
    files = {
        "POSE-p106_33-Throw-a-ball--1455122996461": ("p106_33-Throw-a-ball", 33, 106, body(5, 3)),
        "POSE-p970_05-Bow-1466764269111": ("p970_05-Bow", 4, 970, body(6, 2)),
    }
    head = ",".join(kinder_gator.HEAD) + ",User-ID,Action,\n"
    for file, (_, _, person, clip) in files.items():
        action = file.split("-", 2)[2].rsplit("-", 1)[0].rstrip("-").replace("-", " ")
        rows = [
            f"60591709.{t}," + ",".join(f"{x:f}" for x in frame.ravel()) + f",{person},{action},\n"
            for t, frame in enumerate(clip)
        ]
        (folder / f"{file}.csv").write_text(head + "".join(rows))
    return {name: (label, person, clip) for name, label, person, clip in files.values()}


WRITERS = {
    "utd-mhad": write_utd,
    "msr-action3d": write_msr,
    "utkinect": write_utkinect,
    "kinder-gator": write_kinder,
}


@pytest.fixture(params=WRITERS)
def own(request, tmp_path: Path) -> tuple[str, Path, dict]:
    """The name of a set, a folder in its format, and the clips in it."""
    if request.param == "utd-mhad":
        pytest.importorskip("scipy", reason="utd-mhad needs scipy")
    folder = tmp_path / "raw" / "nested"
    folder.mkdir(parents=True)
    return request.param, tmp_path / "raw", WRITERS[request.param](folder)


def pack(folder: Path, form: str) -> Path:
    """The folder as an archive."""
    path = folder.with_name(f"archive.{form}")
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in files:
                archive.write(file, str(file.relative_to(folder)))
            archive.writestr("__MACOSX/._" + files[0].name, "not a clip")
    else:
        with tarfile.open(path, f"w:{form.split('.')[1]}") as archive:
            archive.add(folder, "raw")
    return path


@pytest.mark.parametrize("form", ["folder", "zip", "tar.xz"])
def test_clips_equal_the_files(own, form: str, tmp_path: Path, capsys) -> None:
    name, folder, clips = own
    source = folder if form == "folder" else pack(folder, form)
    assert run(name, source, "--out", tmp_path / "store") == 0
    store = Store.open(tmp_path / "store")
    assert sorted(store.names) == sorted(clips)
    assert store.layout == "nw_ucla" and store.joints.shape[1:] == (1, 20, 3)
    assert store.normalization == "centered" and store.meta["centre"] == 2
    assert len(store.class_names) == PUBLISHED[name][1]
    for row, sample in enumerate(store.names):
        label, subject, joints = clips[sample]
        assert (store.labels[row], store.columns["subject"][row]) == (label, subject)
        np.testing.assert_allclose(store.clip(row)[:, 0], relative(joints), atol=1e-6)
    nobody = {"msr-action3d": ["a13_s09_e02"], "utkinect": ["s03_e02_carry"]}.get(name, [])
    left_out = {kind: entries for kind, entries in store.meta["left_out"].items() if entries}
    assert left_out == ({"nobody": nobody} if nobody else {})
    out = capsys.readouterr().out
    assert ("samples without a body" in out) == bool(nobody)


def test_original_ranges_are_used_without_modified_file(tmp_path: Path) -> None:
    write_utkinect(tmp_path)
    (tmp_path / "actionLabel_modified.txt").unlink()
    assert run("utkinect", tmp_path, "--out", tmp_path / "store") == 0
    store = Store.open(tmp_path / "store")
    assert store.lengths.tolist() == [4, 2] and store.meta["ranges"] == "actionLabel.txt"


def change(name: str, old: str, new: str):
    def spoil(folder: Path) -> None:
        (path,) = folder.rglob(name)
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return spoil


def rename(name: str, new: str):
    def spoil(folder: Path) -> None:
        (path,) = folder.rglob(name)
        path.rename(path.with_name(new))

    return spoil


def overwrite(name: str, content: bytes):
    def spoil(folder: Path) -> None:
        (path,) = folder.rglob(name)
        path.write_bytes(content)

    return spoil


def remove(name: str):
    def spoil(folder: Path) -> None:
        for path in list(folder.rglob(name)):
            path.unlink()

    return spoil


@pytest.mark.parametrize(
    ("own", "spoil", "words"),
    [
        ("utd-mhad", overwrite("a1_*_skeleton.mat", b"no MATLAB"), "a1_s1_t1_skeleton.mat: cannot"),
        ("utd-mhad", overwrite("a1_*_skeleton.mat", matlab("d_skel", body(0, 4))), "(4, 20, 3)"),
        ("utd-mhad", overwrite("a1_*_skeleton.mat", matlab("d_depth", body(0, 4))), "is missing"),
        (
            "utd-mhad",
            overwrite("a1_*_skeleton.mat", matlab("d_skel", np.full((20, 3, 2), np.nan))),
            "frame 0 has a joint that is NaN",
        ),
        ("utd-mhad", rename("a27_*.mat", "a28_s1_t1_skeleton.mat"), "is not named a<1..27>"),
        ("utd-mhad", remove("*_skeleton.mat"), "contains no *_skeleton.mat files"),
        ("msr-action3d", change("a20_*.txt", " 1.000000\n", "\n"), "line 1: has 3 fields, not 4"),
        ("msr-action3d", change("a20_*.txt", "0.000000 0.0", "zero 0.0"), "line 21: "),
        ("msr-action3d", change("a13_*.txt", "0 0 0 0\n", ""), "39 lines, 20 per frame"),
        ("msr-action3d", rename("a20_*.txt", "a21_s01_e01_skeleton3D.txt"), "a21_s01"),
        ("utkinect", remove("actionLabel*"), "lacks actionLabel.txt"),
        ("utkinect", rename("joints*", "joints_s3_e2.txt"), "lacks joints_s03_e02.txt"),
        ("utkinect", change("actionLabel_m*", "walk", "fly"), "line 2: 'fly: 190 196' is not"),
        ("utkinect", change("joints*", "192 ", "192 1.5"), "line 3: has 62 fields, not 61"),
        ("kinder-gator", change("*Bow*", "SpineX", "HeadX"), "line 1: the header is not"),
        ("kinder-gator", change("*Bow*", ",970,", ",934,"), "person or action in the file"),
        ("kinder-gator", change("*Bow*", ",Bow,", ",Jump,"), "person or action in the file"),
        ("kinder-gator", rename("*Bow*", "POSE-p970_05-Fall-1.csv"), "'Fall' is not an action"),
        ("kinder-gator", overwrite("*Bow*", b""), "line 1: the header is not"),
        ("kinder-gator", change("*Bow*", ",970,", ",1,970,"), "line 2: has 61 fields, not 60"),
        ("kinder-gator", change("*Bow*", ",970,Bow,\n", "\n"), "line 2: has 58 fields, not 60"),
    ],
    indirect=["own"],
)  # fmt: skip
def test_error_names_the_unreadable_file(own, spoil, words: str, tmp_path: Path, capsys) -> None:
    name, folder, _ = own
    spoil(folder)
    assert run(name, folder, "--out", tmp_path / "store") == 2
    err = capsys.readouterr().err
    assert words in err and "Traceback" not in err


def test_invalid_source_is_one_line_error(tmp_path: Path, capsys) -> None:
    (tmp_path / "clips.rar").write_bytes(b"Rar!")
    for source, words in [
        ("clips.rar", "not a folder or a readable zip or tar"),
        ("no", "no such file"),
    ]:
        assert run("msr-action3d", tmp_path / source, "--out", tmp_path / "store") == 2
        err = capsys.readouterr().err
        assert words in err and source in err and err.count("\n") == 1


def test_missing_scipy_is_reported_before_reading(tmp_path: Path, monkeypatch, capsys) -> None:
    write_utd(tmp_path)
    monkeypatch.setattr(utd_mhad.importlib.util, "find_spec", lambda name: None)
    assert run("utd-mhad", tmp_path, "--out", tmp_path / "store") == 2
    assert capsys.readouterr().err.endswith("pip install scipy\n")


# ---------------------------------------------------------------- the published files


@pytest.fixture(scope="module", params=quick.only(["utkinect"], PUBLISHED))
def published(request, shared: Path, tmp_path_factory) -> tuple[str, Path, Store]:
    """The name of a set, its unpacked files, and the prepared store."""
    if request.param == "utd-mhad":
        pytest.importorskip("scipy", reason="utd-mhad needs scipy")
    root = tmp_path_factory.mktemp(request.param)
    with tarfile.open(shared / f"data/raw/{request.param}.tar.xz") as archive:
        archive.extractall(root, filter="data")
    assert run(request.param, root / request.param, "--out", root / "store") == 0
    yield request.param, root / request.param, Store.open(root / "store")
    shutil.rmtree(root)


def test_published_sets(published) -> None:
    name, folder, store = published
    samples, classes, persons, nobody = PUBLISHED[name]
    assert (len(store), len(set(store.labels)), len(store.class_names)) == (
        samples,
        classes,
        classes,
    )
    assert len(set(store.columns["subject"])) == persons
    assert store.meta["left_out"]["nobody"] == nobody
    assert store.meta["left_out"]["unreadable"] == []
    train, test = protocols.split(store, f"{name}-lt")
    subjects = store.columns["subject"]
    assert not set(subjects[train]) & set(subjects[test])
    for row in range(0, len(store), 29):
        raw = read_plainly(name, folder, store.names[row])
        raw = raw[raw.any(axis=(1, 2))]
        np.testing.assert_allclose(store.clip(row)[:, 0], relative(raw), atol=1e-6)
    expected_train, expected_test, imbalance, largest, smallest = SIZES[name]
    assert (len(train), len(test)) == (expected_train, expected_test)
    counts = np.bincount(store.labels[long_tail.make_list(store, name, imbalance).rows])
    assert (counts[0], counts[-1]) == (largest, smallest) and (np.diff(counts) <= 0).all()


def read_plainly(name: str, folder: Path, sample: str) -> np.ndarray:
    """The raw joints (T, 20, 3) of a sample in layout order, read independently."""
    if name == "utd-mhad":
        from scipy.io import loadmat

        array = loadmat(folder / "Skeleton" / f"{sample}_skeleton.mat")["d_skel"]
        return np.moveaxis(array, -1, 0)[:, [int(v) for v in UTD_OF.split()]]
    if name == "msr-action3d":
        path = folder / "real_world_coordinates" / f"{sample}_skeleton3D.txt"
        return np.loadtxt(path).reshape(-1, 20, 4)[:, [int(v) for v in MSR_OF.split()], :3]
    if name == "utkinect":
        recording, action = sample.rsplit("_", 1)
        labels = (folder / "joints/actionLabel_modified.txt").read_text()
        part = labels[labels.index(recording) :]
        first, last = map(int, re.search(rf"{action}:\s*(\d+)\s+(\d+)", part).groups())
        table = np.loadtxt(folder / f"joints/joints_{recording}.txt")
        frames = [row[1:].reshape(20, 3) for row in table if first <= row[0] <= last]
        return np.stack(frames)
    (path,) = folder.rglob(f"POSE-{sample}-*.csv")
    names = graph.load("nw_ucla").joints
    sides = [re.sub(r"(left|right) (\w+)", r"\2 \1", joint) for joint in names]  # ElbowLeft
    columns = [joint.title().replace(" ", "") for joint in sides]
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return np.array([[[float(row[c + axis]) for axis in "XYZ"] for c in columns] for row in rows])


def test_bone_lengths_of_all_sets_are_plausible(published) -> None:
    """A wrong joint order would give implausible bone lengths: hip, thigh, forearm, ..."""
    _, _, store = published
    skeleton = graph.load("nw_ucla")
    joints = np.concatenate([store.clip(row)[:, 0] for row in range(0, len(store), 11)])
    lengths = np.linalg.norm(joints - joints[:, list(skeleton.parent)], axis=-1)
    median = dict(zip(skeleton.joints, np.median(lengths, axis=0)))
    for side in ("left", "right"):
        for joint, low, high in [
            ("hip", 0.04, 0.25), ("knee", 0.25, 0.65), ("ankle", 0.2, 0.55), ("foot", 0.04, 0.2),
            ("shoulder", 0.1, 0.3), ("elbow", 0.15, 0.4), ("wrist", 0.15, 0.35),
            ("hand", 0.03, 0.2),
        ]:  # fmt: skip
            assert low < median[f"{side} {joint}"] < high, (side, joint)
    assert 0.1 < median["head"] < 0.35
    # The head is above the shoulders, hips and feet.
    height = dict(zip(skeleton.joints, np.median(joints[..., 1], axis=0)))
    assert height["head"] > height["shoulder center"] > height["hip center"] > height["left foot"]


def test_joint_orders_are_permutations() -> None:
    for order in (utd_mhad.JOINTS, msr_action3d.JOINTS):
        assert sorted(order) == list(range(20))
