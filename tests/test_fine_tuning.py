"""`--weights FILE --new-head`: trained weights for classes of one's own."""

import json
import re

import numpy as np
import pytest
import torch
import yaml

import main
import model as models
from data.store import StoreWriter
from engine import checkpoint
from engine.config import load
from engine.distributed import World
from engine.session import build_training
from errors import InputError, run_command
from tests.test_model import original_weights
from tests.tiny_runs import assert_resumes, command, weights

CPU = torch.device("cpu")
NEW = ["jump", "fall", "clap"]


def write_store(folder, names, persons=1, **meta):
    random = np.random.default_rng(1)
    meta = {"normalisation": "centred", "centre": 20} | meta
    with StoreWriter(folder, "ntu_rgb_d", names, (persons, 25, 3), **meta) as out:
        for number in range(8 * len(names)):
            label, train = number % len(names), number // len(names) < 5
            joints = random.normal(size=(15, persons, 25, 3)) * 0.1
            joints[:, :, label * 5 : label * 5 + 5] += 1 + label
            out.add(f"clip{number}", label, joints, split="train" if train else "test")
    return folder


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A store of three other classes and one person."""
    return write_store(tmp_path_factory.mktemp("mine") / "mine", NEW)


def argv_of(store, folder, path, *words):
    return ["--store", str(store), "--device", "cpu", "--quiet", "--work-dir", str(folder),
            "--weights", str(path), "--new-head",
            "--set", "num_epoch=2", "repeat=1", "frames=8", "test_clips=1", *words]  # fmt: skip


def split(state):
    """The weights of a run: (those of the classification layer, the others)."""
    head = {name: value for name, value in state.items() if name.startswith("fc.")}
    return head, {name: value for name, value in state.items() if name not in head}


def test_all_weights_but_the_classification_layer_are_those_of_the_checkpoint(whole, tiny):
    given = load([tiny / "tiny-lt/joint.yaml"], ["model_args.num_class=3"])
    settings, network, _ = checkpoint.load_for_new_classes(whole / "best.pt", given)
    head, rest = split(network.state_dict())
    before, trained = split(weights(whole / "best.pt"))
    assert rest.keys() == trained.keys() and len(rest) > 100
    assert all(torch.equal(value, trained[name]) for name, value in rest.items())
    assert head["fc.weight"].shape == (3, before["fc.weight"].shape[1])
    assert settings.model_args["num_class"] == 3


def test_the_layer_is_drawn_anew_for_as_many_classes(whole, tiny):
    given = load([tiny / "tiny-lt/joint.yaml"])
    _, network, _ = checkpoint.load_for_new_classes(whole / "best.pt", given)
    assert not torch.equal(network.fc.weight, weights(whole / "best.pt")["fc.weight"])
    assert not network.fc.bias.any()


@pytest.mark.parametrize("name", ["ctrgcn", "stgcn"])
def test_a_released_checkpoint_gives_its_features(golden, tmp_path, name):
    vectors = np.load(golden / f"original_{name}.npz")
    torch.save(original_weights(vectors), tmp_path / "released.pt")
    trained = models.from_checkpoint(tmp_path / "released.pt")
    args = {"graph": "ntu_rgb_d", "num_class": 5, "num_person": trained.num_person}
    given = load([], below={"model": f"model.{name}.Model", "model_args": args})
    _, network, _ = checkpoint.load_for_new_classes(tmp_path / "released.pt", given)
    clips = torch.randn(2, trained.num_person, 16, 25, 3, generator=torch.manual_seed(0))
    with torch.no_grad():
        network.eval()
        assert torch.allclose(network.features(clips), trained.features(clips), atol=1e-5)
        assert network(clips).shape == (2, 5)


def test_experts_have_new_heads(tmp_path):
    args = {"num_class": 4, "num_person": 1, "base_channels": 8, "num_blocks": 3}
    given = load([], below={"model": "model.experts.Model", "model_args": args})
    network = checkpoint.make_model(given)
    torch.save({"model": "model.experts.Model", "model_args": args,
                "state_dict": network.state_dict()}, tmp_path / "experts.pt")  # fmt: skip
    other = given.replace(model_args=args | {"num_class": 7})
    _, loaded, _ = checkpoint.load_for_new_classes(tmp_path / "experts.pt", other)
    assert [head.out_features for head in loaded.heads] == [7, 7, 7]
    for name, value in network.state_dict().items():
        if not name.startswith("heads."):
            assert torch.equal(value, loaded.state_dict()[name]), name


def test_one_command_trains_own_classes(whole, mine, tmp_path, capsys):
    """The network is the checkpoint's, the classes and persons are the store's; a frozen
    backbone stays as it was, except for its batch statistics. With --quiet nothing is printed."""
    folder = tmp_path / "run"
    main.main(argv_of(mine, folder, whole / "best.pt", "frozen_epochs=2"))
    assert capsys.readouterr().out == "" and (folder / "report.html").is_file()
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    assert settings["model_args"]["base_channels"] == 8
    assert (settings["model_args"]["num_class"], settings["model_args"]["num_person"]) == (3, 1)
    state = torch.load(folder / "last.pt", weights_only=True)
    assert state["class_names"] == NEW and state["started_from"] == "best.pt"
    seen = checkpoint.read(whole / "best.pt")["trained_on"].tolist()  # by the backbone
    assert len(state["trained_on"]) > len(seen) and set(seen) < set(state["trained_on"].tolist())
    names = dict(checkpoint.load_network(folder / "last.pt")[1].named_parameters())
    trained = weights(whole / "best.pt")
    for name in names:
        if not name.startswith("fc."):
            assert torch.equal(state["model"][name], trained[name]), name
    assert state["model"]["fc.bias"].all()  # drawn as 0
    result = json.loads((folder / "result-last.json").read_text())
    assert result["started_from"] == "best.pt"
    assert result["started_from_digest"] == state["started_from_digest"]


def test_a_run_is_not_resumed_from_other_first_weights(whole, mine, tmp_path, capsys):
    """A file of the same name and other weights; what else it contains does not matter."""
    file, folder = tmp_path / "first.pt", tmp_path / "run"
    content = checkpoint.read(whole / "best.pt")
    checkpoint.save(file, content)
    argv = argv_of(mine, folder, file)
    main.main(argv)
    checkpoint.save(file, content | {"calibration": {"temperature": 2.0, "threshold": None}})
    main.main([*argv, "--resume"])
    moved = {name: value + 0.5 for name, value in content["model"].items()}
    checkpoint.save(file, content | {"model": moved})
    assert run_command(main.main, [*argv, "--resume"]) == 2
    assert (
        "--weights first.pt: the run to resume began with other weights (first.pt)"
        in capsys.readouterr().err
    )


def test_the_backbone_has_its_own_rate(whole, tiny):
    """Without momentum and decay, an update is the rate times the gradient."""

    def step(*words):
        given = load(
            [tiny / "tiny-lt/joint.yaml"], ["optimizer_args={momentum: 0}", "lr=0.5", *words]
        )
        training = build_training(given, [CPU], World(), whole / "best.pt", new_head=True)
        before = {name: p.detach().clone() for name, p in training.state.model.named_parameters()}
        clips = torch.randn(4, 2, 8, 25, 3, generator=torch.manual_seed(1))
        training.state.model.eval()(clips).square().sum().backward()
        training.state.set_lr(0.0)
        training.state.update()
        return {
            name: p.detach() - before[name] for name, p in training.state.model.named_parameters()
        }

    full, slow, frozen = step(), step("backbone_lr=0.25"), step("frozen_epochs=1")
    for name, change in full.items():
        share = 1.0 if name.startswith("fc.") else 0.25
        assert torch.allclose(slow[name], share * change, rtol=1e-3, atol=1e-6), name
        assert frozen[name].any() == (name.startswith("fc.") and bool(change.any())), name


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(whole, mine, tmp_path):
    def train(folder, *flags):
        words = ["backbone_lr=0.5", "frozen_epochs=1", "batch_size=4"]
        main.main([*argv_of(mine, folder, whole / "best.pt", *words), *flags])

    assert_resumes(train, 1, tmp_path / "whole", tmp_path / "cut")


# --- the layer of other classes is never kept ----------------------------------------------


def test_permuted_classes_are_refused(whole, tiny, tmp_path, capsys):
    """Else the run would go on with each class's vector at another class's place."""
    store = write_store(tmp_path / "permuted", ["kick", "wave", "bow", "sit"], persons=2)
    argv = command(tiny, tmp_path / "run", "--quiet", "--weights", str(whole / "best.pt"),
                   "--set", f"store={store}", "protocol=given", "training_list=null")  # fmt: skip
    assert run_command(main.main, argv) == 2
    error = capsys.readouterr().err
    assert "class 0 = 'wave'" in error and "--new-head" in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()
    main.main([*argv, "num_epoch=1", "--new-head"])


def test_another_number_of_classes_is_refused(whole, tiny, tmp_path, capsys):
    argv = command(tiny, tmp_path / "run", "--quiet", "--weights", str(whole / "best.pt"),
                   "--set", "model_args.num_class=3")  # fmt: skip
    assert run_command(main.main, argv) == 2
    error = capsys.readouterr().err
    assert "num_class is 3, but the weights have 4 (to train other classes: --new-head)" in error


def test_clips_of_another_normalization_are_refused(whole, tmp_path, capsys):
    store = write_store(tmp_path / "upright", NEW, normalisation="pyskl")
    assert run_command(main.main, argv_of(store, tmp_path / "run", whole / "best.pt")) == 2
    assert re.search("best.pt: was trained on clips of normalization", capsys.readouterr().err)


def test_the_stream_of_a_checkpoint(whole, mine, tiny, tmp_path, capsys):
    """--store takes it over, a run of another one says so, and a test of another one is refused."""
    state = checkpoint.read(whole / "best.pt")
    path = tmp_path / "weights.pt"
    checkpoint.save(path, state | {"config": state["config"] | {"stream": "bone"}})
    main.main(argv_of(mine, tmp_path / "bone", path))
    assert yaml.safe_load((tmp_path / "bone/config.yaml").read_text())["stream"] == "bone"
    assert "was trained on stream" not in (tmp_path / "bone/log.txt").read_text()
    main.main([*argv_of(mine, tmp_path / "joint", path), "--stream", "joint"])
    said = "warning: .*weights.pt: was trained on stream bone, not joint"
    assert re.search(said, (tmp_path / "joint/log.txt").read_text())
    argv = command(tiny, tmp_path / "test", "--phase", "test", "--weights", str(path))
    assert run_command(main.main, argv) == 2
    assert "was trained on stream bone, not joint; add --stream bone" in capsys.readouterr().err
    assert not (tmp_path / "test").exists()


@pytest.mark.parametrize(
    ("change", "words", "said"),
    [
        ({}, ["feeder_args={box: true, scale: 0}"], "with feeder_args.box=false, not true"),
        ({"parent": (1, *range(24))}, [], "on joints of another layout .it differs in parent"),
        ({"joints": ("Becken",) * 25}, [], ""),
    ],
)
def test_another_input_than_that_of_the_first_weights_is_told(
    whole, mine, tmp_path, change, words, said
):
    state, path = checkpoint.read(whole / "best.pt"), tmp_path / "weights.pt"
    checkpoint.save(path, state | {"skeleton": state["skeleton"] | change})
    main.main(argv_of(mine, tmp_path / "run", path, *words))
    log = (tmp_path / "run/log.txt").read_text()
    assert (
        re.search(f"warning: .*weights.pt: was trained {said}", log)
        if said
        else ("warning" not in log)
    )


def test_a_new_head_needs_weights(mine, tmp_path):
    with pytest.raises(InputError, match="--new-head: needs --weights FILE"):
        main.main(["--store", str(mine), "--device", "cpu", "--new-head"])


def test_the_small_network_of_a_run_is_not_that_of_its_checkpoint(whole, mine, tmp_path):
    """A value of the command line that contradicts the weights is named."""
    with pytest.raises(InputError, match="base_channels is 16, but the weights have 8"):
        main.main(argv_of(mine, tmp_path / "run", whole / "best.pt", "model_args.base_channels=16"))
