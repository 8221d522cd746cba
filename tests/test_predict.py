"""--phase predict, the Recognizer and data.convert, against the released code's own scores."""

import csv
import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import graph
import model as models
from data import clip_file, convert, demo, prepare
from data.store import Store
from engine import checkpoint, evaluate, predict, predict_files
from engine.build import feeder_of, make_model
from engine.config import Config
from engine.predict import Recognizer
from errors import InputError, run_command

STREAMS = {
    "joint": "result", "bone": "result_b", "skip": "result_k",
    "joint-motion": "result_jm", "bone-motion": "result_bm", "skip-motion": "result_km",
}  # fmt: skip
NAMES = [f"action {k}" for k in range(60)]


def save(path, config, weights=None, names=NAMES, layout="ntu_rgb_d", **more):
    """Write a checkpoint of the config's model, its weights random or from a file."""
    torch.manual_seed(0)
    model = make_model(config)
    if weights:
        checkpoint.load_weights(model, weights)
    else:
        model.fc.weight.data *= 100  # so that the classes differ
    state = {
        "config": dataclasses.asdict(config), "model": model.state_dict(),
        "class_names": names, "layout": layout, **more,
    }  # fmt: skip
    checkpoint.save(path, state)
    return path


@pytest.fixture(scope="module")
def released(golden, tmp_path_factory):
    """Six checkpoints, one a stream, of the network whose scores golden/e2e holds."""
    folder = tmp_path_factory.mktemp("released")
    args = {"graph": "ntu_rgb_d", "num_class": 60, "num_person": 2, "base_channels": 16}
    return {
        stream: save(
            folder / f"{stream}.pt",
            Config(stream=stream, model_args=args, benchmark="ntu60-xsub-lt"),
            golden / "model_stgcnpp_b16.pth",
        )
        for stream in STREAMS
    }


@pytest.fixture(scope="module")
def clips(golden):
    """Raw test clips (T, M, V, C) float16, and the released ten-clip scores of each stream."""
    content = pickle.loads((golden / "e2e/anno.pkl").read_bytes())
    annotations = {a["frame_dir"]: a for a in content["annotations"]}
    chosen = [annotations[name] for name in content["split"]["xsub_val"][:2]]
    scores = {
        stream: np.stack(pickle.loads((golden / f"e2e/{file}.pkl").read_bytes())[:2])
        for stream, file in STREAMS.items()
    }
    return [a["keypoint"].transpose(1, 0, 2, 3) for a in chosen], scores


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small random network for two streams: 4 classes, one test clip of 16 frames."""
    folder = tmp_path_factory.mktemp("small")
    args = {"num_class": 4, "base_channels": 8, "num_blocks": 2, "inflate": [2], "down": [2]}
    names = ["wave", "kick", "bow", "sit"]
    return [
        save(
            folder / f"{stream}.pt",
            Config(stream=stream, frames=16, test_clips=1, model_args=args, seed=seed),
            names=names,
        )
        for seed, stream in enumerate(("joint", "bone"))
    ]


def walk(frames=40, persons=1, joints=25, channels=3, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(frames, persons, joints, channels)).cumsum(axis=0).astype("f4") * 0.1


# --- the same figures as in testing ---


def test_a_clip_gets_the_released_codes_probabilities(released, clips):
    recognizer = Recognizer.load(released["bone-motion"], device="cpu")
    for clip, expected in zip(clips[0], clips[1]["bone-motion"]):
        np.testing.assert_allclose(recognizer(clip).probabilities, expected, atol=1e-4)


def test_six_checkpoints_fuse_with_the_published_weights(released, clips):
    order = ["skip", "joint", "bone-motion", "bone", "skip-motion", "joint-motion"]
    recognizer = Recognizer.load([released[stream] for stream in order], device="cpu")
    prediction = recognizer(clips[0][0])
    published = {"joint": 2, "bone": 2, "skip": 2}
    weights = {stream: published.get(stream, 1) for stream in STREAMS}
    expected = sum(weight * clips[1][stream][0] for stream, weight in weights.items()) / 9
    np.testing.assert_allclose(prediction.probabilities, expected, atol=1e-4)
    assert prediction.top(1) == [(f"action {expected.argmax()}", prediction.probabilities.max())]


def test_a_set_of_streams_that_nobody_published_is_fused_equally():
    assert predict.fusion_weights(["bone", "skip"], "ntu60-xsub-lt") == [1, 1]
    assert predict.fusion_weights(["joint", "joint"], "ntu60-xsub-lt") == [1, 1]
    four = ["bone-motion", "joint", "joint-motion", "bone"]
    assert predict.fusion_weights(four, "ntu60-xsub-lt") == [1, 2, 1, 2]
    assert predict.fusion_weights(four, "k400") == [1, 3, 1, 3]


def test_a_foreign_checkpoint_needs_its_configuration(golden, released, clips):
    path = golden / "model_stgcnpp_b16.pth"
    with pytest.raises(InputError, match="--config"):
        Recognizer.load(path, device="cpu")
    own = checkpoint.settings(checkpoint.read(released["joint"]), released["joint"])
    recognizer = Recognizer.load(path, device="cpu", config=own)
    assert recognizer.names[:2] == ("drink water", "eat meal")
    probabilities = recognizer(clips[0][1]).probabilities
    np.testing.assert_allclose(probabilities, clips[1]["joint"][1], atol=1e-4)


def raw_clip(folder, source):
    """Write a raw clip; return data.prepare's arguments, the file to predict and its image size."""
    if source == "ntu":
        path = write(folder / "S001C001P001R001A001.skeleton", walk()[:, 0])
        return ["ntu", str(folder)], path, None
    if source == "nw-ucla":
        path = folder / "a01_s01_e00_v01.json"
        joints = walk(joints=20)[:, 0]
        joints[3, 4] = 0
        path.write_text(json.dumps({"skeletons": joints.tolist(), "label": 1}))
        return ["nw-ucla", str(folder)], path, None
    poses = np.random.default_rng(0).uniform(0, 1, (40, 2, 18, 3)).round(3)  # shares of the image
    poses[:, :, 5] = 0
    if source == "custom":
        path = write(folder / "a.npy", poses[:, :, :17] * [640, 480, 1])
        (folder / "labels.csv").write_text("file,label\na.npy,0\n")
        arguments = ["--layout", "coco", "--image-size", "480", "640"]
        return ["custom", str(folder / "labels.csv"), *arguments], path, (480, 640)
    entry = {"has_skeleton": True, "label": "wave", "label_index": 0}
    for part, clips in {"train": {}, "val": {"a": entry}}.items():
        (folder / f"kinetics_{part}").mkdir()
        (folder / f"kinetics_{part}_label.json").write_text(json.dumps(clips))
    frames = [
        {"frame_index": t, "skeleton": [
            {"pose": person[:, :2].ravel().tolist(), "score": person[:, 2].tolist()}
            for person in frame
        ]} for t, frame in enumerate(poses)
    ]  # fmt: skip
    (folder / "kinetics_val" / "a.json").write_text(
        json.dumps({"data": frames, "label": "wave", "label_index": 0})
    )
    path = write(folder / "a.npy", poses * [640, 480, 1])
    return ["kinetics-skeleton", str(folder)], path, (480, 640)


@pytest.mark.parametrize("source", ["ntu", "nw-ucla", "custom", "kinetics-skeleton"])
def test_a_raw_file_is_scored_as_its_prepared_clip_in_testing(source, tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    arguments, path, image_size = raw_clip(tmp_path / "raw", source)
    prepare.main([*arguments, "--out", str(tmp_path / "store"), "--workers", "1"])
    store = Store.open(tmp_path / "store")
    is_ucla = source == "nw-ucla"
    args = {"graph": store.layout, "num_class": 4, "base_channels": 8, "num_blocks": 1}
    config = Config(
        frames=16, test_clips=1 if is_ucla else 2, stream="bone",
        feeder_args={"choice": "even", "box": True} if is_ucla else {},
        model_args={**args, "num_person": store.joints.shape[1]},
    )  # fmt: skip
    told = {key: store.meta.get(key) for key in ("normalization", "centre", "size")}
    assert told["normalization"]
    weights = save(tmp_path / "best.pt", config, names=list("abcd"), **told)
    recognizer = Recognizer.load(weights, device="cpu")
    feeder = feeder_of(
        config, store, graph.load(store.layout), np.array([0]), torch.device("cpu"),
        clips=config.test_clips,
    )  # fmt: skip
    model = recognizer.members[0].model
    (tested,) = evaluate.score(model, feeder, config, torch.device("cpu"))
    (predicted,) = predict_files.run(recognizer, [path], quiet=True, image_size=image_size)
    np.testing.assert_allclose(predicted.probabilities, tested, atol=1e-6)
    # A checkpoint that does not tell is taken to have seen its layout's usual data.
    if source != "custom":
        usual = Recognizer.load(save(weights, config, names=list("abcd")), device="cpu")
        assert usual.takes.normalization == told["normalization"]


# --- windows ---


def test_the_inputs_of_the_network_give_its_probabilities(small):
    """The mean over test clips of the softmax of the network's own logits."""
    recognizer, clip = Recognizer.load(small[1], "cpu"), walk()
    clips = recognizer.inputs(clip)
    (member,) = recognizer.members
    assert clips.shape[0] == member.config.test_clips and clips.dtype == np.float32
    with torch.no_grad():
        logits = member.model.eval()(torch.from_numpy(clips)).numpy().astype(float)
    rises = np.exp(logits - logits.max(1, keepdims=True))
    expected = (rises / rises.sum(1, keepdims=True)).mean(0)
    np.testing.assert_allclose(recognizer(clip).probabilities, expected, atol=1e-6)
    with pytest.raises(InputError, match="several checkpoints have several inputs"):
        Recognizer.load(small, "cpu").inputs(clip)


def test_each_window_is_a_clip_of_its_own(small):
    recognizer = Recognizer.load(small, device="cpu")
    clip = walk(50)
    prediction = recognizer(clip, window=20, stride=15)
    assert prediction.spans.tolist() == [[0, 20], [15, 35], [30, 50]]
    alone = np.stack([recognizer(clip[a:b]).probabilities for a, b in prediction.spans])
    np.testing.assert_allclose(prediction.windows, alone, atol=1e-6)
    np.testing.assert_allclose(prediction.probabilities, alone.mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("length", [1, 7, 8, 9, 29, 30, 31])
@pytest.mark.parametrize(("window", "stride"), [(8, 3), (8, 8), (1, 1), (30, None), (9, 20)])
def test_windows_cover_what_their_stride_allows(length, window, stride):
    spans = predict.cut(length, window, stride)
    assert ((spans >= 0) & (spans <= length)).all()
    assert (spans[:, 1] - spans[:, 0] == min(window, length)).all()
    assert spans[0, 0] == 0 and spans[-1, 1] == length
    step = window // 2 if stride is None else stride
    assert (np.diff(spans[:, 0]) > 0).all() and (np.diff(spans[:, 0]) <= step).all()


def test_windows_overlap_by_half_unless_told_otherwise():
    assert predict.cut(50, 20)[:, 0].tolist() == [0, 10, 20, 30]
    assert predict.cut(54, 20)[:, 0].tolist() == [0, 10, 20, 30, 34]
    assert predict.cut(50).tolist() == [[0, 50]]


def test_a_window_without_a_body_is_left_out(small):
    clip = walk(60)
    clip[20:40] = 0
    prediction = Recognizer.load(small[0], device="cpu")(clip, window=20, stride=20)
    assert prediction.spans.tolist() == [[0, 20], [40, 60]]


def test_each_window_has_the_persons_seen_longest_in_it(small):
    """Three people one after another, for a network of two persons: none is left out."""
    clip = np.zeros((60, 3, 25, 3), np.float32)
    for person in range(3):
        clip[20 * person : 20 * person + 20, person] = walk(20, seed=person)[:, 0]
    recognizer = Recognizer.load(small[0], device="cpu")
    prediction = recognizer(clip, window=20, stride=20)
    assert prediction.spans.tolist() == [[0, 20], [20, 40], [40, 60]]
    alone = [recognizer(walk(20, seed=person)).probabilities for person in range(3)]
    np.testing.assert_allclose(prediction.windows, alone, atol=1e-6)


def test_frames_without_a_body_are_dropped_as_in_the_data_set(tmp_path):
    """The readers of Kinect's small sets drop them, and so is what is trained on; the frames of a
    window are those of the recording."""
    args = {"graph": "nw_ucla", "num_class": 4, "num_person": 1, "base_channels": 8}
    config = Config(frames=16, test_clips=1, model_args=args | {"num_blocks": 1, "inflate": []})
    config = config.replace(model_args=config.model_args | {"down": []})
    clip = walk(40, joints=20)
    gaps = np.insert(clip, [3, 3, 17, 30], 0, axis=0)
    for name, facts in {
        "a": {"normalization": "centered", "drops_empty_frames": True},
        "b": {},
    }.items():
        path = save(tmp_path / f"{name}.pt", config, names=NAMES[:4], layout="nw_ucla", **facts)
        recognizer = Recognizer.load(path, device="cpu")
        found, whole = recognizer(gaps), recognizer(clip)
        np.testing.assert_allclose(found.probabilities, whole.probabilities, atol=1e-6)
        assert found.spans.tolist() == [[0, 44]]


def test_segments_of_a_file_begin_where_somebody_is_seen(small, tmp_path):
    """The reader leaves out the frames of a .skeleton file in which nobody is."""
    assert run_command(demo.main, ["--out", str(tmp_path / "kick.skeleton")]) == 0
    first, *rest = (tmp_path / "kick.skeleton").read_text().split("\n")
    late = [str(int(first) + 300), *["0"] * 300, *rest]
    (tmp_path / "late.skeleton").write_text("\n".join(late))
    plain, moved = (clip_file.read(tmp_path / f"{name}.skeleton") for name in ("kick", "late"))
    np.testing.assert_array_equal(plain.joints, moved.joints)
    recognizer = Recognizer.load(small[0], device="cpu")
    for window in (None, 20):
        (here,), (there,) = (
            predict_files.read(recognizer, tmp_path / f"{name}.skeleton", window=window)
            for name in ("kick", "late")
        )
        assert here.spans[0, 0] == 0 and here.spans[-1, 1] == len(plain.joints)
        assert there.spans.tolist() == (here.spans + 300).tolist()


def test_windows_of_a_skeleton_file_are_those_of_its_recording(small, tmp_path):
    """A .npy with zeros where the .skeleton file has no body gives the same windows."""
    clip = np.insert(walk(50)[:, 0], 20 * [25], 0, axis=0)
    clip[[8, 60]] = 0
    write(tmp_path / "a.npy", clip)
    text = write(tmp_path / "a.skeleton", clip[clip.any((1, 2))]).read_text().split("\n")
    bodies = ["\n".join(text[1 + 28 * t : 29 + 28 * t]) for t in range(48)]
    frames = [bodies.pop(0) if pose.any() else "0" for pose in clip]
    (tmp_path / "a.skeleton").write_text("\n".join(["70", *frames, ""]))
    recognizer = Recognizer.load(small[0], device="cpu")
    (zeros,), (file,) = (
        predict_files.read(recognizer, tmp_path / name, window=10)
        for name in ("a.npy", "a.skeleton")
    )
    spans = [[t, t + 10] for t in range(0, 61, 5) if t not in (25, 30, 35)]
    assert file.spans.tolist() == zeros.spans.tolist() == spans
    for one, other in zip(zeros.windows, file.windows):
        np.testing.assert_allclose(one, other, atol=1e-4)  # six decimals in the text
    (whole,) = predict_files.read(recognizer, tmp_path / "a.skeleton")
    assert whole.spans.tolist() == [[0, 70]] and len(whole.windows[0]) == 48


@pytest.mark.parametrize("step", [1, 5])
def test_windows_of_a_pose_file_have_the_numbers_of_its_images(tmp_path, step):
    """As of a .npy with zeros for the images that are missing; also after data.convert, and of
    OpenPose's folder, whose images may be every fifth of a recording."""
    args = {"graph": "coco", "num_class": 2, "num_person": 1, "base_channels": 8, "num_blocks": 1}
    config = Config(frames=8, test_clips=1, model_args=args)
    recognizer = Recognizer.load(
        save(tmp_path / "coco.pt", config, names=["a", "b"], layout="coco"), device="cpu"
    )
    poses = np.random.default_rng(0).uniform(0.1, 1, (60, 17, 3)) * [640, 480, 1]
    poses[20:40] = 0
    np.save(tmp_path / "zeros.npy", poses)
    there = [t for t in range(60) if poses[t].any()]
    lists = {f"{300 + step * t}": poses[t].ravel().tolist() for t in there}
    entries = [{"image_id": f"{t}.jpg", "idx": 0, "keypoints": lists[t]} for t in lists]
    (tmp_path / "a.json").write_text(json.dumps(entries))
    (tmp_path / "op").mkdir()
    for t, pose in lists.items():
        people = [{"person_id": 0, "pose_keypoints_2d": pose}]
        (tmp_path / "op" / f"{t}.json").write_text(json.dumps({"people": people}))
    for source, out in (("a.json", "c.npz"), ("op", "o.npz")):
        argv = ["--from", "coco-17", "--to", "coco", str(tmp_path / source), "--image-size"]
        argv += ["480", "640", "--out", str(tmp_path / out)]
        assert run_command(convert.main, argv) == 0
    size = {"image_size": (480, 640)}
    (wanted,) = predict_files.read(recognizer, tmp_path / "zeros.npy", window=10, **size)
    assert wanted.spans[:, 0].tolist() == [0, 5, 10, 15, 35, 40, 45, 50]
    for name, how in (("a.json", size), ("c.npz", {}), ("o.npz", {})):
        (found,) = predict_files.read(recognizer, tmp_path / name, window=10, **how)
        last = 300 + step * 59 + 1
        assert found.spans.tolist() == np.minimum(300 + step * wanted.spans, last).tolist()
        for one, other in zip(found.windows, wanted.windows):
            np.testing.assert_allclose(one, other, atol=1e-5)
        (found,) = predict_files.read(recognizer, tmp_path / name, **how)
        assert found.spans.tolist() == [[300, last]] and len(found.windows[0]) == 40
    entries = [
        dict(each, image_id=f"{17 * 10**17 + int(each['image_id'][:-4])}") for each in entries
    ]
    (tmp_path / "a.json").write_text(json.dumps(entries))  # numbers are times
    (found,) = predict_files.read(recognizer, tmp_path / "a.json", window=10, **size)
    assert found.spans[-1].tolist() == [30, 40]
    for numbers in ([1.0, 2.0], [2, 1], [1], [0, 10**9], [-1, 2]):
        np.savez(tmp_path / "bad.npz", joints=poses[:2], frame_numbers=numbers)
        with pytest.raises(InputError, match=r"bad\.npz: frame_numbers must be ascending integers"):
            clip_file.read(tmp_path / "bad.npz")


def test_an_image_size_in_a_file_is_of_no_use_to_positions_that_are_not_scaled(small, tmp_path):
    np.savez(tmp_path / "clip.npz", joints=walk(), image_size=[480, 640])
    recognizer = Recognizer.load(small[0], device="cpu")
    (ready,) = predict_files.read(recognizer, tmp_path / "clip.npz")
    assert len(ready.windows) == 1
    with pytest.raises(InputError, match="--image-size does not apply"):
        predict_files.read(recognizer, tmp_path / "clip.npz", (480, 640))


def test_a_file_of_another_layout_is_not_converted(tmp_path, capsys):
    np.savez(tmp_path / "c.npz", joints=np.ones((3, 1, 17, 3)), layout="coco")
    argv = ["--from", "h36m-17", "--to", "h36m", str(tmp_path / "c.npz")]
    assert run_command(convert.main, [*argv, "--out", str(tmp_path / "h.npz")]) == 2
    assert "has layout coco, not joints of --from h36m-17" in capsys.readouterr().err


def test_a_network_takes_the_stream_and_the_layout_of_its_training(tmp_path):
    table = yaml.safe_load((graph.FOLDER / "nw_ucla.yaml").read_text()) | {"name": "mine"}
    layout = tmp_path / "mine.yaml"
    layout.write_text(yaml.safe_dump(table))
    args = {"graph": str(layout), "num_class": 4, "num_person": 1, "base_channels": 8}
    config = Config(stream="bone", model_args=args | {"num_blocks": 1, "inflate": [], "down": []})
    skeleton = dataclasses.asdict(graph.load(layout))
    path = save(
        tmp_path / "bone.pt", config, names=NAMES[:4], layout=str(layout), skeleton=skeleton
    )
    clip = np.random.default_rng(0).normal(size=(20, 20, 3))
    expected = Recognizer.load(path, device="cpu")(clip).probabilities
    layout.unlink()  # the checkpoint alone has been copied to another machine
    recognizer = Recognizer.load(path, device="cpu")
    np.testing.assert_array_equal(recognizer(clip).probabilities, expected)
    assert recognizer.takes.skeleton == models.from_checkpoint(path).skeleton
    with pytest.raises(InputError, match="elsewhere' is not a known layout"):
        Recognizer.load(path, device="cpu", overrides=["model_args.graph=elsewhere"])
    with pytest.raises(InputError, match="was trained on stream bone, not joint"):
        Recognizer.load(path, device="cpu", overrides=["stream=joint"])
    parent = list(table["parent"])
    leaf = next(v for v in range(20) if v not in parent and parent[parent[v]] != parent[v])
    parent[leaf] = parent[parent[leaf]]
    layout.write_text(yaml.safe_dump(table | {"parent": parent}))
    with pytest.raises(InputError, match=r"than mine is now \(it differs in parent\)"):
        Recognizer.load(path, device="cpu")


@pytest.mark.parametrize("frames", [1, 2, 15, 500])
def test_any_length_any_rank_and_place_of_the_body(small, frames):
    recognizer = Recognizer.load(small[0], device="cpu")
    clip = walk(frames)
    expected = recognizer(clip).probabilities
    assert expected.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(recognizer(clip[:, 0]).probabilities, expected)
    # A crowd: of the bodies, those seen longest are kept, whatever their place.
    passer = np.zeros_like(clip)
    passer[0] = 1
    crowd = np.concatenate([passer, passer, clip, passer], axis=1)
    if frames > 1:
        pair = np.concatenate([passer, clip], axis=1)
        np.testing.assert_array_equal(
            recognizer(crowd).probabilities, recognizer(pair).probabilities
        )


def test_persons_that_are_seen_longest_keep_their_places():
    clip = np.zeros((9, 4, 2, 3))
    for person, frames in enumerate((6, 1, 9, 6)):  # of the first and the last, the first
        clip[:frames, person] = person + 1
    np.testing.assert_array_equal(predict.with_persons(clip, 2), clip[:, [0, 2]])
    np.testing.assert_array_equal(predict.with_persons(clip, 3), clip[:, [0, 2, 3]])
    padded = predict.with_persons(clip, 6)
    assert (padded[:, :4] == clip).all() and not padded[:, 4:].any() and padded.shape[1] == 6


# --- mistakes: one clear line each ---


@pytest.mark.parametrize(
    ("clip", "told"),
    [
        (walk(joints=17), "17 joints (as coco has), but the network takes 25"),
        (walk(channels=2), "2 channels, but the network takes 3: x, y and z"),
        (np.zeros((9, 1, 25, 3)), "no body"),
        (np.full((9, 1, 25, 3), np.nan), "9 of 9 frames have a joint that is NaN"),
        (np.zeros((0, 25, 3)), "is empty"),
        (np.zeros(25), "has shape (25,)"),
        ([["a"]], "not an array of numbers"),
        ([[[1, 2, 3]], [[1, 2, 3], [1, 2, 3]]], "not an array of numbers"),
    ],
)
def test_clips_that_do_not_fit_are_rejected_in_one_line(small, clip, told):
    with pytest.raises(InputError) as error:
        Recognizer.load(small[0], device="cpu")(clip)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_invalid_windows_and_checkpoints_are_rejected(small, tmp_path):
    recognizer = Recognizer.load(small[0], device="cpu")
    for how in ({"window": 0}, {"window": 4, "stride": 0}, {"stride": 4}):
        with pytest.raises(InputError, match="--window"):
            recognizer(walk(), **how)
    config = checkpoint.settings(checkpoint.read(small[0]), small[0])
    other = save(tmp_path / "other.pt", config, names=["a", "b", "c", "d"])
    with pytest.raises(InputError, match="cannot be fused: their class_names differ"):
        Recognizer.load([small[0], other], device="cpu")


def test_pixels_are_told_from_shares_of_the_image(tmp_path):
    args = {"graph": "coco", "num_class": 2, "num_person": 1, "base_channels": 8, "num_blocks": 1}
    config = Config(frames=8, test_clips=1, model_args=args)
    path = save(tmp_path / "coco.pt", config, names=["a", "b"], layout="coco")
    recognizer = Recognizer.load(path, device="cpu")
    clip = np.random.default_rng(0).uniform(0, 1, (9, 17, 3))
    pixels = clip * [640, 480, 1]
    with pytest.raises(InputError, match="--image-size"):
        recognizer(pixels)
    np.testing.assert_allclose(
        recognizer(pixels, image_size=(480, 640)).probabilities,
        recognizer(clip * [2, 2, 1] - [1, 1, 0]).probabilities,
        atol=1e-6,
    )


# --- files ---


def test_as_many_class_names_as_the_network_has_classes(tmp_path):
    """Whatever its store had: more classes, as NTU RGB+D 120's under 60, or fewer."""
    args = {"graph": "ntu_rgb_d", "num_class": 3, "base_channels": 8, "num_blocks": 1}
    config = Config(frames=8, test_clips=1, model_args=args)
    write(tmp_path / "a.npy", walk())
    for names, known in (
        (["a", "b", "c", "d", "e"], ["a", "b", "c"]),
        (["a", "b"], ["a", "b", "class 2"]),
    ):
        recognizer = Recognizer.load(save(tmp_path / "n.pt", config, names=names), device="cpu")
        outputs = tmp_path / "out.csv", tmp_path / "out.json"
        for output in outputs:
            predict_files.run(recognizer, [tmp_path / "a.npy"], output, quiet=True)
        head, row = csv.reader(outputs[0].read_text().splitlines())
        assert head[5:] == known and len(row) == len(head)
        said = json.loads(outputs[1].read_text())
        assert said["class_names"] == known
        assert len(said["predictions"][0]["probabilities"]) == 3


def test_facts_in_pose_files_are_used(tmp_path):
    """Which image they are of, which frames are missing; files come in the order of their numbers.

    A file of another image than --image-size is refused, as data.prepare does.
    """
    args = {"graph": "coco", "num_class": 2, "num_person": 1, "base_channels": 8, "num_blocks": 1}
    config = Config(frames=8, test_clips=1, model_args=args)
    recognizer = Recognizer.load(
        save(tmp_path / "coco.pt", config, names=["a", "b"], layout="coco"), device="cpu"
    )
    pixels = np.random.default_rng(0).uniform(0.1, 1, (9, 17, 3)) * [640, 480, 1]
    path = tmp_path / "a.npz"
    np.savez(path, joints=pixels, image_size=np.array([480, 640]))
    (own,) = predict_files.run(recognizer, [path], quiet=True)
    (given,) = predict_files.run(recognizer, [path], quiet=True, image_size=(480, 640))
    np.testing.assert_array_equal(own.probabilities, given.probabilities)
    with pytest.raises(
        InputError, match="contains the image size 480 640, not --image-size 500 700"
    ):
        predict_files.run(recognizer, [path], quiet=True, image_size=(500, 700))
    folder = tmp_path / "clips"
    folder.mkdir()
    for number in (10, 9, 2):
        entries = [
            {"image_id": f"{t}.jpg", "idx": 0, "keypoints": pose.ravel().tolist()}
            for t, pose in zip((0, 1, 2, 5, 6), pixels)
        ]
        (folder / f"{number}.json").write_text(json.dumps(entries))
    found = predict_files.run(recognizer, [folder], quiet=True, image_size=(480, 640))
    assert [Path(each.source).name for each in found] == ["2.json", "9.json", "10.json"]
    assert all("frames 3 to 4 are missing" in each.warning for each in found)


def write(path, joints, **more):
    """Write (T, V, C) joints in the form that the file's name asks for."""
    if path.suffix == ".npy":
        np.save(path, joints)
    elif path.suffix == ".npz":
        np.savez(path, joints=joints, **more)
    elif path.suffix == ".json":
        path.write_text(json.dumps({"skeletons": joints.tolist()}))
    else:
        lines = [f"{len(joints)}"]
        for frame in joints:
            lines += ["1", "7 0 1 1 1 1 0 0.1 0.2 2", "25"]
            lines += [" ".join(f"{x:.6f}" for x in (*joint, *[0] * 9)) for joint in frame]
        path.write_text("\n".join(lines) + "\n")
    return path


def test_every_form_of_file_gives_the_same(small, tmp_path, capsys):
    joints = walk()[:, 0].round(4)
    forms = ("a.skeleton", "b.json", "c.npy", "d.npz")
    paths = [write(tmp_path / name, joints) for name in forms]
    (tmp_path / "e.json").write_text(json.dumps(joints[:, None].tolist()))
    (tmp_path / "notes.txt").write_text("not a clip")
    recognizer = Recognizer.load(small, device="cpu")
    predictions = predict_files.run(recognizer, [tmp_path])
    assert [p.source for p in predictions] == [*map(str, paths), str(tmp_path / "e.json")]
    expected = recognizer(joints)
    for prediction in predictions:
        np.testing.assert_allclose(prediction.probabilities, expected.probabilities, atol=1e-5)
    name, probability = expected.top()[0]
    assert f"{name} {probability:.3f}" in capsys.readouterr().out


def test_a_bad_file_is_named_and_the_others_are_done(small, tmp_path, capsys):
    joints = walk()[:, 0]
    write(tmp_path / "good.npy", joints)
    write(tmp_path / "nan.npy", np.where(joints > 0, joints, np.nan))
    (tmp_path / "cut.npz").write_bytes(b"PK")
    (tmp_path / "odd.json").write_text('{"frames": []}')
    (tmp_path / "list.json").write_text("[1, 2")
    write(tmp_path / "coco.npz", joints, layout="coco")
    np.save(tmp_path / "code.npy", np.array([print], dtype=object), allow_pickle=True)
    output = tmp_path / "out.json"
    with pytest.raises(InputError, match="6 of 7 files"):
        predict_files.run(Recognizer.load(small, device="cpu"), [tmp_path], output, quiet=True)
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 6
    assert all(line.startswith(f"error: {tmp_path}") for line in err.splitlines())
    written = json.loads(output.read_text())
    assert [p["file"] for p in written["predictions"]] == [str(tmp_path / "good.npy")]
    assert len(written["failed"]) == 6
    assert written["class_names"] == ["wave", "kick", "bow", "sit"]
    assert sum(written["predictions"][0]["probabilities"]) == pytest.approx(1, abs=1e-5)


def test_the_output_is_written_even_if_the_table_cannot_be(small, tmp_path, monkeypatch):
    """As with `... | head`, which ends before the table does."""
    monkeypatch.setattr(predict_files, "table", lambda _: (_ for _ in ()).throw(BrokenPipeError))
    np.save(tmp_path / "a.npy", np.ones((9, 25, 3)) * np.arange(25)[:, None] / 25)
    with pytest.raises(BrokenPipeError):
        predict_files.run(Recognizer.load(small), [tmp_path / "a.npy"], tmp_path / "out.csv")
    assert (tmp_path / "out.csv").is_file()


def test_json_tells_each_window_and_what_it_is_made_of(small, tmp_path):
    path, recognizer = write(tmp_path / "a.npy", walk(30)), Recognizer.load(small, device="cpu")
    (prediction,) = predict_files.run(
        recognizer, [path], tmp_path / "out.json", quiet=True, window=20
    )
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["checkpoints"] == [
        {"weights": str(weights), "stream": stream, "weight": 1, "temperature": 1.0}
        for weights, stream in zip(small, ("joint", "bone"))
    ]
    (told,) = written["predictions"]
    assert [(w["first_frame"], w["last_frame"]) for w in told["windows"]] == [(0, 19), (10, 29)]
    for each, expected in zip(
        [told, *told["windows"]], [prediction.probabilities, *prediction.windows]
    ):
        np.testing.assert_allclose(each["probabilities"], expected, atol=1e-6)
        assert each["class"] == recognizer.names[expected.argmax()]


def test_half_precision_of_training_is_for_gpus(small, tmp_path):
    """A network trained with it predicts on the CPU in float32, which is faster there."""
    state = checkpoint.read(small[0])
    state["config"]["amp"] = "bf16"
    checkpoint.save(tmp_path / "best.pt", state)
    half, single = (
        Recognizer.load(path, device="cpu")(walk()).probabilities
        for path in (tmp_path / "best.pt", small[0])
    )
    np.testing.assert_array_equal(half, single)


@pytest.mark.parametrize("by_config", [False, True])
def test_precision_that_is_asked_for_is_used(small, by_config):
    """The probabilities are those of torch's own autocast around the network."""
    own = checkpoint.settings(checkpoint.read(small[0]), small[0])
    how = {"config": own.replace(amp="bf16")} if by_config else {"overrides": ["amp=bf16"]}
    recognizer = Recognizer.load(small[0], device="cpu", **how)
    prepared = recognizer.prepare(walk(), "clip")
    store = predict.store_of(prepared.windows, recognizer.takes)
    skeleton, device = recognizer.takes.skeleton, torch.device("cpu")
    feeder = feeder_of(own, store, skeleton, np.array([0]), device, clips=1)
    ((clips, *_),) = feeder.batches([torch.arange(1)])
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = recognizer.members[0].fused.eval()(clips).float().softmax(1)
    (prediction,) = recognizer.score([prepared])
    np.testing.assert_array_equal(prediction.probabilities, expected[0])
    single = Recognizer.load(small[0], device="cpu")(walk()).probabilities
    assert np.abs(prediction.probabilities - single).max() > 1e-5


@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_is_as_the_configuration_says(small, monkeypatch, allowed):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", not allowed)
    before = torch.get_float32_matmul_precision()
    seen = []
    recognizer = Recognizer.load(small[0], device="cpu", overrides=[f"tf32={allowed}"])
    recognizer.members[0].fused.register_forward_pre_hook(
        lambda *_: seen.append(
            (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)
        )
    )
    try:
        recognizer(walk())
    finally:
        torch.set_float32_matmul_precision(before)
    assert set(seen) == {("high" if allowed else "highest", allowed)}


def test_csv_has_a_row_a_file_and_a_row_a_window(small, tmp_path):
    path = write(tmp_path / "a.npy", walk(30))
    recognizer = Recognizer.load(small, device="cpu")
    predict_files.run(recognizer, [path], tmp_path / "out.csv", quiet=True, window=20)
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert [(r["window"], r["first_frame"], r["last_frame"]) for r in rows] == [
        ("all", "0", "29"), ("0", "0", "19"), ("1", "10", "29"),
    ]  # fmt: skip
    for row in rows:
        likeliest = max(recognizer.names, key=lambda name: float(row[name]))
        assert row["class"] == likeliest


def test_the_command_ends_with_the_promised_exit_codes(small, tmp_path, capsys):
    import main
    from errors import run_command

    good = write(tmp_path / "clips.npy", walk())
    (tmp_path / "empty").mkdir()

    def predict_with(*argv):
        weights = ["--phase", "predict", "--device", "cpu", "--weights", *map(str, small)]
        return run_command(main.main, [*weights, *map(str, argv)])

    assert predict_with("--input", good, "--window", "20") == 0
    assert "frames 10 to 29" in capsys.readouterr().out
    for argv, told in [
        (["--input", tmp_path / "empty"], "no .skeleton, .json, .npy, .npz file"),
        (["--input", tmp_path / "none.npy"], "no such file"),
        (["--input", tmp_path / "nowhere"], "no such file or folder"),
        (["--input", good, "--output", tmp_path / "out.txt"], "must end in .json or .csv"),
        ([], "--input"),
    ]:
        assert predict_with(*argv) == 2
        err = capsys.readouterr().err
        assert told in err and err.count("\n") == 1


# --- converters ---


def named(form, names):
    """One frame in which joint `name` lies at 100 times its place in `names`, with score 0.5."""
    joints = np.zeros((1, len(convert.FORMS[form]), 3))
    for place, name in enumerate(names, start=1):
        joints[0, convert.FORMS[form].index(name)] = (100 * place, 50 * place, 0.5)
    return joints


@pytest.mark.parametrize(
    ("form", "layout", "numbers"),
    [
        # The estimators' own numbering of the joints of the layout, from their documentation.
        ("mediapipe-33", "coco", [0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28]),
        ("body-25", "openpose", [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18]),
        ("openpose-18", "coco", [0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10]),
        ("coco-17", "coco", list(range(17))),
        ("openpose-18", "openpose", list(range(18))),
        ("kinect-25", "ntu_rgb_d", list(range(25))),
        ("kinect-20", "nw_ucla", list(range(20))),
        ("h36m-17", "h36m", list(range(17))),
    ],
)
def test_joints_find_their_place(form, layout, numbers):
    assert convert.sources(form, layout).tolist() == [[number] * 2 for number in numbers]


def test_the_neck_lies_between_the_shoulders():
    joints = np.zeros((1, 17, 3))
    joints[0, 5], joints[0, 6] = (100, 40, 0.9), (300, 60, 0.4)
    neck = graph.load("openpose").joints.index("neck")
    clip = convert.convert(joints, "coco-17", "openpose", image_size=(200, 400))
    np.testing.assert_allclose(clip[0, 0, neck], [0, -0.5, 0.4], atol=1e-6)
    # A shoulder that was not seen leaves no neck, and nothing else was seen either.
    joints[0, 6] = 0
    clip = convert.convert(joints, "coco-17", "openpose", image_size=(200, 400))
    assert (clip[0, 0, neck] == 0).all() and np.count_nonzero(clip.any(axis=-1)) == 1


def test_channels_become_position_and_score():
    landmarks = np.zeros((2, 33, 5))
    landmarks[:, :, :4] = 0.25, 0.75, 9.0, 0.6  # shares of the image, depth, visibility
    clip = convert.convert(landmarks, "mediapipe-33", "coco")
    np.testing.assert_allclose(clip, np.broadcast_to([-0.5, 0.5, 0.6], (2, 1, 17, 3)), atol=1e-6)
    pixels = np.full((2, 17, 2), 100.0)
    pixels[0, 3] = 0
    clip = convert.convert(pixels, "coco-17", "coco", image_size=(200, 400))
    assert clip[0, 0, 3].tolist() == [0, 0, 0] and clip[0, 0, 4].tolist() == [-0.5, 0, 1]
    metres = walk()
    np.testing.assert_array_equal(convert.convert(metres, "kinect-25", "ntu_rgb_d"), metres)


@pytest.mark.parametrize(
    ("joints", "form", "layout", "told"),
    [
        (np.ones((2, 17, 3)), "coco-17", "ntu_rgb_d", "lacks joints of --to"),
        (np.ones((2, 18, 3)), "coco-17", "coco", "has 17 joints, not 18"),
        (np.ones((2, 17, 3)), "coco-17", "coco", "--image-size"),
        (np.ones((2, 17, 4)), "coco-17", "coco", "4 channels"),
        (np.ones((2, 25, 2)), "kinect-25", "ntu_rgb_d", "2 channels"),
        (np.ones((2, 17, 2)), "h36m-17", "h36m", "2 channels"),
        (1000 * walk(joints=17), "h36m-17", "h36m", "people in meters"),
    ],
)
def test_what_cannot_be_converted_is_told(joints, form, layout, told):
    with pytest.raises(InputError, match=told):
        convert.convert(joints, form, layout)


@pytest.mark.parametrize("size", [(0, 400), (400, -1), (np.nan, 400)])
def test_an_image_has_a_size(size):
    with pytest.raises(InputError, match=r"--image-size: must be height and width in pixels"):
        convert.convert(np.ones((2, 17, 3)), "coco-17", "coco", size)


def test_the_converter_reads_openposes_folder_and_predict_its_file(tmp_path):
    folder = tmp_path / "json"
    folder.mkdir()
    random = np.random.default_rng(0)
    strong, weak = random.uniform(1, 100, (2, 3, 25, 3))
    strong[..., 2], weak[..., 2] = 0.9, 0.2
    for frame in range(3):
        people = [weak[frame], strong[frame]] if frame else [strong[frame]]
        (folder / f"v_{frame:012d}_keypoints.json").write_text(
            json.dumps({"people": [{"pose_keypoints_2d": p.ravel().tolist()} for p in people]})
        )
    out = tmp_path / "clip.npz"
    convert.main(["--from", "body-25", "--to", "openpose", str(folder),
                  "--image-size", "200", "100", "--out", str(out)])  # fmt: skip
    clip = clip_file.read(out)
    assert clip.layout == "openpose" and clip.joints.shape == (3, 2, 18, 3)
    np.testing.assert_allclose(clip.joints[:, 0, 8, 0], strong[:, 9, 0] / 50 - 1, atol=1e-5)
    np.testing.assert_allclose(clip.joints[1:, 1, 8, 1], weak[1:, 9, 1] / 100 - 1, atol=1e-5)
    assert (clip.joints[0, 1] == 0).all()


def test_the_converter_takes_a_folder_of_clips(tmp_path, capsys):
    """Each clip keeps its place below the folder; a wrong one is named, the others are written."""
    source, out = tmp_path / "lifted", tmp_path / "clips"
    (source / "day 1").mkdir(parents=True)
    clip = walk(joints=17)
    np.save(source / "a.npy", clip)
    np.save(source / "day 1/b.npy", clip[:, 0])
    np.save(source / "c.npy", clip[:, :, :16])
    words = ["--from", "h36m-17", "--to", "h36m", str(source), "--out"]
    with pytest.raises(InputError, match="1 of 3 files could not be converted"):
        convert.main([*words, str(out)])
    assert "c.npy: --from h36m-17: has 17 joints, not 16" in capsys.readouterr().err
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.npz")) == [
        "a.npz", "day 1/b.npz",
    ]  # fmt: skip
    for file in out.rglob("*.npz"):
        written = clip_file.read(file)
        assert written.layout == "h36m"
        np.testing.assert_array_equal(written.joints, clip)
    with pytest.raises(InputError, match="must be a folder"):
        convert.main([*words, str(tmp_path / "one.npz")])
    (tmp_path / "empty").mkdir()
    words[-2] = str(tmp_path / "empty")
    with pytest.raises(InputError, match=r"empty: no \.skeleton"):
        convert.main([*words, str(out)])


# --- units, axes and unseen joints ---


@pytest.fixture
def coco(tmp_path):
    args = {"graph": "coco", "num_class": 2, "num_person": 1, "base_channels": 8, "num_blocks": 1}
    config = Config(frames=8, test_clips=1, model_args=args)
    path = save(tmp_path / "coco.pt", config, names=["a", "b"], layout="coco")
    return Recognizer.load(path, device="cpu")


@pytest.fixture
def sized(small, tmp_path):
    """A network that was trained on bodies of 1.1 to 1.9 m."""
    state = checkpoint.read(small[0])
    checkpoint.save(tmp_path / "sized.pt", {**state, "size": [1.1, 1.6, 1.9]})
    return tmp_path / "sized.pt"


def person(height=1.6, frames=20):
    """A clip (T, 25, 3) of a body that is as high as that, three heights away."""
    random = np.random.default_rng(0)
    clip = random.uniform(-0.1, 0.1, (frames, 25, 3))
    clip[..., 1] = np.linspace(0, 1, 25)
    return (clip + [0, 0, 3]) * height


def test_a_joint_that_was_not_found_is_zero_for_the_network_too(coco):
    clip = np.random.default_rng(0).uniform(0, 1, (9, 1, 17, 3))
    clip[3:6, 0, 4] = 0
    pixels, scaled = clip * [640, 480, 1], np.where(clip == 0, 0, clip * [2, 2, 1] - [1, 1, 0])
    for joints, size in [(pixels, (480, 640)), (scaled, None)]:
        (window,) = coco.prepare(joints, "a", size).windows
        np.testing.assert_allclose(window, scaled, atol=1e-6)
    assert not window[3:6, 0, 4].any() and window.any(axis=-1).sum() == 9 * 17 - 3


def test_every_way_in_agrees_on_joints_that_were_not_found(coco, tmp_path):
    """data.convert, data.prepare custom and prediction of a joint with and without a position."""
    clip = np.random.default_rng(0).uniform(0.1, 1, (9, 1, 17, 3)) * [640, 480, 1]
    clip[3, 0, 4] = clip[5, 0, 6, 2] = 0
    np.save(tmp_path / "a.npy", clip)
    (tmp_path / "labels.csv").write_text("file,label\na.npy,x\n")
    prepare.main(["custom", str(tmp_path / "labels.csv"), "--layout", "coco", "--persons", "1",
                  "--image-size", "480", "640", "--out", str(tmp_path / "s"),
                  "--workers", "1"])  # fmt: skip
    stored = Store.open(tmp_path / "s").clip(0)
    converted = convert.convert(clip, "coco-17", "coco", (480, 640))
    (window,) = coco.prepare(clip, "a", (480, 640)).windows
    assert not stored[3, 0, 4].any() and not stored[5, 0, 6].any()
    np.testing.assert_allclose(converted, stored, atol=1e-6)
    np.testing.assert_allclose(window, stored, atol=1e-6)


def test_poses_without_any_score_are_told(coco):
    clip = np.random.default_rng(0).uniform(-1, 1, (9, 1, 17, 3)) * [1, 1, 0]
    with pytest.raises(InputError, match=r"no score .* is positive"):
        coco(clip)


@pytest.mark.parametrize(
    ("height", "told"),
    [(1600, "0.001"), (160, "0.01"), (63, "0.0254"), (0.0016, "1e+03")],
)
def test_impossible_body_sizes_are_rejected(sized, height, told):
    with pytest.raises(InputError) as error:
        Recognizer.load(sized, device="cpu")(person(height) + 1)
    assert told in str(error.value) and "training clips: 1.1 to 1.9" in str(error.value)


def test_a_clip_far_from_the_size_of_training_is_told(small, sized, tmp_path, capsys):
    write(tmp_path / "giant.npy", person(12))
    write(tmp_path / "usual.npy", person())
    recognizer = Recognizer.load(sized, device="cpu")
    giant, usual = predict_files.run(recognizer, [tmp_path], tmp_path / "out" / "o.json")
    assert "body size is 11" in giant.warning and usual.warning == ""
    assert capsys.readouterr().err.startswith(f"warning: {tmp_path / 'giant.npy'}: body size")
    written = json.loads((tmp_path / "out" / "o.json").read_text())["predictions"]
    assert [prediction.get("warning", "") for prediction in written] == [giant.warning, ""]
    # A checkpoint that does not tell its size is of people in meters: said, not refused.
    assert "by 0.001" in Recognizer.load(small, device="cpu")(person(1600)).warning


def test_checkpoints_are_fused_whose_sizes_differ(small, sized):
    assert Recognizer.load([sized, small[1]], device="cpu")(person()).warning == ""


@pytest.mark.parametrize("shape", [(1, 40, 25, 3), (2, 30, 25, 3)])
def test_persons_before_frames_are_refused(small, shape, tmp_path):
    clip = walk(shape[1], shape[0]).swapaxes(0, 1)
    assert clip.shape == shape
    np.save(tmp_path / "a.npy", clip)
    for way in (
        lambda: Recognizer.load(small[0], device="cpu")(clip),
        lambda: convert.convert(clip, "kinect-25", "ntu_rgb_d"),
        lambda: clip_file.read(tmp_path / "a.npy"),
    ):
        with pytest.raises(InputError, match="swap the first two"):
            way()
    assert clip_file.as_clip(walk(4, 6), "crowd").shape == (4, 6, 25, 3)


def test_an_image_size_that_is_not_used_is_refused(small, coco):
    with pytest.raises(InputError, match="--image-size does not apply"):
        Recognizer.load(small[0], device="cpu")(walk(), image_size=(480, 640))
    with pytest.raises(InputError, match="--image-size does not apply"):
        convert.convert(walk(), "kinect-25", "ntu_rgb_d", (480, 640))
    shares = np.random.default_rng(0).uniform(0.1, 0.9, (9, 17, 3))
    with pytest.raises(InputError, match=r"not pixels of an image of 480 x 640.*--image-size 1 1"):
        coco(shares, image_size=(480, 640))
    expected = coco(shares * [640, 480, 1], image_size=(480, 640)).probabilities
    np.testing.assert_allclose(coco(shares, image_size=(1, 1)).probabilities, expected, atol=1e-6)
    assert "--image-size 1 1" in coco(shares).warning


def test_positions_out_of_the_image_are_refused(coco):
    poses = np.random.default_rng(0).uniform(500, 2000, (9, 17, 3)) / [1, 1, 2000]
    with pytest.raises(InputError, match="outside an image of height 480 and width 640"):
        coco(poses, image_size=(480, 640))
    poses = np.random.default_rng(0).uniform(0, 1, (9, 17, 3)) * [640, 480, 1]
    poses[:, 13:, 1] = 900  # ankles and knees that an estimator guesses below the image
    assert coco(poses, image_size=(480, 640)).probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_an_image_size_whose_width_comes_first_is_refused(coco):
    poses = np.random.default_rng(0).uniform(0, 1, (9, 17, 3)) * [640, 480, 1]
    with pytest.raises(InputError, match=r"outside an image of height 640 and width 480.*first"):
        coco(poses, image_size=(640, 480))
    upper = poses * [0.7, 1, 1]  # no sign that the size is not right
    assert coco(upper, image_size=(640, 480)).probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_a_network_of_pixels_refuses_scaled_positions(coco, tmp_path):
    state = checkpoint.read(coco.members[0].path)
    checkpoint.save(tmp_path / "p.pt", {**state, "normalization": "pixels"})
    pixels = np.random.default_rng(0).uniform(100, 400, (9, 17, 3)) / [1, 1, 400]
    recognizer = Recognizer.load(tmp_path / "p.pt", device="cpu")
    assert recognizer(pixels).warning == ""
    with pytest.raises(InputError, match="look scaled; pixels are expected"):
        recognizer(pixels / [400, 400, 1])
    with pytest.raises(InputError, match="but they are from 0 to 1: divide percent by 100"):
        recognizer(pixels * [1, 1, 100])


def test_a_normalization_that_is_not_known_is_refused(small, tmp_path):
    state = checkpoint.read(small[0])
    for key in ("normalization", "normalisation"):
        checkpoint.save(tmp_path / "m.pt", {**state, key: "mine"})
        with pytest.raises(InputError, match="normalization 'mine' is not one of upright, "):
            Recognizer.load(tmp_path / "m.pt", device="cpu")(walk())
    checkpoint.save(tmp_path / "m.pt", {**state, "normalisation": "centred", "centre": 20})
    recognizer = Recognizer.load(tmp_path / "m.pt", device="cpu")
    (window,) = recognizer.prepare(walk(), "a").windows
    np.testing.assert_allclose(window[:, 0], (walk() - walk()[0, 0, 20])[:, 0], atol=1e-6)


def test_mediapipes_positions_are_shares_or_pixels():
    shares = np.random.default_rng(0).uniform(0.2, 0.8, (5, 33, 4))
    expected = convert.convert(shares, "mediapipe-33", "coco")
    pixels = shares * [640, 480, 1, 1]
    with pytest.raises(InputError, match=r"positions up to \d+\.\d are outside an image"):
        convert.convert(pixels, "mediapipe-33", "coco")
    with pytest.raises(InputError, match="not pixels of an image of 480 x 640"):
        convert.convert(shares, "mediapipe-33", "coco", (480, 640))
    converted = convert.convert(pixels, "mediapipe-33", "coco", (480, 640))
    np.testing.assert_allclose(converted, expected, atol=1e-6)


@pytest.mark.parametrize("unit", [1000, 100, 1 / 0.0254])
def test_kinects_positions_are_meters(unit):
    convert.convert(person(), "kinect-25", "ntu_rgb_d")
    factor = f"{1 / unit:.3g}"
    with pytest.raises(InputError, match=f"multiply the positions by {factor}"):
        convert.convert(person() * unit, "kinect-25", "ntu_rgb_d")


def test_nan_is_refused_zero_or_interpolated(small, tmp_path):
    clip = walk(10).astype(np.float64)
    clip[0, 0, 5] = 0  # not seen, and so no neighbor
    broken = clip.copy()
    broken[1:4, 0, 5] = np.nan  # before its first sight
    broken[4:6, 0, 7, 1] = np.inf
    broken[8:, 0, 9] = np.nan
    broken[:, 0, 11] = np.nan
    path = write(tmp_path / "a.npy", broken)
    with pytest.raises(InputError, match=r"10 of 10 frames .* --nan zero or --nan interpolate"):
        clip_file.read(path)
    zero = clip_file.read(path, "zero").joints
    lost = ~np.isfinite(broken).all(axis=-1)
    assert not zero[lost].any()
    np.testing.assert_array_equal(zero[~lost], clip[~lost].astype("f4"))
    between = clip_file.read(path, "interpolate").joints
    np.testing.assert_array_equal(between[~lost], clip[~lost].astype("f4"))
    np.testing.assert_allclose(between[1:4, 0, 5], clip[[4, 4, 4], 0, 5], atol=1e-6)
    thirds = np.array([1, 2])[:, None] / 3
    expected = clip[3, 0, 7] * (1 - thirds) + clip[6, 0, 7] * thirds
    np.testing.assert_allclose(between[4:6, 0, 7], expected, atol=1e-6)
    np.testing.assert_allclose(between[8:, 0, 9], clip[[7, 7], 0, 9], atol=1e-6)
    assert not between[:, 0, 11].any()
    text = json.dumps(broken.tolist())
    (tmp_path / "a.json").write_text(text)
    np.testing.assert_array_equal(clip_file.read(tmp_path / "a.json", "zero").joints, zero)
    recognizer = Recognizer.load(small[0], device="cpu")
    (tmp_path / "a.json").unlink()
    (predicted,) = predict_files.run(recognizer, [path], quiet=True, nan="interpolate")
    np.testing.assert_array_equal(predicted.probabilities, recognizer(between).probabilities)
    (tmp_path / "l.csv").write_text("file,label\na.npy,x\n")
    arguments = ["custom", str(tmp_path / "l.csv"), "--layout", "ntu_rgb_d", "--workers", "1"]
    arguments += ["--normalize", "none", "--out", str(tmp_path / "s"), "--nan", "zero"]
    prepare.main(arguments)
    np.testing.assert_array_equal(Store.open(tmp_path / "s").clip(0)[:, :1], zero)


def test_nan_is_not_interpolated_toward_joints_that_were_not_found(tmp_path):
    """The left wrist is seen in frame 0, NaN in 1 to 3, then anywhere with score 0."""
    args = {"graph": "coco", "num_class": 2, "num_person": 1, "base_channels": 8, "num_blocks": 1}
    recognizer = Recognizer.load(
        save(tmp_path / "coco.pt", Config(frames=8, model_args=args), names=["a"], layout="coco"),
        device="cpu",
    )
    clip = np.random.default_rng(0).uniform(0.1, 0.9, (6, 17, 3))
    clip[1:4, 9] = np.nan
    clip[4:, 9, 2] = 0
    landmarks = np.full((6, 33, 4), 0.5)  # x, y, z, visibility
    landmarks[:, 15] = clip[:, 9][:, [0, 1, 0, 2]]
    (tmp_path / "op").mkdir()
    for t, pose in enumerate(clip):
        people = [{"pose_keypoints_2d": pose.ravel().tolist()}]
        (tmp_path / "op" / f"{t}.json").write_text(json.dumps({"people": people}))
    path = write(tmp_path / "a.npy", clip)
    (ready,) = predict_files.read(recognizer, path, (1, 1), "interpolate")
    found = [ready.windows[0]]
    marks = write(tmp_path / "m.npy", landmarks)
    for form, source in (("coco-17", path), ("coco-17", tmp_path / "op"), ("mediapipe-33", marks)):
        argv = ["--from", form, "--to", "coco", str(source), "--image-size", "1", "1"]
        argv += ["--nan", "interpolate", "--out", str(tmp_path / "c.npz")]
        assert run_command(convert.main, argv) == 0
        found.append(clip_file.read(tmp_path / "c.npz").joints)
    (tmp_path / "l.csv").write_text("file,label\na.npy,x\n")
    own = ["custom", str(tmp_path / "l.csv"), "--layout", "coco", "--workers", "1", "--image-size"]
    own += ["1", "1", "--nan", "interpolate", "--out", str(tmp_path / "s")]
    assert run_command(prepare.main, own) == 0
    found.append(Store.open(tmp_path / "s").clip(0))
    expected = [*clip[0, 9, :2] * 2 - 1, clip[0, 9, 2]]
    for joints in found:
        np.testing.assert_allclose(joints[1:4, 0, 9], [expected] * 3, atol=1e-5)
