"""Segments of long recordings: merged windows, their files and the timeline."""

import csv
import json
import re

import numpy as np
import pytest

import main
from data import clip_file, convert
from engine import predict_files
from engine.predict import Prediction
from engine.segments import segments, time, timeline
from errors import InputError

NAMES = ("walk", "fall", "sit")


def prediction(spans, windows, threshold=0.0, source="a.npy", fps=None):
    windows, spans = np.array(windows, np.float32), np.array(spans)
    return Prediction(source, NAMES, windows.mean(0), spans, windows, "", threshold, fps)


def test_frames_have_the_mean_of_their_windows():
    """By hand: frames 0..4 are of window 1, 5..9 of both, 10..14 of window 2."""
    found = segments(prediction([(0, 10), (5, 15)], [[0.9, 0.1, 0], [0.3, 0.6, 0.1]]))
    # in the middle walk has (0.9 + 0.3) / 2 = 0.6
    assert [(s.first, s.end, s.name) for s in found] == [(0, 10, "walk"), (10, 15, "fall")]
    assert [s.probability for s in found] == pytest.approx([(5 * 0.9 + 5 * 0.6) / 10, 0.6])


def test_below_the_threshold_the_answer_is_unknown():
    windows = [[0.9, 0.1, 0], [0.3, 0.6, 0.1]]
    found = segments(prediction([(0, 10), (5, 15)], windows, threshold=0.65))
    assert [(s.first, s.end, s.name) for s in found] == [(0, 5, "walk"), (5, 15, "unknown")]


def test_frames_without_a_body_are_in_no_segment():
    """The windows of frames 10..19 had no body and are left out."""
    found = segments(prediction([(0, 10), (20, 30)], [[0.9, 0.1, 0], [0.9, 0.1, 0]]))
    assert [(s.first, s.end) for s in found] == [(0, 10), (20, 30)]


def test_times_are_minutes_and_seconds():
    assert time(75, None) == "75" and time(75, 30.0) == "0:02.5" and time(3000, 30.0) == "1:40.0"
    assert time(1799, 30.0) == "1:00.0" and time(1798, 30.0) == "0:59.9"  # 59.97 and 59.93 s


def test_a_timeline_shows_every_segment():
    page = timeline([prediction([(0, 10), (5, 15)], [[0.9, 0.1, 0], [0.3, 0.6, 0.1]], fps=10)])
    widths = re.findall(r'<rect x="(\d+)" width="(\d+)"', page)
    assert widths == [("0", "10"), ("10", "5")] and 'viewBox="0 0 15 1"' in page
    assert "0:01.0 to 0:01.5: fall 0.600" in page and "<script" not in page
    assert not re.search(r"https?://", page)
    assert "&lt;b&gt;" in timeline([prediction([(0, 1)], [[1, 0, 0]], source="<b>")])


class Fake:
    names, threshold = NAMES, 0.0


@pytest.mark.parametrize("fps", [None, 10.0])
def test_files_have_frames_and_seconds(fps, tmp_path):
    made = [prediction([(0, 10), (5, 15)], [[0.9, 0.1, 0], [0.3, 0.6, 0.1]], fps=fps)]
    texts = {}
    for ending in (".json", ".csv", ".html"):
        predict_files.write(tmp_path / f"out{ending}", Fake, made, {}, segmented=True)
        texts[ending] = (tmp_path / f"out{ending}").read_text()
    found = json.loads(texts[".json"])["files"][0]["segments"]
    assert [(s["first_frame"], s["last_frame"], s["class"]) for s in found] == [
        (0, 9, "walk"), (10, 14, "fall"),
    ]  # fmt: skip
    assert ("start" in found[0]) == (fps is not None)
    rows = list(csv.DictReader(texts[".csv"].splitlines()))
    assert [float(row["to"]) for row in rows] == ([1.0, 1.5] if fps else [10, 15])
    assert "<svg" in texts[".html"]


def test_the_command_writes_segments_of_each_person(whole, tmp_path, capsys):
    random = np.random.default_rng(0)
    clip = random.normal(size=(40, 2, 25, 3)) * 0.1
    clip[:, 0, :6] += 1
    clip[:, 1, 6:12] += 2
    np.save(tmp_path / "clip.npy", clip)
    argv = ["--phase", "predict", "--weights", str(whole / "best.pt"), "--device", "cpu"]
    argv += ["--input", str(tmp_path / "clip.npy"), "--window", "10", "--segments", "--fps", "10"]
    main.main([*argv, "--per-person", "--output", str(tmp_path / "out.json")])
    files = json.loads((tmp_path / "out.json").read_text())["files"]
    assert [each["file"] for each in files] == [
        f"{tmp_path}/clip.npy person 1", f"{tmp_path}/clip.npy person 2",
    ]  # fmt: skip
    assert [each["segments"][-1]["end"] for each in files] == [4.0, 4.0]
    main.main([*argv, "--output", str(tmp_path / "out.html")])
    assert "clip.npy" in (tmp_path / "out.html").read_text()
    assert "0:04.0" in capsys.readouterr().out


def test_times_are_those_of_the_file(whole, tmp_path, capsys):
    """60 frames at 25 frames per second are 2.4 seconds."""
    path, out = tmp_path / "clip.npz", tmp_path / "out.json"
    argv = ["--phase", "predict", "--weights", str(whole / "best.pt"), "--device", "cpu"]
    argv += ["--input", str(path), "--window", "60", "--segments", "--output", str(out)]
    joints = np.random.default_rng(0).normal(size=(60, 25, 3)) * 0.1
    for inside, given, fps in (
        (25.0, None, 25), (None, "25", 25), (0, "25", 25), (0, None, None), ([25], "25", 25),
        (29.97, "30", 29.97), (25.0, "30", None), (-1.0, None, None), ([1, 2], None, None),
    ):  # fmt: skip
        np.savez(path, joints=joints, **({} if inside is None else {"fps": inside}))
        more = [] if given is None else ["--fps", given]
        if (inside, given) == (25.0, "30"):
            with pytest.raises(InputError, match="contains 25 frames per second, not --fps 30"):
                main.main([*argv, *more])
        elif inside in (-1.0, [1, 2]):
            with pytest.raises(InputError, match=r"clip\.npz: fps must be the frames per second"):
                main.main([*argv, *more])
        else:
            main.main([*argv, *more])
            (file,) = json.loads(out.read_text())["files"]
            assert file["fps"] == fps
            if fps is not None:
                assert file["segments"][-1]["end"] == pytest.approx(60 / fps)
    np.savez(path, joints=joints, fps=25.0)
    form = ["--from", "kinect-25", "--to", "ntu_rgb_d", str(path), "--out", str(tmp_path / "c.npz")]
    convert.main(form)
    assert clip_file.read(tmp_path / "c.npz").fps == 25


def test_flags_of_segments_are_refused_without_them(whole, tmp_path):
    np.save(tmp_path / "clip.npy", np.ones((9, 25, 3)))
    argv = ["--phase", "predict", "--weights", str(whole / "best.pt"), "--device", "cpu"]
    argv += ["--input", str(tmp_path / "clip.npy")]
    for more, told in (
        (["--segments"], "--segments: merges windows"),
        (["--fps", "30"], "--fps: the frames per second"),
        (["--segments", "--window", "5", "--fps", "0"], "--fps: the frames per second"),
        (["--output", "a.html"], "add --segments --window"),
        (["--output", "a.txt"], "must end in .json or .csv or .html"),
    ):
        with pytest.raises(InputError, match=told):
            main.main([*argv, *more])
