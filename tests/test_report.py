"""The report: equal to independently computed numbers, and its page in a real browser."""

import base64
import json
import re
import shutil
import time
from itertools import pairwise

import numpy as np
import pytest

import ensemble
from data import normalize, view
from errors import InputError
from graph import load
from tests import fake_runs
from tools import plots
from tools.report import clips
from tools.report.__main__ import main
from tools.report.gather import gather

STREAMS = ("joint", "bone", "skip", "joint-motion", "bone-motion", "skip-motion")
SIX = {"joint": 2, "bone": 2, "skip": 2, "joint-motion": 1, "bone-motion": 1, "skip-motion": 1}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A benchmark of six streams with its store, and a cross-entropy run of the same benchmark."""
    root = tmp_path_factory.mktemp("work_dir")
    store = fake_runs.store(root / "store", 480, 60, [f"action <{k}> </script>" for k in range(60)])
    options = {"samples": 480, "store": str(store)}
    fake_runs.benchmark_folder(root / "ntu60-xsub-lt", **options)
    other = root / "ntu60-xsub-lt-cross-entropy" / "joint"
    other_options = {"method": "cross-entropy", "model": "model.ctrgcn.Model"}
    fake_runs.run_folder(other, tail=2.5, tag="cross-entropy", **other_options, **options)
    return root


@pytest.fixture(scope="module")
def page(work):
    main([str(work / "ntu60-xsub-lt")])
    return work / "ntu60-xsub-lt" / "report.html"


def content(page):
    """Return the data in a page, parsed like in a browser."""
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text())
    return json.loads(text[1])


def unpack(packed):
    raw = np.frombuffer(base64.b64decode(packed["data"]), np.dtype(packed["dtype"]))
    return raw.reshape(packed["shape"])


def expected_scores(streams, samples=480):
    """The weighted mean of the generated scores, in the generated order of samples."""
    total = sum(w * fake_runs.scores(s, samples, 60).astype(float) for s, w in streams.items())
    return total / sum(streams.values()), fake_runs.true_labels(samples, 60)


# --- gathering -----------------------------------------------------------------------------


def test_fusion_joins_by_name(work):
    report = gather([work / "ntu60-xsub-lt"])
    assert [run.stream for run in report.runs] == list(STREAMS)
    assert [e.name for e in report.entries[6:]] == ["2-stream", "4-stream", "6-stream"]
    scores, labels = expected_scores(SIX)
    top1 = 100 * (scores.argmax(1) == labels).mean()
    six = next(e for e in report.entries if e.name == "6-stream")
    assert six.figures["top1"] == pytest.approx(top1)
    assert report.lead.figures["top1"] == max(e.figures["top1"] for e in report.entries)
    weaker_first = gather([work / "ntu60-xsub-lt-cross-entropy", work / "ntu60-xsub-lt"])
    assert weaker_first.lead.group == "ntu60-xsub-lt-cross-entropy"
    few = np.flatnonzero(fake_runs.class_counts(60) < 20)
    hits = [(scores[labels == k].argmax(1) == k).mean() for k in few]
    assert six.figures["few"] == pytest.approx(100 * np.mean(hits))


def test_missing_streams_are_named(tmp_path):
    folder = fake_runs.benchmark_folder(tmp_path / "ntu60", ("joint", "bone"), samples=120)
    report = gather([folder])
    assert [e.name for e in report.entries] == ["joint", "bone", "2-stream"]
    missing = "fusions with skip, joint-motion, bone-motion, skip-motion are omitted"
    assert any(missing in note for note in report.notes)


def test_other_shots_are_noted(tmp_path):
    fake_runs.run_folder(tmp_path / "a" / "joint", samples=120)
    fake_runs.run_folder(tmp_path / "b" / "joint", samples=120, shots=[300, 50])
    report = gather([tmp_path / "a", tmp_path / "b"])
    assert "b has other shots, [300, 50]; classes are grouped by [100, 20]." in report.notes


def test_runs_have_distinct_names(work):
    report = gather([work / "ntu60-xsub-lt" / "joint", work / "ntu60-xsub-lt-cross-entropy"])
    assert [run.name for run in report.runs] == ["brl", "cross-entropy"]
    assert len(report.entries) == 2


def test_runs_of_several_methods_are_not_fused(tmp_path):
    """They may share a folder by --work-dir, or the names of two folders."""
    fake_runs.run_folder(tmp_path / "R/balanced", "joint", samples=120, method="balanced-softmax")
    fake_runs.run_folder(tmp_path / "R/brl", "bone", samples=120)
    report = gather([tmp_path / "R"])
    assert len(report.entries) == 2
    said = "no fusion: bone is of another method or backbone than joint (it differs in method)."
    assert said in report.notes
    for folder, streams in (("A/s", ("joint",)), ("B/s", ("joint", "bone"))):
        fake_runs.benchmark_folder(tmp_path / folder, streams, samples=120)
    report = gather([tmp_path / "A/s", tmp_path / "B/s"])
    fused = [entry for entry in report.entries if len(entry.weights) > 1]
    assert [entry.group for entry in fused] == [str(tmp_path / "B/s")]
    assert len({run.name for run in report.runs}) == 3 and len(report.sentences) == 1


def test_classes_have_the_names_that_the_run_was_tested_with(tmp_path, capsys):
    """Whatever the store has been made since; clips that it lacks are not drawn."""
    own = [f"class {k}" for k in range(60)]
    folder = fake_runs.run_folder(
        tmp_path / "s/joint", samples=120, store=str(tmp_path / "store"), class_names=own
    )
    fake_runs.store(tmp_path / "store", 60, 60, ["another", *own[:59]])
    main([str(folder)])
    assert content(folder / "report.html")["classes"] == own
    assert re.search("note: Clips are not drawn: .*names are not in", capsys.readouterr().out)


def test_runs_of_different_benchmarks_are_rejected(work, tmp_path):
    other = fake_runs.run_folder(tmp_path / "nw-ucla" / "joint", samples=40, classes=10)
    with pytest.raises(InputError, match=r"60 classes.* 10; make separate reports"):
        gather([work / "ntu60-xsub-lt", other])


def test_unfinished_run_shows_its_curves(tmp_path, capsys):
    folder = fake_runs.run_folder(tmp_path / "a" / "joint", samples=120)
    for name in ("scores.npz", "result.json", "result-last.json"):
        (folder / name).unlink()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 24, "lo')
    epochs = gather([folder]).runs[0].epochs
    assert [e["epoch"] for e in epochs] == list(range(24))
    main([str(folder)])
    assert "only the curves are shown" in capsys.readouterr().out


def test_invalid_folders_are_named(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        gather([tmp_path / "absent"])
    with pytest.raises(InputError, match="does not contain a run"):
        gather([tmp_path])
    folder = fake_runs.run_folder(tmp_path / "a" / "joint", samples=120)
    (folder / "scores.npz").write_bytes(b"PK half a file")
    with pytest.raises(InputError, match=r"scores\.npz"):
        gather([folder])


# --- clips ---------------------------------------------------------------------------------


def test_hardest_clips_are_misclassified_with_lowest_probability(work):
    scores = gather([work / "ntu60-xsub-lt"]).lead.scores
    rows = clips.hardest(scores, 12)
    true = scores.scores[np.arange(480), scores.labels]
    wrong = scores.scores.argmax(1) != scores.labels
    assert len(rows) == 12 and wrong[rows].all() and (np.diff(true[rows]) >= 0).all()
    assert len(set(scores.labels[rows])) == 12 and true[rows[0]] == true[wrong].min()


NORMALIZED = np.eye(3)
KINECT = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])  # z becomes y


@pytest.mark.parametrize(
    "turn",
    [NORMALIZED, np.diag([-1, 1, -1]), KINECT, np.diag([-1, -1, 1]) @ KINECT],
    ids=["normalized", "upside down", "Kinect", "Kinect upside down"],
)
def test_persons_are_upright_and_not_mirrored(turn):
    """Rotations to other conventions give the same view of a person."""
    clip = fake_runs.person(1, 30)
    turned = (clip @ turn.T).astype(np.float32)
    drawn = view.pose(turned, load("ntu_rgb_d"))
    head, feet = drawn[:, 0, 3, 1], drawn[:, 0, [15, 19], 1]
    assert (head > 0.5).all() and (feet < -0.5).all() and np.nanmax(np.abs(drawn)) <= 1
    assert np.isnan(drawn[:, 1]).all()
    # A person seen from behind (toes point away) has the left shoulder on the left.
    from_behind = drawn[0, 0, 15, 2] > drawn[0, 0, 14, 2]
    assert from_behind == (drawn[0, 0, 4, 0] < drawn[0, 0, 8, 0])


def test_joint_at_origin_is_drawn_and_unseen_joint_is_not():
    clip = fake_runs.person(1, 30) + [0, 0, 3]
    clip[:, 1] = 0
    clip[5, 0, 7] = 0  # unseen
    centered = normalize.centered(clip, 1).astype(np.float32)
    assert not centered[0, 0, 1].any()
    drawn = view.pose(centered, load("ntu_rgb_d"), origin=1)
    lost = np.isnan(drawn).any(-1)
    assert lost[5, 0, 7] and lost[:, 0].sum() == 1 and lost[:, 1].all()
    assert np.isnan(view.pose(centered, load("ntu_rgb_d"))[0, 0, 1]).all()


def test_unseen_joints_do_not_affect_the_view():
    """Raw positions far from the sensor: unseen joints at zero would change the up axis."""
    clip = fake_runs.person(1, 30) + [0, 30, 0]
    clip[:, 1] = 0
    expected = view.view(clip, load("ntu_rgb_d"))
    clip[:20, 0, 13:20] = 0
    np.testing.assert_array_equal(view.view(clip, load("ntu_rgb_d")), expected)


@pytest.mark.parametrize("axis", [0, 1])
def test_two_persons_are_seen_side_by_side(axis):
    clip = fake_runs.person(1, 30)
    clip[:, 1] = clip[:, 0] + 2 * np.eye(3)[axis]
    right, _, depth = np.abs(np.diff(view.pose(clip, load("ntu_rgb_d"))[0, :, 1], axis=0)[0])
    assert right > 0.5 and depth < 1e-6


def test_y_points_down_in_2d():
    clip = np.random.default_rng(0).uniform(0.2, 0.8, (5, 1, 17, 3)).astype(np.float32)
    clip[:, :, 0, 1], clip[:, :, 16, 1] = -0.9, 0.95  # nose above ankle
    drawn = view.pose(clip, load("coco"))
    assert (drawn[:, 0, 0, 1] > drawn[:, 0, 16, 1]).all() and (drawn[..., 2] == 0).all()
    assert (np.sign(np.diff(drawn[0, 0, :, 0])) == np.sign(np.diff(clip[0, 0, :, 0]))).all()


# --- page ----------------------------------------------------------------------------------


def test_page_contains_the_scores(page):
    data = content(page)
    assert data["classes"][3] == "action <3> </script>"
    scores, labels = expected_scores(SIX)
    order = {name: i for i, name in enumerate(fake_runs.sample_names(480, 60))}
    rows = [order[name] for name in data["names"].split("\n")]
    assert (unpack(data["labels"]) == labels[rows]).all()
    assert (unpack(data["entries"][8]["predicted"]) == scores.argmax(1)[rows]).all()
    bone, _ = expected_scores({"bone": 1})  # its file has a different sample order
    assert (unpack(data["entries"][1]["predicted"]) == bone.argmax(1)[rows]).all()
    assert len(data["clips"]) == 12 and len(data["clips"][0]["predictions"]) == 9


def test_published_figures_match_their_runs(work, tmp_path, capsys):
    """Figures of BRL for BRL's streams and fusions, others for other methods, as in ensemble.py."""
    folders = [work / "ntu60-xsub-lt/joint", work / "ntu60-xsub-lt-cross-entropy/joint"]
    main([*map(str, folders), "--out", str(tmp_path / "both.html")])
    data = content(tmp_path / "both.html")
    assert [entry["published"]["top1"] for entry in data["entries"]] == [76.7, 69.3]
    six = gather([work / "ntu60-xsub-lt"]).lead
    assert six.published == {"top1": 81.8}
    fused = ensemble.compare(work / "ntu60-xsub-lt")
    assert fused["rows"]["6-stream"]["published"] == 81.8 and fused["notes"] == []
    assert ensemble.compare(folders[1].parent)["rows"]["joint"]["published"] == 69.3
    capsys.readouterr()
    other = tmp_path / "ntu60-xsub-lt-mine"
    shutil.copytree(folders[0], other / "joint")
    result = json.loads((other / "joint/result.json").read_text())
    for change, message in (
        ({"departures": ["val_split"]}, "departs from the recipe of brl in val_split: no publ"),
        ({"published_list": None}, "not trained on a published list of this benchmark"),
    ):
        (other / "joint/result.json").write_text(json.dumps(result | change))
        main([str(other)])
        assert message in capsys.readouterr().out
        data = content(other / "report.html")
        assert data["entries"][0]["published"] == {} and data["published"] == []
        fused = ensemble.compare(other)
        assert fused["rows"]["joint"]["published"] is None and message in fused["notes"][0]


def test_sentences_compare_the_same_stream(work):
    """BRL first: what its tail gains on cross-entropy, and what its head loses."""
    both = gather([work / "ntu60-xsub-lt" / "joint", work / "ntu60-xsub-lt-cross-entropy"])
    own, other = (json.loads((run.path / "result.json").read_text()) for run in both.runs)
    texts = (
        ("few", "few-shot"),
        ("medium", "medium-shot"),
        ("many", "many-shot"),
        ("top1", "top-1"),
    )
    pairs = [f"{text} {own[key]:.1f} against {other[key]:.1f}" for key, text in texts]
    assert both.sentences == [f"brl joint: {', '.join(pairs)} (cross-entropy)."]
    assert gather([work / "ntu60-xsub-lt"]).sentences == []


@pytest.mark.parametrize("changed", [{"list_digest": "another"}, {"class_counts": [9] * 12}])
def test_runs_of_other_lists_are_not_compared(tmp_path, changed):
    """Classes that are rare in one list may be frequent in the other."""
    fake_runs.run_folder(tmp_path / "a/joint", samples=240, classes=12)
    file = fake_runs.run_folder(tmp_path / "b/joint", samples=240, classes=12, tail=0.4)
    assert len(gather([tmp_path / "a", tmp_path / "b"]).sentences) == 1
    file = file / "result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    assert gather([tmp_path / "a", tmp_path / "b"]).sentences == []


def test_sentences_tell_a_variant_from_its_method(tmp_path):
    """A file of one's own without a base has BRL's name."""
    fake_runs.run_folder(tmp_path / "a/joint", samples=240)
    fake_runs.run_folder(tmp_path / "b/joint", samples=240, tail=0.4, tag="half")
    (sentence,) = gather([tmp_path / "b", tmp_path / "a"]).sentences
    assert sentence.startswith("half joint: ") and sentence.endswith("(a).")


def test_tests_of_other_samples_are_not_compared(tmp_path):
    """A run of another fold has the same classes, but none of its figures stands against ours."""
    fake_runs.run_folder(tmp_path / "a/joint", samples=240)
    fake_runs.run_folder(tmp_path / "b/joint", samples=200, method="cross-entropy")
    report = gather([tmp_path / "a", tmp_path / "b"])
    assert report.sentences == []
    assert [note for note in report.notes if "samples" in note] == [
        "cross-entropy was tested on other samples than brl; their figures are not comparable."
    ]


def test_fusions_of_ensemble_are_shown(tmp_path, capsys):
    """Weights that ensemble.py was given have a row of the report, with its top-1."""
    folder = fake_runs.benchmark_folder(tmp_path / "ntu60-xsub-lt", ("joint", "bone"), samples=120)
    place = ["--dataset", "ntu60/xsub", "--work-dir", str(tmp_path)]
    ensemble.main([*place, "--streams", "joint", "bone", "--weights", "3", "1"])
    made = json.loads((folder / "ensemble.json").read_text())["rows"]
    (name,) = [key for key, row in made.items() if row["weights"] == {"joint": 3, "bone": 1}]
    (entry,) = [e for e in gather([folder]).entries if e.weights == {"joint": 3, "bone": 1}]
    assert entry.name == name and entry.figures["top1"] == pytest.approx(made[name]["top1"])
    (folder / "ensemble.json").write_text("{")
    report = gather([folder])
    assert [e.name for e in report.entries] == ["joint", "bone", "2-stream"]
    assert any("ensemble.json is damaged" in note for note in report.notes)


def test_page_says_where_a_run_comes_from(page):
    origin = content(page)["runs"][0]["origin"]
    assert origin["Training list (sha256)"] == fake_runs.PUBLISHED[:16]
    assert origin["Device"] == "cpu (AVX2)" and origin["torch"] == "2.13.0"
    assert origin["Training time"] == f"{24 * 312 / 60:.1f} min" and origin["Seed"] == "0"
    assert origin["Trained on"] == "2026-11-26"


def test_reliability_is_that_of_each_group(page):
    """Against NumPy: per bin the number of clips, their mean probability and accuracy."""
    found = content(page)["entries"][0]["calibration"]
    scores, labels = fake_runs.scores("joint", 480, 60), fake_runs.true_labels(480, 60)
    few = fake_runs.class_counts(60)[labels] < 20
    for group, rows in (("all", np.full(480, True)), ("few", few)):
        confidence, right = scores[rows].max(1), scores[rows].argmax(1) == labels[rows]
        edges = np.linspace(0, 1, 16)
        inside = [(confidence > a) & (confidence <= b) for a, b in pairwise(edges)]
        wanted = [[m.sum(), confidence[m].mean(), right[m].mean()] for m in inside if m.any()]
        np.testing.assert_allclose(found["bins"][group], wanted, atol=6e-5)
    gap = sum(n * abs(a - p) for n, p, a in found["bins"]["all"]) / 480
    assert found["ece"] == pytest.approx(100 * gap, abs=0.02)


def test_page_uses_no_network(page):
    text = page.read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|@import|url\(", text)
    assert "default-src 'none'" in text


def test_missing_store_is_noted(tmp_path, capsys):
    folder = fake_runs.run_folder(
        tmp_path / "a" / "joint", samples=120, store=str(tmp_path / "none")
    )
    main([str(folder), "--out", str(tmp_path / "out.html")])
    assert "Clips are not drawn" in capsys.readouterr().out
    data = content(tmp_path / "out.html")
    assert data["clips"] == [] and data["classes"][0] == "class 0"


def test_plots_show_the_accuracies(tmp_path):
    run = fake_runs.run_folder(tmp_path / "a" / "joint", samples=120, classes=12)
    report = gather([run])
    files = list(plots.save_all(report, [f"class {k}" for k in range(12)], tmp_path))
    assert len(files) == 8
    for file in files:
        assert file.read_bytes().startswith(b"%PDF" if file.suffix == ".pdf" else b"\x89PNG")
    figure = plots.classes(report, report.lead, [f"class {k}" for k in range(12)])
    bars = figure.axes[0].patches
    scores, labels = fake_runs.scores("joint", 120, 12), fake_runs.true_labels(120, 12)
    accuracy = [100 * (scores[labels == k].argmax(1) == k).mean() for k in range(12)]
    assert [bar.get_height() for bar in bars] == pytest.approx(accuracy)
    counts = fake_runs.class_counts(12).tolist()
    assert [bar.get_height() for bar in figure.axes[1].patches] == counts
    assert [text.get_text() for text in figure.axes[1].texts] == list(map(str, counts))
    assert [t.get_text() for t in figure.axes[1].get_xticklabels()] == [
        f"class {k}" for k in range(12)
    ]


def test_overview_shows_all_runs(work, tmp_path, capsys):
    """Of every benchmark folder: figures, how far each run came, a link to the folder's report."""
    root = tmp_path / "work_dir"
    shutil.copytree(work, root, ignore=shutil.ignore_patterns("store", "*.npz", "report.html"))
    (root / "ntu60-xsub-lt/report.html").write_text("")
    stopped = root / "ntu60-xsub-lt/skip"
    (stopped / "result.json").unlink()
    lines = (stopped / "metrics.jsonl").read_text().splitlines(keepends=True)
    (stopped / "metrics.jsonl").write_text("".join(lines[:7]))
    main([str(root)])
    assert "report.html: 7 runs" in capsys.readouterr().out
    text = (root / "report.html").read_text()
    lines = {
        tuple(re.sub("<.*?>", "", cell) for cell in re.findall("<td.*?>(.*?)</td>", line))
        for line in re.findall("<tr>(<td.*?)</tr>", text)
    }
    rows = {row[:2]: row for row in lines}
    assert len(rows) == 7 and text.count('<a href="ntu60-xsub-lt/report.html">') == 6
    assert rows["ntu60-xsub-lt", "skip"][5:8] == ("stopped, epoch 7 of 24", "–", "–")
    for (name, stream), row in rows.items():
        if stream == "skip":
            continue
        result = json.loads((root / name / stream / "result.json").read_text())
        assert row[5] == "tested" and row[6] == f"{result['top1']:.1f}"
    top = max(float(row[6]) for row in rows.values() if row[6] != "–")
    assert f'<td class="best">{top:.1f}</td>' in text and not re.search(r"https?://", text)
    assert re.findall("<h2>(.*)</h2>", text) == ["ntu60-xsub-lt"]
    with pytest.raises(InputError, match="--figures: of a benchmark folder"):
        main([str(root), "--figures", str(tmp_path)])


def test_the_best_is_among_runs_of_one_list_and_fold(tmp_path):
    """A list of factor 10 is easier than one of 100: the best of each is bold."""
    lists = [("10", None, None), ("100", None, None), ("100", "1/4", None), ("100", None, 0.2)]
    for number, (imbalance, fold, val_split) in enumerate(lists):
        fake_runs.run_folder(
            tmp_path / f"w/run{number}/joint", samples=240, tail=1.2 + number, fold=fold,
            imbalance=int(imbalance), training_list="lists/ntu60-xsub_{imbalance}.txt",
            val_split=val_split,
        )  # fmt: skip
    main([str(tmp_path / "w")])
    text = (tmp_path / "w/report.html").read_text()
    heads = re.findall("<h2>(.*)</h2>", text)
    assert heads == [
        f"ntu60-xsub-lt, imbalance {n}" for n in ("10", "100", "100, fold 1/4", "100, 20% held out")
    ]
    results = [json.loads(file.read_text()) for file in (tmp_path / "w").rglob("result.json")]
    top1 = {f"{result['top1']:.1f}" for result in results}
    assert len(top1) == 4
    assert all(f'<td class="best">{each}</td>' in text for each in top1)


# --- in a browser --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    service = shutil.which("chromedriver")
    if not binary or not service:
        pytest.skip("needs chromium and chromedriver (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
        "--disable-background-networking --disable-component-update --disable-dev-shm-usage"
    )
    for flag in [*flags.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(service))
    browser.set_script_timeout(20)
    yield browser
    browser.quit()


class Page:
    """A page in the browser: its drawings, pointer events and key events."""

    def __init__(self, driver, path, width=1280, height=900, scheme="light"):
        self.driver, self.folder = driver, path.parent
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "no-preference"},
        ]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        driver.get_log("browser")
        driver.get(path.as_uri())

    def run(self, script):
        return self.driver.execute_script(script)

    def errors(self):
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def colors(self, canvas):
        """Return the number of different pixels of a canvas."""
        return self.run(f"""
            const c = document.querySelector('{canvas}');
            const d = new Uint32Array(
              c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer);
            return new Set(d).size""")

    def show(self, element):
        self.run(f"""document.querySelector('{element}').scrollIntoView(
            {{block: 'center', behavior: 'instant'}})""")

    def point(self, element, x=0, y=0, click=False):
        """Move the pointer to an offset from the middle of an element."""
        from selenium.webdriver import ActionChains

        self.show(element)
        time.sleep(0.1)
        target = self.driver.find_element("css selector", element)
        actions = ActionChains(self.driver, duration=20)
        actions = actions.move_to_element_with_offset(target, round(x), round(y))
        (actions.click() if click else actions).perform()

    def keys(self, element, *keys):
        from selenium.webdriver.common.keys import Keys

        self.run(f"document.querySelector('{element}').focus({{focusVisible: true}})")
        for key in keys:
            self.driver.switch_to.active_element.send_keys(getattr(Keys, key))

    @property
    def tip(self):
        return self.run("return document.querySelector('#tip:not([hidden])')?.innerText || ''")

    def select(self, label, value):
        self.run(f"""
            const s = [...document.querySelectorAll('label')].find(l => l.textContent.startsWith(
              '{label}')).querySelector('select');
            s.value = '{value}'; s.dispatchEvent(new Event('change'))""")

    def bars(self):
        return self.run(
            "return [...document.querySelectorAll('.target')].map(t => +t.dataset.class)"
        )


@pytest.fixture
def shown(driver, page):
    return Page(driver, page)


def test_charts_are_drawn(shown):
    assert shown.errors() == []
    assert shown.run("return performance.getEntriesByType('resource').length") == 0
    assert shown.run("return document.querySelectorAll('#curves svg').length") == 6
    drawn = "return [...document.querySelectorAll('.curve')].every(c => c.getTotalLength() > 100)"
    assert shown.run(drawn) and shown.run("return document.querySelectorAll('.curve').length") == 36
    assert shown.bars() == list(range(60))
    assert shown.colors("#matrix canvas") > 50
    rows = "return document.querySelectorAll('#results-table tbody tr').length"
    assert shown.run(rows) == 9


def test_published_figures_are_in_the_table(shown):
    top1 = gather([shown.folder]).lead.figures["top1"]
    text = shown.run("return document.querySelector('#results-table .chosen').innerText")
    difference = f"{top1 - 81.8:+.1f}".replace("-", "−")  # BRL's repository: 81.8 for six streams
    assert re.search(rf"{top1:.1f}\s+81\.8\s+{re.escape(difference)}", text)


def test_hover_shows_class_count_and_confusions(shown):
    scores, labels = expected_scores(SIX)
    k = 58
    predicted = scores[labels == k].argmax(1)
    others = np.bincount(predicted[predicted != k], minlength=60)
    shown.point(f'.target[data-class="{k}"]', y=60)
    tip = shown.tip
    assert f"action <{k}> </script>" in tip and f"({(predicted == k).sum()} of 8)" in tip
    assert f"{fake_runs.class_counts(60)[k]} · few-shot" in tip
    top = [j for j in range(60) if others[j] == others.max()]
    assert any(f"action <{j}> </script> {100 * others[j] / 8:.0f} %" in tip for j in top)


def test_hover_on_the_matrix_names_the_cell(shown):
    shown.show("#matrix canvas")
    box = shown.run("""
        const b = document.querySelector('#matrix canvas').getBoundingClientRect();
        return [b.width, b.height]""")
    shown.point("#matrix canvas", x=box[0] / 2 - 3, y=box[1] / 2 - 3, click=True)
    assert "action <59>" in shown.tip and "correct" in shown.tip
    scores, labels = expected_scores(SIX)
    number = (scores[labels == 59].argmax(1) == 59).sum()
    assert f"{number} of 8" in shown.tip
    assert f"{number} clips; vice versa {number}" in shown.run(
        "return document.getElementById('pairs').innerText"
    )


def test_a_tap_on_the_matrix_pins_the_cell(shown):
    """A finger is lifted, and so has left, before its click."""
    shown.show("#matrix canvas")
    told = shown.run("""
        const canvas = document.querySelector('#matrix canvas');
        const box = canvas.getBoundingClientRect();
        const at = { clientX: box.right - 3, clientY: box.bottom - 3, bubbles: true };
        canvas.dispatchEvent(new PointerEvent('pointerdown', at));
        canvas.dispatchEvent(new PointerEvent('pointerleave', at));
        document.getElementById('pairs').replaceChildren();
        canvas.dispatchEvent(new MouseEvent('click', at));
        return document.getElementById('pairs').innerText""")
    assert "clips; vice versa" in told


def test_hover_on_a_curve_reads_the_epoch(shown):
    shown.point("#curves figure:nth-child(2) svg")
    assert re.match(r"Top-1, epoch 1[0-3]\n", shown.tip) and "bone-motion" in shown.tip


def test_classes_sort(shown):
    scores, labels = expected_scores(SIX)
    accuracy = np.array([(scores[labels == k].argmax(1) == k).mean() for k in range(60)])
    shown.select("Order by", "accuracy")
    order = np.array(shown.bars())
    assert sorted(order) == list(range(60)) and (np.diff(accuracy[order]) <= 0).all()
    before = shown.run("return document.querySelector('#matrix canvas').toDataURL()")
    shown.run("""
        const s = document.querySelector('#confusion-tools select');
        s.value = 'accuracy'; s.dispatchEvent(new Event('change'))""")
    assert shown.run("return document.querySelector('#matrix canvas').toDataURL()") != before


def test_charts_are_usable_by_keyboard(shown):
    shown.keys(".target", "ARROW_RIGHT", "ARROW_RIGHT")
    assert "action <2>" in shown.tip
    assert "action <2>" in shown.run("return document.getElementById('live').textContent")
    shown.keys("#matrix canvas", "ARROW_DOWN", "ARROW_DOWN", "ENTER")
    assert "action <1>" in shown.tip and "confused with" in shown.tip
    picked = shown.run("return document.querySelectorAll('#pairs h3')[1].textContent")
    assert picked == "action <1> </script> → action <0> </script>"
    shown.keys("#curves svg", "HOME", "ARROW_RIGHT")
    assert shown.tip.startswith("Training loss, epoch 2\n")


def test_comparison_shows_the_difference(driver, work, tmp_path):
    out = tmp_path / "both.html"
    main([str(work / "ntu60-xsub-lt" / "joint"), str(work / "ntu60-xsub-lt-cross-entropy"),
          "--out", str(out)])  # fmt: skip
    shown = Page(driver, out)
    shown.select("compared with", "1")
    assert shown.run("return document.querySelectorAll('.versus').length") == 60
    report = gather([work / "ntu60-xsub-lt" / "joint", work / "ntu60-xsub-lt-cross-entropy"])
    gain = report.entries[0].figures["few"] - report.entries[1].figures["few"]
    assert abs(gain) > 1
    text = shown.run("return document.getElementById('headline').innerText")
    sign = "+" if gain > 0 else "−"
    assert text.endswith(f"{sign}{abs(gain):.1f}") and text.count("vs. cross-entropy") == 1
    assert shown.errors() == []


def test_a_class_without_test_clips_in_one_entry_has_no_change(driver, tmp_path):
    """Tests of two folds, in one of which nobody does action 3."""
    for name in "ab":
        fake_runs.run_folder(tmp_path / name / "joint", samples=120, classes=6)
    file = tmp_path / "b/joint/scores.npz"
    with np.load(file) as saved:
        rows = saved["labels"] != 3
        np.savez(file, **{key: saved[key][rows] for key in saved.files})
    main([str(tmp_path / "a"), str(tmp_path / "b")])
    page = Page(driver, tmp_path / "a/report.html")
    page.select("compared with", "1")
    cells = page.run(
        "return [...document.querySelectorAll('#classes-table tbody tr')].map("
        "row => [row.children[1].textContent, row.children[6].textContent])"
    )
    assert dict(cells) == {str(k): "–" if k == 3 else "+0.0" for k in range(6)}
    assert page.errors() == []


def test_skeletons_are_animated_and_pause(shown):
    shown.show("#cards canvas")
    picture = "return document.querySelector('#cards canvas').toDataURL()"
    time.sleep(0.3)
    first = shown.run(picture)
    time.sleep(0.3)
    assert shown.colors("#cards canvas") > 3 and shown.run(picture) != first
    shown.run("document.querySelector('#clips-tools button').click()")
    time.sleep(0.15)
    still = shown.run(picture)
    time.sleep(0.2)
    assert shown.run(picture) == still
    shown.keys("#cards canvas", "ARROW_RIGHT")
    time.sleep(0.15)
    assert shown.run(picture) != still


def test_runs_of_other_lengths_and_selections(driver, tmp_path):
    """The line of a second stage is at its run's own epoch; each run's selection is stated."""
    short = fake_runs.run_folder(tmp_path / "short" / "joint", samples=120)
    long = fake_runs.run_folder(tmp_path / "long" / "joint", samples=120, val_split=0.2)
    for folder, first, second_stage, total in ((short, 0, 2, 4), (long, 4, 16, 20)):
        lines = [
            {"epoch": e, "loss": 1.0, "top1": 50.0, "stage": 1 + (e >= second_stage)}
            for e in range(first, total)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "both.html"
    main([str(short), str(long), "--out", str(out)])
    shown = Page(driver, out)
    assert shown.errors() == []
    marks = "[...document.querySelectorAll('#curves svg')[0].querySelectorAll('.mark')]"
    places = shown.run(f"return {marks}.map(m => +m.getAttribute('x1'))")
    width, left = 340 - 32 - 8, 32
    assert sorted(places) == pytest.approx([left + width * e / 19 for e in (1.5, 15.5)])
    note = shown.run("return document.getElementById('results-note').textContent")
    assert re.search(
        r"held-out training samples \(long.*\) or on the test split \(the other 1\)", note
    )


def test_dark_mode_follows_system_and_button(driver, page):
    background = "return getComputedStyle(document.body).backgroundColor"
    light = Page(driver, page).run(background)
    shown = Page(driver, page, scheme="dark")
    dark = shown.run(background)
    assert sum(map(int, re.findall(r"\d+", dark))) < 150 < sum(map(int, re.findall(r"\d+", light)))
    matrix = "return document.querySelector('#matrix canvas').toDataURL()"
    before = shown.run(matrix)
    shown.run("document.getElementById('theme').click()")
    assert shown.run(background) == light and shown.run(matrix) != before


def test_no_horizontal_scroll_on_a_phone(driver, page):
    shown = Page(driver, page, width=390, height=844)
    assert shown.run("return document.documentElement.scrollWidth") <= 390
    assert shown.colors("#matrix canvas") > 50 and shown.errors() == []
    small = shown.run("""
        return [...document.querySelectorAll('button, select')].filter(e => e.offsetHeight
          && e.offsetHeight < 24 && !e.closest('table')).map(e => e.outerHTML)""")
    assert small == []


def test_groups_without_classes_are_left_out(driver, tmp_path):
    folder = fake_runs.run_folder(tmp_path / "a/joint", samples=120, classes=12, shots=[1000, 20])
    main([str(folder)])
    shown = Page(driver, folder / "report.html")
    heads = shown.run("return document.querySelector('#results-table thead').innerText")
    assert "Medium 20–1000" in heads and "Few < 20" in heads and "Many" not in heads
    assert "Many" not in shown.run("return document.getElementById('headline').innerText")


OVERLAPS = """
    const own = e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    const texts = [...document.querySelectorAll('body *')].filter(e => own(e) && e.checkVisibility()
      && !e.closest('.bar, .heard, .skip, script, style, option, select, .command'));
    const found = [], boxes = texts.map(e => e.getBoundingClientRect());
    for (let i = 0; i < texts.length; i++) for (let j = 0; j < i; j++) {
      if (texts[i].contains(texts[j]) || texts[j].contains(texts[i])) continue;
      const [a, b] = [boxes[i], boxes[j]];
      const w = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const h = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (w > 2 && h > 4) found.push(`${texts[i].textContent} / ${texts[j].textContent}`);
    }
    return found"""


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("classes", [12, 27, 60])
def test_no_text_overlaps_another(driver, tmp_path, width, classes):
    names = [f"a rather long action {k}" for k in range(classes)]
    store = fake_runs.store(tmp_path / "store", 240, classes, names)
    options = {"samples": 240, "classes": classes, "store": str(store)}
    for method in ("brl", "cross-entropy"):
        fake_runs.run_folder(tmp_path / f"x-{method}/joint", method=method, **options)
    main([str(tmp_path / "x-brl"), str(tmp_path / "x-cross-entropy")])
    shown = Page(driver, tmp_path / "x-brl/report.html", width=width)
    assert shown.run("return document.querySelectorAll('#bars text.name').length") >= classes
    assert shown.run(OVERLAPS) == [] and shown.errors() == []
    named = shown.run("return document.querySelector('#matrix canvas').dataset.named")
    assert named == ("true" if width == 1440 else "false")


def test_paper_is_light_and_complete(driver, page):
    """Printed from a dark window: charts as wide as the paper, skeletons never scrolled to."""
    shown = Page(driver, page, width=700, scheme="dark")
    before = shown.colors(".card:last-child canvas")
    shown.run("window.dispatchEvent(new Event('beforeprint'))")
    assert shown.colors(".card:last-child canvas") > before
    paper = "return getComputedStyle(document.body).backgroundColor"
    assert shown.run(paper) == "rgb(252, 252, 250)"
    assert shown.run("return document.querySelectorAll('#bars text.name').length") == 60
    shown.run("window.dispatchEvent(new Event('afterprint'))")
    assert shown.run(paper) == "rgb(20, 22, 26)"


@pytest.mark.slow
def test_size_and_speed_with_sixteen_thousand_samples(driver, tmp_path):
    folder = fake_runs.benchmark_folder(tmp_path / "ntu60-xsub-lt", samples=16_000)
    main([str(folder)])
    page = folder / "report.html"
    assert page.stat().st_size < 5e6
    times = []
    for _ in range(3):  # the machine can be busy
        shown = Page(driver, page)
        times.append(int(shown.run("return document.documentElement.dataset.ready")))
    assert min(times) < 2000  # milliseconds from the start of loading until all is drawn
    assert len(shown.bars()) == 60 and shown.errors() == []


@pytest.mark.parametrize("case", ["unfinished", "no list", "many classes"])
def test_unusual_runs_are_drawn(driver, tmp_path, case):
    classes = 300 if case == "many classes" else 12
    folder = fake_runs.run_folder(tmp_path / "a" / "joint", samples=600, classes=classes)
    if case == "unfinished":
        (folder / "scores.npz").unlink()
        (folder / "result.json").unlink()
    if case == "no list":
        result = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps(result | {"class_counts": None}))
    main([str(folder)])
    shown = Page(driver, folder / "report.html")
    assert shown.errors() == []
    assert len(shown.bars()) == (0 if case == "unfinished" else classes)
