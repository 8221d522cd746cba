"""The runs of a comparison: what main.py is told, and how long they are."""

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

import main
from data.store import StoreWriter
from engine import build, checkpoint, commands, config, own_data, recipe, run_data
from errors import InputError, run_command
from tests.comparisons import NTU60, NW_UCLA, write_result
from tests.tiny_runs import SMALL
from tools import compare
from tools import sweep as sweeps

# --- plans ---


def test_the_release_on_kinetics_is_a_file_of_its_own():
    folder = config.CONFIG_ROOT / "k400"
    run = compare.Sweep(folder).plan("released", 0)
    assert "config/k400/released.yaml" in " ".join(run.arguments)
    assert (run.settings.second_stage, run.settings.method) == (21, "released")
    assert recipe.departures(run.settings) == []
    other = compare.Sweep(NTU60).plan("released", 0)
    assert "config/released.yaml" in " ".join(other.arguments)


def test_plans_and_what_main_is_told():
    sweep = compare.Sweep(NW_UCLA)
    run = sweep.plan("ldam-drw", 2)
    assert run.folder == Path("work_dir/nw-ucla-lt-ldam-drw-seed2/joint")
    assert run.arguments[0] == "--config" and run.arguments[-1] == "--resume"
    assert [Path(word).name for word in run.arguments[1:3]] == ["joint.yaml", "ldam-drw.yaml"]
    assert sweep.plan("brl", 0).folder == Path("work_dir/nw-ucla-lt/joint")
    balanced = sweep.plan("max-norm", 1)
    assert balanced.needs == sweep.plan("balanced-softmax", 1)
    weights = balanced.arguments[balanced.arguments.index("--weights") + 1]
    assert weights == "work_dir/nw-ucla-lt-balanced-softmax-seed1/joint/last.pt"
    with pytest.raises(InputError, match="ldam-drw"):
        sweeps.method_files("ldam-dwr")


def test_main_resolves_what_was_planned():
    """The same values and the same folder, also of a trial on a fold."""
    sweep = compare.Sweep(NW_UCLA, overrides=("lr=0.1", "num_epoch=3", "test_clips=5"))
    chosen = {("crt", "2/5"): ("lr=0.3",), ("cross-entropy", "2/5"): ("lr=0.05",)}
    run = sweep.plan("crt", 1, "2/5", chosen, held_out=0.25)
    assert run.name == "crt, seed 1, fold 2/5, lr=0.3, val_split=0.25"
    assert run.folder.parent.name == "nw-ucla-lt-crt-fold2of5-seed1-val0.25-lr0.05-lr0.3"
    assert run.needs.settings.lr == 0.05 and run.needs.settings.val_split == 0.25
    assert run.settings.test_clips == 1 and sweep.plan("crt", 1).settings.val_split is None
    for each in (run, run.needs):
        options = main.parse(list(each.arguments))
        assert commands.resolve(options, None) == each.settings
        assert config.run_folder(each.settings) == each.folder
    assert options.resume and options.work_dir is None


def test_dry_run_prints_a_line_per_job(tmp_path, capsys):
    """A run that others start from and these are one job."""
    argv = ["--benchmark", "nw-ucla-lt", "--methods", "brl,cross-entropy,crt", "--seeds", "0", "0"]
    values = ["num_epoch=3", "schedule_args={warm_up: 1}"]
    argv += ["--work-dir", str(tmp_path / "a folder"), "--device", "cpu", "--dry-run"]
    compare.main([*argv, "--set", *values])
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 2
    assert lines[0][:2] == ["python", "main.py"]
    told = main.parse(lines[0][2:])
    assert told.overrides == values and told.resume and told.device == ["cpu"]
    assert told.work_dir == tmp_path / "a folder" / "nw-ucla-lt" / "joint"
    first, second = " ".join(lines[1]).split(" && ")
    assert "cross-entropy.yaml" in first and "--phase classifier" in second
    assert main.parse(lines[1][lines[1].index("&&") + 3 :]).phase == "classifier"
    sweep = compare.Sweep(NW_UCLA, root=tmp_path / "a folder", overrides=tuple(values))
    write_result(sweep.plan("brl", 0), 50.0, 20.0)
    write_result(sweep.plan("cross-entropy", 0), 50.0, 20.0)
    compare.main([*argv, "--set", *values])
    (line,) = capsys.readouterr().out.splitlines()
    assert "crt.yaml" in line and "&&" not in line


def test_a_file_of_ones_own_is_compared(tmp_path, capsys, monkeypatch):
    """One with a value, one on a method, one on a method that starts from another's run."""
    monkeypatch.chdir(tmp_path)
    contents = {
        "half.yaml": "mixing_args: {ratio: 0.03125}",
        "sharp.yaml": f"base: {NW_UCLA.parent}/methods/ldam.yaml\nloss_args: {{max_margin: 0.3}}",
        "late.yaml": f"base: {NW_UCLA.parent}/methods/crt.yaml\nclassifier_args: {{share: 0.5}}",
        "on_half.yaml": "base: half.yaml\nclassifier: longtail.classifiers.NearestClassMean",
    }
    for name, content in contents.items():
        Path(name).write_text(content + "\n")
    sweep = compare.Sweep(NW_UCLA, methods=("brl", *contents))
    half, sharp, late, on_half = (sweep.plan(name, 1) for name in contents)
    assert half.folder == Path("work_dir/nw-ucla-lt-half-seed1/joint") and half.needs is None
    assert half.settings.mixing_args["ratio"] == 0.03125
    assert half.settings.sampling == sweep.plan("brl", 1).settings.sampling
    assert sharp.settings.loss == "longtail.losses.LDAM"
    assert late.needs == sweep.plan("crt", 1).needs
    assert on_half.needs == half
    for run in (half, sharp):
        options = main.parse(list(run.arguments))
        assert commands.resolve(options, None) == run.settings
    Path("two.yaml").write_text(
        "base: [half.yaml, sharp.yaml]\nclassifier: longtail.classifiers.NearestClassMean\n"
    )
    with pytest.raises(InputError, match=r"^--methods two.yaml: base must name one file"):
        sweep.plan("two.yaml", 0)
    argv = ["--benchmark", "nw-ucla-lt", "--methods", "brl,absent.yaml", "--dry-run"]
    assert run_command(compare.main, argv) == 2
    assert capsys.readouterr().err == "error: --methods absent.yaml: no such file\n"


def test_results_of_other_values_are_refused(tmp_path):
    sweep = compare.Sweep(NW_UCLA, root=tmp_path, overrides=("num_epoch=3",))
    run = sweep.plan("cross-entropy", 0)
    write_result(run, 50.0, 20.0)
    run.check()
    sweep.plan("crt", 0).check()
    for other in (
        compare.Sweep(NW_UCLA, root=tmp_path).plan(m, 0) for m in ("cross-entropy", "crt")
    ):
        with pytest.raises(InputError, match="other values of num_epoch; another --work-dir"):
            other.check()
    # A run from before a key was there had what is its default now.
    path = run.folder / "config.yaml"
    path.write_text(path.read_text().replace("sync_bn: false\n", ""))
    run.check()


def test_results_of_another_list_or_of_other_first_weights_are_refused(tmp_path, monkeypatch):
    """The configuration names both by a path, and does not change with their content."""

    def listed(digest, fingerprint):
        return torch.tensor([0, 0, 1]), digest, fingerprint

    monkeypatch.setattr(sweeps, "_read_list", lambda *_: listed("new", "clips"))
    sweep = compare.Sweep(NW_UCLA, root=tmp_path)
    crt = sweep.plan("crt", 0)
    write_result(crt.needs, 50.0, 20.0, {"list_digest": "new"})
    weights = {"fc.bias": torch.ones(2)}
    checkpoint.save(crt.needs.place.checkpoint("last"), {"model": weights})
    began_with = checkpoint.weights_digest(weights)
    write_result(crt, 50.0, 20.0, {"list_digest": "new", "started_from_digest": began_with})
    crt.check()
    checkpoint.save(crt.needs.place.checkpoint("last"), {"model": {"fc.bias": torch.zeros(2)}})
    with pytest.raises(InputError, match=r"began with other weights than .* has now; remove it"):
        crt.check()
    monkeypatch.setattr(sweeps, "_read_list", lambda *_: listed("newer", "clips"))
    with pytest.raises(InputError, match=r"trained on another list than there is now"):
        crt.needs.check()
    other = compare.Sweep(NW_UCLA, root=tmp_path / "other").plan("cross-entropy", 0)
    write_result(other, 50.0, 20.0, {"list_digest": "new", "store_fingerprint": "clips"})
    monkeypatch.setattr(sweeps, "_read_list", lambda *_: listed("new", "other clips"))
    with pytest.raises(InputError, match=r"tested on other clips than its store has now"):
        other.check()


def test_a_classifier_lies_apart_for_each_value_of_its_network(tmp_path):
    sweep = compare.Sweep(NW_UCLA, ("cross-entropy", "ncm"), root=tmp_path)
    plain = sweep.plan("ncm", 0)
    tuned = sweep.plan("ncm", 0, chosen={("cross-entropy", None): ("lr=0.05",)})
    assert tuned.needs.folder.parent.name == "nw-ucla-lt-cross-entropy-lr0.05"
    assert tuned.folder.parent.name == "nw-ucla-lt-ncm-lr0.05" != plain.folder.parent.name
    write_result(tuned, 50.0, 20.0, {"started_from_digest": "0c0de"})
    with pytest.raises(InputError, match=r"began with other weights than .*last.pt, which is not"):
        tuned.check()


def test_folds_have_the_same_shot_groups(tmp_path):
    """Their figures are averaged, so `shots: auto` stands for one pair of limits."""
    numbers = {1: (9, 3, 1), 2: (2, 2, 6)}  # clips of each class, by subject
    with StoreWriter(tmp_path / "s", "ntu_rgb_d", ["a", "b", "c"], (1, 25, 3)) as out:
        for subject, counts in numbers.items():
            for label, count in enumerate(counts):
                for take in range(count):
                    split = "test" if subject == 2 and take % 2 else "train"
                    clip = np.full((9, 1, 25, 3), subject + take)
                    out.add(f"{subject}{label}{take}", label, clip, subject=subject, split=split)
    sweep = compare.Sweep(None, ("brl",), store=str(tmp_path / "s"), root=tmp_path)
    runs = [sweep.plan("brl", 0, fold) for fold in (None, "1/2", "2/2")]
    assert {tuple(run.settings.shots) for run in runs} == {(5, 5)}  # the classes have 10, 4, 4
    assert all("shots=[5, 5]" in run.arguments for run in runs)
    own = [run.settings.replace(shots="auto") for run in runs]
    assert len({tuple(own_data.with_shots(each).shots) for each in own}) > 1


def test_folds_share_no_person(tiny, tmp_path):
    persons = {}
    for fold in ("1/2", "2/2"):
        sweep = compare.Sweep(tiny / "tiny-lt", root=tmp_path, overrides=("training_list=null",))
        run = sweep.plan("brl", 0, fold)
        assert run.folder.parent.name == f"tiny-lt-fold{fold.replace('/', 'of')}"
        data = run_data.open_data(run.settings, build.make_model(run.settings))
        subjects = data.store.columns["subject"]
        trains, tests = ({*subjects[rows].tolist()} for rows in (data.train_rows, data.test_rows))
        assert trains and tests and not trains & tests
        persons[fold] = tests
    assert not persons["1/2"] & persons["2/2"]
    assert persons["1/2"] | persons["2/2"] == {*subjects.tolist()}


# --- equal steps ---

NW_UCLA_COUNTS = torch.tensor([100, 77, 59, 46, 35, 27, 21, 16, 12, 10])


@pytest.fixture
def nw_ucla_list(monkeypatch):
    """The published list of NW-UCLA, by its counts."""
    labels = torch.arange(10).repeat_interleave(NW_UCLA_COUNTS)
    monkeypatch.setattr(sweeps, "_read_list", lambda *_: (labels, "", ""))


def test_equal_steps_of_the_published_list(nw_ucla_list):
    """At repeat 2, an epoch of BRL has 1,488 samples, 93 steps; of the others 806, 51 steps."""
    methods = ("brl", "cross-entropy", "square-root-sampling", "shap-mix", "ride", "crt")
    own = compare.Sweep(NW_UCLA, methods, overrides=("repeat=2",))
    plain = {method: own.plan(method, 0) for method in methods}
    assert plain["brl"].steps == 24 * 93 and plain["cross-entropy"].steps == 24 * 51
    equal = compare.Sweep(NW_UCLA, methods, overrides=("repeat=2",), equal_steps=True)
    for method in methods[:-1]:
        run = equal.plan(method, 0)
        assert run.steps == 24 * 93
        changed = {
            key for key, value in vars(plain[method].settings).items()
            if value != vars(run.settings)[key]
        }  # fmt: skip
        # BRL takes these steps anyway, so its run is the usual one.
        assert changed == (set() if method == "brl" else {"repeat", "tag"})
        assert run.folder.parent.name.endswith("-steps2232") == (method != "brl")
    crt = equal.plan("crt", 0)  # ten epochs of the classifier alone, on top of its parent's steps
    assert crt.needs.steps == 24 * 93 and crt.steps == 24 * 93 + 10 * 51
    assert crt.settings.repeat == 2
    assert equal.plan("post-hoc-adjustment", 0).steps == 24 * 93


@pytest.mark.parametrize(
    "method",
    [
        "cross-entropy",
        "progressive-sampling",
        "brl",
        "repeat-factor-sampling",
        "class-balanced-sampling",
    ],
)
def test_any_number_of_steps_can_be_had(nw_ucla_list, method):
    settings = compare.Sweep(NW_UCLA).plan(method, 0).settings
    for per_epoch in (*range(300, 310), 1000):
        repeat = sweeps.repeat_for(settings, settings.num_epoch * per_epoch)
        assert sweeps.steps_per_epoch(settings.replace(repeat=repeat)) == per_epoch
        assert sweeps.steps_per_epoch(settings.replace(repeat=repeat + 1e-4)) >= per_epoch
    assert sweeps.repeat_for(settings, 24) == 1  # no sample is left out


def test_equal_steps_are_equal_counted(tiny, tmp_path, monkeypatch, untested):
    """The steps that torch's optimizer takes in each run."""
    own, counted = torch.optim.SGD.step, []

    def step(optimizer, *args, **keywords):
        counted[-1] += 1
        return own(optimizer, *args, **keywords)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    methods = ("brl", "cross-entropy", "square-root-sampling")
    small = ("num_epoch=2", "batch_size=2", "accumulate=2", *SMALL)
    sweep = compare.Sweep(tiny / "tiny-lt", methods, root=tmp_path, overrides=small,
                          equal_steps=True)  # fmt: skip
    for method in methods:
        counted.append(0)
        run = sweep.plan(method, 0)
        main.main([*run.arguments, "--device", "cpu", "--quiet"])
    assert counted == [run.steps] * 3
    brl = compare.Sweep(tiny / "tiny-lt", root=tmp_path, overrides=small).plan("brl", 0)
    assert counted[0] == brl.steps > 0  # BRL is the longest, and as it was
