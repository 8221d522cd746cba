"""Weights of other projects: every way in builds the network that the file shows."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch
import yaml

import main
import model as models
from data import clip_file, convert
from data.store import StoreWriter
from engine import checkpoint, config, evaluate, predict_files
from engine.build import make_feeder
from engine.config import Config
from engine.predict import LoadedNetwork, Recognizer
from engine.run_data import open_test_data
from errors import InputError, run_command
from model import aagcn, ctrgcn, msg3d, stgcn, stgcnpp, upstream
from model.fuse_bn import fuse_bn
from tests import quick
from tests.test_model import BACKBONES, ORIGINAL, original_weights, relative, with_their_names
from tools import embed, export

CPU, META = torch.device("cpu"), torch.device("meta")
NTU60, UCLA = "config/ntu60-xsub-lt/joint.yaml", "config/nw-ucla-lt/joint.yaml"
FOLDERS = {"ntu_rgb_d": NTU60, "nw_ucla": UCLA}
ON_NTU = [name for name, (_, layout) in ORIGINAL.items() if layout == "ntu_rgb_d"]
PYSKL = {
    "stgcnpp_b16": "stgcnpp", "stgcnpp_b16_offset_post": "stgcnpp", "stgcn_b16": "stgcn",
    "aagcn_b16": "aagcn", "ctrgcn_b16": "ctrgcn", "msg3d_b12_s5_2": "msg3d",
}  # fmt: skip


def documented(name, *more):
    """The configuration that docs/model-zoo.md gives for an authors' or PYSKL's checkpoint."""
    backbone, layout = ORIGINAL.get(name) or (PYSKL[name], "ntu_rgb_d")
    return config.resolve([FOLDERS[layout]], [f"model=model.{backbone}.Model", *more])


@pytest.fixture(scope="module")
def original(golden, tmp_path_factory):
    """Return (file, clips, logits) of an authors' network, as their code saves and computes it."""
    folder = tmp_path_factory.mktemp("original")

    def write(name, change=dict):
        vectors = np.load(golden / f"original_{name}.npz")
        torch.save(change(original_weights(vectors)), folder / f"{name}.pt")
        clips = torch.from_numpy(vectors["input"]).permute(0, 4, 2, 3, 1)
        return folder / f"{name}.pt", clips, vectors["logits_f64"]

    return write


@pytest.mark.parametrize("name", quick.only(["stgcn", "ctrgcn_ucla"], ORIGINAL))
def test_the_documented_way_gives_the_authors_logits(original, name):
    path, clips, logits = original(name)
    settings, network, _ = checkpoint.load_network(path, documented(name))
    with torch.no_grad():
        assert relative(network.eval()(clips), logits) < 1e-4
        # what a run would write to its config.yaml is enough to build it again
        again = config.from_mapping(yaml.safe_load(settings.to_yaml()))
        assert again.model_args == settings.model_args
        _, network, _ = checkpoint.load_network(path, again)
        assert relative(network.eval()(clips), logits) < 1e-4


@pytest.mark.parametrize("said", [{}, {"model": "model.{backbone}.Model"}])
@pytest.mark.parametrize("name", quick.only(["stgcn"], ON_NTU))
def test_arguments_in_a_file_override_those_shown_by_its_weights(original, name, said):
    """Authors' weights with some of the arguments, as people save them."""
    said = {key: value.format(backbone=ORIGINAL[name][0]) for key, value in said.items()}

    def with_arguments(state):
        return {**said, "model_args": {"num_class": 60, "num_person": 2}, "state_dict": state}

    path, clips, logits = original(name, with_arguments)
    for network in (
        models.from_checkpoint(path), checkpoint.load_network(path, documented(name))[1].eval(),
    ):  # fmt: skip
        with torch.no_grad():
            assert relative(network(clips), logits) < 1e-4


def test_a_file_may_say_what_its_weights_do_not_show(original):
    """Over what is taken for granted of the authors' networks."""
    said = {"relu_branches": True, "parent_edges": False}
    path, _, _ = original("ctrgcn", lambda state: {"model_args": said, "state_dict": state})
    assert models.from_checkpoint(path).arguments.items() >= said.items()
    shown = models.network_of(upstream.Checkpoint.read(path))[1]
    assert shown["norm_persons"] and shown["num_class"] == 60
    path, _, _ = original("stgcn", lambda s: {"model_args": {"num_person": 3}, "state_dict": s})
    assert models.from_checkpoint(path).num_person == 3


@pytest.mark.parametrize("name", PYSKL)
def test_pyskl_weights_need_nothing_but_their_backbone(golden, name):
    """The width, in the golden files a quarter or less of the usual, is what the weights show."""
    vectors = np.load(golden / f"model_{name}.npz")
    path = golden / f"model_{name}.pth"
    network = LoadedNetwork.load(path, CPU, documented(name)).model.eval()
    with torch.no_grad():
        logits = network(torch.from_numpy(vectors["keypoint"]))
    assert relative(logits, vectors["logits_f64"]) < 1e-4


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("ctrgcn", ["model_args.base_channels=32"], "base_channels is 32, but the weights have 64"),
        (
            "ctrgcn",
            ["model_args.num_class=7"],
            "model_args.num_class is 7, but the weights have 60",
        ),
        ("agcn", ["model_args.attention=true"], "attention is True, but the weights have False"),
        ("stgcn", ["model_args.parent_edges=false"], "parent_edges is False, but the weights have"),
        ("msg3d", ["model_args.num_gcn_scales=5"], "num_gcn_scales is 5, but the weights have 13"),
        ("ctrgcn", ["model_args.graph=coco"], "model_args.graph is coco, but the weights have ntu"),
    ],
)
def test_what_is_set_and_contradicts_the_weights_is_named(original, name, more, said):
    path, *_ = original(name)
    with pytest.raises(InputError) as error:
        checkpoint.load_network(path, documented(name, *more))
    assert said in str(error.value) and str(path) in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_the_backbone_is_not_guessed(original):
    path, *_ = original("ctrgcn")
    with pytest.raises(InputError, match=r"set model=model\.ctrgcn\.Model"):
        checkpoint.load_network(path, config.resolve([NTU60]))


def test_arguments_not_shown_by_weights_are_used(original):
    path, clips, logits = original("ctrgcn")
    settings = documented("ctrgcn", "model_args.relu_branches=true")
    _, network, _ = checkpoint.load_network(path, settings)
    by_call = models.from_checkpoint(path, relu_branches=True)
    for built in (network.eval(), by_call):
        assert built.blocks[0].temporal.relu
        with torch.no_grad():
            assert relative(built(clips), logits) > 1e-2
    with pytest.raises(InputError, match=r"relu_branch \(did you mean relu_branches"):
        models.from_checkpoint(path, relu_branch=True)


@pytest.mark.parametrize(
    ("name", "built", "said"),
    [
        ("ctrgcn", {}, "relu_branches=False"),
        ("msg3d", {"parent_edges": True}, "normalize=symmetric"),
        ("agcn", {"similarity": "softmax", "attention": False}, "parent_edges=True"),
    ],
)
def test_weights_of_another_variant_are_not_loaded_into_a_network(original, name, built, said):
    """Names and shapes agree, so strict loading alone would give other logits without a word."""
    path, clips, logits = original(name)
    network = BACKBONES[ORIGINAL[name][0]].Model(**built)
    before = network.fc.weight.clone()
    with pytest.raises(InputError, match=said):
        checkpoint.load_weights(network, path)
    assert torch.equal(network.fc.weight, before)
    variant = {"relu_branches": False, "normalize": "symmetric", "parent_edges": True}
    known = models.defaults(type(network))
    variant = {key: value for key, value in variant.items() if key in known}
    network = type(network)(**{**built, **variant})
    checkpoint.load_weights(network, path)
    with torch.no_grad():
        assert relative(network.eval()(clips), logits) < 1e-4


def test_a_layout_that_is_not_known_is_given(tmp_path):
    """Of 15 joints, in PYSKL's names; the rest is still what the weights show."""
    table = {"edges": [[v, v - 1] for v in range(1, 15)], "parent": [0, *range(14)],
             "flip": list(range(15)), "upper": [1], "centre": 0}  # fmt: skip
    layout, path = tmp_path / "mine.yaml", tmp_path / "weights.pt"
    layout.write_text(yaml.safe_dump(table))
    small = {"num_blocks": 2, "inflate": [2], "down": [2], "base_channels": 8, "num_class": 3}
    network = stgcn.Model(graph=layout, **small).eval()
    tensors = network.state_dict() | dict(network.named_buffers(remove_duplicate=False))
    form = upstream.form_of({"backbone.gcn.0.gcn.conv.weight": torch.empty(0)})
    entries = list(form.names(network))
    shapes = {entry.theirs[0]: tensors[entry.ours].shape for entry in entries}
    for number, width, inputs in ((0, 8, 3), (1, 16, 8)):  # three subsets, one below the other
        shapes[f"backbone.gcn.{number}.gcn.conv.weight"] = torch.Size((3 * width, inputs, 1, 1))
    torch.save(with_their_names(tensors, entries, shapes), path)
    with pytest.raises(InputError, match=r"weights.pt: no known layout has 15 joints: set graph"):
        models.from_checkpoint(path)
    given = Config(model="model.stgcn.Model")
    with pytest.raises(InputError, match="no known layout has 15 joints"):
        checkpoint.load_network(path, given)
    clips = torch.randn(2, 2, 9, 15, 3)
    given = given.replace(model_args={"graph": str(layout)})
    with torch.no_grad():
        for built in (
            models.from_checkpoint(path, graph=layout),
            checkpoint.load_network(path, given)[1].eval(),
        ):
            assert torch.equal(built(clips), network(clips))


def test_own_weights_alone_need_a_configuration(tmp_path):
    network, path = ctrgcn.Model(**SMALL).eval(), tmp_path / "weights.pt"
    torch.save(network.state_dict(), path)
    with pytest.raises(InputError, match=r"weights.pt: weights named .*: use best.pt of a run, or"):
        models.from_checkpoint(path)
    given = Config(model="model.ctrgcn.Model", model_args=SMALL)
    loaded = checkpoint.load_network(path, given)[1].eval()
    again = ctrgcn.Model(**SMALL).eval()
    checkpoint.load_weights(again, path)
    clips = torch.randn(2, 2, 9, 25, 3)
    with torch.no_grad():
        assert torch.equal(loaded(clips), network(clips))
        assert torch.equal(again(clips), network(clips))
    with pytest.raises(InputError, match=r"missing: blocks.0.* left over: blocks.0"):
        checkpoint.load_network(path, Config())


class Ported(torch.nn.Module):
    """A network of the user's, with some names of CTR-GCN's own repository."""

    def __init__(self):
        super().__init__()
        self.l1 = torch.nn.ModuleDict({"gcn1": torch.nn.Module()})
        self.l1["gcn1"].convs = torch.nn.ModuleList([torch.nn.Module()])
        self.l1["gcn1"].convs[0].conv3 = torch.nn.Conv2d(3, 8, 1)


def test_a_network_with_the_names_of_another_project_takes_weights_with_these(tmp_path):
    network, other, path = Ported(), Ported(), tmp_path / "weights.pt"
    assert upstream.form_of(network.state_dict()).backbone == "ctrgcn"
    torch.save(network.state_dict(), path)
    checkpoint.load_weights(other, path)
    for key, value in network.state_dict().items():
        assert torch.equal(other.state_dict()[key], value)


# --- the released files of 2s-AGCN and st-gcn are older than their code ---


def without_counters(state):
    """As torch before 0.4.1 saves a network."""
    return {key: value for key, value in state.items() if "num_batches" not in key}


def as_released_for_views(state):
    """2s-AGCN's cross-view files: `conv_res` for `down`."""
    return {k.replace(".down.", ".conv_res."): v for k, v in without_counters(state).items()}


def with_renamed_blocks(state):
    """l1a.gcn1.PA, as 2s-AGCN's issue 32 says how to change its code."""
    return {re.sub(r"^(l\d+)\.", r"\1a.", k): v for k, v in as_released_for_views(state).items()}


def with_plain_blocks(state):
    """l1a.PA, as 2s-AGCN's issue 32 quotes a cross-subject file."""
    return {k.replace("a.gcn1.", "a."): v for k, v in with_renamed_blocks(state).items()}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("agcn", as_released_for_views),
        ("agcn", with_renamed_blocks),
        ("agcn", with_plain_blocks),
        *quick.only([("stgcn", without_counters)], ((name, without_counters) for name in ON_NTU)),
    ],
)
def test_released_files_older_than_their_code(original, name, change):
    path, clips, logits = original(name, change)
    keys = torch.load(path).keys()
    assert ("l1a.PA" in keys) == (change is with_plain_blocks)
    assert ("l5.gcn1.conv_res.0.weight" in keys) == (change is as_released_for_views)
    with torch.no_grad():
        assert relative(models.from_checkpoint(path)(clips), logits) < 1e-4


# --- every command ---

SMALL = {"graph": "ntu_rgb_d", "num_class": 4, "num_person": 2, "base_channels": 8,
         "num_blocks": 2, "inflate": [2], "down": [2]}  # fmt: skip
VARIANT = {"relu_branches": False, "norm_persons": True, "parent_edges": True}


@pytest.fixture(scope="module")
def variant(tmp_path_factory):
    """A CTR-GCN as its own repository has it, and its weights under this project's names."""
    torch.manual_seed(0)
    network = ctrgcn.Model(**SMALL, **VARIANT).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    path = tmp_path_factory.mktemp("variant") / "weights.pt"
    content = {"model": "model.ctrgcn.Model", "model_args": SMALL | VARIANT}
    torch.save(content | {"state_dict": network.state_dict()}, path)
    return network, path


@pytest.fixture
def argv(tiny, variant):
    """The documented command line, but for the command itself."""
    return ["--config", str(tiny / "tiny-lt/joint.yaml"), "--set", "model=model.ctrgcn.Model"]


def expected_scores(tiny, network):
    settings = Config(
        store=str(tiny / "store"), protocol="demo-xsub", frames=8, test_clips=2, model_args=SMALL
    )
    data = open_test_data(settings, network)
    feeder = make_feeder(settings, data, data.test_rows, CPU, clips=2)
    return evaluate.score(network, feeder, settings, CPU), data, settings


def test_main_tests_the_network_that_the_file_shows(tiny, variant, argv, tmp_path):
    network, path = variant
    command = ["--phase", "test", *argv, "--weights", str(path), "--work-dir", str(tmp_path)]
    main.main([*command, "--device", "cpu", "--quiet"])
    expected, *_ = expected_scores(tiny, network)
    np.testing.assert_allclose(np.load(tmp_path / "scores.npz")["scores"], expected, atol=1e-5)


def test_main_predicts_with_it(tiny, variant, argv, tmp_path):
    network, path = variant
    clip = np.random.default_rng(0).normal(size=(20, 25, 3)).astype("f4")
    np.save(tmp_path / "clip.npy", clip)
    out = tmp_path / "out.json"
    command = ["--phase", "predict", *argv, "--weights", str(path), "--device", "cpu", "--quiet"]
    main.main([*command, "--input", str(tmp_path / "clip.npy"), "--output", str(out)])
    (predicted,) = json.loads(out.read_text())["predictions"]
    own = tmp_path / "own.pt"
    settings = dataclasses.asdict(Config(frames=8, test_clips=2, model_args=SMALL | VARIANT,
                                    model="model.ctrgcn.Model"))  # fmt: skip
    checkpoint.save(own, {"config": settings, "model": network.state_dict()})
    main.main([*command[:2], *command[-3:], "--weights", str(own), "--input",
               str(tmp_path / "clip.npy"), "--output", str(out)])  # fmt: skip
    (expected,) = json.loads(out.read_text())["predictions"]
    np.testing.assert_allclose(predicted["probabilities"], expected["probabilities"], atol=2e-6)


def test_main_trains_it_and_its_run_says_so(variant, argv, tmp_path):
    network, path = variant
    folder = tmp_path / "run"
    more = ["num_epoch=1", "lr=1e-9", "--weights", str(path), "--work-dir", str(folder)]
    main.main([*argv, *more, "--device", "cpu", "--quiet"])
    state = checkpoint.read(folder / "last.pt")
    assert state["config"]["model_args"]["relu_branches"] is False
    assert yaml.safe_load((folder / "config.yaml").read_text()) == state["config"]
    trained = models.from_checkpoint(folder / "last.pt")
    assert not trained.blocks[0].temporal.relu
    torch.testing.assert_close(trained.fc.weight, network.fc.weight, rtol=0, atol=1e-4)
    # a second start on top of it, whose command line does not say the variant, keeps it
    main.main([*argv, "num_epoch=1", "--weights", str(folder / "last.pt"),
               "--work-dir", str(tmp_path / "second"), "--device", "cpu", "--quiet"])  # fmt: skip
    second = checkpoint.read(tmp_path / "second/last.pt")["config"]["model_args"]
    assert second == state["config"]["model_args"]


@pytest.mark.slow
def test_export_writes_it(variant, argv, tmp_path):
    network, path = variant
    out = tmp_path / "net.pt2"
    assert run_command(export.main, [str(path), *argv, "--format", "torch", "--out", str(out)]) == 0
    clips = torch.randn(3, 2, 21, 25, 3)
    exported = torch.export.load(out).module()(clips)
    torch.testing.assert_close(exported, network(clips), rtol=1e-4, atol=1e-5)


def test_export_refuses_keys_that_it_does_not_use(variant, argv, capsys):
    assert run_command(export.main, [str(variant[1]), *argv, "amp=bf16"]) == 2
    assert "--set amp=bf16: an export does not use amp; omit it" in capsys.readouterr().err


def test_embed_shows_its_features(tiny, variant, argv, tmp_path):
    network, path = variant
    embed.main([str(path), *argv, "--no-tsne", "--device", "cpu", "--out", str(tmp_path)])
    expected, data, settings = expected_scores(tiny, network)
    feeder = make_feeder(settings, data, data.test_rows, CPU, clips=2)
    with torch.no_grad():
        ((clips, *_),) = feeder.batches([torch.arange(len(data.test_rows))])
        features = network.features(clips).unflatten(0, (-1, 2)).mean(1)
    with np.load(tmp_path / "features.npz") as file:
        np.testing.assert_allclose(file["features"], features, atol=1e-4)
        assert (file["predicted"] == expected.argmax(1)).all()


def test_networks_that_link_joints_otherwise_are_fused(variant, tmp_path):
    """A CTR-GCN of its own repository has other edges at NTU's hands than PYSKL's ST-GCN++."""
    small = tmp_path / "stgcnpp.pt"
    content = {"model": "model.stgcnpp.Model", "model_args": SMALL}
    torch.save(content | {"state_dict": stgcnpp.Model(**SMALL).state_dict()}, small)
    given = {"frames": 8, "test_clips": 1}
    loaded = [
        LoadedNetwork.load(variant[1], CPU, Config(model="model.ctrgcn.Model", **given)),
        LoadedNetwork.load(small, CPU, Config(stream="bone", **given)),
    ]
    clip = np.random.default_rng(0).normal(size=(20, 25, 3)).astype("f4")
    one, other = (Recognizer([each], CPU)(clip).probabilities for each in loaded)
    both = Recognizer(loaded, CPU)(clip).probabilities
    np.testing.assert_allclose(both, (one + other) / 2, atol=1e-6)


def test_what_a_network_takes_is_asked_of_the_network(golden):
    """The configuration says nothing of it, and its defaults are those of NTU RGB+D 60."""
    path = golden / "model_stgcnpp_b16_nw_ucla.pth"
    takes = LoadedNetwork.load(path, CPU, Config()).takes
    assert (takes.skeleton.name, takes.persons, takes.channels) == ("nw_ucla", 2, 3)
    assert takes.normalization == "nw-ucla" and len(takes.class_names) == 10
    assert takes.class_names[0] == "pick up with one hand"


def test_a_foreign_file_takes_the_clips_of_the_configured_store(tmp_path, capsys):
    """UTKinect has NW-UCLA's joints and number of classes, and neither its classes nor its
    normalization. Without the store, what is assumed is said."""
    args = {**SMALL, "graph": "nw_ucla", "num_class": 10, "num_person": 1}
    network = stgcnpp.Model(**args)
    path, store = tmp_path / "foreign.pt", tmp_path / "store"
    torch.save(network.state_dict(), path)
    clip = np.random.default_rng(0).normal(size=(20, 1, 20, 3)).astype("f4")
    np.save(tmp_path / "clip.npy", clip)
    names = [f"action {number}" for number in range(10)]
    facts = {"normalization": "centered", "centre": 2}
    with StoreWriter(store, "nw_ucla", names, (1, 20, 3), **facts) as writer:
        writer.add("a", 0, clip - clip[0, 0, 2])
    own = Config(store=str(store), model_args=args, test_clips=1, frames=8)
    takes = LoadedNetwork.load(path, CPU, own).takes
    assert takes.class_names == tuple(names)
    assert (takes.normalization, takes.centre) == ("centered", 2)
    recognizer = Recognizer.load(path, CPU, own)
    predict_files.run(recognizer, [tmp_path / "clip.npy"])
    assert "taken to be" not in capsys.readouterr().err
    recognizer = Recognizer.load(path, CPU, own.replace(store="data/nowhere"))
    predict_files.run(recognizer, [tmp_path / "clip.npy"])
    err = capsys.readouterr().err
    assert "data/nowhere is not a store of layout nw_ucla: taken to be nw-ucla" in err


def test_weights_under_a_name_of_their_own_are_found(variant, tmp_path):
    """`{"net": state dict, "epoch": 3}`; of two state dicts none is chosen."""
    state = variant[0].state_dict()
    path = tmp_path / "net.pt"
    torch.save({"net": state, "epoch": 3}, path)
    assert upstream.Checkpoint.read(path).state.keys() == upstream.weights(state).keys()
    torch.save({"net": state, "teacher": state}, path)
    with pytest.raises(InputError, match="in a known place; it has net, teacher"):
        _ = upstream.Checkpoint.read(path).state


def test_arrays_of_a_store_are_not_clips(tmp_path):
    with StoreWriter(tmp_path / "data/mine", "nw_ucla", ["a"], (1, 20, 3)) as writer:
        writer.add("a", 0, np.ones((3, 1, 20, 3), "f4"))
    np.save(tmp_path / "data/clip.npy", np.ones((3, 20, 3)))
    assert predict_files.find_files([tmp_path]) == [tmp_path / "data/clip.npy"]


def test_endings_can_be_capital_and_skipped_files_are_told(tmp_path, capsys):
    joints = np.random.default_rng(0).normal(size=(3, 20, 3)).astype("f4")
    for name in ("a.npy", "b.NPY"):
        with (tmp_path / name).open("wb") as file:
            np.save(file, joints)
    (tmp_path / "c.JSON").write_text(json.dumps(joints.tolist()))
    files = [tmp_path / name for name in ("a.npy", "b.NPY", "c.JSON")]
    assert predict_files.find_files([tmp_path]) == files
    assert capsys.readouterr().err == ""
    for file in files:
        np.testing.assert_array_equal(clip_file.read(file).joints[:, 0], joints)
    (tmp_path / "d").mkdir()
    (tmp_path / "d/e.skeleton.gz").write_bytes(b"")
    (tmp_path / ".hidden.npy").write_bytes(b"")
    (tmp_path / "readme.txt").write_bytes(b"")
    out = tmp_path / "out"
    for read in (predict_files.find_files, lambda paths: convert.targets_of(*paths, out)):
        assert list(read([tmp_path])) == files
        said = "skipped files that are not clips: 1, e.g. d/e.skeleton.gz"
        assert said in capsys.readouterr().err


# --- RIDE ---

RIDE = {"graph": "ntu_rgb_d", "num_class": 4, "num_person": 2, "base_channels": 6,
        "num_blocks": 3, "inflate": [2], "down": [2], "backbone": "model.ctrgcn.Model",
        "experts": 2, **VARIANT}  # fmt: skip


@pytest.fixture(scope="module")
def ride(tiny, tmp_path_factory):
    """A checkpoint of RIDE on a CTR-GCN as its own repository has it, and its network."""
    settings = Config(store=str(tiny / "store"), protocol="demo-xsub", frames=8, test_clips=2,
                      model="model.experts.Model", model_args=RIDE)  # fmt: skip
    torch.manual_seed(0)
    network = models.find("model.experts.Model")(**models.with_classes(RIDE)).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    path = tmp_path_factory.mktemp("ride") / "best.pt"
    checkpoint.save(path, {"config": dataclasses.asdict(settings), "model": network.state_dict()})
    return network, path


def test_every_way_builds_the_experts_that_a_checkpoint_says(ride, tmp_path):
    from tools import weights

    network, path = ride
    clips = torch.randn(2, 2, 9, 25, 3)
    out = tmp_path / "converted.pt"
    assert run_command(weights.main, [str(path), "--out", str(out)]) == 0
    given = Config(
        model="model.experts.Model", frames=8, model_args={"backbone": "model.ctrgcn.Model"}
    )
    with torch.no_grad():
        for built in (
            models.from_checkpoint(path),
            models.from_checkpoint(out),
            LoadedNetwork.load(path, CPU).model.eval(),
            LoadedNetwork.load(path, CPU, given).model.eval(),
            LoadedNetwork.load(out, CPU, given).model.eval(),
        ):
            torch.testing.assert_close(built(clips), network(clips))


def test_features_of_experts_are_refused_before_anything_is_done(ride, tmp_path, capsys):
    argv = [str(ride[1]), "--out", str(tmp_path / "embed"), "--device", "cpu"]
    assert run_command(embed.main, [*argv, "--set", "store=nowhere"]) == 2
    assert "--explain" in (said := capsys.readouterr().err) and said.count("\n") == 1
    assert not (tmp_path / "embed").exists()


def test_what_experts_rest_on_is_explained(tiny, ride, tmp_path):
    network, path = ride
    _, data, settings = expected_scores(tiny, network)
    name = str(data.store.names[data.test_rows[0]])
    embed.main([str(path), "--explain", name, "--out", str(tmp_path), "--device", "cpu"])
    ((clips, *_),) = make_feeder(settings, data, data.test_rows[:1], CPU).batches([torch.arange(1)])
    with torch.no_grad(), np.load(tmp_path / f"relevance-{name}.npz") as file:
        assert file["predicted"] == network(clips).argmax() and file["relevance"].any()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"model": "os.system", "model_args": {"command": "true"}}, "from outside model/"),
        ({"model": "model.names.FORMS", "model_args": {"a": 1}}, "is not a network"),
        ({"model": "model.nothing.Model", "model_args": {"a": 1}}, "there is no network"),
        ({"model": "model.stgcn.Model", "model_args": {"a": 1}}, "cannot be built with {'a': 1}"),
        ({"model": "model.stgcn.Model", "model_args": {"num_blocks": "x"}}, "cannot be built"),
        (
            {"model": "model.experts.Model", "model_args": {"backbone": "os.system"}},
            "outside model/",
        ),
    ],
)
def test_networks_outside_model_are_not_imported_from_checkpoints(tmp_path, content, said):
    path = tmp_path / "weights.pt"
    torch.save({**content, "state_dict": stgcn.Model().state_dict()}, path)
    with pytest.raises(InputError, match=re.escape(said)) as error:
        models.from_checkpoint(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


# --- the meta device shows where devices are mixed ---


def meta_passes(network):
    """Run a network on the meta device: training forward and backward, evaluation, fused."""
    joints = network.skeleton.num_joints
    shape = (3, network.num_person, 9, joints, network.in_channels)
    clips = torch.empty(shape, device=META)
    logits = network.train()(clips)
    logits.sum().backward()
    assert all(weight.grad.is_meta for weight in network.parameters())
    with torch.no_grad():
        for evaluated in (network.eval(), fuse_bn(network)):
            assert evaluated(clips).is_meta and evaluated(clips).shape == (3, network.num_class)


# Values are not copied to that device: torch says so for each tensor.
NO_COPY = pytest.mark.filterwarnings("ignore:for .*copying from a non-meta parameter")


@pytest.mark.parametrize("name", quick.only(["stgcn_b16"], PYSKL))
def test_pyskl_weights_on_another_device(golden, name):
    path = golden / f"model_{name}.pth"
    meta_passes(LoadedNetwork.load(path, META, documented(name)).model)


@NO_COPY
@pytest.mark.parametrize("name", quick.only(["stgcn"], ON_NTU))
def test_original_weights_on_another_device(original, name):
    path, *_ = original(name)
    network = LoadedNetwork.load(path, META, documented(name)).model
    meta_passes(network)
    checkpoint.load_weights(network, path)  # also into a network that is on its device already


def test_own_weights_on_another_device(variant, ride):
    settings = Config(model="model.ctrgcn.Model")
    for network in (
        LoadedNetwork.load(variant[1], META, settings).model,
        LoadedNetwork.load(ride[1], META).model,
    ):
        clips = torch.empty((3, 2, 9, 25, 3), device=META)
        network.train()(clips).sum().backward()
        with torch.no_grad():
            assert fuse_bn(network)(clips).shape == (3, 4)


@pytest.mark.parametrize(
    ("backbone", "args"),
    [
        (stgcn, {}),
        (stgcnpp, {"adaptive": "init"}),
        (stgcnpp, {"adaptive": "offset"}),
        (stgcnpp, {"adaptive": "importance", "bias_first": False, "graph_residual": False}),
        (aagcn, {}),
        (aagcn, {"similarity": "softmax", "attention": False}),
        (ctrgcn, {}),
        (msg3d, {"num_gcn_scales": 4, "num_g3d_scales": 2}),
        (msg3d, {"num_gcn_scales": 4, "num_g3d_scales": 2, "normalize": "symmetric"}),
    ],
)
def test_backbones_on_another_device(backbone, args):
    meta_passes(backbone.Model(graph="coco", num_class=5, base_channels=12, **args).to(META))


# --- the format number ---


def test_checkpoints_of_a_later_format_are_refused_in_one_line(whole, tmp_path, capsys):
    state = checkpoint.read(whole / "best.pt")
    newer = {**state, "format_version": state["format_version"] + 1}
    torch.save(newer, tmp_path / "best.pt")
    command = ["--phase", "test", "--weights", str(tmp_path / "best.pt"), "--device", "cpu"]
    assert run_command(main.main, command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "has checkpoint format 2" in error and "up to 1" in error
    assert not (tmp_path / "result.json").exists()
    for call in (models.from_checkpoint, lambda path: LoadedNetwork.load(path, CPU)):
        with pytest.raises(InputError, match="checkpoint format 2"):
            call(tmp_path / "best.pt")


def test_checkpoints_from_before_there_was_a_format_number_are_read(whole, tmp_path):
    state = checkpoint.read(whole / "best.pt")
    del state["format_version"]
    torch.save(state, tmp_path / "best.pt")
    clips = torch.randn(2, 2, 8, 25, 3)
    with torch.no_grad():
        expected = models.from_checkpoint(whole / "best.pt")(clips)
        assert torch.equal(models.from_checkpoint(tmp_path / "best.pt")(clips), expected)
        loaded = LoadedNetwork.load(tmp_path / "best.pt", CPU).model.eval()
        assert torch.equal(loaded(clips), expected)
