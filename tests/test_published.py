"""Published figures: which run they stand beside, and which not."""

import csv
import dataclasses
from pathlib import Path

import pytest

from engine import config, recipe
from tests.comparisons import METHODS, NTU60, compared, run_facts, write_result
from tools import compare, published


def test_published_table_is_the_reference(shared):
    reference = shared / "reference" / "published-results.csv"
    assert published.TABLE.read_text() == reference.read_text()


def method(name):
    return config.CONFIG_ROOT / "methods" / f"{name}.yaml"


CTRGCN = {"model": "model.ctrgcn.Model"}
NTU120 = config.CONFIG_ROOT / "ntu120-xsub-lt"
CROSS_ENTROPY = method("cross-entropy")
BACKBONES = config.CONFIG_ROOT / "backbones.yaml"
RELEASED = config.CONFIG_ROOT / "released.yaml"


def test_every_figure_of_the_table_is_read():
    with published.TABLE.open() as file:
        for row in csv.DictReader(file):
            names = ("benchmark", "imbalance", "method", "backbone", "streams")
            sources = published.figures()[tuple(row[name] for name in names)]
            assert sources[row["source"]][row["metric"]] == float(row["value"])


def test_the_figures_beside_a_run_are_of_one_source():
    """CTR-GCN with cross entropy is 69.3 in BRL's repository and 74.4 in Shap-Mix's paper, which
    alone has its shot groups."""
    entry = ("ntu60-xsub-lt", "100", "cross entropy", "CTR-GCN", "joint")
    assert [each["top1"] for each in published.figures()[entry].values()] == [69.3, 74.4]
    run = run_facts(CROSS_ENTROPY, **CTRGCN)
    assert published.figures_for([run], "joint") == {"top1": 69.3}


def max_norm(first):
    """Facts of a run of max-norm on weights of a run by the recipe of `first`."""
    facts = run_facts(method("max-norm"), **CTRGCN)
    return facts | {"started_from": "best.pt", "started_from_method": first}


def kinetics(model, name):
    """Facts of a run on Kinetics-400 by the recipe of method `name`."""
    files = [] if name == "brl" else [method(name)]
    return run_facts(*files, digest=None, folder=config.CONFIG_ROOT / "k400", model=model)


@pytest.mark.parametrize(
    ("run", "figure"),
    [
        (run_facts(), 76.7),
        (run_facts(seed=3, amp="bf16", tag="mine"), 76.7),
        (run_facts(RELEASED), 76.7),
        (run_facts(**CTRGCN), 76.9),
        (run_facts(method("brl-class-balanced"), **CTRGCN), 76.9),
        (run_facts(RELEASED, method("brl-class-balanced"), model="model.msg3d.Model"), 78.0),
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
        (max_norm("balanced-softmax"), 77.5),
        (max_norm("cross-entropy"), None),  # the published one starts from a balanced softmax
        (max_norm(None), None),
        (run_facts(method("max-norm"), **CTRGCN), None),
        (kinetics("model.stgcnpp.Model", "brl"), 45.6),
        (kinetics("model.ctrgcn.Model", "brl"), None),
        (kinetics("model.stgcnpp.Model", "glmc"), None),  # the backbone of its figure is not given
        ({k: v for k, v in run_facts().items() if k != "departures"}, None),
        # a method that nobody published, a benchmark of one's own
        (run_facts(method("kps"), **CTRGCN), None),
        (run_facts(method="mine"), None),
        (run_facts(benchmark="mine"), None),
    ],
)  # fmt: skip
def test_a_published_figure_stands_beside_its_own_run_only(run, figure):
    assert published.figures_for([run], "joint").get("top1") == figure
    if figure is not None:
        assert published.why_none(run) is None


def test_why_no_published_figure_is_shown():
    for run, said in (
        (run_facts(digest=None), "not trained on a published list of this benchmark"),
        (run_facts(num_epoch=8, val_split=0.1), "from the recipe of brl in num_epoch, val_split"),
        (run_facts() | {"started_from": "other.pt"}, "started from other.pt"),
        (max_norm(None), "started from best.pt, not from a run by the recipe of balanced-softmax"),
    ):
        assert said in published.why_none(run) and "no published figure" in published.why_none(run)
    assert published.why_none(run_facts(benchmark="mine")) is None


def test_a_published_fusion_is_of_runs_that_all_belong_to_it():
    runs = [run_facts(stream=stream) for stream in ("joint", "bone")]
    assert published.figures_for(runs, "2-stream")["top1"] == 79.6
    assert not published.figures_for([runs[0], run_facts(stream="bone", num_epoch=3)], "2-stream")
    assert not published.figures_for([runs[0], run_facts(stream="bone", **CTRGCN)], "2-stream")


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


def test_first_stages_are_those_that_a_comparison_trains(tmp_path):
    sweep = compare.Sweep(NTU60, root=tmp_path)
    parents = {name: sweep.parent(name) for name in published.METHODS}
    assert {name: first for name, first in parents.items() if first} == published.FIRST_STAGE


def test_method_of_first_weights():
    """Their label, if they follow its recipe; a configuration that cannot be read is no error."""
    own = dataclasses.asdict(config.resolve([NTU60 / "joint.yaml"]))
    for content, name in (
        ({"config": own}, "brl"),
        ({"config": own, "started_from": "other.pt"}, None),
        ({"config": own | {"lr": 1.0}}, None),
        ({"config": own | {"key_of_a_later_version": 1}}, None),
        ({}, None),
    ):
        assert recipe.method_of(content, Path("best.pt")) == name


def test_every_published_method_that_is_here_has_its_name():
    assert set(published.METHODS) - {"brl", "released"} <= set(METHODS)
    with published.TABLE.open() as file:
        names = {row["method"] for row in csv.DictReader(file)}
    not_here = {"FSA", "PoseConv3D", "Shap-Mix"}
    assert names - set(published.METHODS.values()) == not_here
    for name in set(published.METHODS) - {"brl", "released", "ride", "max-norm"}:
        assert "top1" in published.figures_for([run_facts(method(name), **CTRGCN)], "joint")
    for name in set(METHODS) - set(published.METHODS):  # class-balanced-drw is not class-balanced
        assert published.place_of(run_facts(method(name), **CTRGCN)) is None


def test_published_figures_are_beside_the_backbone_of_each_method(tmp_path):
    """RIDE's experts are copies of a backbone; a recipe that is not the authors' has no figure."""
    overrides = ("model_args.backbone=model.ctrgcn.Model",)
    for name, more, figure in (("ride", overrides, 76.6), ("shap-mix-recipe", (), None)):
        sweep = compare.Sweep(NTU60, root=tmp_path, overrides=more)
        run = sweep.plan(name, 0)
        write_result(run, 50.0, 20.0, run_facts())
        table = compared(sweep, [run], baseline=name)["methods"][name]
        assert table["published"]["top1"] == figure
