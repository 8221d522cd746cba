"""Fusion: equal to the released script; errors of streams and files that have different lengths."""

import json
import subprocess
import sys

import numpy as np
import pytest

import ensemble
from engine import config
from engine.config import Config
from engine.fusion import FUSIONS, Scores, fuse, fusions_of
from errors import InputError
from files import write_text

GOLDEN_NAMES = ("joint", "bone", "kbone", "joint_motion", "bone_motion", "kbone_motion")
STREAMS = ("joint", "bone", "skip", "joint-motion", "bone-motion", "skip-motion")


def synthetic(seed, count=40, classes=7):
    random = np.random.default_rng(seed)
    scores = random.random((count, classes)).astype(np.float32)
    names = np.array([f"clip{i:03d}" for i in range(count)])
    return Scores(names, np.arange(count) % classes, scores / scores.sum(1, keepdims=True))


def shuffled(stream, seed=0):
    order = np.random.default_rng(seed).permutation(len(stream.names))
    return Scores(stream.names[order], stream.labels[order], stream.scores[order])


def write(folder, stream, scores, **result):
    path = folder / stream
    path.mkdir(parents=True)
    np.savez(path / "scores.npz", **vars(scores))
    (path / "result.json").write_text(json.dumps(result))


def test_fusion_is_weighted_sum_for_any_row_order():
    first, second = synthetic(1), synthetic(2)
    fused = fuse({"joint": first, "bone": shuffled(second)}, {"joint": 2, "bone": 1})
    expected = (2 * first.scores + second.scores) / 3
    np.testing.assert_allclose(fused.scores, expected, rtol=1e-6)
    np.testing.assert_allclose(fused.scores.sum(1), 1, rtol=1e-5)
    assert (fused.labels == first.labels).all()


def test_fusion_equals_released_script(golden):
    with np.load(golden / "ensemble.npz") as data:
        labels = data["label"]
        names = np.array([f"s{i}" for i in range(len(labels))])
        streams = {
            stream: shuffled(Scores(names, labels, data[golden_name]), seed)
            for seed, (stream, golden_name) in enumerate(zip(STREAMS, GOLDEN_NAMES))
        }
        cases = {
            "2": FUSIONS["2-stream"],
            "4": FUSIONS["4-stream"],
            "6": FUSIONS["6-stream"],
            "k400_4": fusions_of("k400")["4-stream"],
        }
        for key, weights in cases.items():
            fused = fuse(streams, weights).in_order_of(names)
            expected = data[f"fused_{key}"] / sum(weights.values())
            np.testing.assert_allclose(fused.scores, expected, rtol=1e-5, atol=1e-6)
            top1 = (fused.scores.argmax(1) == labels).mean()
            assert top1 == pytest.approx(float(data[f"top1_{key}"]))


def test_fusion_rejects_different_samples_labels_or_classes():
    first, other = synthetic(1), synthetic(2)
    renamed = Scores(np.char.add(other.names, "x"), other.labels, other.scores)
    relabelled = Scores(other.names, (other.labels + 1) % 7, other.scores)
    for wrong, message in (
        (renamed, "different samples"),
        (relabelled, "different labels"),
        (synthetic(3, classes=8), "numbers of classes"),
    ):
        with pytest.raises(InputError, match=message):
            fuse({"joint": first, "bone": wrong}, {"joint": 1, "bone": 1})


def test_command_fuses_existing_streams_and_names_missing_ones(tmp_path, capsys):
    folder = tmp_path / "nw-ucla-lt"
    streams = {name: synthetic(i) for i, name in enumerate(("joint", "bone"))}
    for name, scores in streams.items():
        write(
            folder, name, shuffled(scores), benchmark="nw-ucla-lt", class_counts=[9] * 7,
            shots=[5, 2],
        )  # fmt: skip
    ensemble.main(["--dataset", "nw-ucla", "--work-dir", str(tmp_path)])
    out = capsys.readouterr().out
    written = json.loads((folder / "ensemble.json").read_text())
    assert set(written["rows"]) == {"joint", "bone", "2-stream"}
    assert written["missing"] == ["skip", "joint-motion", "bone-motion", "skip-motion"]
    total = streams["joint"].scores + streams["bone"].scores
    expected = 100 * (total.argmax(1) == streams["joint"].labels).mean()
    assert written["rows"]["2-stream"]["top1"] == pytest.approx(expected)
    assert written["rows"]["2-stream"]["few"] is None  # all classes have nine samples
    assert written["rows"]["2-stream"]["many"] == written["rows"]["2-stream"]["mean_class"]
    assert "2-stream" in out and "skip-motion" in out


def test_chosen_streams_and_weights(tmp_path):
    for i, name in enumerate(("joint", "skip")):
        write(tmp_path / "demo-lt", name, synthetic(i))
    result = ensemble.compare(tmp_path / "demo-lt", ["joint", "skip"], [3, 1])
    assert result["rows"]["joint+skip"]["weights"] == {"joint": 3, "skip": 1}
    equally = ensemble.compare(tmp_path / "demo-lt", ["joint", "skip"])
    assert equally["rows"]["joint+skip"]["weights"] == {"joint": 1, "skip": 1}
    with pytest.raises(InputError, match="bone"):
        ensemble.compare(tmp_path / "demo-lt", ["joint", "bone"])
    with pytest.raises(InputError, match="2 --streams, but 1"):
        ensemble.compare(tmp_path / "demo-lt", ["joint", "skip"], [3])
    for weights in ([0, 0], [1, -1], [1, float("nan")]):
        with pytest.raises(InputError, match="greater than 0"):
            ensemble.compare(tmp_path / "demo-lt", ["joint", "skip"], weights)
    with pytest.raises(InputError, match="joint joint contains a stream twice"):
        ensemble.compare(tmp_path / "demo-lt", ["joint", "joint"], [1, 2])
    with pytest.raises(InputError, match=r"--baseline: .*demo-lt-none has no scores"):
        ensemble.compare(tmp_path / "demo-lt", baseline=tmp_path / "demo-lt-none")


def test_tag_baseline_and_which_select_the_files(tmp_path):
    """Each file has a different number of correct samples out of eight, which identifies it."""
    labels, names = np.arange(8) % 2, np.array([f"clip{i}" for i in range(8)])
    right = {
        ("demo-lt", ""): 1, ("demo-lt-mine", ""): 2, ("demo-lt-plain", ""): 3,
        ("demo-lt", "-last"): 4, ("demo-lt-mine", "-last"): 5, ("demo-lt-plain", "-last"): 6,
    }  # fmt: skip
    for (folder, suffix), number in right.items():
        path = tmp_path / folder / "joint" / f"scores{suffix}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        guesses = np.where(np.arange(8) < number, labels, 1 - labels)
        np.savez(path, names=names, labels=labels, scores=np.eye(2, dtype=np.float32)[guesses])
    for folder, tag in (("demo-lt", ""), ("demo-lt-mine", "mine")):
        settings = Config(benchmark="demo-lt", tag=tag)
        write_text(tmp_path / folder / "joint/config.yaml", settings.to_yaml())
    argv = ["--dataset", "demo", "--tag", "mine", "--work-dir", str(tmp_path), "--quiet"]
    for suffix, more in (("", []), ("-last", ["--which", "last"])):
        ensemble.main([*argv, "--baseline", "plain", *more])
        rows = json.loads((tmp_path / "demo-lt-mine/ensemble.json").read_text())["rows"]
        assert {name: row["top1"] * 8 / 100 for name, row in rows.items()} == {
            "demo-lt-plain joint": right["demo-lt-plain", suffix],
            "joint": right["demo-lt-mine", suffix],
        }


@pytest.mark.parametrize("method", ["cross-entropy", "brl", "released", "ldam-drw"])
@pytest.mark.parametrize("files", [[], ["config/methods/ldam.yaml"]])
@pytest.mark.parametrize(
    "words", [[], ["imbalance=10"], ["model=model.ctrgcn.Model", "seed=2", "imbalance=10"]]
)
def test_baseline_folder_is_the_one_main_writes(tmp_path, method, files, words):
    """The baseline has the same values as the runs except for the method."""
    file = {"brl": [], "released": ["config/released.yaml"]}
    own = config.resolve(["config/demo-lt/skip.yaml", *files], words)
    other = file.get(method, [f"config/methods/{method}.yaml"])
    baseline = config.run_folder(
        config.resolve(["config/demo-lt/skip.yaml", *other], words), tmp_path
    ).parent
    folder = config.run_folder(own, tmp_path)
    write_text(folder / "config.yaml", own.to_yaml())
    assert ensemble.baseline_folder(folder.parent, method) == baseline
    assert ensemble.baseline_folder(folder.parent, "mine").name == "demo-lt-mine"


def test_baseline_of_another_training_list_is_rejected(tmp_path):
    write(tmp_path / "demo-lt", "joint", synthetic(1), class_counts=[9] * 7)
    write(tmp_path / "demo-lt-mine", "joint", synthetic(1), class_counts=[8] * 7)
    with pytest.raises(InputError, match="another list"):
        ensemble.compare(tmp_path / "demo-lt", baseline=tmp_path / "demo-lt-mine")
    write(tmp_path / "demo-lt", "bone", synthetic(2), class_counts=[9] * 6)
    (tmp_path / "demo-lt/joint/result.json").write_text('{"class_counts": [9, 9]}')
    with pytest.raises(InputError, match="scores have 7 classes, but class_counts"):
        ensemble.compare(tmp_path / "demo-lt")


def test_streams_of_different_training_lists_are_refused(tmp_path):
    """Else the shot groups of one stream would be shown for all of them."""
    write(tmp_path / "demo-lt", "joint", synthetic(1), class_counts=[200, 9, 9, 9, 9, 9, 1])
    write(tmp_path / "demo-lt", "bone", synthetic(2), class_counts=[1, 9, 9, 9, 9, 9, 200])
    with pytest.raises(InputError, match=r"bone was trained on another list than .*joint"):
        ensemble.compare(tmp_path / "demo-lt")
    for key, values in {"list_digest": ("one", "two"), "shots": ([9, 2], [8, 2])}.items():
        for stream, value in zip(("joint", "bone"), values):
            result = {"class_counts": [9] * 7, key: value}
            (tmp_path / "demo-lt" / stream / "result.json").write_text(json.dumps(result))
        with pytest.raises(
            InputError, match="another list than" if key != "shots" else "other shots"
        ):
            ensemble.compare(tmp_path / "demo-lt")
    write(tmp_path / "demo-lt", "skip", synthetic(3), **result)
    chosen = ensemble.compare(tmp_path / "demo-lt", ["bone", "skip"])  # which are alike
    assert list(chosen["rows"]) == ["bone", "skip", "bone+skip"]


def test_streams_and_a_baseline_of_other_clips_per_sample_are_noted(tmp_path):
    for number, (name, clips) in enumerate([("a", 10), ("a", 1), ("b", 3)]):
        write(tmp_path / name, ("joint", "bone")[number % 2], synthetic(number), test_clips=clips)
    notes = ensemble.compare(tmp_path / "a", baseline=tmp_path / "b")["notes"]
    one, other = tmp_path / "a/joint", tmp_path / "a/bone"
    assert notes == [
        f"{path} was tested with test_clips={clips}, {one} with 10"
        for path, clips in ((other, 1), (tmp_path / "b/joint", 3))
    ]
    assert ensemble.compare(tmp_path / "a", ["joint", "bone"])["notes"] == notes[:1]


def test_folder_excludes_dataset_tag_and_work_dir(tmp_path):
    for more in (["--dataset", "demo"], ["--tag", "a"], ["--work-dir", "b"]):
        with pytest.raises(InputError, match=f"{more[0]}: cannot be combined with --folder"):
            ensemble.main(["--folder", str(tmp_path), *more])


def test_damaged_score_file_is_named(tmp_path):
    path = tmp_path / "demo-lt" / "joint" / "scores.npz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(InputError, match="not a score file"):
        ensemble.compare(tmp_path / "demo-lt")
    whole = vars(synthetic(0))
    twice = np.where(np.arange(40) == 7, "clip000", whole["names"])
    for wrong, message in (
        ({"scores": whole["scores"][1:]}, r"have different lengths: \(40,\), \(40,\), \(39, 7\)"),
        ({"labels": whole["labels"][1:]}, "have different lengths"),
        ({"scores": whole["scores"][:, 0]}, "have different lengths"),
        ({key: value[:0] for key, value in whole.items()}, "have different lengths"),
        ({"names": twice}, "a sample name occurs twice"),
        ({"names": np.arange(40)}, "names must be text, not int64"),
        ({"labels": whole["labels"] + 0.0}, "labels must be whole numbers, not float64"),
        (
            {"labels": whole["labels"] + 1},
            "labels range from 1 to 7, but scores of 7 classes need 0",
        ),
        ({"labels": whole["labels"] - 1}, "labels range from -1 to 5"),
        ({"scores": np.log(whole["scores"])}, r"must be probabilities.*of clip000.*logits"),
        ({"scores": whole["scores"] * 100}, r"sum 100 .*40 of 40 rows"),
        ({"scores": (whole["scores"] * 100).astype(int)}, "scores must be floating-point"),
        ({"scores": whole["scores"] * 9 - 8 / 7}, "the minimum -1"),
    ):
        np.savez(path, **{**whole, **wrong})
        with pytest.raises(InputError, match=message) as caught:
            ensemble.compare(tmp_path / "demo-lt")
        assert str(path) in str(caught.value)
    np.savez(path, **{**whole, "scores": whole["scores"].astype(np.float16)})
    ensemble.compare(tmp_path / "demo-lt")


@pytest.mark.parametrize("case", ["labels_from_1", "logits", "probabilities"])
def test_score_files_of_other_programs(shared, tmp_path, case):
    script = shared / "cases/score_files.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True)
    argv = ["--folder", str(tmp_path / case), "--streams", "joint", "bone"]
    if case == "probabilities":
        ensemble.main(argv)
        written = json.loads((tmp_path / case / "ensemble.json").read_text())
        assert written["rows"]["joint+bone"]["top1"] == 74.5
    else:
        file = "joint" if case == "labels_from_1" else "bone"
        with pytest.raises(InputError, match=rf"{case}/{file}/scores\.npz: "):
            ensemble.main(argv)
        assert not (tmp_path / case / "ensemble.json").exists()


def test_streams_of_several_versions_of_the_code_are_told(tmp_path):
    """After --overwrite was stopped, --resume takes former runs of the streams to come for done."""
    for stream, code in {"joint": "a", "bone": "b", "skip": None}.items():
        write(tmp_path / "demo-lt", stream, synthetic(1), code=code)
    said = "the streams were trained by 2 versions of the code"
    assert said in ensemble.compare(tmp_path / "demo-lt")["notes"]
    alike = ensemble.compare(tmp_path / "demo-lt", ["joint", "skip"])
    assert said not in alike["notes"]


@pytest.mark.parametrize("name", ["config.yaml", "result.json"])
def test_damaged_result_file_is_named(tmp_path, name):
    write(tmp_path / "demo-lt", "joint", synthetic(1))
    (tmp_path / "demo-lt/joint" / name).write_text("")
    with pytest.raises(InputError, match=f"joint/{name}: is damaged"):
        ensemble.compare(tmp_path / "demo-lt")


def test_scores_that_are_not_finite_are_rejected(tmp_path):
    path = tmp_path / "demo-lt" / "joint" / "scores.npz"
    path.parent.mkdir(parents=True)
    np.savez(path, names=["a", "b"], labels=[0, 1], scores=[[np.nan, np.nan], [0.5, 0.5]])
    with pytest.raises(InputError, match=r"joint/scores\.npz: scores are not finite"):
        ensemble.compare(tmp_path / "demo-lt")
