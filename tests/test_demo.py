"""The demo data, read from its text files by an independent small reader."""

import re
from pathlib import Path

import numpy as np
import pytest

from data import demo, puppet
from errors import run_command

# Kinect v2's tree, written by hand: (child, parent), numbered from 1 as in its documentation.
TREE = [(2, 1), (21, 2), (3, 21), (4, 3), (5, 21), (6, 5), (7, 6), (8, 7), (9, 21), (10, 9),
        (11, 10), (12, 11), (13, 1), (14, 13), (15, 14), (16, 15), (17, 1), (18, 17), (19, 18),
        (20, 19), (22, 8), (23, 8), (24, 12), (25, 12)]  # fmt: skip
MIRROR = {5: 9, 6: 10, 7: 11, 8: 12, 13: 17, 14: 18, 15: 19, 16: 20, 22: 24, 23: 25}
PAIRS = {"hand over", "punch", "shake hands", "push"}


def read(path: Path) -> list[dict[int, np.ndarray]]:
    """Read a file line by line: per frame, body id -> (25, 12)."""
    lines = iter(path.read_text().splitlines())
    frames = []
    for _ in range(int(next(lines))):
        bodies = {}
        for _ in range(int(next(lines))):
            about = next(lines).split()
            assert len(about) == 10
            assert int(next(lines)) == 25
            rows = [next(lines).split() for _ in range(25)]
            assert all(len(row) == 12 for row in rows)
            bodies[int(about[0])] = np.array(rows, float)
        frames.append(bodies)
    assert next(lines, None) is None
    return frames


def length(joints: np.ndarray, child: int, parent: int) -> np.ndarray:
    return np.linalg.norm(joints[..., child - 1, :] - joints[..., parent - 1, :], axis=-1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    for clip in demo.clips():
        if clip.subject in (2, 3, 16):  # of the twenty
            (folder / f"{clip}.skeleton").write_text(demo.text(*demo.record(clip, seed=0)))
    return folder


def of_class(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(f"*A{demo.CLASS_NAMES.index(name) + 1:03}.skeleton"))


def test_names_and_counts_of_clips(folder):
    names = [str(clip) for clip in demo.clips()]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"S\d{3}C00[123]P\d{3}R00[12]A\d{3}", name) for name in names)
    subjects = np.array([int(name[9:12]) for name in names])
    actions = np.array([int(name[17:20]) for name in names])
    assert len(demo.CLASS_NAMES) == len(set(demo.CLASS_NAMES)) >= 12
    assert set(actions) == set(range(1, len(demo.CLASS_NAMES) + 1))
    assert set(np.bincount(actions[subjects % 2 == 1])[1:]) == {60}  # training clips per class
    assert set(np.bincount(actions[subjects % 2 == 0])[1:]) == {30}  # test clips per class
    written = {path.name for path in folder.iterdir()}
    assert written == {f"{name}.skeleton" for name in names if int(name[9:12]) in (2, 3, 16)}
    size = np.mean([path.stat().st_size for path in folder.iterdir()])
    assert size * len(names) < 150e6  # bytes in total


def test_files_show_standing_people_in_front_of_the_camera(folder):
    lost = 0
    for path in sorted(folder.iterdir())[::2]:
        frames = read(path)
        assert 24 <= len(frames) <= 60
        assert frames[0], "the first frame has no body"
        lost += sum(not bodies for bodies in frames)
        for rows in frames[0].values():
            x, y, z = rows[:, :3].T
            assert (z > 1.2).all() and (z < 5.5).all() and (abs(x) < 2).all() and abs(y[0]) < 0.5
            assert 0.9 < np.ptp(y) < 2.1
            assert (np.minimum(y[15], y[19]) < y[[0, 1, 2, 3, 20]]).all()  # feet below the trunk
            assert set(rows[:, 11]) <= {1, 2}
    assert lost > 0


def test_two_person_actions_have_two_bodies(folder):
    for name in demo.CLASS_NAMES:
        for path in of_class(folder, name)[::4]:
            ids = {body for bodies in read(path) for body in bodies}
            assert len(ids) == (2 if name in PAIRS else 1), path.name


def test_bone_lengths_are_constant_up_to_noise(folder):
    noise, jitter = [], []
    for path in sorted(folder.iterdir())[::5]:
        clear = {}
        for bodies in read(path):
            for body, rows in bodies.items():
                if (rows[:, 11] == 2).all():
                    clear.setdefault(body, []).append(rows[:, :3])
        for joints in map(np.array, clear.values()):
            for child, parent in TREE:
                bone = length(joints, child, parent)
                assert np.std(bone) < 0.06, (path.name, child, parent)
                noise.append(np.std(bone))
                jitter.append(np.std(np.diff(bone, n=2)))
    assert 0.004 < np.median(noise) < 0.02
    assert 0.005 < np.median(jitter) < 0.05  # between consecutive frames too


def test_bone_lengths_are_constant_before_sensor_noise():
    rng, t = np.random.default_rng(5), np.linspace(0, 1, 50)
    for action in demo.ACTIONS.values():
        for pose in action(t, rng):
            joints = puppet.Body.draw(rng).perform(pose, t, rng)
            for child, parent in TREE:
                bone = length(joints, child, parent)
                assert np.allclose(bone, bone[0], rtol=1e-9), (action.__name__, child, parent)
            for left, right in MIRROR.items():
                side = dict(TREE)
                assert np.allclose(length(joints, left, side[left]),
                                   length(joints, right, side[right]))  # fmt: skip


def test_elbows_and_knees_bend_in_the_correct_direction():
    rng, t = np.random.default_rng(6), np.linspace(0, 1, 50)
    for name, action in demo.ACTIONS.items():
        joints = puppet.Body.draw(rng).perform(action(t, rng)[0], t, rng)
        for hip, knee, ankle in ((12, 13, 14), (16, 17, 18)):  # in front of the line, or above it
            _, up, ahead = (joints[:, knee] - (joints[:, hip] + joints[:, ankle]) / 2).T
            assert ((ahead > 0) | (up > 0.05)).all(), name
        for shoulder, elbow, wrist in ((4, 5, 6), (8, 9, 10)):  # behind it, or below
            _, up, ahead = (joints[:, elbow] - (joints[:, shoulder] + joints[:, wrist]) / 2).T
            assert ((ahead < 0.02) | (up < -0.02)).all(), name


def test_left_handed_performance_is_mirrored():
    rng, t = np.random.default_rng(7), np.linspace(0, 1, 50)
    joints = puppet.Body.draw(rng).perform(demo.wave(t, rng)[0], t, rng)
    other = puppet.mirrored(joints)
    partner = np.arange(1, 26)
    for left, right in MIRROR.items():
        partner[left - 1], partner[right - 1] = right, left
    for joint in range(25):
        assert np.array_equal(other[:, joint], joints[:, partner[joint] - 1] * (-1, 1, 1))
    assert joints[25, 10, 1] > joints[25, 8, 1] > joints[25, 6, 1]  # the right hand is up
    assert other[25, 6, 1] > other[25, 4, 1] > other[25, 10, 1]  # now it is the left


def test_right_hand_of_person_facing_the_camera_has_positive_x():
    shoulders = []
    for subject in range(1, 21):  # R001 faces C002
        joints, _, _ = demo.record(demo.Clip(1, 2, subject, 1, 1), seed=0)
        shoulders.append(joints[0, 0, 8] - joints[0, 0, 4])
        assert joints[0, 0, 8, 0] > joints[0, 0, 4, 0]
        assert (
            joints[0, 0, [15, 19], 2].mean() < joints[0, 0, [14, 18], 2].mean()
        )  # toes are closer
    assert abs(np.mean(shoulders, axis=0)[2]) < 0.1


def test_actions_match_their_names():
    rng, t = np.random.default_rng(8), np.linspace(0, 1, 51)

    def perform(name: str) -> np.ndarray:
        return puppet.Body.draw(rng).perform(demo.ACTIONS[name](t, rng)[0], t, rng)

    sit, stand = perform("sit down")[:, 0, 1], perform("stand up")[:, 0, 1]
    assert sit[0] - sit[-1] > 0.25
    assert stand[-1] - stand[0] > 0.25
    drink = perform("drink")
    gap = np.linalg.norm(drink[:, 11] - drink[:, 3], axis=-1)
    assert gap[25] < 0.3 < gap[0]
    bow = perform("bow")
    assert bow[0, 3, 1] - bow[25, 3, 1] > 0.1 and bow[25, 3, 2] - bow[0, 3, 2] > 0.1
    jump = perform("jump")
    assert jump[:, [14, 18], 1].min(axis=1).max() - jump[0, 14, 1] > 0.1
    kick = perform("kick")
    assert kick[:, 18, 2].max() - kick[0, 18, 2] > 0.4 > np.ptp(kick[:, 14, 2])
    clap = perform("clap")
    gap = np.linalg.norm(clap[12:40, 7] - clap[12:40, 11], axis=-1)
    assert np.sum((gap[1:-1] < gap[:-2]) & (gap[1:-1] < gap[2:])) >= 2


def test_seed_determines_every_byte(folder):
    clip = demo.Clip(1, 2, 3, 1, 4)
    first = demo.text(*demo.record(clip, seed=0))
    assert (folder / f"{clip}.skeleton").read_text() == first
    assert str(clip) == "S001C002P003R001A004"
    assert demo.text(*demo.record(clip, seed=0)) == first
    assert demo.text(*demo.record(clip, seed=1)) != first
    assert demo.text(*demo.record(demo.Clip(1, 1, 3, 1, 4), seed=0)) != first


def test_clips_of_the_same_action_differ():
    clips = [demo.Clip(1, camera, 3, take, 1) for camera in (1, 2, 3) for take in (1, 2)]
    lifts = []  # independent of the camera
    for joints in (demo.record(clip, seed=0)[0][0] for clip in clips):
        gaps = [np.linalg.norm(joints[:, hand] - joints[:, 3], axis=-1) for hand in (7, 11)]
        lifts.append((len(joints), np.argmin(np.minimum(*gaps)) / len(joints)))
    assert len(set(lifts)) == len(clips)
    assert len({frames for frames, _ in lifts}) > 2


def test_a_clip_of_a_new_person_is_written_for_prediction(tmp_path, capsys):
    """As NTU's own files are; the same bytes each time, another action has others."""
    paths = [tmp_path / f"{number}.skeleton" for number in range(3)]
    for path, action in zip(paths, ("wave", "wave", "kick")):
        assert run_command(demo.main, ["--out", str(path), "--action", action]) == 0
    first, again, other = (path.read_bytes() for path in paths)
    assert first == again != other
    assert len(read(paths[0])) > 20 and any(len(frame) for frame in read(paths[0]))
    assert run_command(demo.main, ["--out", str(paths[0]), "--action", "wav"]) == 2
    assert "wave" in capsys.readouterr().err
