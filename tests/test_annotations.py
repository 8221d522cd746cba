"""Annotation pickles in the wild: several splits, plain lists, invalid labels."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from data import prepare, protocols
from data.store import Store
from errors import run_command

NAMES = [f"clip{number:03}" for number in range(12)]
POSES = np.random.default_rng(0).uniform(50, 430, (12, 1, 20, 17, 2))


def annotation(number: int, **changes) -> dict:
    values = {
        "frame_dir": NAMES[number],
        "label": number % 3,
        "img_shape": (480, 640),
        "total_frames": 20,
        "keypoint": POSES[number].astype(np.float16),
        "keypoint_score": np.full((1, 20, 17), 0.5, np.float16),
    }
    return values | changes


ALL = [annotation(number) for number in range(12)]
USUAL = {"train": NAMES[:8], "val": NAMES[8:]}


def pyskl(folder: Path, content: object, *more: object) -> int:
    (folder / "a.pkl").write_bytes(pickle.dumps(content))
    argv = ["pyskl", folder / "a.pkl", "--out", folder / "s", "--workers", 1, *more]
    return run_command(prepare.main, list(map(str, argv)))


def parts(folder: Path) -> list[list[int]]:
    """Return the numbers of the training and the test clips."""
    store = Store.open(folder / "s")
    return [
        [int(name[4:]) for name in store.names[rows]] for rows in protocols.split(store, "given")
    ]


@pytest.mark.parametrize(
    ("split", "more", "train", "test"),
    [
        # The forms of FineGYM, Diving48, UCF101 and HMDB51.
        ({"train": NAMES[:8], "val": NAMES[8:]}, [], range(8), range(8, 12)),
        ({"train": NAMES[:8], "test": NAMES[8:]}, [], range(8), range(8, 12)),
        ({"train1": NAMES[:8], "test1": NAMES[8:], "train2": NAMES[4:], "test2": NAMES[:4]},
         ["--split", "1"], range(8), range(8, 12)),
        ({"train1": NAMES[:8], "test1": NAMES[8:], "train2": NAMES[4:], "test2": NAMES[:4]},
         ["--split", "2"], range(4, 12), range(4)),
        ({"sub_train": NAMES[:8], "sub_val": NAMES[8:], "train": NAMES[4:], "val": NAMES[:4]},
         ["--split", "sub"], range(8), range(8, 12)),
        # The only split needs no --split.
        ({"xsub_train": NAMES[:8], "xsub_val": NAMES[8:]}, [], range(8), range(8, 12)),
        ({"train": NAMES[:6], "val": NAMES[6:8], "test": NAMES[8:]}, [], range(6), range(8, 12)),
        ({"train": NAMES[:6], "val": NAMES[6:8], "test": NAMES[8:]}, ["--test-split", "val"],
         range(6), range(6, 8)),
        # Names of parts as in a CSV.
        ({"training": NAMES[:6], "validation": NAMES[6:8], "testing": NAMES[8:]}, [],
         range(6), range(8, 12)),
        ({"Train": NAMES[:8], "VALID": NAMES[8:]}, [], range(8), range(8, 12)),
    ],
)  # fmt: skip
def test_split_selection(tmp_path: Path, split, more, train, test) -> None:
    assert pyskl(tmp_path, {"split": split, "annotations": ALL}, *more) == 0
    assert parts(tmp_path) == [list(train), list(test)]


def test_samples_outside_the_split_and_unmatched_names_are_counted(tmp_path: Path, capsys) -> None:
    split = {"train": NAMES[:7], "val": [f"{name}.mp4" for name in NAMES[8:11]] + NAMES[11:]}
    assert pyskl(tmp_path, {"split": split, "annotations": ALL}) == 0
    assert parts(tmp_path) == [list(range(7)), [11]]
    left_out = Store.open(tmp_path / "s").meta["left_out"]
    assert left_out["unmatched"] == ["clip008.mp4", "clip009.mp4", "clip010.mp4"]
    assert left_out["no_part"] == ["clip007", "clip008", "clip009", "clip010"]
    out = capsys.readouterr().out
    assert "names in the split without a sample: 3, e.g. clip008.mp4" in out
    assert "samples outside the split (neither training nor test): 4, e.g. clip007" in out


EXTENSIONS = [f"{name}.mp4" for name in NAMES]


@pytest.mark.parametrize(
    ("content", "more", "words"),
    [
        ({"split": {"train": EXTENSIONS[:8], "val": EXTENSIONS[8:]}, "annotations": ALL}, [],
         "none of the 8 names in train is the frame_dir of an annotation: 'clip000.mp4', but "
         "annotations have 'clip000'"),
        ({"split": {"train": NAMES[:8], "val": EXTENSIONS[8:]}, "annotations": ALL}, [],
         "none of the 4 names in test"),
        ({"split": {"train": NAMES[:8], "val": []}, "annotations": ALL}, [],
         "none of the 0 names in test is the frame_dir of an annotation: nothing"),
        ({"split": {"train1": [], "test1": [], "train2": [], "test2": []}, "annotations": ALL}, [],
         "has several splits; give --split: 1, 2"),
        ({"split": {"train1": NAMES, "test1": []}, "annotations": ALL}, ["--split", 3],
         "the split has train1, test1, not train3 and val3 (or test3)"),
        ({"split": USUAL, "annotations": ALL}, ["--test-split", "test"],
         "--test-split test: the split of"),
        ({"split": USUAL, "annotations": ALL}, ["--split", 0.3], "already has a split"),
        ({"split": {"train": "clip000", "val": NAMES}, "annotations": ALL}, [],
         "the values are not lists of frame_dir"),
        (ALL, [], "has no split; draw one, e.g. --split 0.3"),
        (ALL[0], [], "is a single annotation (clip000); a data set is {'split':"),
        ({"split": USUAL, "annotations": [*ALL[:11], annotation(11, label="wave")]}, [],
         "clip011: label wave is a word, but others are numbers"),
        ({"split": USUAL, "annotations": [*ALL[:11], annotation(11, label=-1)]}, [],
         "clip011: label -1 is not a class"),
        ({"split": USUAL, "annotations": [*ALL[:11], annotation(11, label=2.7)]}, [],
         "clip011: label 2.7 is not a class"),
        ({"split": USUAL, "annotations": [*ALL[:11], annotation(11, label=[0, 2])]}, [],
         "clip011: label [0, 2] is neither a number nor a name"),
        ({"split": USUAL, "annotations": [*ALL[:11], {"frame_dir": "clip011"}]}, [],
         "clip011: has no 'label'"),
        ({"split": USUAL, "annotations": [*ALL[:11], {"label": 0}]}, [],
         "annotation 11 has no 'frame_dir'"),
        ({"split": USUAL, "annotations": [annotation(0, keypoint=POSES[0][..., :16, :])]}, [],
         "clip000: the last two axes of 'keypoint' are (16, 2)"),
        ({"split": USUAL, "annotations": ALL}, ["--threshold", 0.5],
         "is not in the compressed form"),
        ({"split": USUAL, "annotations": ALL}, ["--kpfiles", "."], "contains its keypoints"),
        ({"split": USUAL, "annotations": ALL}, ["--normalize", "centered"], "contains 2D poses"),
        ({"split": USUAL, "annotations": ALL}, ["--seed", 1], "has a split, so none is drawn"),
    ],
)  # fmt: skip
def test_invalid_pickle_is_one_line_error(tmp_path: Path, capsys, content, more, words) -> None:
    assert pyskl(tmp_path, content, *more) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and words in err and err.count("\n") == 1, err
    assert str(tmp_path / "a.pkl") in err and not (tmp_path / "s").exists()


def test_3d_poses_can_be_centered_without_a_rotation(tmp_path):
    random = np.random.default_rng(0)
    clips = random.normal(size=(2, 1, 15, 25, 3)).astype(np.float32)
    names = ["S001C001P001R001A001", "S001C001P003R001A002"]
    content = {
        "split": {"xsub_train": names[:1], "xsub_val": names[1:]},
        "annotations": [
            {"frame_dir": name, "label": label, "total_frames": 15, "keypoint": clip}
            for label, (name, clip) in enumerate(zip(names, clips))
        ],
    }
    assert pyskl(tmp_path, content, "--normalize", "centered") == 0
    store = Store.open(tmp_path / "s")
    assert store.normalization == "unaligned"
    np.testing.assert_allclose(store.clip(1)[:, 0], clips[1, 0] - clips[1, 0, 0, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"img_shape": None}, "img_shape is None, not (height, width) in pixels"),
        ({"img_shape": (480, 0)}, "img_shape is (480, 0), not"),
        ({"img_shape": 480}, "img_shape is 480, not"),
        ({"keypoint": POSES[0][0]}, "keypoint is (20, 17, 2), not (M, T, V, C)"),
        ({"keypoint": None}, "keypoint is not an array of numbers"),
        ({"keypoint": [[1, 2], [3]]}, "keypoint is not an array of numbers"),
        ({"keypoint_score": np.ones((1, 19, 17))}, "keypoint (1, 20, 17, 2) and keypoint_score"),
    ],
)
def test_invalid_annotation_does_not_affect_the_others(tmp_path, capsys, changes, words) -> None:
    content = {"split": USUAL, "annotations": [annotation(0, **changes), *ALL[1:]]}
    assert pyskl(tmp_path, content) == 2
    line, _ = capsys.readouterr().err.splitlines()
    assert line.startswith(f"unreadable: {tmp_path}/a.pkl: clip000: {words}"), line
    assert parts(tmp_path) == [list(range(1, 8)), list(range(8, 12))]


def test_plain_list_with_random_split(tmp_path: Path) -> None:
    assert pyskl(tmp_path, ALL, "--split", 0.3) == 0
    train, test = parts(tmp_path)
    assert sorted(train + test) == list(range(12))
    assert [sum(number % 3 == label for number in test) for label in range(3)] == [1, 1, 1]


def test_integer_pixels_and_poses_without_scores(tmp_path: Path) -> None:
    whole = POSES.astype(np.int32)
    annotations = [annotation(i, keypoint=whole[i]) for i in range(12)]
    del annotations[1]["keypoint_score"]
    whole[1, 0, 3, 5] = 0  # unseen
    assert pyskl(tmp_path, {"split": USUAL, "annotations": annotations}) == 0
    store = Store.open(tmp_path / "s")
    expected = (whole[2, 0] - [320, 240]) / [320, 240]
    np.testing.assert_allclose(store.clip(2)[:, 0, :, :2], expected, atol=1e-6)
    assert (store.clip(2)[:, 0, :, 2] == 0.5).all()
    scores = store.clip(1)[:, 0, :, 2]
    assert scores[3, 5] == 0 and scores.sum() == scores.size - 1


def test_labels_as_words_and_as_numbers(tmp_path: Path) -> None:
    words = [annotation(i, label=f"A{i}") for i in range(12)]
    assert pyskl(tmp_path, {"split": USUAL, "annotations": words}) == 0
    store = Store.open(tmp_path / "s")
    assert store.class_names == [f"A{i}" for i in range(12)]
    assert store.labels.tolist() == list(range(12))
    spelled = [annotation(i, label=np.float64(i) if i % 2 else str(i)) for i in range(12)]
    assert pyskl(tmp_path, {"split": USUAL, "annotations": spelled}) == 0
    assert Store.open(tmp_path / "s").labels.tolist() == list(range(12))


def test_ntu_names_exclude_split_flags(tmp_path: Path, capsys) -> None:
    clips = [annotation(0, frame_dir=f"S001C001P00{i}R001A001", label=0) for i in (1, 3)]
    for flags in (["--split", "xsub"], ["--test-split", "val"]):
        assert pyskl(tmp_path, {"split": {}, "annotations": clips}, *flags) == 2
        assert "has names of NTU RGB+D, which determine the split" in capsys.readouterr().err
    assert pyskl(tmp_path, clips) == 0  # a plain list needs no split
    assert Store.open(tmp_path / "s").columns["subject"].tolist() == [1, 3]


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ({"trainval": NAMES[:8], "test": NAMES[8:]}, "has trainval, test, not train and val"),
        ({"train": NAMES[:8], "training": NAMES[:2], "val": NAMES[8:]},
         "both train and training are for train"),
        ({"train": NAMES[:8], "test1": NAMES[8:]}, "has train, test1, not train and val (or test)"),
    ],
)  # fmt: skip
def test_splits_that_can_be_understood_in_two_ways(tmp_path: Path, capsys, split, words) -> None:
    assert pyskl(tmp_path, {"split": split, "annotations": ALL}) == 2
    assert words in capsys.readouterr().err


def test_a_backslash_is_a_separator(tmp_path: Path) -> None:
    clips = [
        ALL[n] | {"frame_dir": f"{'v/' if n % 2 else 'v' + chr(92)}{NAMES[n]}"} for n in (0, 1, 2)
    ]
    split = {"train": [f"v{chr(92)}{NAMES[1]}", f"v/{NAMES[0]}"], "val": [f"v/{NAMES[2]}"]}
    assert pyskl(tmp_path, {"split": split, "annotations": clips}) == 0
    store = Store.open(tmp_path / "s")
    assert store.names.tolist() == [f"v/{NAMES[n]}" for n in (0, 1, 2)]
    assert store.columns["split"].tolist() == ["train", "train", "test"]


@pytest.mark.parametrize("frames", [20, 3])
def test_frames_before_persons_are_refused(tmp_path: Path, capsys, frames) -> None:
    """(T, M, V, C), of which two persons would be left, and one frame per person."""
    clips = [
        annotation(
            number,
            keypoint=POSES[number, 0, :frames, None],
            keypoint_score=np.ones((frames, 1, 17)),
            total_frames=frames,
        )
        for number in range(12)
    ]
    assert pyskl(tmp_path, {"split": USUAL, "annotations": clips}) == 2
    assert f"1 frames of {frames} persons; persons come first" in capsys.readouterr().err


def test_shares_of_the_image_are_refused_with_a_way_that_there_is(tmp_path: Path, capsys) -> None:
    clips = [annotation(number, keypoint=POSES[number] / 500) for number in range(12)]
    assert pyskl(tmp_path, {"split": USUAL, "annotations": clips}) == 2
    said = capsys.readouterr().err
    assert "give img_shape 1 1" in said and "--image-size" not in said
