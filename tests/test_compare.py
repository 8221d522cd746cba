"""The comparison of methods: configurations, published figures, claims and tables."""

import csv
import json
import re
import shlex
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

import graph
import main
from data import long_tail
from engine import build, checkpoint, commands, config, recipe
from errors import BAD_INPUT, InputError, run_command
from longtail.schedule import Stages
from tests.tiny_runs import SMALL
from tools import compare, published, tuning
from tools import sweep as sweeps
from tools.report import intervals

METHODS = sorted(path.stem for path in (config.CONFIG_ROOT / "methods").glob("*.yaml"))
NW_UCLA = config.CONFIG_ROOT / "nw-ucla-lt"
PLAIN = {
    "sampling": "longtail.sampling.InstanceSampling",
    "mixing": "longtail.mixing.Plain",
    "loss": "longtail.losses.CrossEntropy",
    "class_weights": None,
}
# The key of each part of BRL, and the method that has this part alone.
BRL_PARTS = {
    "sampling": ("sampling", "reverse-sampling"),
    "mixup": ("mixing", "partial-mixup"),
    "weights": ("class_weights", "action-aware-weights"),
}


# --- configurations ---


@pytest.mark.parametrize("part", BRL_PARTS)
def test_each_part_of_brl_is_there_alone_and_left_out(part):
    """Left out, it is that of cross entropy; alone, all others are."""
    brl, plain, without, alone = (
        config.load([NW_UCLA / "joint.yaml", *compare.method_files(name)])
        for name in ("brl", "cross-entropy", f"brl-without-{part}", BRL_PARTS[part][1])
    )
    for name, (key, _) in BRL_PARTS.items():
        full, none = getattr(brl, key), getattr(plain, key)
        assert full != none
        assert getattr(without, key) == (none if name == part else full)
        assert getattr(alone, key) == (full if name == part else none)


@pytest.mark.parametrize("method", [*METHODS, "released", "brl"])
def test_every_method_builds_on_a_benchmark_and_is_pure(method):
    settings = config.load([NW_UCLA / "joint.yaml", *compare.method_files(method)])
    counts = torch.tensor([100, 77, 59, 46, 35, 27, 21, 16, 12, 10])
    labels = torch.arange(10).repeat_interleave(counts)
    sampling = build.make(settings, "sampling", labels, counts, settings.repeat)
    mix = build.make(settings, "mixing", counts, graph.load("nw_ucla"))
    stages: Stages = build.make_stages(settings, counts)
    if settings.classifier:
        build.make(settings, "classifier", counts)
    rows = sampling.epoch(torch.Generator().manual_seed(0), 0.5)[:16]
    clips = torch.randn(16, 1, 52, 20, 3)
    if hasattr(mix, "begin_epoch"):
        mix.begin_epoch(0)
    shown, before = labels[rows], (clips.clone(), labels[rows])
    mixed, targets = mix(clips, shown, torch.Generator().manual_seed(0))
    assert torch.equal(clips, before[0]) and torch.equal(shown, before[1])
    clips = mixed
    for epoch in (0, settings.num_epoch - 1):
        shape = (len(clips), 3, 10) if method in ("ride", "sade") else (len(clips), 10)
        logits = torch.randn(shape, requires_grad=True)
        criterion, weights = stages.criterion(epoch), stages.class_weights(epoch)
        features = {"features": torch.ones(len(clips), 4)}
        extra = features if getattr(criterion, "needs_features", False) else {}
        loss = criterion(logits, targets, weights, **extra)
        loss.backward()
        assert loss.isfinite() and logits.grad.isfinite().all()
    parts = [alone for _, alone in BRL_PARTS.values()]
    if not method.startswith(("brl", "released")) and method not in parts:
        brl = [v for k, v in PLAIN.items() if getattr(settings, k) != v]
        assert len(brl) <= 2  # at most the loss with its weights, or one other part, is its own
        assert "ActionAware" not in str(settings.class_weights)
        assert "Reverse" not in settings.sampling


@pytest.mark.parametrize(
    ("method", "scale"), [("ldam", 30), ("ldam-drw", 30), ("kps", 15), ("ride", 30)]
)
def test_margins_are_for_cosines_of_one_scale(method, scale):
    """The network scales them, in testing as in training; a loss for another scale is refused."""
    small = ["model_args.base_channels=8", "model_args.num_blocks=2"]
    settings = config.load([NW_UCLA / "joint.yaml", *compare.method_files(method)], small)
    model = build.make_model(settings).eval()
    logits = model(100 * torch.randn(4, 1, 16, 20, 3))
    assert 1 < logits.abs().max() <= scale * (1 + 1e-6)
    counts = torch.arange(10) + 1
    build.make_stages(settings, counts)
    for override in ("model_args.cosine=0", "model_args.cosine=true", "loss_args.scale=12"):
        other = config.load([NW_UCLA / "joint.yaml", *compare.method_files(method)], [override])
        with pytest.raises(InputError, match="the same number"):
            build.make_stages(other, counts)


def test_the_released_values_keep_the_rest_of_the_recipe():
    paper = config.load([NW_UCLA / "joint.yaml"])
    released = config.load([NW_UCLA / "joint.yaml", config.CONFIG_ROOT / "released.yaml"])
    changed = {k for k in vars(paper) if getattr(paper, k) != getattr(released, k)}
    assert changed == {"method", "mixing_args", "class_weights_args"}


# --- published figures ---


def test_lookup_finds_every_figure_of_the_table():
    with published.TABLE.open() as file:
        rows = list(csv.DictReader(file))
    seen = set()
    for row in rows:
        imbalance = int(row["imbalance"]) if row["imbalance"] else None
        key = tuple(row[k] for k in ("benchmark", "imbalance", "streams", "method", "backbone"))
        found = published.lookup(
            row["benchmark"], imbalance, row["streams"], row["method"], row["backbone"],
            row["metric"],
        )  # fmt: skip
        if (*key, row["metric"]) not in seen:  # of two sources the first counts
            assert found == float(row["value"])
        seen.add((*key, row["metric"]))
    assert published.lookup("nw-ucla-lt", 10, "joint") is None


def test_the_figures_beside_a_run_are_of_one_source():
    """CTR-GCN with cross entropy is 69.3 in BRL's repository and 74.4 in Shap-Mix's paper, which
    alone has its shot groups."""
    entry = ("ntu60-xsub-lt", 100, "joint", "cross-entropy", "CTR-GCN")
    assert published.lookup(*entry) == 69.3 and published.lookup(*entry, "many") == 86.4
    assert published.lookup(*entry, of_one_source=True) == 69.3
    assert published.lookup(*entry, "many", of_one_source=True) is None


def test_published_table_is_the_reference(shared):
    reference = shared / "reference" / "published-results.csv"
    assert published.TABLE.read_text() == reference.read_text()


NTU60 = config.CONFIG_ROOT / "ntu60-xsub-lt"


def run_facts(*files, digest="ntu60-xsub 100", stream="joint", folder=NTU60, **changes):
    """Return config.yaml and result.json of a run as one mapping, as a tested run leaves them."""
    settings = config.resolve([folder / f"{stream}.yaml", *files]).replace(**changes)
    listed = [key for key, name in long_tail.PUBLISHED.items() if name == digest]
    return vars(settings) | {
        "published_list": listed[0] if listed else None,
        "departures": recipe.departures(settings),
    }


def method(name):
    return config.CONFIG_ROOT / "methods" / f"{name}.yaml"


CTRGCN = {"model": "model.ctrgcn.Model"}
NTU120 = config.CONFIG_ROOT / "ntu120-xsub-lt"
CROSS_ENTROPY = method("cross-entropy")
BACKBONES = config.CONFIG_ROOT / "backbones.yaml"


@pytest.mark.parametrize(
    ("run", "figure"),
    [
        (run_facts(), 76.7),
        (run_facts(seed=3, amp="bf16", tag="mine"), 76.7),
        (run_facts(config.CONFIG_ROOT / "released.yaml"), 76.7),
        (run_facts(**CTRGCN), 76.9),
        (run_facts(method("brl-class-balanced"), **CTRGCN), 76.9),
        (run_facts(CROSS_ENTROPY, **CTRGCN), 69.3),  # as the plain backbones were trained
        (run_facts(CROSS_ENTROPY, BACKBONES, **CTRGCN), 69.3),
        (run_facts(method("shap-mix-recipe")), None),  # it departs from the authors' pipeline
        # the list is that of the digest, whatever `imbalance` says
        (run_facts(digest=None), None),
        (run_facts(digest="ntu60-xsub 10", imbalance=100), None),
        (run_facts(digest="ntu60-xview 100"), None),
        (run_facts(CROSS_ENTROPY, digest="ntu120-xsub 10", folder=NTU120, **CTRGCN), 79.6),
        # values that are not the method's, whatever its label or tag says
        (run_facts(num_epoch=8), None),
        (run_facts(val_split=0.1), None),
        (run_facts(mixing="longtail.mixing.Plain"), None),
        (run_facts(CROSS_ENTROPY, tag="brl", method="brl"), None),
        (run_facts(CROSS_ENTROPY, method("mixup"), num_epoch=3), None),
        (run_facts(method("shap-mix"), **CTRGCN), None),  # not its own recipe
        (run_facts(method("ride"), model="model.ctrgcn.Model"), None),
        (run_facts() | {"started_from": "other.pt"}, None),
        ({k: v for k, v in run_facts().items() if k != "departures"}, None),
        # a method that nobody published, a benchmark of one's own
        (run_facts(method("kps"), **CTRGCN), None),
        (run_facts(method="mine"), None),
        (run_facts(benchmark="mine"), None),
    ],
)  # fmt: skip
def test_a_published_figure_stands_beside_its_own_run_only(run, figure):
    assert published.figure_for([run], "joint") == figure
    if figure is not None:
        assert published.why_none(run) is None


def test_why_no_published_figure_is_shown():
    for run, said in (
        (run_facts(digest=None), "not trained on a published list of this benchmark"),
        (run_facts(num_epoch=8, val_split=0.1), "from the recipe of brl in num_epoch, val_split"),
        (run_facts() | {"started_from": "other.pt"}, "started from other.pt"),
    ):
        assert said in published.why_none(run) and "no published figure" in published.why_none(run)
    assert published.why_none(run_facts(benchmark="mine")) is None


def test_a_published_fusion_is_of_runs_that_all_belong_to_it():
    runs = [run_facts(stream=stream) for stream in ("joint", "bone")]
    assert published.figure_for(runs, "2-stream") == 79.6
    assert (
        published.figure_for([runs[0], run_facts(stream="bone", num_epoch=3)], "2-stream") is None
    )
    assert published.figure_for([runs[0], run_facts(stream="bone", **CTRGCN)], "2-stream") is None


def test_departures_are_by_value_and_named():
    settings = config.resolve([NTU60 / "joint.yaml", method("focal")], ["loss_args.gamma=3"])
    assert recipe.departures(settings) == ["loss_args"]
    assert recipe.departures(settings.replace(num_epoch=2)) == ["loss_args", "num_epoch"]
    small = config.resolve([NTU60 / "joint.yaml"], ["model_args.base_channels=8"])
    assert recipe.departures(small) == ["model_args"]
    assert recipe.departures(small.replace(benchmark="mine")) is None
    ride = config.resolve([NTU60 / "joint.yaml", method("ride")])
    assert recipe.departures(ride.replace(model="model.ctrgcn.Model")) == ["model"]
    other = ride.replace(model_args=ride.model_args | {"backbone": "model.ctrgcn.Model"})
    assert recipe.departures(other) == []  # which the experts are copies of
    said = recipe.describe(settings, ["loss_args"], "other.pt")
    assert said.startswith("departs from the recipe of focal on ntu60-xsub-lt: loss_args, start fr")
    assert recipe.describe(config.resolve([NTU60 / "joint.yaml"]), [], None) is None


def test_every_method_is_labeled_and_is_its_own_recipe():
    for name, file in recipe.method_files().items():
        settings = config.resolve([NTU60 / "joint.yaml", file])
        assert settings.method == name and recipe.departures(settings) == []
    for folder in config.CONFIG_ROOT.glob("*/base.yaml"):
        settings = config.resolve([folder.with_name("joint.yaml")])
        assert settings.method == recipe.BRL and recipe.departures(settings) == []


def test_every_published_method_that_is_here_has_its_name():
    assert set(published.METHODS) - {"brl", "released"} <= set(METHODS)
    with published.TABLE.open() as file:
        names = {row["method"] for row in csv.DictReader(file)}
    not_here = {"FSA", "PoseConv3D", "Shap-Mix"}
    assert names - set(published.METHODS.values()) == not_here
    for name in set(published.METHODS) - {"brl", "released", "ride"}:
        assert published.figure_for([run_facts(method(name), **CTRGCN)], "joint") is not None
    for name in set(METHODS) - set(published.METHODS):  # class-balanced-drw is not class-balanced
        assert published.place_of(run_facts(method(name), **CTRGCN)) is None


def test_published_figures_are_beside_the_backbone_of_each_method(tmp_path):
    """RIDE's experts are copies of a backbone; a recipe that is not the authors' has no figure."""
    overrides = ("model_args.backbone=model.ctrgcn.Model",)
    for name, more, figure in (("ride", overrides, 76.6), ("shap-mix-recipe", (), None)):
        sweep = compare.Sweep(NTU60, root=tmp_path, overrides=more)
        run = sweep.plan(name, 0)
        write_result(run, 50.0, 20.0, run_facts())
        table = compared(sweep, [run], baseline=name).as_json()["methods"][name]
        assert table["published"]["top1"] == figure


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
        compare.method_files("ldam-dwr")


def test_main_resolves_what_was_planned():
    """The same values and the same folder, also of a trial on a fold."""
    sweep = compare.Sweep(NW_UCLA, overrides=("lr=0.1", "num_epoch=3", "test_clips=5"))
    chosen = {("crt", "2/5"): ("lr=0.3",), ("cross-entropy", "2/5"): ("lr=0.05",)}
    run = sweep.plan("crt", 1, "2/5", chosen, held_out=0.25)
    assert run.name == "crt, seed 1, fold 2/5, lr=0.3, val_split=0.25"
    assert run.folder.parent.name == "nw-ucla-lt-crt-fold2of5-seed1-val0.25-lr0.3"
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
    counts = torch.tensor([2, 1])
    monkeypatch.setattr(sweeps, "_read_list", lambda *_: (torch.tensor([0, 0, 1]), counts, "new"))
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
    monkeypatch.setattr(sweeps, "_read_list", lambda *_: (torch.tensor([0, 1, 1]), counts, "newer"))
    with pytest.raises(InputError, match=r"trained on another list than .* is now"):
        crt.needs.check()


def test_folds_share_no_person(tiny, tmp_path):
    persons = {}
    for fold in ("1/2", "2/2"):
        sweep = compare.Sweep(tiny / "tiny-lt", root=tmp_path, overrides=("training_list=null",))
        run = sweep.plan("brl", 0, fold)
        assert run.folder.parent.name == f"tiny-lt-fold{fold.replace('/', 'of')}"
        data = build.open_data(run.settings, build.make_model(run.settings))
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
    monkeypatch.setattr(sweeps, "_read_list", lambda *_: (labels, NW_UCLA_COUNTS, ""))


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
        assert sweeps.steps_per_epoch(settings, repeat) == per_epoch
        assert sweeps.steps_per_epoch(settings, repeat + 1e-4) >= per_epoch
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


# --- tuning ---


def test_words_of_tuning():
    factors = tuning.Tuned.parse("lr=0.5x,1x,3e-1x")
    settings = compare.Sweep(NW_UCLA).plan("ldam-drw", 0).settings
    assert factors.words(settings) == [("lr=0.00625",), ("lr=0.0125",), ("lr=0.00375",)]
    both = tuning.Tuned.parse("model_args.cosine+loss_args.scale=0.5x,60")
    assert both.words(settings) == [
        ("model_args.cosine=15", "loss_args.scale=15"),
        ("model_args.cosine=60", "loss_args.scale=60"),
    ]
    for method, keys in {
        "cross-entropy": {"lr"},
        "ldam-drw": {"lr", "loss_args.scale", "loss_args.max_margin"},
        "logit-adjustment": {"lr", "loss_args.tau"},
        "post-hoc-adjustment": {"classifier_args.tau"},  # it trains nothing
        "crt": {"lr", "classifier_args.fresh"},
    }.items():
        settings = compare.Sweep(NW_UCLA).plan(method, 0).settings
        known = ("lr", "loss_args.scale", "loss_args.max_margin", "loss_args.tau",
                 "classifier_args.tau", "classifier_args.fresh")  # fmt: skip
        tuned = [tuning.Tuned.parse(f"{key}=1,2") for key in known]
        assert {each.keys[0] for each in tuned if each.applies(settings)} == keys, method


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tune", "lr"], "--tune lr: expected KEY=VALUE,VALUE"),
        (["--tune", "lr=1"], "expected KEY=VALUE,VALUE"),
        (["--tune", "lrr=1,2"], "unknown key 'lrr'"),
        (["--tune", "lr.x=1,2"], "lr has no inner key x"),
        (["--tune", "loss_args.tau=1,2"], "--tune loss_args.tau: none of the methods has a use"),
        (["--tune", "store=0.5x,1x"], "brl has data/nw-ucla, which is not a number"),
        (["--tune", "repeat=1,2", "--equal-steps"], "--equal-steps sets it"),
        (["--tune-seeds", "1"], "--tune-seeds: there is no --tune"),
        (["--baseline", "focal"], "--baseline focal: is not among --methods"),
        (["--folds", "1"], "--folds must be at least 2"),
        (["--jobs", "0"], "at least 1, or auto"),
        (["--dry-run", "--jobs", "2"], "--jobs: --dry-run makes no run"),
    ],
)
def test_a_mistake_is_one_line(words, said, tmp_path, capsys):
    argv = ["--benchmark", "nw-ucla-lt", "--methods", "brl", "--work-dir", str(tmp_path / "w")]
    assert run_command(compare.main, [*argv, *words]) == BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / "w").exists()


def pretend_to_train(accuracy, made):
    """Return a maker of runs that leave what `accuracy(run)` says they reach, held out."""

    def make(runs):
        made.append(list(runs))
        failures = {}
        for run in runs:
            if (found := accuracy(run)) is None:
                failures[run] = "exit code 2: the loss is nan"
                continue
            run.folder.mkdir(parents=True, exist_ok=True)
            lines = [{"epoch": 0, "top1": 99.0, "mean_class": 1.0},
                     {"epoch": 1, "top1": 50.0, "mean_class": found}]  # fmt: skip
            run.place.metrics_file.write_text("\n".join(map(json.dumps, lines)))
        return failures

    return make


def test_each_method_takes_what_is_best_on_held_out_samples(tmp_path):
    methods = ("cross-entropy", "logit-adjustment", "crt")
    sweep = compare.Sweep(NW_UCLA, methods, root=tmp_path)
    tuned = [tuning.Tuned.parse(text) for text in ("lr=0.1,0.2,0.4", "loss_args.tau=1,2")]

    def accuracy(run):
        if run.method == "cross-entropy":  # 0.4 is best in one seed, 0.2 over both
            return {0.1: (70, 10), 0.2: (60, 60), 0.4: (80, 30)}[run.settings.lr][run.seed]
        if run.method == "logit-adjustment":
            if run.settings.lr == 0.4:
                return None  # diverged
            return 50 + run.settings.loss_args["tau"]
        return 50 if run.settings.lr > 0.1 else 40

    made = []
    make = pretend_to_train(accuracy, made)
    choices = tuning.tune(sweep, tuned, [0, 1], [None], 0.25, "last", make)
    assert {each.method: each.words for each in choices} == {
        "cross-entropy": ("lr=0.2",),
        "logit-adjustment": ("lr=0.1", "loss_args.tau=2"),  # of equal ones the first
        "crt": ("lr=0.2",),
    }
    shown = {each.method: each.shown for each in choices}
    assert shown["logit-adjustment"] == "lr 0.1, tau 2"
    assert choices[0].accuracy == {"lr=0.1": 40, "lr=0.2": 60, "lr=0.4": 55}
    assert [each.held_out for each in choices] == [60, 52, 50]
    assert choices[1].accuracy["lr=0.4 loss_args.tau=1"] is None
    assert choices[1].failed == {
        "lr=0.4 loss_args.tau=1": "exit code 2: the loss is nan",
        "lr=0.4 loss_args.tau=2": "exit code 2: the loss is nan",
    }
    assert all(run.settings.val_split == 0.25 for runs in made for run in runs)
    first, second = made  # the classifier's trials start from the trial that was chosen
    assert {run.method for run in first} == {"cross-entropy", "logit-adjustment"}
    assert {run.needs.settings.lr for run in second} == {0.2}
    assert {run.needs.settings.val_split for run in second} == {0.25}
    final = sweep.plan("crt", 3, None, tuning.as_chosen(choices))
    assert final.settings.val_split is None and final.needs.settings.lr == 0.2
    with pytest.raises(InputError, match="no value of cross-entropy could be tried: exit code 2"):
        tuning.tune(sweep, tuned, [0], [None], 0.2, "last", pretend_to_train(lambda _: None, []))


def test_a_trial_counts_what_its_checkpoint_reaches(tmp_path):
    """best.pt is of the last of equal epochs, as samples are held out (TrainState.end_epoch)."""
    run = compare.Sweep(NW_UCLA, root=tmp_path).plan("brl", 0, held_out=0.2)
    run.folder.mkdir(parents=True)
    values = [(80, 40), (90, 50), (90, 85), (70, 60)]
    run.place.metrics_file.write_text(
        "\n".join(
            json.dumps({"epoch": number, "top1": top1, "mean_class": mean})
            for number, (top1, mean) in enumerate(values)
        )
    )
    assert tuning.held_out_accuracy(run, "best") == 85
    assert tuning.held_out_accuracy(run, "last") == 60


def test_each_fold_has_a_choice_of_its_own(tmp_path):
    """What is held out of one fold's training are test clips of another."""
    sweep = compare.Sweep(NW_UCLA, ("brl",), root=tmp_path)
    tuned = [tuning.Tuned.parse("lr=0.1,0.2")]
    best = {"1/2": 0.1, "2/2": 0.2}
    make = pretend_to_train(lambda run: float(run.settings.lr == best[run.fold]), [])
    choices = tuning.tune(sweep, tuned, [0], list(best), 0.2, "last", make)
    assert [(each.fold, each.words) for each in choices] == [
        ("1/2", ("lr=0.1",)), ("2/2", ("lr=0.2",)),
    ]  # fmt: skip


# --- the table ---


def write_result(run, top1, few, facts=None, right=None):
    """Write what a finished run leaves; `facts` says on which list, `right` which clips are right.

    The clips: ten of each of four classes, with 200, 50, 50 and 5 training clips.
    """
    run.folder.mkdir(parents=True)
    config.write(run.settings, run.folder / "config.yaml")
    departures = recipe.departures(run.settings)
    listed = (facts or {}).get("published_list")
    labels = np.arange(40) % 4
    right = np.ones(40, bool) if right is None else right
    scores = np.eye(4, dtype=np.float32)[np.where(right, labels, (labels + 1) % 4)]
    result = {
        "departures": departures, "published_list": listed, "top1": top1, "mean_class": top1 - 1,
        "many": None, "medium": 60.0, "few": few, "macro_f1": top1 / 3, "ece": 7.0,
        "top1_clean": top1 + 2, "samples": 40, "samples_clean": 30,
        "class_counts": [200, 50, 50, 5],
    }  # fmt: skip
    own = ("list_digest", "class_counts", "code", "started_from_digest")
    result |= {key: value for key, value in (facts or {}).items() if key in own}
    random = np.random.default_rng([run.seed, len(run.method)])
    order = random.permutation(40)  # samples are joined by name, not by row
    for suffix, gain in (("-last", 0), ("", 5)):
        text = json.dumps(result | {"top1": top1 + gain})
        (run.folder / f"result{suffix}.json").write_text(text)
        names = np.array([f"clip{i:02}" for i in range(40)])
        np.savez(run.folder / f"scores{suffix}.npz", names=names[order], labels=labels[order],
                 scores=scores[order])  # fmt: skip


def compared(sweep, runs, which="last", baseline="brl", **more):
    methods = list(dict.fromkeys(run.method for run in runs))
    rows, notes = compare.compare(runs, methods, which, baseline)
    seeds = list(dict.fromkeys(run.seed for run in runs))
    folds = list(dict.fromkeys(run.fold for run in runs))
    return compare.Comparison(sweep, which, seeds, folds, baseline, rows, notes=notes, **more)


def test_table_against_numpy(tmp_path):
    sweep = compare.Sweep(NTU60, root=tmp_path)
    runs = [sweep.plan(method, seed) for method in ("brl", "focal") for seed in (0, 1, 2)]
    top1 = [70.0, 71.5, 74.0]
    for run, value in zip(runs[:3], top1):
        write_result(run, value, value / 2, run_facts())
    write_result(runs[4], 50.0, 20.0)
    found = compared(sweep, runs)
    table, text = found.as_json()["methods"], found.markdown()
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
    assert best.as_json()["methods"]["brl"]["mean"]["top1"] == pytest.approx(np.mean(top1) + 5)
    assert "best.pt was chosen by top-1 on the test split" in best.markdown()


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
        assert said in compared(each, runs).caption[0]


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
    focal, ldam = (found.as_json()["methods"][name]["differences"] for name in ("focal", "ldam"))
    values = {metric: each["value"] for metric, each in focal.items()}
    assert values == pytest.approx({"top1": 12.5, "mean_class": 12.5, "many": 50, "medium": 0,
                                    "few": 0})  # fmt: skip
    assert focal["many"]["different"] and focal["many"]["low"] > 0
    assert not focal["medium"]["different"] and focal["medium"]["p_holm"] == 1
    assert ldam["few"]["value"] == pytest.approx(-10) and not ldam["few"]["different"]
    # Holm over two methods: the smaller p is doubled
    p = [each["many"]["p"] for each in (focal, ldam)]
    assert focal["many"]["p_holm"] == pytest.approx(2 * p[0]) and p[1] == 1
    assert found.as_json()["methods"]["brl"]["differences"] == {}
    text = found.markdown()
    (line,) = [line for line in text.splitlines() if line.startswith("| focal | +")]
    assert line.startswith("| focal | +12.5 [+") and line.count("▲") == 3 and line.count("○") == 2
    assert "Holm's correction over 2 methods" in text and "the intervals are too narrow" in text
    other = compared(sweep, runs, baseline="focal").as_json()["methods"]["brl"]["differences"]
    assert other["many"]["value"] == pytest.approx(-50) and other["many"]["different"]
    assert_drawn(found)


def test_methods_without_any_difference_are_drawn(tmp_path):
    sweep = compare.Sweep(NTU60, root=tmp_path)
    runs = [sweep.plan(method, 0) for method in ("brl", "focal")]
    for run in runs:
        write_result(run, 50.0, 20.0)
    drawn = intervals.chart(compared(sweep, runs).as_json())
    assert drawn.count("<circle") == 5 and "nan" not in drawn


def assert_drawn(found):
    """Every point is where its value is, on one scale for all panels, filled if different."""
    differences = {name: row["differences"] for name, row in found.as_json()["methods"].items()}
    drawn = ElementTree.fromstring(intervals.chart(found.as_json()))
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
    page = found.html().replace("http://www.w3.org/2000/svg", "")
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
    assert "The runs were made by 2 versions of the code." in found.notes
    rows = found.as_json()["methods"].values()
    assert [row["runs"][0]["code"] for row in rows] == ["one", "two"]


# --- the whole command ---


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


def test_no_method_is_a_mistake(tmp_path):
    with pytest.raises(InputError, match="--methods: names none"):
        compare.main(["--benchmark", "demo", "--methods", " ,", "--work-dir", str(tmp_path / "w")])
    assert not (tmp_path / "w").exists()
