"""Other raw formats: 2D poses, compressed poses, CTR-GCN's npz, Kinetics-skeleton, custom."""

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import graph
from data import normalize, prepare, protocols
from data.readers import pyskl
from data.store import Store
from errors import InputError, run_command
from feeders.skeleton import Feeder

RANDOM = np.random.RandomState(5)


def run(*argv: object) -> int:
    return run_command(prepare.main, [*map(str, argv), "--workers", "1"])


def fails(capsys, words: str, *argv: object) -> None:
    """Check that a command fails with these words in exactly one line of its output."""
    assert run(*argv) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if words in line]
    assert len(lines) == 1 and lines[0].startswith(("error: ", "unreadable: "))


def dump(path: Path, annotations: list[dict], split: dict) -> Path:
    path.write_bytes(pickle.dumps({"split": split, "annotations": annotations}))
    return path


def compressed(golden: Path, name: str) -> dict:
    vectors = golden.load("tf_k400.npz")
    keys = ("frame_inds", "keypoint", "box_score", "total_frames", "img_shape")
    return {"frame_dir": name, "label": 0, **{key: vectors[f"in|{key}"] for key in keys}}


def test_decompress_equals_released_class(golden: Path) -> None:
    vectors = golden.load("tf_k400.npz")
    frames, poses = vectors["in|frame_inds"], vectors["in|keypoint"]
    kept = vectors["in|anno_inds_thr0.5"]
    for name, joints in {
        "squeeze": pyskl.decompress(frames, poses),
        "squeeze_anno": pyskl.decompress(frames[kept], poses[kept]),
        "squeeze_max2": pyskl.decompress(frames, poses, crowd=2),
    }.items():
        assert len(joints) == vectors[f"{name}|total_frames"]
        expected = vectors[f"{name}|keypoint"], vectors[f"{name}|keypoint_score"][..., None]
        expected = np.concatenate(expected, axis=-1).swapaxes(0, 1)
        np.testing.assert_array_equal(joints, expected)


def test_threshold_and_crowd_limit_are_inclusive() -> None:
    poses = RANDOM.uniform(1, 2, (4, 17, 3)).astype(np.float32)
    poses[..., 2] *= np.array([1, 4, 2, 3])[:, None]  # the second has the best score
    annotation = {
        "frame_dir": "a", "label": 0, "frame_inds": np.array([0, 0, 0, 1]), "keypoint": poses,
        "box_score": np.array([0.49, 0.5, 0.51, 0.9]),
    }  # fmt: skip
    item = (annotation, "train")
    joints = pyskl.read(item, Path("k.pkl"), "coco", "pixels", threshold=0.5).joints
    np.testing.assert_array_equal(joints[0], poses[1:3])
    np.testing.assert_array_equal(joints[1], [poses[3], 0 * poses[3]])
    three, two = (pyskl.decompress(annotation["frame_inds"], poses, crowd) for crowd in (3, 2))
    np.testing.assert_array_equal(three[0], poses[:3])
    np.testing.assert_array_equal(two[0], poses[[1, 2]])


def test_kinetics_clips_equal_released_pipelines(golden: Path, tmp_path: Path) -> None:
    """Without a threshold and in pixels, as in the released configurations."""
    vectors = golden.load("tf_k400.npz")
    source = dump(
        tmp_path / "k400.pkl",
        [compressed(golden, "one"), compressed(golden, "two")],
        {"train": ["one"], "val": ["two"]},
    )
    argv = ["pyskl", source, "--out", tmp_path / "k400", "--threshold", 0, "--pixels"]
    assert run(*argv) == 0
    store = Store.open(tmp_path / "k400")
    assert store.layout == "coco" and store.columns["split"].tolist() == ["train", "test"]
    streams = {"j": "joint", "b": "bone", "jm": "joint-motion", "bm": "bone-motion"}
    for short, stream in streams.items():
        feeder = Feeder(store, np.array([1]), stream=stream, frames=100, sampled_motion=True)
        expected = vectors[f"k400|{short}|val_pipeline+test_mode"][0]
        (clip,) = feeder.batch(torch.tensor([0]))
        np.testing.assert_allclose(clip, expected, rtol=0, atol=1e-5)


def test_kinetics_scaling_and_threshold(golden: Path, tmp_path: Path) -> None:
    annotations = [compressed(golden, name) for name in ("one", "two", "three")]
    annotations[2]["box_score"] = (
        annotations[2]["box_score"] * 0
    )  # with a threshold, no body is left
    source = dump(tmp_path / "k.pkl", annotations, {"train": ["one"], "val": ["two", "three"]})
    assert (
        run("pyskl", source, "--out", tmp_path / "k") == 0
    )  # as in the released code, no box is dropped
    assert Store.open(tmp_path / "k").names.tolist() == ["one", "two", "three"]
    assert run("pyskl", source, "--out", tmp_path / "k", "--threshold", 0.5) == 0
    store = Store.open(tmp_path / "k")
    assert store.names.tolist() == ["one", "two"]
    assert store.meta["left_out"]["nobody"] == ["three"]
    vectors = golden.load("tf_k400.npz")
    height, width = vectors["in|img_shape"]
    expected = vectors["squeeze_anno|keypoint"][:2].astype(np.float64).swapaxes(0, 1)
    score = vectors["squeeze_anno|keypoint_score"][:2].swapaxes(0, 1)
    absent = (expected == 0).all(axis=(2, 3))
    expected = expected / [width / 2, height / 2] - 1
    expected[absent] = 0
    np.testing.assert_allclose(store.clip(0)[..., :2], expected, atol=1e-6)
    np.testing.assert_array_equal(store.clip(0)[..., 2], score)


def test_kinetics_keypoints_in_separate_files(golden: Path, tmp_path: Path, capsys) -> None:
    whole = [compressed(golden, name) for name in ("a", "b", "c")]
    keypoints = {item["frame_dir"]: {"keypoint": item.pop("keypoint")} for item in whole}
    for item, file in zip(whole, ("k_1.pkl", "k_0.pkl", "k_1.pkl")):
        item["raw_file"] = f"somewhere/else/{file}"
    source = dump(tmp_path / "toc.pkl", whole, {"train": ["a", "b"], "val": ["c"]})
    fails(capsys, "--kpfiles", "pyskl", source, "--out", tmp_path / "s")
    folder = tmp_path / "kpfiles"
    folder.mkdir()
    (folder / "k_0.pkl").write_bytes(pickle.dumps({"b": keypoints["b"]}))
    (folder / "k_1.pkl").write_bytes(pickle.dumps({key: keypoints[key] for key in "ac"}))
    assert run("pyskl", source, "--kpfiles", folder, "--out", tmp_path / "s") == 0
    assert Store.open(tmp_path / "s").names.tolist() == ["b", "a", "c"]
    (folder / "k_1.pkl").write_bytes(pickle.dumps({"a": keypoints["a"]}))
    argv = ["pyskl", source, "--kpfiles", folder, "--out", tmp_path / "s"]
    fails(capsys, f"c: {folder}/k_1.pkl: does not contain it", *argv)
    assert Store.open(tmp_path / "s").names.tolist() == ["b", "a"]
    for content in (b"\x80\x04", pickle.dumps([1]), pickle.dumps({"a": 1, "c": 1})):
        (folder / "k_1.pkl").write_bytes(content)  # the other file is still read
        assert run(*argv) == 2
        err = capsys.readouterr().err
        assert f"a: {folder}/k_1.pkl: " in err and f"c: {folder}/k_1.pkl: " in err
        assert Store.open(tmp_path / "s").names.tolist() == ["b"]
    (folder / "k_1.pkl").unlink()
    fails(capsys, "has no file 'k_1.pkl' (1 of 2", *argv)


def hrnet(name: str, label: int = 0, persons: int = 1, frames: int = 7) -> dict:
    """An annotation of 2D poses in the form of PYSKL's ntu60_hrnet.pkl."""
    keypoint = RANDOM.uniform(0, 1080, (persons, frames, 17, 2)).astype(np.float16)
    return {
        "frame_dir": name,
        "label": label,
        "img_shape": (1080, 1920),
        "original_shape": (1080, 1920),
        "total_frames": frames,
        "keypoint": keypoint,
        "keypoint_score": RANDOM.uniform(0, 1, (persons, frames, 17)).astype(np.float16),
    }


def test_hrnet_poses_of_ntu(tmp_path: Path) -> None:
    one = hrnet("S001C001P001R001A001")
    two = hrnet("S001C002P003R001A060", label=59, persons=2)
    source = dump(tmp_path / "ntu60_hrnet.pkl", [one, two], {"xsub_train": [], "xsub_val": []})
    assert run("pyskl", source, "--out", tmp_path / "ntu60-2d") == 0
    store = Store.open(tmp_path / "ntu60-2d")
    assert store.layout == "coco" and store.class_names[59] == "walking apart"
    assert [rows.tolist() for rows in protocols.split(store, "ntu60-xsub")] == [[0], [1]]
    x = two["keypoint"][1, 3, 5, 0].astype(np.float64)
    np.testing.assert_allclose(store.clip(1)[3, 1, 5, 0], (x - 960) / 960, atol=1e-6)
    assert store.clip(1)[3, 1, 5, 2] == two["keypoint_score"][1, 3, 5]
    assert not store.clip(0)[:, 1].any()


def test_damaged_annotations_are_named(golden: Path, tmp_path: Path, capsys) -> None:
    good = hrnet("S001C001P001R001A001")
    nan = hrnet("S001C001P001R001A002", 1)
    nan["keypoint"][0, 2, 3] = np.nan
    odd = hrnet("S001C001P001R001A003", 2)
    odd["keypoint"] = odd["keypoint"][..., :16, :]
    words = {**hrnet("S001C001P001R001A004", 3), "keypoint": np.full((1, 7, 17, 2), "x")}
    no_size = hrnet("S001C001P001R001A005", 4)
    del no_size["img_shape"]
    beyond = hrnet("S001C001P001R001A006", 61)
    flat = {**hrnet("S001C001P001R001A007", 6), "img_shape": (0, 1920)}
    bad = {
        "A002: a joint is NaN": nan,
        "A003: ": odd,
        "A004: keypoint is not an array of numbers": words,
    }
    bad |= {"A005: has no 'img_shape'": no_size, "label is 120": {**beyond, "label": 120}}
    bad |= {
        "A006: label is 61, but 5 in the name": beyond,
        "A007: img_shape is (0, 1920), not": flat,
    }
    source = dump(tmp_path / "a.pkl", [good, *bad.values()], {})
    for words in bad:
        fails(capsys, words, "pyskl", source, "--out", tmp_path / "s")
    assert len(Store.open(tmp_path / "s")) == 1
    for content, words in [
        ([], "contains no annotations"),
        (3, "is not an annotation pickle"),
        ({"annotations": [good]}, "is not an annotation pickle"),
        ({"split": {}, "annotations": []}, "contains no annotations"),
        (
            {"split": {"a": []}, "annotations": [{**good, "frame_dir": "x"}]},
            "the split has a, not train and val",
        ),
        (
            {"split": {"train": ["a", "b"], "val": ["b"]}, "annotations": [hrnet("b")]},
            "b is in both train",
        ),
    ]:
        source.write_bytes(pickle.dumps(content))
        fails(capsys, words, "pyskl", source, "--out", tmp_path / "t")
    assert not (tmp_path / "t").exists()


NAMES = [  # two training subjects (1, 2), two for testing (3, 6), in the order of names
    "S001C001P001R001A001",
    "S001C001P002R001A002",
    "S001C001P003R001A003",
    "S001C002P001R001A060",
    "S001C002P003R001A001",
    "S002C001P006R001A002",
]
BY_SUBJECT = {"train": [0, 3, 1], "test": [2, 4, 5]}


def ctrgcn(path: Path, save=np.savez) -> dict[str, np.ndarray]:
    """Write an npz whose clips have 5, 6, ... frames; return the clips (T, 2, 25, 3) by name."""
    clips, arrays = {}, {}
    for part, rows in BY_SUBJECT.items():
        x, y = np.zeros((3, 300, 150), np.float32), np.zeros((3, 60))
        for i, row in enumerate(rows):
            clip = RANDOM.standard_normal((5 + row, 2, 25, 3)).astype(np.float32)
            clip[:, 1:] *= row % 2
            clip -= clip[0, 0, 1] * (clip != 0)  # as in CTR-GCN's preparation
            x[i, : len(clip)] = clip.reshape(len(clip), 150)
            y[i, int(NAMES[row][-3:]) - 1] = 1
            clips[NAMES[row]] = clip
        arrays |= {f"x_{part}": x, f"y_{part}": y}
    save(path, **arrays)
    return clips


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_ctrgcn_padding_is_removed(tmp_path: Path, save) -> None:
    clips = ctrgcn(tmp_path / "NTU60_CS.npz", save)
    assert run("ctrgcn", tmp_path / "NTU60_CS.npz", "--out", tmp_path / "s") == 0
    store = Store.open(tmp_path / "s")
    assert store.names.tolist() == [f"{part}_00000{i}" for part in BY_SUBJECT for i in range(3)]
    train, test = protocols.split(store, "given")
    assert train.tolist() == [0, 1, 2] and test.tolist() == [3, 4, 5]
    assert len(store.class_names) == 60
    for row, name in enumerate(NAMES[i] for i in BY_SUBJECT["train"] + BY_SUBJECT["test"]):
        assert store.labels[row] == int(name[-3:]) - 1
        np.testing.assert_array_equal(store.clip(row), normalize.upright(clips[name]))
        assert len(store.clip(row)) == len(clips[name])


def test_ctrgcn_names_are_restored(tmp_path: Path, capsys) -> None:
    clips = ctrgcn(tmp_path / "NTU60_CS.npz")
    available = tmp_path / "skes_available_name.txt"
    available.write_text("\n".join(NAMES))
    argv = ["ctrgcn", tmp_path / "NTU60_CS.npz", "--names", available, "--out", tmp_path / "s"]
    assert run(*argv) == 0
    store = Store.open(tmp_path / "s")
    for name, clip in clips.items():
        (row,) = store.rows_of([name], "list")
        np.testing.assert_array_equal(store.clip(row), normalize.upright(clip))
    train, _ = protocols.split(store, "ntu60-xsub")
    assert sorted(store.names[train]) == [NAMES[0], NAMES[1], NAMES[3]]
    available.write_text("\n".join(NAMES[:-1]))
    fails(capsys, "do not fit", *argv)
    available.write_text("hello")
    fails(capsys, "is not a sample name", *argv)


def test_protocol_error_suggests_the_given_split(tmp_path: Path) -> None:
    ctrgcn(tmp_path / "NTU60_CS.npz")
    assert run("ctrgcn", tmp_path / "NTU60_CS.npz", "--out", tmp_path / "s") == 0
    with pytest.raises(InputError, match=r"no 'subject'.*protocol=given"):
        protocols.split(Store.open(tmp_path / "s"), "ntu60-xsub")


def test_number_of_classes_of_npz_is_number_of_columns(tmp_path: Path, capsys) -> None:
    path, argv = tmp_path / "own.npz", ["ctrgcn", tmp_path / "own.npz", "--out", tmp_path / "s"]
    x = np.zeros((3, 300, 150), np.float32)
    x[:, :20, :75] = RANDOM.standard_normal((3, 20, 75))
    for columns, last in ((5, "class 4"), (60, "walking apart"), (61, "class 60")):
        y = np.eye(columns)[:3]
        np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
        assert run(*argv) == 0
        store = Store.open(tmp_path / "s")
        assert len(store.class_names) == columns and store.class_names[-1] == last
        assert store.labels.tolist() == [0, 1, 2] * 2
    fails(capsys, "--names: is for NTU's 60 or 120 classes", *argv, "--names", path)
    np.savez(path, x_train=x, y_train=np.eye(5)[:3], x_test=x, y_test=np.eye(4)[:3])
    fails(capsys, "y_train has 5 classes (columns), y_test has 4", *argv)


def test_damaged_ctrgcn_file_is_one_line_error(tmp_path: Path, capsys) -> None:
    path = tmp_path / "x.npz"
    argv = ["ctrgcn", path, "--out", tmp_path / "s"]
    fails(capsys, "no such file", *argv)
    ctrgcn(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    fails(capsys, str(path), *argv)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("y_train.npy", b"hello")
    fails(capsys, str(path), *argv)
    x, y = np.zeros((1, 300, 150), np.float32), np.eye(1, 60)
    x[0, 4, 7] = np.nan
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    fails(capsys, "train_000000: frame 4", *argv)
    for labels in (y * 0, -y, y + np.eye(1, 60, 3), y / 2, np.zeros(1, np.int64)):
        np.savez(path, x_train=x, y_train=labels, x_test=x, y_test=y)
        fails(capsys, "not one-hot", *argv)
    np.savez(path, x_train=x[..., :75], y_train=y, x_test=x, y_test=y)
    fails(capsys, "(1, 300, 75)", *argv)
    assert not (tmp_path / "s").exists()


def kinetics_frame(index: int, persons: list[np.ndarray]) -> dict:
    return {
        "frame_index": index,
        "skeleton": [
            {"pose": person[:, :2].ravel().tolist(), "score": person[:, 2].tolist()}
            for person in persons
        ],
    }


def kinetics(root: Path, clips: dict[str, tuple[str, int, list[dict]]]) -> None:
    """Write clips, name -> (folder, label, frames), in st-gcn's format."""
    for folder in ("train", "val"):
        (root / f"kinetics_{folder}").mkdir(parents=True, exist_ok=True)
        labels = {
            name: {
                "has_skeleton": bool(frames),
                "label": f"action {label}",
                "label_index": label,
            }
            for name, (part, label, frames) in clips.items()
            if part == folder
        }
        (root / f"kinetics_{folder}_label.json").write_text(json.dumps(labels))
    for name, (folder, label, frames) in clips.items():
        content = {"data": frames, "label": f"action {label}", "label_index": label}
        (root / f"kinetics_{folder}" / f"{name}.json").write_text(json.dumps(content))


def test_kinetics_skeleton_equals_st_gcn(tmp_path: Path) -> None:
    persons = RANDOM.uniform(0.01, 1, (5, 6, 18, 3))
    persons[1, 0, 4, 2] = 0  # a joint that was not found
    frames = [
        kinetics_frame(1, []),
        *[kinetics_frame(2 + t, list(persons[t])) for t in range(3)],
        kinetics_frame(6, [persons[3, 0]]),  # no body in frame 5
        kinetics_frame(7, []),
    ]
    kinetics(
        tmp_path,
        {"a": ("train", 1, frames), "b": ("val", 0, frames), "c": ("val", 0, [])},
    )
    assert run("kinetics-skeleton", tmp_path, "--out", tmp_path / "s") == 0
    store = Store.open(tmp_path / "s")
    assert store.names.tolist() == ["a", "b"] and store.labels.tolist() == [1, 0]
    assert store.class_names == ["action 0", "action 1"] and store.layout == "openpose"
    assert store.columns["split"].tolist() == ["train", "test"]
    assert store.meta["left_out"]["nobody"] == ["c"]
    clip = store.clip(0)
    assert clip.shape == (5, 2, 18, 3)
    assert not clip[3].any() and not clip[4, 1].any()
    for t in range(3):  # the two best of the first five persons
        best = sorted(persons[t, :5], key=lambda person: -person[:, 2].sum())[:2]
        for person, expected in zip(clip[t], best):
            expected = expected - [0.5, 0.5, 0]
            expected[expected[:, 2] == 0] = 0
            np.testing.assert_allclose(person, expected, atol=1e-6)


def test_kinetics_label_files(tmp_path: Path, capsys) -> None:
    frames = [kinetics_frame(1, [RANDOM.uniform(0.1, 1, (18, 3))])]
    kinetics(tmp_path, {"a": ("train", 0, frames), "b": ("val", 1, frames)})
    (tmp_path / "kinetics_train" / "c.json").write_text(json.dumps({"data": frames}))
    path = tmp_path / "kinetics_train_label.json"
    argv = ["kinetics-skeleton", tmp_path, "--out", tmp_path / "s"]
    entry = {"label": "action 0", "label_index": 0}
    for index in (0, 0.0, "0"):  # has_skeleton defaults to true
        path.write_text(json.dumps({"a": {**entry, "label_index": index}}))
        assert run(*argv) == 0
        assert "samples that are not in a label file: 1, e.g. c" in capsys.readouterr().out
        store = Store.open(tmp_path / "s")
        assert store.names.tolist() == ["a", "b"] and store.labels.tolist() == [0, 1]
        assert store.meta["left_out"]["unlabeled"] == ["c"]
    for entries, words in [
        ({"a": entry, "c": {**entry, "label": "wave"}}, "c: label_index 0 is 'wave' here, but 'ac"),
        (
            {"a": entry, "c": {**entry, "label_index": 1}},
            "c: 'action 0' has label_index 1 here and 0",
        ),
        ({"a": {**entry, "label_index": 1.5}}, "a: label_index 1.5 is not a class"),
        ({"a": {**entry, "label_index": -1}}, "a: label_index -1 is not a class"),
        ({"a": {"label": "x"}}, "a: has no 'label' or no 'label_index'"),
        ({"a": 3}, "a: has no 'label' or no 'label_index'"),
    ]:
        path.write_text(json.dumps(entries))
        fails(capsys, f"{path}: {words}", *argv)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda person: person - [0.5, 0.5, 0], "% of the joints have a negative x or y"),
        (lambda person: person * [2, 2, 1] - [1, 1, 0], "% of the joints have a negative x or y"),
        (lambda person: person * [1, 1, 0], "no score (third channel"),
    ],
)
def test_kinetics_in_another_form_is_refused(tmp_path: Path, capsys, change, words) -> None:
    """Around the center of the image, from -1 to 1, and without scores."""
    person = RANDOM.uniform(0.1, 0.9, (18, 3))
    frames = [kinetics_frame(1, [change(person)])]
    kinetics(tmp_path, {"a": ("train", 0, frames), "b": ("val", 1, [kinetics_frame(1, [person])])})
    argv = ["kinetics-skeleton", tmp_path, "--out", tmp_path / "s"]
    assert run(*argv) == 2
    said = capsys.readouterr().err
    assert words in said and f"{tmp_path}/kinetics_train/a.json: " in said
    assert Store.open(tmp_path / "s").names.tolist() == ["b"]


def test_an_empty_pose_of_kinetics_is_nobody(tmp_path: Path) -> None:
    person = RANDOM.uniform(0.1, 1, (18, 3))
    frames = [kinetics_frame(t, [person[:0], person]) for t in range(3)]
    kinetics(tmp_path, {"a": ("train", 0, frames), "b": ("val", 0, frames)})
    assert run("kinetics-skeleton", tmp_path, "--out", tmp_path / "s") == 0
    clip = Store.open(tmp_path / "s").clip(0)
    assert not clip[:, 1].any()
    np.testing.assert_allclose(clip[:, 0, :, 0], [person[:, 0] - 0.5] * 3, atol=1e-6)


def test_kinetics_classes_can_have_gaps(tmp_path: Path) -> None:
    """A subset keeps its labels; the classes in between have no samples."""
    frames = [kinetics_frame(1, [RANDOM.uniform(0.1, 1, (18, 3))])]
    kinetics(tmp_path, {"a": ("train", 1, frames), "b": ("val", 4, frames)})
    assert run("kinetics-skeleton", tmp_path, "--out", tmp_path / "s") == 0
    store = Store.open(tmp_path / "s")
    assert store.labels.tolist() == [1, 4]
    assert store.class_names == ["class 0", "action 1", "class 2", "class 3", "action 4"]


def test_damaged_kinetics_file_error_names_file_and_element(tmp_path: Path, capsys) -> None:
    person = RANDOM.uniform(0.1, 1, (18, 3))
    good = [kinetics_frame(0, [person])]
    argv = ["kinetics-skeleton", tmp_path, "--out", tmp_path / "s"]
    kinetics(tmp_path, {"a": ("train", 0, good), "b": ("val", 0, good)})
    path = tmp_path / "kinetics_train" / "a.json"
    score = person[:, 2].tolist()
    for frames, words in [
        ([kinetics_frame(0, [person[:17]])], "element 0"),
        ([*good, kinetics_frame(0, [person])], "element 1 of 'data': duplicate frame_index 0"),
        ([*good, kinetics_frame(10**9, [person])], "element 1 of 'data': frame_index"),
        ([*good, {"frame_index": 1}], "element 1 of 'data': has no"),
        ([*good, {"frame_index": 1, "skeleton": [{"pose": "x", "score": score}]}], "numbers"),
        ([*good, 3], "element 1"),
        (
            [*good, {"frame_index": 1, "skeleton": [{"pose": [0.5] * 54, "score": score}]}],
            "a pose has 54 numbers and 18 scores; expected 36 (x and y) and 18",
        ),
    ]:
        listed = ",\n".join(map(json.dumps, frames))
        path.write_text(f'{{"label_index": 0, "data": [{listed}]}}')
        fails(capsys, f"{path}: element {len(frames) - 1} of 'data': ", *argv)
        fails(capsys, words, *argv)
    path.write_text(json.dumps({"data": [kinetics_frame(0, [person * np.inf])], "label_index": 0}))
    fails(capsys, f"{path}: frame 0 has a joint that is NaN or infinite", *argv)
    path.write_text(json.dumps({"data": good, "label_index": 1}))
    fails(capsys, "label_index is 1, but 0 in the label file", *argv)
    path.unlink()
    fails(capsys, str(path), *argv)
    (tmp_path / "kinetics_val_label.json").write_text('{"b": {"label": "x"}}')
    fails(capsys, "kinetics_val_label.json: b", *argv)


LAYOUT = """
joints: [hip, chest, head, left hand, right hand]
edges: [[1, 0], [2, 1], [3, 1], [4, 1]]
parent: [0, 0, 1, 1, 1]
flip: [0, 1, 2, 4, 3]
upper: [1, 2, 3, 4]
centre: 1
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Three clips of five joints in three file formats, with a layout and a CSV."""
    clips = [RANDOM.standard_normal(shape) for shape in ((4, 5, 3), (6, 2, 5, 3), (2, 1, 5, 3))]
    (tmp_path / "clips").mkdir()
    np.save(tmp_path / "clips/a.npy", clips[0])
    np.savez(tmp_path / "clips/b.npz", clips[1])
    (tmp_path / "clips/c.json").write_text(json.dumps(clips[2].tolist()))
    (tmp_path / "stick.yaml").write_text(LAYOUT)
    table = "file,label,split\nclips/a.npy,wave,train\nclips/b.npz,bow,val\nclips/c.json,wave,\n"
    (tmp_path / "labels.csv").write_text(table)
    np.savez(tmp_path / "expected.npz", *[c if c.ndim == 4 else c[:, None] for c in clips])
    return tmp_path


def test_custom_clips(own: Path) -> None:
    layout = own / "stick.yaml"
    argv = ["custom", own / "labels.csv", "--layout", layout, "--out", own / "s"]
    assert run(*argv) == 0
    layout.unlink()  # the store has its own copy
    store = Store.open(own / "s")
    assert graph.load(store.layout).parent == (0, 0, 1, 1, 1)
    assert store.names.tolist() == ["clips/a", "clips/b", "clips/c"]
    assert store.class_names == ["bow", "wave"] and store.labels.tolist() == [1, 0, 1]
    train, test = protocols.split(store, "given")
    assert train.tolist() == [0] and test.tolist() == [1]  # c is in neither
    expected = np.load(own / "expected.npz")
    for row, key in enumerate(expected.files):
        clip = expected[key]
        expected_clip = clip - clip[0, 0, 1]
        np.testing.assert_allclose(store.clip(row)[:, : clip.shape[1]], expected_clip, atol=1e-6)
        assert not store.clip(row)[:, clip.shape[1] :].any()


def test_csv_spaces_and_byte_order_mark_are_ignored(own: Path) -> None:
    argv = ["custom", own / "labels.csv", "--layout", own / "stick.yaml", "--out", own / "s"]
    table = "\ufefffile, label, split\nclips/a.npy, wave, train \nclips/c.json ,wave,test\n"
    (own / "labels.csv").write_text(table)
    assert run(*argv) == 0
    store = Store.open(own / "s")
    assert store.class_names == ["wave"] and store.names.tolist() == ["clips/a", "clips/c"]
    assert store.columns["split"].tolist() == ["train", "test"]


def test_custom_reader_rejects_impossible_options(own: Path, capsys) -> None:
    """Options that would give a store with wrong coordinates, or an unusable one."""
    np.save(own / "clips/a.npy", np.ones((3, 17, 3)))
    np.savez(own / "clips/b.npz", joints=np.ones((3, 17, 3)), layout="openpose")
    table = own / "labels.csv"
    table.write_text("file,label\nclips/a.npy,1\n")
    argv = ["custom", table, "--out", own / "s", "--layout"]
    for more, words in [
        (["coco", "--normalise", "upright"], "coco has 2D poses"),
        (["coco", "--normalise", "centred"], "coco has 2D poses"),
        (
            ["coco", "--image-size", 0, 640],
            "--image-size: must be height and width in pixels, not [0, 640]",
        ),
        (["coco", "--normalise", "none", "--persons", 0], "--persons: must be at least 1, not 0"),
        (["coco", "--normalise", "none", "--channels", 5], "--channels"),
        ([own / "stick.yaml", "--normalise", "upright"], "--normalize upright: needs"),
        (["h36m", "--normalise", "upright"], "--normalize upright: needs"),  # other joints
        (["coco", "--normalise", "none", "--chanels", 3], "did you mean --channels?"),
    ]:
        fails(capsys, words, *argv, *more)
    table.write_text("file,label\nclips/b.npz,1\n")
    fails(capsys, "b.npz: has layout openpose, not coco", *argv, "coco", "--normalise", "none")
    np.savez(own / "clips/b.npz", np.ones((3, 17, 3)), np.ones(4))
    fails(capsys, "b.npz: contains ['arr_0', 'arr_1']", *argv, "coco", "--normalise", "none")
    assert not (own / "s").exists()


def test_custom_2d_poses_are_scaled_by_image_size(own: Path, capsys) -> None:
    poses = RANDOM.uniform(1, 400, (3, 17, 3)) * [1, 0.6, 1 / 400]
    np.save(own / "clips/a.npy", poses)
    (own / "labels.csv").write_text("file,label\nclips/a.npy,1\n")
    argv = ["custom", own / "labels.csv", "--layout", "coco", "--persons", 1, "--out", own / "s"]
    fails(capsys, "--image-size", *argv)
    assert run(*argv, "--image-size", 240, 400) == 0
    store = Store.open(own / "s")
    assert store.class_names == ["class 0", "class 1"] and not store.columns
    np.testing.assert_allclose(store.clip(0)[:, 0, :, 0], poses[..., 0] / 200 - 1, atol=1e-5)
    np.testing.assert_allclose(store.clip(0)[:, 0, :, 1], poses[..., 1] / 120 - 1, atol=1e-5)
    np.testing.assert_allclose(store.clip(0)[:, 0, :, 2], poses[..., 2], atol=1e-4)


def test_invalid_custom_data_error_names_file_and_line(own: Path, capsys) -> None:
    table = own / "labels.csv"
    argv = ["custom", table, "--layout", own / "stick.yaml", "--out", own / "s"]
    fails(capsys, "is not a known layout", "custom", table, "--layout", "stick", "--out", own / "s")
    fails(capsys, "b.npz: has 2 persons", *argv, "--persons", 1)
    nan = np.ones((4, 5, 3))
    nan[2] = np.nan
    for content, words in [
        (np.ones((4, 6, 3)), "a.npy: has shape (4, 1, 6, 3)"),
        (np.ones((4, 5)), "a.npy: has shape (4, 5)"),
        (nan, "a.npy: 1 of 4 frames have a joint that is NaN or infinite, the first is frame 2"),
        (np.array(["x"]), "a.npy: not an array of numbers"),
        (np.array([{}]), "a.npy: cannot be read"),
    ]:
        np.save(own / "clips/a.npy", content)
        fails(capsys, words, *argv)
    (own / "clips/a.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr'")
    fails(capsys, "a.npy: cannot be read as a clip", *argv)
    (own / "clips/c.json").write_text("[[[1, 2, 3]],\n[[1, 2]]]")
    fails(capsys, "c.json: frame 1", *argv)
    for text, words in [
        ("clips/a.npy,wave\n", "line 1: the header is"),
        ("file|label\nclips/a.npy|wave\n", "line 1: the header is 'file|label'"),
        ("file,label,split\nclips/a.npy,wave,part one\n", "line 2: split 'part one'"),
        ("file,label\nclips/a.npy,wave,train\n", "line 2: has more fields than the header"),
        ("file,label\na.npy,wave\nb.npy,wave\n./a.npy,bow\n", "line 4: ./a.npy is a duplicate of"),
        ("file,label\nclips/a.npy\n", "line 2: file or label is empty"),
        ("file,label\n", "contains no files"),
        ("file,label\nclips/none.npy,1\n", "none.npy: no such file"),
        ("file,label\nclips/a.npy,123456789\n", "label 123456789"),
    ]:
        table.write_text(text)
        fails(capsys, words, *argv)
