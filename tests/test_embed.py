"""Features, their plots and the relevance of joints: equal to independent computations."""

import dataclasses
import shutil
import sys

import numpy as np
import pytest
import torch
from torch import nn

import graph
from engine import checkpoint
from engine.build import make_feeder, make_model
from engine.config import Config
from engine.evaluate import score
from engine.run_data import open_test_data
from errors import InputError
from tests import fake_runs
from tools import embed
from tools.relevance import draw, relevance

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """These arrays are too small for several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small network with random weights, its checkpoint and its store."""
    root = tmp_path_factory.mktemp("run")
    fake_runs.store(root / "store", 96, 6)
    model_args = {"graph": "ntu_rgb_d", "num_class": 6, "base_channels": 16}
    settings = Config(
        store=str(root / "store"), protocol="demo-xsub", stream="bone", frames=16, test_clips=2,
        model_args=model_args, benchmark="demo-lt",
    )  # fmt: skip
    torch.manual_seed(0)
    model = make_model(settings)
    for module in model.modules():  # different from the statistics of any batch
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(std=0.5)
            module.running_var.uniform_(0.3, 2)
    state = {"config": dataclasses.asdict(settings), "model": model.state_dict()}
    checkpoint.save(root / "best.pt", state)
    return settings, model.eval(), root / "best.pt"


def test_relevance_of_a_linear_model_sums_to_its_logit():
    torch.manual_seed(0)
    linear = nn.Linear(2 * 4 * 5 * 3, 7, bias=False)
    model = nn.Sequential(nn.Flatten(), linear)
    clips, classes = torch.randn(3, 2, 4, 5, 3), torch.tensor([1, 0, 6])
    shares = relevance(model, clips, classes)
    assert torch.allclose(shares.sum((1, 2, 3)), model(clips)[torch.arange(3), classes], atol=1e-5)
    expected = (linear.weight[6].view(2, 4, 5, 3) * clips[2]).sum(-1)
    assert torch.allclose(shares[2], expected, atol=1e-6)


def test_relevance_equals_numerical_derivative(run):
    """Scale one joint in one frame by 1 +- 1e-5 and compare the logits, in double precision."""
    model = make_model(run[0])
    model.load_state_dict(run[1].state_dict())
    model = model.double().train()  # relevance must use eval mode and restore the training mode
    torch.manual_seed(1)
    clips = torch.randn(2, 2, 16, 25, 3, dtype=torch.float64)
    shares = relevance(model, clips, torch.tensor([3, 5]))
    assert model.training
    model.eval()
    for n, m, t, v, k in ((0, 0, 4, 9, 3), (1, 1, 15, 20, 5), (0, 1, 0, 0, 3)):
        grown, shrunk = clips.clone(), clips.clone()
        grown[n, m, t, v] *= 1 + 1e-5
        shrunk[n, m, t, v] *= 1 - 1e-5
        with torch.no_grad():
            slope = (model(grown)[n, k] - model(shrunk)[n, k]) / 2e-5
        assert shares[n, m, t, v].item() == pytest.approx(slope.item(), rel=1e-4, abs=1e-8)


def test_largest_dot_is_at_the_largest_relevance():
    body = np.zeros((9, 1, 25, 3))
    body[:, 0, :, 0] = np.linspace(-1, 1, 25)
    shares = np.zeros((1, 9, 25))
    shares[0, 5, 11] = -3.0
    figure = draw(shares, body, graph.load("ntu_rgb_d"), "title", "joint")
    bodies = [axes for axes in figure.axes if axes.collections]
    areas = np.array([axes.collections[0].get_sizes() for axes in bodies])
    assert areas.argmax() % 25 == 11 and (areas > 0).sum() == 1
    assert figure.axes[-1].get_yticklabels()[-1].get_text() == "right hand"


def test_features_equal_those_of_single_samples(run):
    settings, model, _ = run
    data = open_test_data(settings, model)
    feeder = make_feeder(settings, data, data.test_rows, CPU, clips=2)
    found, predicted = embed.features(model, feeder, CPU, settings)
    assert (predicted == score(model, feeder, settings, CPU).argmax(1)).all()
    for i in (0, 7, len(feeder) - 1):
        alone = make_feeder(settings, data, data.test_rows[i : i + 1], CPU, clips=2)
        ((clips, _, _),) = alone.batches([torch.arange(1)])
        with torch.no_grad():
            expected = model.features(clips).mean(0)
        assert np.allclose(found[i], expected, atol=1e-5)


def test_pca_equals_eigenvectors_of_covariance():
    data = np.random.default_rng(0).normal(size=(200, 12)) * np.arange(1, 13)
    points = embed.pca(data)
    _, vectors = np.linalg.eigh(np.cov(data.T))
    expected = (data - data.mean(0)) @ vectors[:, [-1, -2]]
    assert np.allclose(np.abs(points), np.abs(expected))


def test_tsne_separates_clusters():
    pytest.importorskip("sklearn")
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 30)
    points = embed.tsne(random.normal(size=(90, 8)) + 30 * np.eye(3, 8)[labels])
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1) + 1e9 * np.eye(90)
    assert (labels[distance.argmin(1)] == labels).all()


def test_missing_scikit_learn_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(InputError, match="pip install scikit-learn"):
        embed.tsne(np.zeros((5, 2)))


def test_command_writes_features_and_pictures(run, tmp_path):
    *_, weights = run
    embed.main([str(weights), "--no-tsne", "--samples", "20", "--out", str(tmp_path)])
    with np.load(tmp_path / "features.npz") as file:
        assert file["features"].shape[0] == 20 and file["pca"].shape == (20, 2)
        assert [int(name[-3:]) - 1 for name in file["names"]] == file["labels"].tolist()
        assert np.bincount(file["class_counts"]).sum() == 6
    assert (tmp_path / "pca.png").is_file() and (tmp_path / "pca.pdf").is_file()


def test_each_checkpoint_and_split_has_a_folder(run, tmp_path, capsys):
    *_, weights = run
    shutil.copy(weights, tmp_path / "best.pt")
    shutil.copy(weights, tmp_path / "last.pt")
    for words in (["best.pt"], ["last.pt"], ["last.pt", "--split", "train"]):
        embed.main([str(tmp_path / words[0]), *words[1:], "--no-tsne", "--samples", "2"])
    found = sorted(path.parent.name for path in tmp_path.rglob("features.npz"))
    assert found == ["embed", "embed-last", "embed-last-train"]


def test_command_explains_a_sample(run, tmp_path):
    settings, model, weights = run
    data = open_test_data(settings, model)
    name = str(data.store.names[3])
    embed.main([str(weights), "--explain", name, "--out", str(tmp_path)])
    alone = make_feeder(settings, data, np.array([3]), CPU)
    predicted = score(model, alone, settings, CPU).argmax()
    with np.load(tmp_path / f"relevance-{name}.npz") as file:
        assert file["relevance"].shape == (2, 16, 25) and file["predicted"] == predicted
        # the body is drawn from the joint stream, although the network uses bones
        assert np.ptp(file["joints"][:, 0, 3, 2]) < 1e-5 and file["joints"][0, 0, 3, 2] > 1.5
    assert (tmp_path / f"relevance-{name}.pdf").is_file()
    with pytest.raises(InputError, match="S999"):
        embed.main([str(weights), "--explain", "S999", "--out", str(tmp_path)])


def test_invalid_arguments_create_no_folder(run, tmp_path):
    for argv, message in (
        ([str(tmp_path / "nowhere/best.pt")], "no such checkpoint"),
        (
            [str(run[2]), "--samples", "1", "--out", str(tmp_path / "nowhere")],
            "--samples: must be at least 2, not 1",
        ),
    ):
        with pytest.raises(InputError, match=message):
            embed.main([*argv, "--no-tsne"])
        assert not (tmp_path / "nowhere").exists()
