"""The comparison of methods: its table, its differences, the whole command."""

import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from engine import config
from errors import InputError, run_command
from tests.comparisons import NTU60, compared, run_facts, write_result
from tests.tiny_runs import SMALL
from tools import compare, comparison
from tools.report import intervals

# --- the table ---


def test_table_against_numpy(tmp_path):
    sweep = compare.Sweep(NTU60, root=tmp_path)
    runs = [sweep.plan(method, seed) for method in ("brl", "focal") for seed in (0, 1, 2)]
    top1 = [70.0, 71.5, 74.0]
    for run, value in zip(runs[:3], top1):
        write_result(run, value, value / 2, run_facts())
    write_result(runs[4], 50.0, 20.0)
    found = compared(sweep, runs)
    table, text = found["methods"], comparison.markdown(found)
    brl, focal = table["brl"], table["focal"]
    assert brl["mean"]["top1"] == pytest.approx(np.mean(top1))
    assert brl["deviation"]["top1"] == pytest.approx(np.std(top1, ddof=1))
    assert brl["deviation"]["few"] == pytest.approx(np.std(top1, ddof=1) / 2)
    assert brl["mean"]["macro_f1"] == pytest.approx(np.mean(top1) / 3)
    assert brl["mean"]["many"] is None and brl["published"]["top1"] == 76.7
    assert [run["seed"] for run in brl["runs"]] == [0, 1, 2]
    assert [run["seed"] for run in focal["runs"]] == [1] and focal["deviation"]["top1"] is None
    assert focal["published"]["top1"] is None and brl["published"]["many"] is None
    assert (
        "| brl | – | 3 | 71.8 ± 2.0 | 73.8 ± 2.0 | 70.8 ± 2.0 | 60.0 ± 0.0 | 35.9 ± 1.0 | "
        "23.9 ± 0.7 | 7.0 ± 0.0 | 76.7 |"
    ) in text
    assert "| focal | – | 1 | 50.0 | 52.0 | 49.0 |" in text and "few <20" in text
    assert "mean ± standard deviation over 3 seeds (one training list for all)" in text
    assert "focal, seed 1: not trained on a published list of this benchmark: no publ" in text
    best = compared(sweep, runs, "best")
    assert best["methods"]["brl"]["mean"]["top1"] == pytest.approx(np.mean(top1) + 5)
    assert "best.pt was chosen by top-1 on the test split" in comparison.markdown(best)


def test_the_caption_says_which_variance_it_is(tmp_path):
    sweep = compare.Sweep(NTU60, root=tmp_path)
    drawn = compare.Sweep(
        NTU60, root=tmp_path, overrides=("training_list=lists/{imbalance}_{seed}.txt",)
    )
    for each, seeds, folds, said in (
        (sweep, [0], [None], "one run per method, no deviation"),
        (
            drawn,
            [0, 1],
            [None],
            "deviation over 2 seeds (each with its own draw of the training list)",
        ),
        (sweep, [0], ["1/2", "2/2"], "deviation over 2 folds of persons"),
        (sweep, [0, 1], ["1/2", "2/2"], "2 seeds (one training list for all) times 2 folds of per"),
    ):
        runs = [each.plan("brl", seed, fold) for seed in seeds for fold in folds]
        assert said in comparison.caption(compared(each, runs))[0]


def test_differences_are_those_of_the_clips_and_marked(tmp_path):
    """By hand: `focal` is right in all of class 0, `brl` in half of it; the rest is the same."""
    sweep = compare.Sweep(NTU60, root=tmp_path)
    half = np.ones(40, bool)
    half[0:20:4] = False  # five of the ten clips of class 0
    one = np.ones(40, bool)
    one[3] = False  # a clip of class 3
    runs = []
    for method, right in (("brl", half), ("focal", None), ("ldam", one & half)):
        for seed in (0, 1):
            run = sweep.plan(method, seed)
            write_result(run, 50.0, 20.0, right=right)
            runs.append(run)
    found = compared(sweep, runs)
    focal, ldam = (found["methods"][name]["differences"] for name in ("focal", "ldam"))
    values = {metric: each["value"] for metric, each in focal.items()}
    assert values == pytest.approx({"top1": 12.5, "mean_class": 12.5, "many": 50, "medium": 0,
                                    "few": 0})  # fmt: skip
    assert focal["many"]["different"] and focal["many"]["low"] > 0
    assert not focal["medium"]["different"] and focal["medium"]["p_holm"] == 1
    assert ldam["few"]["value"] == pytest.approx(-10) and not ldam["few"]["different"]
    # Holm over two methods: the smaller p is doubled
    p = [each["many"]["p"] for each in (focal, ldam)]
    assert focal["many"]["p_holm"] == pytest.approx(2 * p[0]) and p[1] == 1
    assert found["methods"]["brl"]["differences"] == {}
    text = comparison.markdown(found)
    (line,) = [line for line in text.splitlines() if line.startswith("| focal | +")]
    assert line.startswith("| focal | +12.5 [+") and line.count("▲") == 3 and line.count("○") == 2
    assert "Holm's correction over 2 methods" in text and "the intervals are too narrow" in text
    other = compared(sweep, runs, baseline="focal")["methods"]["brl"]["differences"]
    assert other["many"]["value"] == pytest.approx(-50) and other["many"]["different"]
    assert_drawn(found)


def test_methods_without_any_difference_are_drawn(tmp_path):
    sweep = compare.Sweep(NTU60, root=tmp_path)
    runs = [sweep.plan(method, 0) for method in ("brl", "focal")]
    for run in runs:
        write_result(run, 50.0, 20.0)
    drawn = intervals.chart(compared(sweep, runs))
    assert drawn.count("<circle") == 5 and "nan" not in drawn


def assert_drawn(found):
    """Every point is where its value is, on one scale for all panels, filled if different."""
    differences = {name: row["differences"] for name, row in found["methods"].items()}
    drawn = ElementTree.fromstring(intervals.chart(found))
    space = "{http://www.w3.org/2000/svg}"
    points = [group for group in drawn if group.tag == f"{space}g"]
    wanted = [
        differences[name][metric]
        for metric in ("many", "medium", "few", "mean_class", "top1")
        for name in ("focal", "ldam")
    ]
    assert len(points) == len(wanted) == 10
    ticks = [text for text in drawn if text.get("text-anchor") == "middle"]
    panel = len(ticks) // 5
    scale = [(float(t.get("x")), int(t.text.replace("\N{MINUS SIGN}", "-"))) for t in ticks]
    for number, (point, span) in enumerate(zip(points, wanted)):
        (x_0, v_0), *_, (x_1, v_1) = scale[panel * (number // 2) :][:panel]
        line, circle = point.find(f"{space}line"), point.find(f"{space}circle")
        at = [float(line.get("x1")), float(circle.get("cx")), float(line.get("x2"))]
        values = [(x - x_0) / (x_1 - x_0) * (v_1 - v_0) + v_0 for x in at]
        assert values == pytest.approx([span["low"], span["value"], span["high"]], abs=0.2)
        assert (circle.get("fill") == "var(--paper)") != span["different"]
    page = comparison.page(found).replace("http://www.w3.org/2000/svg", "")
    assert "default-src 'none'" in page and not re.search(r"https?://|<script", page)
    assert page.count("<tr>") == 3 + 1 + 2 + 1 and "Holm" in page


def test_runs_that_were_tested_on_other_clips_are_not_paired(tmp_path):
    sweep = compare.Sweep(NTU60, root=tmp_path)
    runs = [sweep.plan(method, 0) for method in ("brl", "focal")]
    for run in runs:
        write_result(run, 50.0, 20.0)
    path = runs[1].place.scores_file("last")
    with np.load(path) as file:
        content = dict(file)
    content["names"][0] = "other"
    np.savez(path, **content)
    with pytest.raises(InputError, match="were tested on other samples"):
        compared(sweep, runs)


def test_differences_and_figures_of_fewer_runs_say_so(tmp_path):
    """Two of focal's three seeds failed, and a run of brl tested no class with few samples."""
    sweep = compare.Sweep(NTU60, root=tmp_path)
    runs = [sweep.plan(method, seed) for method in ("brl", "focal") for seed in (0, 1, 2)]
    for run in (*runs[:3], runs[4]):
        write_result(run, 50.0, 20.0)
    path = runs[2].place.result_file("last")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"few": None}))
    found = compared(sweep, runs)
    assert found["methods"]["focal"]["paired_seeds"] == [1]
    text = comparison.markdown(found)
    assert "paired over test clips (one seed)" in text and "too narrow" not in text
    assert "focal: differences of 1 of 3 seeds, whose runs both methods have." in found["notes"]
    assert "brl: few of 2 of 3 runs, as the others test no such class." in found["notes"]
    write_result(runs[3], 50.0, 20.0)
    text = comparison.markdown(compared(sweep, runs))
    assert "With fewer than 5 seeds the intervals are too narrow." in text
    write_result(runs[5], 50.0, 20.0)
    assert not [note for note in compared(sweep, runs)["notes"] if "whose runs both" in note]


def test_folds_that_a_method_lacks_are_said(tmp_path):
    sweep = compare.Sweep(NTU60, root=tmp_path)
    cells = [(method, fold) for method in ("brl", "focal") for fold in ("1/3", "2/3", "3/3")]
    runs = [sweep.plan(method, 0, fold) for method, fold in cells]
    for run in runs[:-1]:
        write_result(run, 50.0, 20.0)
    said = "focal: differences of 1 of 1 seeds and 2 of 3 folds, whose runs both methods have."
    assert said in compared(sweep, runs)["notes"]


def test_runs_of_different_lists_are_not_compared(tmp_path):
    """Their shot groups differ, and a difference would be over those of one of them."""
    sweep = compare.Sweep(NTU60, root=tmp_path)
    brl, focal = (sweep.plan(method, 0) for method in ("brl", "focal"))
    write_result(brl, 50.0, 20.0)
    write_result(focal, 50.0, 20.0, {"class_counts": [5, 50, 50, 200]})
    with pytest.raises(InputError, match="were trained on different lists"):
        compared(sweep, [brl, focal])


def test_versions_of_the_code_are_noted(tmp_path):
    sweep = compare.Sweep(NTU60, root=tmp_path)
    runs = [sweep.plan(method, 0) for method in ("brl", "focal")]
    for run, code in zip(runs, ("one", "two")):
        write_result(run, 50.0, 20.0, {"code": code})
    found = compared(sweep, runs)
    assert "The runs were made by 2 versions of the code." in found["notes"]
    rows = found["methods"].values()
    assert [row["runs"][0]["code"] for row in rows] == ["one", "two"]


# --- the whole command ---


def test_each_imbalance_has_a_table_of_its_own(tmp_path):
    for words in ((), ("imbalance=50",), ("imbalance=10", "model=model.ctrgcn.Model")):
        sweep = compare.Sweep(NTU60, root=tmp_path, overrides=words)
        write_result(sweep.plan("brl", 0), 50.0, 20.0)
        argv = ["--benchmark", "ntu60/xsub", "--methods", "brl", "--work-dir", str(tmp_path)]
        compare.main([*argv, *(["--set", *words] if words else [])])
    tables = {path.stem: path.read_text() for path in tmp_path.glob("*.md")}
    name = "compare-ntu60-xsub-lt"
    assert sorted(tables) == [f"{name}-if10-ctrgcn-joint", f"{name}-if50-joint", f"{name}-joint"]
    assert "Set for all runs: imbalance=50." in tables[f"{name}-if50-joint"]
    assert "Set for all" not in tables[f"{name}-joint"]


@pytest.mark.slow
def test_a_comparison_from_the_first_trial_to_the_table(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(config, "benchmark_folder", lambda name: tiny / name)
    argv = ["--benchmark", "tiny-lt", "--methods", "cross-entropy,brl,tau-normalization"]
    argv += ["--seeds", "0", "1", "--tune", "lr=0.5x,1x", "classifier_args.tau=0,1"]
    argv += ["--tune-split", "0.34", "--tune-seeds", "0", "--equal-steps", "--jobs", "2"]
    argv += ["--device", "cpu", "--work-dir", str(tmp_path), "--set", "num_epoch=1", *SMALL]
    compare.main(argv)
    shown = capsys.readouterr().out
    output = tmp_path / "compare-tiny-lt-joint"
    assert output.with_suffix(".md").read_text().strip() in shown
    assert output.with_suffix(".svg").read_text() in output.with_suffix(".html").read_text()
    found = json.loads(output.with_suffix(".json").read_text())
    assert {each["method"]: len(each["accuracy"]) for each in found["choices"]} == {
        "cross-entropy": 2, "brl": 2, "tau-normalization": 2,
    }  # fmt: skip
    best = {each["method"]: max(each["accuracy"].values()) for each in found["choices"]}
    cells = [[cell.strip() for cell in line.split("|")] for line in shown.splitlines()]
    head = next(at for at, row in enumerate(cells) if "held out" in row)
    column, rows = cells[head].index("held out"), cells[head + 2 : head + 5]
    assert {row[1]: row[column] for row in rows} == {m: f"{top:.1f}" for m, top in best.items()}
    runs = [run for method in found["methods"].values() for run in method["runs"]]
    assert len(runs) == 6 and len({run["steps"] for run in runs}) == 1
    assert found["methods"]["brl"]["differences"]["top1"]["low"] is not None
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("last.pt")}
    compare.main([*argv, "--quiet"])  # nothing is made a second time
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("last.pt")} == before
    assert json.loads(output.with_suffix(".json").read_text()) == found


@pytest.mark.slow
def test_a_failed_run_is_named_and_the_table_written(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(config, "benchmark_folder", lambda name: tiny / name)
    broken = tmp_path / "tiny-lt-focal/joint"
    broken.mkdir(parents=True)
    (broken / "notes.txt").touch()  # not a run: main.py refuses it
    argv = ["--benchmark", "tiny-lt", "--methods", "brl,focal", "--device", "cpu", "--jobs", "2"]
    argv += ["--work-dir", str(tmp_path), "--quiet", "--set", "num_epoch=1", *SMALL]
    assert run_command(compare.main, argv) == 1
    out, err = capsys.readouterr()
    assert "failed runs: 1; focal, seed 0: exit code 2: " in err and "does not contain a run" in err
    assert "| brl |" in out and "failed: focal, seed 0: exit code 2" in out


def test_methods_of_other_shot_groups_are_refused(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(config, "benchmark_folder", lambda name: tiny / name)
    own = tmp_path / "own.yaml"
    own.write_text("base: config/methods/cross-entropy.yaml\nshots: [40, 15]\n")
    argv = ["--benchmark", "tiny-lt", "--methods", f"cross-entropy,{own}", "--device", "cpu"]
    assert run_command(compare.main, [*argv, "--work-dir", str(tmp_path / "w")]) == 2
    assert "has shots [40, 15], cross-entropy has" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


def test_no_method_is_a_mistake(tmp_path):
    with pytest.raises(InputError, match="--methods: names none"):
        compare.main(["--benchmark", "demo", "--methods", " ,", "--work-dir", str(tmp_path / "w")])
    assert not (tmp_path / "w").exists()


def test_methods_of_other_lists_or_of_one_folder_are_refused_before_training(
    tiny, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(config, "benchmark_folder", lambda name: tiny / name)
    contents = {
        "a/held.yaml": "val_split: 0.4",
        "a/same.yaml": "val_by: subject",
        "a/focal.yaml": "lr: 0.3",
        "b/same.yaml": "lr: 0.3",
    }
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content + "\n")

    def refused(*methods):
        named = [str(tmp_path / each) if "/" in each else each for each in methods]
        argv = ["--benchmark", "tiny-lt", "--methods", ",".join(named), "--dry-run"]
        argv += ["--work-dir", str(tmp_path / "w"), "--tune", "lr=1x,2x"]
        code, err = run_command(compare.main, argv), capsys.readouterr().err
        assert code == (2 if err.startswith("error") else 0) and not (tmp_path / "w").exists()
        return err

    err = refused("brl", "a/held.yaml")
    assert "held.yaml has another training list than brl" in err and ": val_split must be" in err
    assert "a/focal.yaml: its runs would have the folders of focal; ren" in refused(
        "focal", "a/focal.yaml"
    )
    assert "would have the folders of" in refused("a/same.yaml", "b/same.yaml")
    assert "error" not in refused("brl", "a/same.yaml")  # the same list by other values
