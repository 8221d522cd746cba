"""Files of pose estimators and st-gcn: order of frames and persons, empty poses, errors."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from data import clip_file, convert, normalize, prepare
from data.readers import pose_json, st_gcn
from data.store import Store, StoreWriter
from errors import InputError, run_command

IN_3D = ("h36m-17", "h36m", None)
RANDOM = np.random.default_rng(0)


def openpose(folder: Path, files: dict[str, list[list[float]]], key="pose_keypoints_2d") -> Path:
    folder.mkdir()
    for name, people in files.items():
        content = {"version": 1.3, "people": [{key: pose} for pose in people]}
        (folder / name).write_text(json.dumps(content))
    return folder


def pose(x: float) -> list[float]:
    """18 joints at x."""
    return [x, 50.0, 0.9] * 18


@pytest.mark.parametrize("name", ["{}_keypoints.json", "img ({}).json", "v2_{:012}_keypoints.json"])
def test_frames_are_sorted_by_number(tmp_path: Path, name: str) -> None:
    folder = openpose(tmp_path / "p", {name.format(t): [pose(100 + t)] for t in range(12)})
    joints = pose_json.read_openpose(folder).joints
    assert joints.shape == (12, 2, 18, 3) and not joints[:, 1].any()
    assert joints[:, 0, 0, 0].tolist() == [100 + t for t in range(12)]
    assert pose_json.read_openpose(folder).doubt == ""


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([0, 1, 4, 5], "frames 2 to 3 are missing between 0 and 5"),
        ([8, 9, 11, 14], "frames 10, 12 to 13 are missing between 8 and 14"),
        ([0, 5, 10, 20], "frames 15 are missing between 0 and 20"),  # every fifth frame
        ([0, 5, 10, 15], ""),
        ([7], ""),
    ],
)
def test_missing_frames_are_reported(
    tmp_path: Path, capsys, frames: list[int], message: str
) -> None:
    folder = openpose(tmp_path / "p", {f"{t}.json": [pose(100)] for t in frames})
    out = tmp_path / "c.npz"
    argv = ["--from", "openpose-18", "--to", "openpose", folder, "--image-size", 240, 320]
    assert run_command(convert.main, [*map(str, argv), "--out", str(out)]) == 0
    err = capsys.readouterr().err
    assert (message in err and err.count("\n") == 1) if message else not err
    assert len(clip_file.read(out).joints) == len(frames)


def test_two_recordings_in_a_folder_are_rejected(tmp_path: Path) -> None:
    folder = openpose(
        tmp_path / "p", {f"{v}_{t}_keypoints.json": [pose(1)] for v in "ab" for t in "01"}
    )
    with pytest.raises(InputError, match=r"frame 0 is found twice, as a_0_keypoints.json and b_0_"):
        pose_json.read_openpose(folder)


def test_recordings_that_go_on_in_their_numbers_are_no_clip(tmp_path: Path) -> None:
    names = [f"a_{t:012}_keypoints.json" for t in range(3)]
    names += [f"b_{t:012}_keypoints.json" for t in range(3, 6)]
    folder = openpose(tmp_path / "p", {name: [pose(100)] for name in names})
    with pytest.raises(InputError, match="give every recording a folder of its own"):
        pose_json.read_openpose(folder)


@pytest.mark.parametrize("nan", clip_file.NAN)
def test_nan_in_files_of_estimators_is_what_nan_says(tmp_path: Path, capsys, nan: str) -> None:
    """The second person of the second frame has a joint that is NaN, and the higher scores."""
    one, other = [100.0, 50.0, 0.5] * 17, [200.0, 60.0, 0.9] * 17
    gone = [200.0, 60.0, 0.9] * 16 + [float("nan")] * 3
    people = [[one, other], [one, gone], [one, other]]
    out, folder, table = tmp_path / "c.npz", tmp_path / "p", tmp_path / "a.json"
    openpose(folder, {f"{t}.json": poses for t, poses in enumerate(people)})
    found = [(t, idx, pose) for t, poses in enumerate(people) for idx, pose in enumerate(poses)]
    entries = [{"image_id": f"{t}.jpg", "idx": idx, "keypoints": pose} for t, idx, pose in found]
    table.write_text(json.dumps(entries))
    for source in (folder, table):
        argv = ["--from", "coco-17", "--to", "coco", source, "--image-size", 100, 400]
        code = run_command(convert.main, [*map(str, argv), "--nan", nan, "--out", str(out)])
        if nan == "refuse":
            assert code == 2 and "the first is frame 1" in capsys.readouterr().err
            continue
        joints = clip_file.read(out).joints
        last = {"zero": (0, 0, 0), "interpolate": (0, 0.2, 0.9)}[nan]
        np.testing.assert_allclose(joints[1, 0, 16], last, atol=1e-6)
        np.testing.assert_allclose(joints[1, 0, 15], (0, 0.2, 0.9), atol=1e-6)
        np.testing.assert_allclose(joints[1, 1, 16], (-0.5, 0, 0.5), atol=1e-6)


def test_gaps_of_alphapose_are_told(tmp_path: Path, capsys) -> None:
    path, out = tmp_path / "a.json", tmp_path / "c.npz"
    alphapose(path, [(f"{t}.jpg", 0, 100.0 + t) for t in (1, 2, 5, 10)])
    argv = ["--from", "coco-17", "--to", "coco", str(path), "--image-size", "240", "320"]
    assert run_command(convert.main, [*argv, "--out", str(out)]) == 0
    assert "frames 3 to 4, 6 to 9 are missing between 1 and 10" in capsys.readouterr().err
    assert len(clip_file.read(out).joints) == 4
    (tmp_path / "labels.csv").write_text("file,label,split\na.json,wave,train\n")
    own = ["custom", str(tmp_path / "labels.csv"), "--layout", "coco", "--persons", "1"]
    own += ["--image-size", "240", "320", "--out", str(tmp_path / "store"), "--workers", "1"]
    assert run_command(prepare.main, own) == 0
    assert f"warning: {path}: frames 3 to 4, 6 to 9 are missing" in capsys.readouterr().out


def test_another_image_size_than_the_files_is_refused(tmp_path: Path, capsys) -> None:
    poses, file = RANDOM.uniform(1, 100, (3, 17, 3)) / [1, 1, 100], tmp_path / "a.npz"
    np.savez(file, joints=poses, image_size=[100, 400])
    argv = ["--from", "coco-17", "--to", "coco", str(file), "--out", str(tmp_path / "c.npz")]
    assert run_command(convert.main, [*argv, "--image-size", "100", "200"]) == 2
    assert "contains the image size 100 400, not --image-size 100 200" in capsys.readouterr().err
    for size in ([], ["--image-size", "100", "400"]):
        assert run_command(convert.main, [*argv, *size]) == 0
        found = clip_file.read(tmp_path / "c.npz").joints[:, 0, :, 0]
        np.testing.assert_allclose(found, poses[..., 0] / 200 - 1, atol=1e-6)


@pytest.mark.parametrize("suffix", [".npz", ".json"])
def test_what_a_file_says_of_its_clip_is_read(tmp_path: Path, suffix: str) -> None:
    path, poses = tmp_path / f"a{suffix}", RANDOM.uniform(0, 1, (3, 17, 3))
    for size, is_right in (([1080, 1920], True), ([1080], False), ([-1, 5], False)):
        if suffix == ".npz":
            np.savez(path, joints=poses, layout="h36m", image_size=size)
        else:
            said = {"joints": poses.tolist(), "layout": "h36m", "image_size": size}
            path.write_text(json.dumps(said))
        if is_right:
            clip = clip_file.read(path)
            assert (clip.layout, clip.image_size) == ("h36m", (1080, 1920))
        else:
            with pytest.raises(InputError, match=r"image_size is .*, not \(height, width\) in pix"):
                clip_file.read(path)


def test_positions_around_the_center_of_the_image_are_refused(tmp_path: Path) -> None:
    """Pixels counted from the center, and MediaPipe's landmarks in meters from the hips."""
    pixels = np.concatenate([RANDOM.uniform(-200, 200, (9, 17, 2)), np.ones((9, 17, 1))], -1)
    world = RANDOM.uniform([-0.4, -0.7, -0.3], [0.4, 0.9, 0.3], (9, 33, 3))
    for joints, form, size in ((pixels, "coco-17", (480, 640)), (world, "mediapipe-33", None)):
        with pytest.raises(InputError, match="% of the joints have a negative x or y"):
            convert.convert(joints, form, "coco", size)
    within = pixels + (320, 240, 0)
    np.testing.assert_allclose(
        convert.convert(within, "coco-17", "coco", (480, 640))[:, 0, :, :2],
        pixels[..., :2] / (320, 240), atol=1e-6,
    )  # fmt: skip
    within[:, :4, 0] -= 500  # a fourth of the body has left the image
    assert convert.convert(within, "coco-17", "coco", (480, 640)).shape == (9, 1, 17, 3)


def test_an_empty_pose_is_nobody_and_the_old_key_is_read(tmp_path: Path) -> None:
    folder = openpose(tmp_path / "p", {"0.json": [[], pose(1)], "1.json": [[]], "2.json": []})
    joints = pose_json.read_openpose(folder).joints
    assert joints.shape[0] == 3 and (joints[0, 0, :, 0] == 1).all() and not joints[1:].any()
    old = openpose(tmp_path / "old", {"0.json": [pose(3)]}, key="pose_keypoints")
    assert (pose_json.read_openpose(old).joints[0, 0, :, 0] == 3).all()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            '{"people": [\n{"keypoints": []}]}',
            "0.json: person 0 has no 'pose_keypoints_2d'",
        ),
        (
            '{"people": [{"pose_keypoints_2d": [1, 2]}]}',
            "0.json: person 0: the pose is not",
        ),
        (
            '{"people": [{"pose_keypoints_2d": [1, 2, "x"]}]}',
            "the pose is not a list of x, y, score",
        ),
        ('{"people": 3}', "'people' is missing or not a list"),
        ('{"people": []}', "contains no people"),
        ("{", "0.json: line 1"),
    ],
)
def test_invalid_openpose_file_is_named(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "0.json").write_text(content)
    with pytest.raises(InputError) as error:
        pose_json.read_openpose(tmp_path)
    assert words in str(error.value)


def alphapose(path: Path, people: list[tuple[str, object, float]]) -> Path:
    """Write persons (image, idx, x); all 17 joints are at x, with score 1 / x."""
    entries = [
        {"image_id": image, "category_id": 1, "keypoints": [x, 2.0, 1 / x] * 17, "score": 2.9}
        | ({} if idx is None else {"idx": idx})
        for image, idx, x in people
    ]
    path.write_text(json.dumps(entries))
    return path


def test_alphapose_persons_keep_their_index(tmp_path: Path) -> None:
    tracked = [("10.jpg", [1.0], 9), ("10.jpg", [0.0], 4), ("9.jpg", 0, 3), ("8.jpg", 1, 8)]
    clip = clip_file.read(alphapose(tmp_path / "a.json", tracked))
    assert clip.layout == "coco" and clip.joints.shape == (3, 2, 17, 3)
    assert clip.joints[:, :, 0, 0].tolist() == [[0, 8], [3, 0], [4, 9]]  # 0 has the higher scores
    loose = [("f2.jpg", None, 9), ("f2.jpg", None, 4), ("f10.jpg", None, 3)]
    clip = clip_file.read(alphapose(tmp_path / "b.json", loose))
    assert clip.joints[:, :, 0, 0].tolist() == [[4, 9], [3, 0]]  # sorted by score
    with pytest.raises(InputError, match=r"c.json: 1.jpg: two persons have the same idx"):
        clip_file.read(alphapose(tmp_path / "c.json", [("1.jpg", 0, 1), ("1.jpg", 0, 2)]))
    lost = [("1.jpg", -1, 4), ("1.jpg", -1, 9)]  # no track
    clip = clip_file.read(alphapose(tmp_path / "e.json", lost))
    assert clip.joints[:, :, 0, 0].tolist() == [[4, 9]] and "are not tracked" in clip.doubt
    (tmp_path / "d.json").write_text('[\n{"keypoints": [1, 2, 3]}]')
    with pytest.raises(InputError, match=r"d.json: element 0 has no 'image_id'"):
        clip_file.read(tmp_path / "d.json")


@pytest.mark.parametrize("names", ["camA/{}.jpg camB/{}.jpg", "camA_{}.jpg camB_{}.jpg"])
def test_two_recordings_in_an_alphapose_file_are_rejected(tmp_path: Path, names: str) -> None:
    one, other = names.split()
    for start, told in ((0, "frame 0 is found twice, as camA"), (3, "give every recording a file")):
        images = [one.format(t) for t in range(3)] + [other.format(start + t) for t in range(3)]
        path = alphapose(tmp_path / "a.json", [(image, 0, 100.0) for image in images])
        with pytest.raises(InputError, match=rf"a\.json: .*{told}"):
            clip_file.read(path)
        alphapose(path, [(image, 0, 100.0) for image in images[:3]])
        assert len(clip_file.read(path).joints) == 3


@pytest.mark.parametrize("form", [int, lambda number: [number]])
def test_openpose_persons_keep_their_index(tmp_path: Path, capsys, form) -> None:
    """Person 7, at x = 100, has the higher scores in odd frames only, and person 3 in sum."""
    folder, out = tmp_path / "p", tmp_path / "c.npz"

    def write(numbers) -> None:
        folder.mkdir(exist_ok=True)
        for t in range(6):
            one, other = [100.0, 50, 0.9 if t % 2 else 0.2] * 18, [200.0, 50, 0.6] * 18
            people = [
                {"person_id": form(number), "pose_keypoints_2d": pose}
                for number, pose in zip(numbers, (one, other))
            ]
            content = {"people": people[:: 1 if t % 3 else -1][: 2 if t else 1]}
            (folder / f"{t}.json").write_text(json.dumps(content))

    argv = ["--from", "openpose-18", "--to", "openpose", str(folder), "--out", str(out)]
    argv += ["--image-size", "100", "400"]
    write((7, 3))
    assert run_command(convert.main, argv) == 0 and not capsys.readouterr().err
    found = clip_file.read(out).joints[:, :, 0]
    assert (found[:, 0, 0] == 0).all() and found[1:, 1, 0].tolist() == [-0.5] * 5
    assert not found[0, 1].any()  # there is no person 7
    write((0, -1))
    assert run_command(convert.main, argv) == 0
    assert capsys.readouterr().err.count("several persons in a frame are not tracked") == 1
    found = clip_file.read(out).joints[:, :, 0, 0]
    assert found[1:, 0].tolist() == [-0.5, 0, -0.5, 0, -0.5]  # sorted by score
    write((2, 2))
    assert run_command(convert.main, argv) == 2
    assert "1.json: two persons have the same person_id" in capsys.readouterr().err


@pytest.mark.parametrize("several", [False, True])
def test_persons_that_are_not_tracked_are_told(tmp_path: Path, several: bool) -> None:
    images = [("0.jpg", None, 9.0), ("0.jpg" if several else "1.jpg", None, 4.0)]
    (tmp_path / "m.json").write_text(json.dumps([[[point(0.5, 0.5)] * 33] * (1 + several)]))
    for clip in (
        clip_file.read(alphapose(tmp_path / "a.json", images)),
        clip_file.read(tmp_path / "m.json"),
    ):
        assert ("are not tracked" in clip.doubt) == several


def point(x: float, y: float) -> dict[str, float]:
    return {"x": x, "y": y, "z": 0.5, "visibility": 0.75}


def test_mediapipe_landmarks(tmp_path: Path) -> None:
    path, out = tmp_path / "m.json", tmp_path / "c.npz"
    one, two = [point(0.25, 0.75)] * 33, [point(0.5, 0.5)] * 33
    path.write_text(json.dumps([one, [], [one, two]]))  # one person, no person, two persons
    clip = clip_file.read(path)
    assert clip.joints.shape == (3, 2, 33, 4)
    assert clip.joints[0, 0, 7].tolist() == [0.25, 0.75, 0.5, 0.75]
    assert not clip.joints[1].any() and clip.joints[2, 1, 0].tolist() == [0.5, 0.5, 0.5, 0.75]
    argv = ["--from", "mediapipe-33", "--to", "coco", str(path), "--out", str(out)]
    assert run_command(convert.main, argv) == 0
    np.testing.assert_allclose(clip_file.read(out).joints[0, 0, 3], [-0.5, 0.5, 0.75], atol=1e-6)
    path.write_text(json.dumps([one, one[:32]]))
    with pytest.raises(InputError, match=r"m.json: frame 1: expected 33 landmarks"):
        clip_file.read(path)
    path.write_text(json.dumps([[{"a": 1}]]))
    with pytest.raises(InputError, match=r"m.json: a landmark has no x, y or z"):
        clip_file.read(path)


def test_st_gcn_clip_is_relative_to_the_image(tmp_path: Path) -> None:
    person = RANDOM.uniform(0.2, 0.8, (18, 2))
    frames = [
        {"frame_index": t, "skeleton": [{"pose": person.ravel().tolist(), "score": [0.8] * 18}]}
        for t in (10, 9, 12)  # in any order; no frame 11
    ]
    frames[0]["skeleton"].append({"pose": [], "score": []})
    path, out = tmp_path / "s.json", tmp_path / "c.npz"
    path.write_text(json.dumps({"data": frames, "label": "a", "label_index": 0}))
    clip = clip_file.read(path)
    assert (clip.layout, clip.image_size) == ("openpose", (1, 1))
    assert clip.joints.shape == (4, 1, 18, 3) and not clip.joints[2].any()
    argv = ["--from", "openpose-18", "--to", "openpose", str(path), "--out", str(out)]
    assert run_command(convert.main, argv) == 0
    np.testing.assert_allclose(clip_file.read(out).joints[0, 0, :, :2], 2 * person - 1, atol=1e-6)
    frames[1]["skeleton"][0]["score"][3] = None
    path.write_text(json.dumps({"data": frames}))
    with pytest.raises(InputError, match="1 of 4 frames have a joint that is NaN"):
        clip_file.read(path)
    joints = clip_file.read(path, "zero").joints
    assert not joints[0, 0, 3].any() and joints[0, 0, 4].any()


def test_single_openpose_frame_is_rejected(tmp_path: Path) -> None:
    folder = openpose(tmp_path / "p", {"0.json": [pose(1)]})
    with pytest.raises(
        InputError, match=r"is a single OpenPose frame; give its folder to python -m"
    ):
        clip_file.read(folder / "0.json")


def arrays(folder: Path, clips: list[np.ndarray], names: list[str], labels: list, part="train"):
    """Write clips (3, T, V, M) in st-gcn's format, padded with zeros to 30 frames."""
    array = np.zeros((len(clips), 3, 30, *clips[0].shape[2:]), np.float32)
    for row, clip in zip(array, clips):
        row[:, : clip.shape[1]] = clip
    np.save(folder / f"{part}_data_joint.npy", array)
    (folder / f"{part}_label.pkl").write_bytes(pickle.dumps((names, labels)))


def prepared(folder: Path) -> Store:
    argv = ["st-gcn", folder, "--out", folder / "s", "--workers", 1]
    assert run_command(prepare.main, list(map(str, argv))) == 0
    return Store.open(folder / "s")


def test_st_gcn_arrays(tmp_path: Path) -> None:
    clips = [RANDOM.normal(size=(3, length, 25, 2)).astype(np.float32) for length in (20, 7)]
    names = ["S001C001P001R001A060", "S001C002P003R001A002"]
    arrays(tmp_path, clips, [f"{name}.skeleton" for name in names], [59, 1])
    store = prepared(tmp_path)
    assert store.names.tolist() == names and store.class_names[59] == "walking apart"
    assert store.columns["camera"].tolist() == [1, 2] and store.lengths.tolist() == [20, 7]
    for row, clip in enumerate(clips):
        expected = normalize.upright(clip.transpose(1, 3, 2, 0))
        np.testing.assert_array_equal(store.clip(row), expected)


def test_2s_agcn_repeats_each_person_with_a_period_of_its_own(tmp_path: Path) -> None:
    """Its clips have as many frames as the first person."""
    clip = RANDOM.normal(size=(3, 8, 25, 2)).astype(np.float32)
    clip[:, 5:, :, 1] = clip[:, :3, :, 1]  # the second person has five frames
    looped = np.stack([np.tile(clip[:, :n, :, m], (1, 6, 1))[:, :30]
                       for m, n in enumerate((8, 5))], axis=-1)  # fmt: skip
    late = clip.copy()
    late[:, [0, 1, 6, 7], :, 0] = 0  # st-gcn: a person comes late and leaves early
    arrays(tmp_path, [looped, late], ["S001C001P001R001A060", "S001C002P003R001A002"], [59, 1])
    store = prepared(tmp_path)
    assert store.lengths.tolist() == [8, 8]
    for row, expected in enumerate((clip, late)):
        expected = normalize.upright(expected.transpose(1, 3, 2, 0))
        np.testing.assert_array_equal(store.clip(row), expected)


@pytest.mark.parametrize("down", [1, -1])
def test_openpose_and_2s_agcn_arrays(tmp_path: Path, down: int) -> None:
    """In the store y points down, as in the image; in 2s-AGCN's arrays it points up."""
    shapes = [(3, length, 18, 2) for length in (4, 30)]
    clips = [RANDOM.uniform(0.1, 0.4, shape).astype(np.float32) for shape in shapes]
    for clip in clips:
        clip[1, :, 1] *= -1  # the neck is above the hips
        clip[1] *= down
    looped = np.concatenate([clips[0]] * 8, axis=1)[:, :30]  # 2s-AGCN repeats a clip to the end
    arrays(tmp_path, [looped, clips[1]], ["a", "b"], [0, 2])
    arrays(tmp_path, clips, ["c", "d"], [1, 1], part="val")
    store = prepared(tmp_path)
    assert store.layout == "openpose" and store.lengths.tolist() == [4, 30, 4, 30]
    assert store.columns["split"].tolist() == ["train", "train", "test", "test"]
    assert store.labels.tolist() == [0, 2, 1, 1] and len(store.class_names) == 3
    clips[0][1] *= down
    np.testing.assert_array_equal(store.clip(0), clips[0].transpose(1, 3, 2, 0))


@pytest.mark.parametrize(
    ("names", "labels", "words"),
    [
        (["a"], [0, 1], "has 1 names and 2 labels, but the array has 2 samples"),
        (["a", "b"], [0, "x"], "b: label 'x' is not a class number"),
        (["a", "b"], [0, -1], "b: label -1 is not a class number"),
    ],
)
def test_inconsistent_st_gcn_labels(tmp_path, names, labels, words) -> None:
    arrays(tmp_path, [RANDOM.normal(size=(3, 4, 18, 2))] * 2, names, labels)
    args = prepare._arguments(["st-gcn", str(tmp_path)])
    with pytest.raises(InputError, match=words):
        st_gcn.reader(args)


def test_invalid_st_gcn_arrays_are_named(tmp_path: Path) -> None:
    args = prepare._arguments(["st-gcn", str(tmp_path)])
    with pytest.raises(InputError, match=r"has no train_data_joint.npy or train_data.npy"):
        st_gcn.reader(args)
    for array, words in [
        (np.zeros((2, 3, 30, 18)), r"is float64 \(2, 3, 30, 18\), not floats \(N, 3, T, V, M\)"),
        (np.array([{}]), "it contains pickled Python objects"),
    ]:
        np.save(tmp_path / "train_data.npy", array)
        with pytest.raises(InputError, match=words):
            st_gcn.reader(args)
    arrays(tmp_path, [RANDOM.normal(size=(3, 4, 17, 2))], ["a"], [0])
    with pytest.raises(InputError, match="have 17 joints V; supported: 25, 18"):
        st_gcn.reader(args)


@pytest.mark.parametrize("scores", [100 * RANDOM.uniform(0.2, 1, (9, 17)), np.full((9, 17), 2)])
def test_scores_that_are_not_shares_are_refused(scores: np.ndarray, tmp_path: Path) -> None:
    """Percent, and COCO's visibility."""
    poses = np.concatenate([RANDOM.uniform(0, 480, (9, 17, 2)), scores[..., None]], -1)
    with pytest.raises(InputError, match="but they are from 0 to 1: divide percent"):
        convert.convert(poses, "coco-17", "coco", (480, 640))
    with pytest.raises(InputError, match="but they are from 0 to 1: divide percent"):
        normalize.apply("image", poses[:, None], normalize.Terms(1, (480, 640), 1))
    for how in ("none", "pixels", "image"):
        store = StoreWriter(tmp_path / how, "coco", ["a"], (1, 17, 3), normalization=how)
        with pytest.raises(InputError, match=r"a: scores .third channel. up to "), store:
            store.add("a", 0, poses[:, None] / [1e3, 1e3, 1])
    poses[..., 2] = 1.2  # SimCC's exceed 1 a little
    assert convert.convert(poses, "coco-17", "coco", (480, 640)).shape == (9, 1, 17, 3)


@pytest.mark.parametrize("channels", [2, 3])
def test_joints_at_minus_one_are_refused(channels: int, tmp_path: Path, capsys) -> None:
    """Some programs write -1 for joints that they did not find."""
    poses = RANDOM.uniform(0.2, 0.8, (9, 17, 3)) * ([640, 480, 1] if channels == 2 else 1)
    poses = poses[..., :channels]
    poses[:, 7] = -1
    np.save(tmp_path / "a.npy", poses)
    (tmp_path / "l.csv").write_text("file,label\na.npy,x\n")
    argv = ["custom", str(tmp_path / "l.csv"), "--layout", "h36m", "--workers", "1", "--channels"]
    argv += [str(channels), "--out", str(tmp_path / "s")]
    argv += ["--image-size", "480", "640"] if channels == 2 else []
    assert run_command(prepare.main, argv) == 2
    said = "a.npy: 9 joints are at -1 in all channels; write 0 for joints that were not found"
    assert said in capsys.readouterr().err
    form, layout, size = ("coco-17", "coco", (480, 640)) if channels == 2 else IN_3D
    with pytest.raises(InputError, match="9 joints are at -1 in all channels"):
        convert.convert(poses, form, layout, size)
    if channels == 2:  # a score of -1 says the same, and is understood
        scores = np.where(np.arange(17) == 7, -1, 0.5) * np.ones((9, 17))
        scored = np.concatenate([poses, scores[..., None]], -1)
        assert not convert.convert(scored, form, layout, size)[:, 0, 7].any()


def test_a_visibility_of_mediapipe_is_a_score_without_z() -> None:
    """z, from between the hips, has both signs."""
    marks = RANDOM.uniform(0.2, 0.8, (9, 33, 4)) - [0, 0, 0.5, 0]
    full = convert.convert(marks, "mediapipe-33", "coco")
    found = convert.convert(marks[..., [0, 1, 3]], "mediapipe-33", "coco")
    np.testing.assert_array_equal(found, full)
    full[..., 2] = 1
    for three in (marks[..., :3], marks[..., :3] * [1, 1, 0]):
        np.testing.assert_array_equal(convert.convert(three, "mediapipe-33", "coco"), full)


def test_an_image_too_small_for_its_poses_is_refused() -> None:
    poses = np.concatenate([RANDOM.uniform(0, 900, (9, 17, 2)), np.ones((9, 17, 1))], -1)
    with pytest.raises(InputError, match="% of the joints are outside an image of height 480"):
        convert.convert(poses, "coco-17", "coco", (480, 640))
