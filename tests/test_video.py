"""tools.video and the tracking of persons, with ONNX networks that find bright squares."""

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch

from data import clip_file
from data.tracks import Tracks, to_clip
from engine import checkpoint
from engine.build import make_model
from engine.config import Config
from errors import InputError
from tools import video

SIZE, FRAMES, FPS = 128, 24, 12.0
SHIFTS = np.stack([np.arange(17) % 5 * 3 - 6, np.arange(17) // 5 * 4 - 6], 1)  # (17, 2) pixels


# --- tracks ---


def body(x, y, score=0.9):
    """A pose whose joints lie on a 5 by 4 grid, 12 pixels wide."""
    return np.concatenate([SHIFTS + (x, y), np.full((17, 1), score)], 1).astype(np.float32)


def test_crossing_orders_do_not_exchange_persons():
    """The estimator names two persons in another order in each frame; one leaves for a while."""
    tracks = Tracks()
    for t in range(20):
        left, right = body(30 + t, 40), body(90 - t / 2, 60)
        if 8 <= t < 12:
            tracks.add(left[None])
        else:
            tracks.add(np.stack([left, right] if t % 2 else [right, left]))
    clip = to_clip(tracks.frames)
    assert clip.shape == (20, 2, 17, 3)
    np.testing.assert_allclose(clip[:, 0, 0, 0], 30 + np.arange(20) + SHIFTS[0, 0])
    assert not clip[8:12, 1].any() and clip[12:, 1].any()
    np.testing.assert_allclose(clip[19, 1, :, :2], SHIFTS + (90 - 9.5, 60))


def test_a_far_pose_is_another_person_and_a_doubtful_one_none():
    tracks = Tracks()
    tracks.add(body(30, 40)[None])
    tracks.add(np.stack([body(100, 40), body(30, 40, score=0.1)]))
    assert [list(frame) for frame in tracks.frames] == [[0], [1]]
    for _ in range(20):
        tracks.add(np.zeros((0, 17, 3)))
    tracks.add(body(30, 40)[None])
    assert list(tracks.frames[-1]) == [2], "hidden for longer than PATIENCE"


def test_old_frames_can_be_forgotten():
    tracks = Tracks()
    for t in range(40):
        tracks.add(body(30 + t, 40)[None])
        del tracks.frames[:-4]
    assert to_clip(tracks.frames).shape == (4, 1, 17, 3) and tracks.persons == 1


# --- the command ---


def square(x, y):
    """An image, black but for a square of 8 pixels around (x, y)."""
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[y - 4 : y + 4, x - 4 : x + 4] = 255
    return image


def networks(folder):
    """Write a detector that sees a person in the whole image if it is not black, and a pose network
    that puts 17 joints around the brightest place. Interfaces as of YOLOX and RTMPose."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    def number(name, values, dtype):
        return numpy_helper.from_array(np.array(values, dtype), name)

    def write(name, nodes, outputs, constants):
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIZE, SIZE])
        made = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs]
        graph = helper.make_graph(nodes, name, [image], made, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.save(model, folder / f"{name}.onnx")
        return folder / f"{name}.onnx"

    node = helper.make_node
    detector = write(
        "detector",
        [
            node("ReduceMax", ["image"], ["most"], axes=[1, 2, 3], keepdims=1),  # (1, 1, 1, 1)
            node("Div", ["most", "full"], ["shares"]),
            node("Reshape", ["shares", "shape"], ["score"]),
            node("Concat", ["box", "score"], ["boxes"], axis=2),
        ],
        ["boxes"],
        [
            number("full", 255, np.float32), number("shape", [1, 1, 1], np.int64),
            number("box", [[[24, 24, 104, 104]]], np.float32),
        ],
    )  # fmt: skip
    # SimCC: two bins per pixel; joint j reads the profile of the image moved by its shift.
    places = np.arange(2 * SIZE) // 2
    index = [(places[None] - SHIFTS[:, [axis]]) % SIZE for axis in (0, 1)]
    pose = write(
        "pose",
        [
            node("ReduceMax", ["image"], ["column"], axes=[1, 2], keepdims=0),
            node("ReduceMax", ["image"], ["row"], axes=[1, 3], keepdims=0),
            node("Gather", ["column", "index_x"], ["simcc_x"], axis=1),
            node("Gather", ["row", "index_y"], ["simcc_y"], axis=1),
        ],
        ["simcc_x", "simcc_y"],
        [number("index_x", index[0], np.int64), number("index_y", index[1], np.int64)],
    )
    return detector, pose


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with both networks, a checkpoint for COCO poses, and a video of a moving square."""
    pytest.importorskip("rtmlib", exc_type=ImportError)
    cv2 = pytest.importorskip("cv2", exc_type=ImportError)
    folder = tmp_path_factory.mktemp("video")
    networks(folder)
    for name, layout, persons in (
        ("coco", "coco", 1),
        ("openpose", "openpose", 2),
        ("ntu", "ntu_rgb_d", 1),
    ):
        args = {
            "graph": layout,
            "num_class": 2,
            "num_person": persons,
            "base_channels": 8,
            "num_blocks": 1,
        }
        config = Config(frames=8, test_clips=1, model_args=args)
        torch.manual_seed(0)
        state = {
            "config": dataclasses.asdict(config), "model": make_model(config).state_dict(),
            "class_names": ["wave", "fall"], "layout": layout, "normalization": "image",
        }  # fmt: skip
        checkpoint.save(folder / f"{name}.pt", state)
    (folder / "in/sub").mkdir(parents=True)
    for path, empty in ((folder / "in/a.avi", False), (folder / "in/sub/b.avi", True)):
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), FPS, (SIZE, SIZE))
        for t in range(FRAMES):
            writer.write(square(50 + t, 60) * (not empty))
        writer.release()
    return folder


def run(folder, *words):
    given = [*words, "--detector", folder / "detector.onnx", "--pose", folder / "pose.onnx"]
    video.main([str(word) for word in [*given, "--device", "cpu"]])


def test_poses_are_where_the_person_is(folder, tmp_path):
    run(folder, folder / "in/a.avi", "--poses", tmp_path, "--quiet")
    clip = clip_file.read(tmp_path / "a.npz")
    assert clip.layout == "coco" and clip.image_size == (SIZE, SIZE)
    assert clip.joints.shape == (FRAMES, 1, 17, 3)
    # The box of 80 pixels, padded by a quarter, is 100 of the image's and 128 of the network's.
    expected = np.array([[[50 + t, 60]] for t in range(FRAMES)]) + SHIFTS * 100 / SIZE
    np.testing.assert_allclose(clip.joints[:, 0, :, :2], expected, atol=5)
    moved = clip.joints[-1, 0, :, 0] - clip.joints[0, 0, :, 0]
    np.testing.assert_allclose(moved, FRAMES - 1, atol=2)


def test_a_video_is_classified_in_segments_and_drawn(folder, tmp_path, capsys):
    cv2 = pytest.importorskip("cv2", exc_type=ImportError)
    made = ["--output", tmp_path / "out.json", "--annotated", tmp_path / "seen.mp4"]
    run(folder, folder / "in/a.avi", "--weights", folder / "coco.pt", "--window", 12, *made)
    (found,) = json.loads((tmp_path / "out.json").read_text())["files"]
    assert found["fps"] == FPS and found["segments"][-1]["end"] == FRAMES / FPS
    assert found["segments"][0]["class"] in capsys.readouterr().out
    drawn = cv2.VideoCapture(str(tmp_path / "seen.mp4"))
    images = [drawn.read()[1] for _ in range(FRAMES)]
    assert all(image.shape == (SIZE, SIZE, 3) for image in images) and not drawn.read()[0]
    blue_less_red = images[0].astype(int)[40:90, 30:90] @ [1, 0, -1]
    assert blue_less_red.max() > 100 and blue_less_red.min() < -100, "left and right differ"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.json", "seen.mp4"]


def test_a_missing_frame_rate_is_said(folder, monkeypatch, capsys):
    cv2 = pytest.importorskip("cv2", exc_type=ImportError)
    capture = cv2.VideoCapture(str(folder / "in/a.avi"))

    class WithoutRate:
        isOpened, read, release = capture.isOpened, capture.read, capture.release

        def get(self, key):
            return 0.0 if key == cv2.CAP_PROP_FPS else capture.get(key)

    monkeypatch.setattr(cv2, "VideoCapture", lambda source: WithoutRate())
    assert video.Video(str(folder / "in/a.avi")).fps == 30
    assert "a.avi: gives no frame rate; times count 30 frames per second" in capsys.readouterr().err


def test_a_video_that_is_cut_off_is_told(folder, tmp_path, capsys):
    whole = (folder / "in/a.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    run(folder, folder / "in/a.avi", "--poses", tmp_path)
    assert "images could be read" not in capsys.readouterr().err
    run(folder, tmp_path / "cut.avi", "--poses", tmp_path)
    clip = clip_file.read(tmp_path / "cut.npz")
    said = f"only {len(clip.joints)} of its {FRAMES} images could be read"
    assert len(clip.joints) < FRAMES and f"cut.avi: {said}" in capsys.readouterr().err
    made = tmp_path / "out.json"
    run(folder, tmp_path / "cut.avi", "--weights", folder / "coco.pt", "--output", made)
    assert said in json.loads(made.read_text())["predictions"][0]["warning"]
    assert capsys.readouterr().err.count(said) == 1


def test_the_network_may_take_openpose_joints(folder, tmp_path):
    weights = ["--weights", folder / "openpose.pt", "--output", tmp_path / "out.json"]
    run(folder, folder / "in/a.avi", *weights)
    (found,) = json.loads((tmp_path / "out.json").read_text())["predictions"]
    assert found["class"] in ("wave", "fall")


def test_a_video_without_a_person_is_named_and_the_others_are_used(folder, tmp_path, capsys):
    with pytest.raises(InputError, match="1 of 2 files"):
        run(folder, folder / "in", "--poses", tmp_path)
    assert "b.avi: nobody is seen in it" in capsys.readouterr().err
    assert [p.name for p in tmp_path.rglob("*.npz")] == ["a.npz"]


@pytest.mark.parametrize(
    "words, told",
    [
        (["missing.mp4", "--weights", "coco.pt"], "missing.mp4: no such video"),
        (["detector.onnx", "--weights", "coco.pt"], "cannot be read as a video"),
        (["in/a.avi"], "--weights FILE says what recognizes"),
        (["in/a.avi", "--weights", "ntu.pt"], "takes ntu_rgb_d, and a video gives 2D poses"),
        (["in", "--weights", "coco.pt", "--annotated", "a.mp4"], "takes one video"),
        (["in/a.avi", "--weights", "coco.pt", "--annotated", "a.gif"], "must end in .mp4"),
        (["in/a.avi", "--weights", "coco.pt", "--output", "a.html"], "a timeline shows segments"),
        (["0", "--poses", "."], "a camera needs --weights"),
        (
            ["in/a.avi", "--poses", ".", "--output", "a.csv", "--window", "9"],
            "--window, --output: needs --weights",
        ),
        (["in/a.avi", "--weights", "coco.pt", "--stride", "4"], "--stride needs --window"),
        (["0", "--weights", "coco.pt", "--window", "0"], "--window and --stride must be at"),
        (["0", "--weights", "coco.pt", "--output", "a.json"], "a camera shows a window"),
        (["97", "--weights", "coco.pt"], "97: no such camera"),
        (["in/a.avi", "--weights", "coco.pt", "--threshold", "2"], "--threshold: must be between"),
        (["sub", "--poses", "."], "sub: no .mp4"),
        (["x.mp4", "--weights", "coco.pt", "--annotated", "x.mp4"], "x.mp4: is read, and would"),
        (["in/a.avi", "sub/a.mp4", "--poses", "."], "would both be written to a.npz"),
    ],
)
def test_wrong_calls_are_told(folder, monkeypatch, words, told):
    monkeypatch.chdir(folder)
    (folder / "sub").mkdir(exist_ok=True)
    with pytest.raises(InputError, match=told):
        run(folder, *words)


def test_a_file_that_is_no_network_is_told(folder, tmp_path):
    (tmp_path / "pose.onnx").write_text("no")
    words = [folder / "in/a.avi", "--poses", tmp_path, "--detector", folder / "detector.onnx"]
    with pytest.raises(InputError, match=r"pose\.onnx: not an ONNX network"):
        video.main([str(word) for word in [*words, "--pose", tmp_path / "pose.onnx"]])
    with pytest.raises(InputError, match=r"gone\.onnx: no such file"):
        video.main([str(word) for word in [*words, "--pose", tmp_path / "gone.onnx"]])


def test_the_camera_shows_the_answer_of_the_last_frames(folder, monkeypatch):
    cv2 = pytest.importorskip("cv2", exc_type=ImportError)
    shown, keys = [], iter([0] * 9 + [ord("q")])
    monkeypatch.setattr(cv2, "imshow", lambda _, image: shown.append(image))
    monkeypatch.setattr(cv2, "waitKey", lambda _: next(keys))
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: None)
    texts = []
    draw = video.annotate
    monkeypatch.setattr(video, "annotate", lambda *a: texts.append(a[2]) or draw(*a))
    recognizer = video.Recognizer.load(folder / "coco.pt", device="cpu")
    poses = video.Poses("balanced", folder / "detector.onnx", folder / "pose.onnx")
    video.watch(video.Video(str(folder / "in/a.avi")), poses, recognizer, 8, 4)
    assert len(shown) == 10, "q ends"
    assert all(text.split()[0] in ("wave", "fall") for text in texts)
    assert video.answer(recognizer, np.zeros((8, 0, 17, 3)), (9, 9)) == "nobody"


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rtmlib", None)
    with pytest.raises(InputError, match="pip install rtmlib"):
        video.Poses("balanced")
