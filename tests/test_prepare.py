"""data.prepare: clips equal the raw files, damaged files are named, stores are atomic."""

import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

import graph
from data import normalize, prepare, protocols, unpickle
from data.readers import ntu, skeleton_file
from data.readers.archive import list_files
from data.store import Store, copies
from errors import InputError, run_command
from tests.tiny_runs import wait_until


def skeleton_text(frames: list[dict[str, np.ndarray]], newline: str = "\n") -> bytes:
    """Write a .skeleton file by hand: per frame the bodies, id -> joints (25, 3)."""
    lines = [str(len(frames))]
    for bodies in frames:
        lines.append(str(len(bodies)))
        for body, joints in bodies.items():
            lines += [f"{body} 0 1 1 1 1 0 0.0276 0.0574 2", "25"]
            lines += [
                " ".join(f"{x:.7g}" for x in joint) + " 277.4 191" * 4 + " 2" for joint in joints
            ]
    return (newline.join(lines) + newline).encode()


def person(seed: int, frames: int, motion: float = 0.01) -> np.ndarray:
    """A standing person that drifts: joints (T, 25, 3), taller than wide."""
    random = np.random.RandomState(seed)
    stance = random.uniform([-0.2, -0.9, 2.9], [0.2, 0.9, 3.1], (25, 3))
    return stance + np.cumsum(random.standard_normal((frames, 1, 3)) * motion, axis=0)


def one_body(joints: np.ndarray, body: str = "72057594037931101") -> list[dict[str, np.ndarray]]:
    return [{body: frame} for frame in joints]


def run(*argv: object) -> int:
    return run_command(prepare.main, [*map(str, argv), "--workers", "1"])


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Four valid .skeleton files."""
    folder = tmp_path / "raw" / "nested"
    folder.mkdir(parents=True)
    for i, action in enumerate((3, 1, 120, 2)):
        text = skeleton_text(one_body(person(i, 20 + i)))
        (folder / f"S00{1 + i}C001P00{1 + i}R001A{action:03d}.skeleton").write_bytes(text)
    return tmp_path / "raw"


def test_ntu_store(raw: Path, tmp_path: Path) -> None:
    assert run("ntu", raw, "--out", tmp_path / "ntu") == 0
    store = Store.open(tmp_path / "ntu")
    assert store.names.tolist() == [
        "S001C001P001R001A003",
        "S002C001P002R001A001",
        "S003C001P003R001A120",
        "S004C001P004R001A002",
    ]
    assert store.labels.tolist() == [2, 0, 119, 1] and store.layout == "ntu_rgb_d"
    assert store.class_names[119] == "rock-paper-scissors" and len(store.class_names) == 120
    assert {key: column.tolist() for key, column in store.columns.items()} == {
        "setup": [1, 2, 3, 4],
        "camera": [1, 1, 1, 1],
        "subject": [1, 2, 3, 4],
    }
    assert store.lengths.tolist() == [20, 21, 22, 23]
    written = np.array(
        [[[float(f"{x:.7g}") for x in joint] for joint in f] for f in person(0, 20)], np.float32
    )
    np.testing.assert_allclose(
        store.clip(0)[:, 0], normalize.upright(written[:, None])[:, 0], atol=1e-6
    )
    assert not store.clip(0)[:, 1].any()


@pytest.mark.parametrize("word", ["centered", "centred"])
def test_ntu_clips_can_be_centered_without_a_rotation(raw: Path, tmp_path: Path, word) -> None:
    """Joint 1 of the first frame is the origin; directions are those of the file."""
    assert run("ntu", raw, "--out", tmp_path / "ntu", "--normalize", word) == 0
    store = Store.open(tmp_path / "ntu")
    assert store.normalization == "unaligned"
    written = person(0, 20)
    np.testing.assert_allclose(store.clip(0)[:, 0], written - written[0, 1], atol=1e-5)


def test_zip_workers_and_repetition_give_the_same_store(raw: Path, tmp_path: Path) -> None:
    archive = tmp_path / "nturgbd_skeletons.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in raw.rglob("*.skeleton"):
            file.write(path, f"nturgb+d_skeletons/{path.name}")
    assert run("ntu", raw, "--out", tmp_path / "a") == 0
    assert run("ntu", raw, "--out", tmp_path / "a") == 0  # again, replaces the first
    assert run("ntu", archive, "--out", tmp_path / "b") == 0
    argv = ["ntu", str(archive), "--out", str(tmp_path / "c"), "--workers", "2"]
    assert run_command(prepare.main, argv) == 0
    for name in ("joints.npy", "index.npz"):
        contents = {(tmp_path / store / name).read_bytes() for store in "abc"}
        assert len(contents) == 1


def test_archive_with_other_files_duplicates_and_encryption(
    raw: Path, tmp_path: Path, capsys
) -> None:
    archive = tmp_path / "n.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in raw.rglob("*.skeleton"):
            file.write(path, f"nturgb+d_skeletons/{path.name}")
            file.writestr(f"__MACOSX/nturgb+d_skeletons/._{path.name}", b"\x00\x05\x16\x07")
    assert run("ntu", archive, "--out", tmp_path / "ntu") == 0
    assert len(Store.open(tmp_path / "ntu")) == 4
    assert run("ntu", archive, raw, "--out", tmp_path / "twice") == 2
    err = capsys.readouterr().err
    name = "S001C001P001R001A003"
    member, file = f"n.zip:nturgb+d_skeletons/{name}.skeleton", f"{raw}/nested/{name}.skeleton"
    assert f"{name} is found twice" in err and member in err and file in err
    assert err.count("\n") == 1 and not (tmp_path / "twice").exists()

    content = bytearray(archive.read_bytes())
    content[6] |= 1  # "encrypted", in the header of the first member and in the central directory
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive = tmp_path / "locked.zip"
    archive.write_bytes(content)
    assert run("ntu", archive, "--out", tmp_path / "locked") == 2
    (line, _) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"unreadable: {archive}:nturgb+d_skeletons/S0") and "encrypted" in line
    assert len(Store.open(tmp_path / "locked")) == 3


def test_of_a_tar_archive_only_regular_files_are_read(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    kinds = {
        "folder.csv": tarfile.DIRTYPE,
        "link.csv": tarfile.SYMTYPE,
        "hard.csv": tarfile.LNKTYPE,
        "device.csv": tarfile.FIFOTYPE,
    }
    with tarfile.open(archive, "w") as file:
        for name, target in (("b/one.csv", b"1"), ("two.csv", b"2"), ("three.txt", b"3")):
            member = tarfile.TarInfo(name)
            member.size = len(target)
            file.addfile(member, io.BytesIO(target))
        for target in ("two.csv", "absent.csv"):  # the second is a link to nothing
            for name, kind in kinds.items():
                member = tarfile.TarInfo(f"{target} {name}")
                member.type, member.linkname = kind, target
                file.addfile(member)
    files = list_files(".csv", archive)
    assert [(file.path, file.name, file.read()) for file in files] == [
        (f"{archive}:b/one.csv", "one.csv", b"1"),
        (f"{archive}:two.csv", "two.csv", b"2"),
    ]


def test_skipped_and_unreadable_samples_are_named(raw: Path, tmp_path: Path, capsys) -> None:
    nobody = raw / "S009C001P001R001A001.skeleton"
    nobody.write_bytes(b"3\n0\n0\n0\n")
    missing = tmp_path / "missing.txt"
    missing.write_text("2 samples with missing skeletons\nS001C001P001R001A003\n")
    assert run("ntu", raw, "--missing", missing, "--out", tmp_path / "ntu") == 0
    out = capsys.readouterr().out
    assert "3 samples, 66 frames, 3 of 120 classes" in out
    assert "samples listed in --missing: 1, e.g. S001C001P001R001A003" in out
    assert "samples without a body: 1, e.g. S009C001P001R001A001" in out
    store = Store.open(tmp_path / "ntu")
    assert store.meta["left_out"]["missing"] == ["S001C001P001R001A003"]
    assert len(store) == 3 and "S001C001P001R001A003" not in store.names
    assert store.meta["left_out"]["nobody"] == ["S009C001P001R001A001"]

    whole = (raw / "nested" / "S001C001P001R001A003.skeleton").read_bytes()
    damaged = {
        "S010C001P001R001A001": (whole[: len(whole) // 2], "line"),
        "S010C001P001R001A002": (whole.replace(b" 2\n", b" 2 7\n", 9), "line 5"),
        "S010C001P001R001A121": (whole, "A121"),
        "S010C001P001R001A004": (_with_field(whole, line=7, value=b"nan"), "line 7"),
    }
    for name, (content, _) in damaged.items():
        (raw / f"{name}.skeleton").write_bytes(content)
    assert run("ntu", raw, "--out", tmp_path / "ntu") == 2
    err = capsys.readouterr().err
    for name, (_, words) in damaged.items():
        (line,) = [line for line in err.splitlines() if f"{name}.skeleton" in line]
        assert words in line.split(name, 1)[1]
    assert "4 of 9 samples are unreadable" in err
    assert len(Store.open(tmp_path / "ntu")) == 4


def _with_field(text: bytes, line: int, value: bytes) -> bytes:
    """Replace the second field of a line, counted from 1."""
    lines = text.split(b"\n")
    fields = lines[line - 1].split()
    lines[line - 1] = b" ".join([fields[0], value, *fields[2:]])
    return b"\n".join(lines)


def test_no_usable_samples_is_one_line_error_without_store(tmp_path: Path, capsys) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    path = raw / "S001C001P001R001A001.skeleton"
    path.write_bytes(skeleton_text(one_body(person(0, 30)))[:5000])
    assert run("ntu", raw, "--out", tmp_path / "ntu") == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {path}: line ") and err.count("\n") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["raw"]
    path.write_bytes(b"1\n0\n")
    assert run("ntu", raw, "--out", tmp_path / "ntu") == 2
    assert "1 without a body" in capsys.readouterr().err
    missing = tmp_path / "missing.txt"
    missing.write_text(path.stem)
    assert run("ntu", raw, "--missing", missing, "--out", tmp_path / "ntu") == 2
    assert "files are in --missing" in capsys.readouterr().err
    path.unlink()
    (raw / "nturgbd_skeletons.zip").write_bytes(b"")
    assert run("ntu", raw, "--out", tmp_path / "ntu") == 2
    assert "give the zip files instead of the folder, e.g." in capsys.readouterr().err
    assert run_command(prepare.main, ["ntu", str(raw), "--workers", "0"]) == 2
    assert "--workers: must be at least 1, not 0" in capsys.readouterr().err
    (raw / "nturgbd_skeletons.zip").unlink()
    for source in (raw, tmp_path / "absent", tmp_path / "absent.zip"):
        assert run("ntu", source, "--out", tmp_path / "ntu") == 2
        assert str(source) in capsys.readouterr().err


@pytest.mark.slow
def test_kill_leaves_no_store_and_no_processes(raw: Path, tmp_path: Path) -> None:
    text = next(raw.rglob("*.skeleton")).read_bytes()
    for i in range(3000):
        (raw / f"S001C001P{i % 900:03d}R{i // 900:03d}A050.skeleton").write_bytes(text)
    argv = ["-m", "data.prepare", "ntu", str(raw), "--out", str(tmp_path / "ntu"), "--workers", "2"]
    root = Path(__file__).resolve().parents[1]
    with subprocess.Popen([sys.executable, *argv], cwd=root, start_new_session=True) as process:
        joints = tmp_path.glob
        wait_until(
            lambda: any(file.stat().st_size > 1000 for file in joints(".ntu.*/joints.npy")),
            alive=lambda: process.poll() is None,
        )
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(InputError, match="is not a prepared store"):
        Store.open(tmp_path / "ntu")
    wait_until(lambda: not _session(process.pid))  # the workers end with their parent
    for path in raw.glob("*A050.skeleton"):
        path.unlink()
    assert run("ntu", raw, "--out", tmp_path / "ntu") == 0  # leftovers do not disturb
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ntu", "raw"]


def _session(leader: int) -> list[str]:
    """Return the processes that still run in the session of a process."""
    found = subprocess.run(["ps", "-o", "pid=", "--sid", str(leader)], capture_output=True)
    return found.stdout.split()


def by_words(text: bytes) -> skeleton_file.Bodies:
    """Parse a valid .skeleton file word by word, ignoring lines."""
    words = iter(text.split())
    frames, ids, joints = [], [], []
    for frame in range(int(next(words))):
        for _ in range(int(next(words))):
            ids.append(next(words))
            for _ in range(9):
                next(words)
            frames.append(frame)
            fields = [float(next(words)) for _ in range(int(next(words)) * 12)]
            joints.append(np.reshape(fields, (25, 12))[:, :3])
    return skeleton_file.Bodies(np.array(frames), ids, np.array(joints, np.float32))


def test_parser_equals_word_by_word_parser() -> None:
    both = [{"1": a, "72057594037931102": b} for a, b in zip(person(0, 9), person(1, 9))]
    frames = one_body(person(2, 5)) + [{}] + both + [{}]
    odd = person(3, 1)
    odd[0, :4] = [[1e-7, -0.0, 3], [-2.5e-11, 0.1 + 0.2, 1e2], [7, -8, 9], [0, 0, 0]]
    for newline in ("\n", "\r\n"):
        text = skeleton_text(frames + one_body(odd), newline)
        bodies, expected = skeleton_file.parse(text, "x"), by_words(text)
        np.testing.assert_array_equal(bodies.frames, expected.frames)
        np.testing.assert_array_equal(bodies.joints, expected.joints)
        assert bodies.ids == expected.ids and len(bodies.ids) == 5 + 18 + 1


@pytest.mark.parametrize(
    ("place", "line", "words"),
    [
        (10, b"0.1 0.2 3 0 0 0 0 0 0 0 0", "a joint has 12 numbers, not 11"),
        (10, b"0.1 0.2 3 0 0 0 0 0 0 0 0 0 0", "a joint has 12 numbers, not 13"),
        (27, b"0.1 x 3 0 0 0 0 0 0 0 0 0", "a joint's position is not a number"),
        (28, b"0.1 nan 3 0 0 0 0 0 0 0 0 0", "a joint is NaN or infinite"),
        (4, b"0.1 1e39 3 0 0 0 0 0 0 0 0 0", "a joint is NaN or infinite"),  # as float32
        (28, b" ", "a joint is missing; the file is truncated or damaged"),
        (2, b"", "a body is missing; the file is truncated or damaged"),
    ],
)
@pytest.mark.parametrize("frame", [0, 1])
def test_error_names_the_line(frame: int, place: int, line: bytes, words: str) -> None:
    lines = skeleton_text(one_body(person(0, 2))).split(b"\n")
    place += frame * 28  # lines per frame of one body
    lines[place] = line
    with pytest.raises(InputError, match=re.escape(f"x: line {place + 1}: {words}")):
        skeleton_file.parse(b"\n".join(lines), "x")


@pytest.mark.parametrize("count", [b"-3", b"+2", b"2_5", b"1 1", b"9" * 5000, b"1.0", b"", b"x"])
def test_counts_must_be_digits(count: bytes) -> None:
    """int() accepts some of these; -3 frames would be a clip without bodies."""
    text = skeleton_text(one_body(person(0, 2)))
    for place in (0, 1, 3):  # the lines that count frames, bodies and joints
        lines = text.split(b"\n")
        lines[place] = count
        with pytest.raises(InputError, match=f"x: line {place + 1}: the number of .*"):
            skeleton_file.parse(b"\n".join(lines), "x")
    with pytest.raises(InputError, match="line 1"):
        skeleton_file.parse(count + b"\n", "x")


def test_two_bodies_with_one_id_are_refused() -> None:
    """In two frames it is one body."""
    frames = [{"7": pose, "8": pose} for pose in person(0, 3)]
    text = skeleton_text(frames).replace(b"8 0 1 1", b"7 0 1 1")
    with pytest.raises(
        InputError, match=r"a\.skeleton: line 30: two bodies of frame 0 have the id 7"
    ):
        skeleton_file.parse(text, "a.skeleton")
    assert skeleton_file.parse(skeleton_text(frames), "a.skeleton").ids == [b"7", b"8"] * 3


def bodies(*tracks: tuple[int, np.ndarray]) -> np.ndarray:
    """Select bodies from tracks (first frame, joints), written to a file and read again."""
    last = max(first + len(joints) for first, joints in tracks)
    frames = [
        {
            str(body): joints[t - first]
            for body, (first, joints) in enumerate(tracks)
            if first <= t < first + len(joints)
        }
        for t in range(last)
    ]
    return ntu.choose_bodies(skeleton_file.parse(skeleton_text(frames), "x"))[0]


def test_selection_of_bodies() -> None:
    still, lively, short = person(0, 30, 0.001), person(1, 30, 0.1), person(2, 11)
    close = {"rtol": 1e-5, "atol": 1e-6}
    # The body with the most motion is first.
    chosen = bodies((0, still), (0, lively))
    np.testing.assert_allclose(chosen, np.stack([lively, still], axis=1), **close)
    # A track of 11 frames is noise if there is another, one of 12 is not; an only track is kept.
    assert not bodies((0, still), (5, short))[:, 1].any()
    assert bodies((0, still), (5, person(2, 12)))[:, 1].any(axis=(1, 2)).sum() == 12
    np.testing.assert_allclose(bodies((3, short))[:, 0], short, **close)
    # Width above 0.8 of the height in most frames: noise.
    flat = lively * [4, 0.3, 1]
    chosen = bodies((0, flat), (0, still))
    np.testing.assert_allclose(chosen[:, 0], still, **close)
    assert not chosen[:, 1].any()
    # A third body uses a slot that is free at its time, here after the end of the first body.
    later = person(4, 20, 0.0005)
    chosen = bodies((0, lively), (0, still), (30, later))
    np.testing.assert_allclose(chosen[30:, 0], later, **close)
    np.testing.assert_allclose(chosen[:30, 1], still, **close)
    # Tracks with one common frame are different bodies.
    chosen = bodies((0, still), (29, lively))
    np.testing.assert_allclose(chosen[:30, 0], still, **close)
    np.testing.assert_allclose(chosen[29:, 1], lively, **close)
    # Frames without a body are dropped, also between tracks.
    assert len(bodies((2, still), (40, lively))) == 60


def test_noise_depends_on_width_and_fraction_of_frames() -> None:
    actor = person(0, 100, 0.01)

    def wide(frames: int, width: float) -> np.ndarray:
        """A body of height 1 m, of this width in the first frames of 100, then 0.5 m wide."""
        joints = np.zeros((100, 25, 3))
        joints[:, 1, 1], joints[:, 2, 0] = 1, 0.5
        joints[:frames, 2, 0] = width
        return joints

    for frames, width, persons in ((100, 0.79, 2), (69, 0.81, 2), (70, 0.81, 1)):
        chosen = bodies((0, actor), (0, wide(frames, width)))
        assert chosen.any(axis=(0, 2, 3)).sum() == persons
    # Motion in noisy frames does not count.
    jumpy = wide(30, 0.81)
    jumpy[:30:2] += 5
    assert jumpy.var(axis=(0, 1)).sum() > actor.var(axis=(0, 1)).sum()
    np.testing.assert_allclose(bodies((0, jumpy), (0, actor))[:, 0], actor, rtol=1e-5, atol=1e-6)


def write_json(path: Path, joints: np.ndarray, label: int) -> None:
    content = {"file_name": path.stem, "skeletons": joints.tolist(), "label": label}
    path.write_text(json.dumps(content))


def test_nw_ucla_from_json_and_npz(shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / "nw_ucla.npz"
    assert run("nw-ucla", source, "--out", tmp_path / "nw-ucla") == 0
    store = Store.open(tmp_path / "nw-ucla")
    train, test = protocols.split(store, "nw-ucla")
    assert (len(train), len(test), store.joints.shape) == (1020, 464, (58534, 1, 20, 3))
    assert (np.diff(store.columns["list_index"][train]) > 0).all()
    assert copies(store, test, train).sum() == 95

    arrays = np.load(source)
    folder = tmp_path / "all_sqe"
    folder.mkdir()
    for row in (0, 700, 1483):
        joints = arrays["frames"][arrays["offsets"][row] : arrays["offsets"][row + 1]]
        write_json(folder / f"{arrays['names'][row]}.json", joints, int(arrays["labels"][row]) + 1)
    assert run("nw-ucla", folder, "--out", tmp_path / "json") == 0
    other = Store.open(tmp_path / "json")
    for row, name in enumerate(other.names):
        (same,) = store.rows_of([name], "list")
        assert other.labels[row] == store.labels[same]
        np.testing.assert_array_equal(other.clip(row), store.clip(same))
        assert not other.clip(row)[0, 0, 1].any()


def test_inconsistent_npz_of_nw_ucla(tmp_path: Path, capsys) -> None:
    names = np.array(["a01_s01_e00_v01", "a02_s01_e00_v01"])
    frames = np.random.default_rng(0).normal(size=(5, 20, 3))
    frames[:2] = 0  # no body in the first clip
    whole = {
        "frames": frames,
        "offsets": np.array([0, 2, 5]),
        "names": names,
        "labels": np.arange(2),
        "list_index": np.arange(2),
    }
    path, out = tmp_path / "u.npz", tmp_path / "s"
    np.savez(path, **whole)
    assert run("nw-ucla", path, "--out", out) == 0
    store = Store.open(out)
    assert store.names.tolist() == names[1:].tolist() and store.lengths.tolist() == [3]
    assert store.meta["left_out"]["nobody"] == names[:1].tolist()
    for damage, words in [
        ({"labels": np.arange(1)}, "differ in length"),
        ({"list_index": np.arange(3)}, "differ in length"),
        ({"offsets": np.array([0, 2])}, "differ in length"),
        ({"offsets": np.array([0, 6, 5])}, "are not consistent"),
        ({"names": np.array(["x", names[1]])}, "'x' is not a sample name"),
    ]:
        np.savez(path, **{**whole, **damage})
        assert run("nw-ucla", path, "--out", out) == 2
        assert f"{path}: " in (err := capsys.readouterr().err) and words in err


def test_damaged_json_error_names_file_and_frame(tmp_path: Path, capsys) -> None:
    path = tmp_path / "raw" / "a02_s01_e00_v01.json"
    path.parent.mkdir()
    frame = json.dumps(np.zeros((20, 3)).tolist())
    head = '{"label": 2,\n"skeletons": [\n'
    for content, words in [
        (head + frame, "line 3"),
        (head + frame + ",\n[[1, 2, 3]]]}", "frame 1"),
        (head + frame + ",\n" + frame.replace("0.0", "NaN", 1) + "]}", "frame 1"),
        (head + frame.replace("0.0", '"0.0"') + "]}", "frame 0"),
        (head + frame.replace("0.0", "1e99", 1) + "]}", "frame 0"),
        (head.replace("2", "3") + frame + "]}", "label is 3, but 2 in the file name"),
        ('{"label": 2}', "'skeletons'"),
        ("[]", "not a JSON object"),
        ("[" * 100_000, "nested too deeply"),
        ("", "line 1"),
    ]:
        path.write_text(content)
        assert run("nw-ucla", path.parent, "--out", tmp_path / "s") == 2
        err = capsys.readouterr().err
        assert err.startswith(f"error: {path}: ") and words in err and err.count("\n") == 1


def test_pyskl_3d(golden: Path, tmp_path: Path) -> None:
    assert run("pyskl", golden / "e2e" / "anno.pkl", "--out", tmp_path / "e2e") == 0
    store = Store.open(tmp_path / "e2e")
    with (golden / "e2e" / "anno.pkl").open("rb") as file:
        content = pickle.load(file)
    assert store.joints.shape[1:] == (2, 25, 3) and len(store.class_names) == 60
    assert store.names.tolist() == [a["frame_dir"] for a in content["annotations"]]
    train, test = protocols.split(store, "ntu60-xsub")
    assert sorted(store.names[train]) == sorted(content["split"]["xsub_train"])
    assert sorted(store.names[test]) == sorted(content["split"]["xsub_val"])


class Evil:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("evil"),)


def test_pickle_executes_nothing(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"split": {}, "annotations": [Evil()]}))
    assert run("pyskl", path, "--out", tmp_path / "s") == 2
    err = capsys.readouterr().err
    assert str(path) in err and "it calls" in err and err.count("\n") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["evil.pkl"]
    plain = {"a": [np.arange(3), np.float16(2), (b"x", {1}, None)], "s": np.array(["é"])}
    for protocol in range(2, 6):
        path.write_bytes(pickle.dumps(plain, protocol=protocol))
        loaded = unpickle.load(path)
        np.testing.assert_array_equal(loaded["a"][0], plain["a"][0])
        assert loaded["a"][1:] == plain["a"][1:] and loaded["s"] == plain["s"]
    for damage in (path.read_bytes()[:-5], b"", b"hello", b"\x80\x05."):
        path.write_bytes(damage)
        with pytest.raises(InputError, match=f"{path}: is damaged or not a pickle"):
            unpickle.load(path)


@pytest.mark.parametrize(("layout", "joints"), [("ntu_rgb_d", 25), ("h36m", 17)])
def test_statistics_are_printed(layout, joints, tmp_path: Path, capsys) -> None:
    """Custom clips in millimeters, one without motion, one a duplicate."""
    random = np.random.default_rng(0)
    clip = random.uniform(0, 200, (6, 1, joints, 3))
    clip[..., 1] = np.linspace(0, 1600, joints)
    for name, clips in {"a": clip, "b": clip, "c": clip[:1].repeat(6, axis=0)}.items():
        np.save(tmp_path / f"{name}.npy", clips)
    (tmp_path / "labels.csv").write_text("file,label\na.npy,x\nb.npy,x\nc.npy,x\n")
    argv = ["custom", str(tmp_path / "labels.csv"), "--layout", layout, "--workers", "1"]
    argv += ["--normalize", "centered", "--out", str(tmp_path / "s")]
    assert run_command(prepare.main, argv) == 0
    out = capsys.readouterr().out
    assert "body size: 1.6e+03, 1.6e+03, 1.6e+03" in out
    assert "without motion: 1 (c); duplicates: 1 (b of a)" in out
    assert "warning: body size is 1600; " in out and "multiply the positions by 0.001" in out
    assert Store.open(tmp_path / "s").meta["size"] == [1600, 1600, 1600]


def test_unused_image_size_is_rejected(tmp_path: Path, capsys) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).uniform(100, 400, (6, 17, 3)))
    (tmp_path / "labels.csv").write_text("file,label\na.npy,x\n")
    argv = ["custom", str(tmp_path / "labels.csv"), "--workers", "1", "--out", str(tmp_path / "s")]
    size = ["--image-size", "480", "640"]
    for layout, how in (("coco", "none"), ("ntu_rgb_d", "upright"), ("ntu_rgb_d", "centered")):
        command = [*argv, "--layout", layout, "--normalize", how, *size]
        assert run_command(prepare.main, command) == 2
        assert "--image-size: applies only to --normalize image" in capsys.readouterr().err
    layout = graph.FOLDER / "coco.yaml"
    planar = layout.read_text().replace("confidence: true", "confidence: false")
    (tmp_path / "flat.yaml").write_text(planar)
    np.save(tmp_path / "a.npy", np.load(tmp_path / "a.npy")[..., :2])
    argv += ["--layout", str(tmp_path / "flat.yaml"), "--channels", "2"]
    assert run_command(prepare.main, argv) == 2  # a 2D layout without scores
    assert "2D poses are scaled by the image size; give --image-size" in capsys.readouterr().err
    assert run_command(prepare.main, [*argv, *size]) == 0
    store = Store.open(tmp_path / "s")
    expected = np.load(tmp_path / "a.npy") / [320, 240] - 1
    np.testing.assert_allclose(store.clip(0)[:, 0], expected, atol=1e-6)
    assert store.normalization == "image"
