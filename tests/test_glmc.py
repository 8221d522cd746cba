"""GLMC against its authors' code: its loss, its mixing, its sampling; and whole runs."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from engine import config
from engine.build import make_stages
from engine.distributed import World
from engine.session import build_training
from errors import InputError
from longtail.glmc import GLMC, paste_box
from longtail.method import Parts
from longtail.mixing import Plain
from longtail.sampling import InstanceSampling
from model.backbone import Output
from tests.tiny_runs import METHODS, SMALL, assert_resumes, run, weights

CPU = torch.device("cpu")
CASES = ("cifar100lt_if100", "parser_defaults")


def glmc(class_counts, num_epoch, repeat=1, **args):
    """The method on a network of which it sees the classifier alone."""
    own = config.load([METHODS / "glmc.yaml"], num_epoch=num_epoch)
    counts = torch.as_tensor(class_counts)
    labels = torch.arange(len(counts)).repeat_interleave(counts)
    sampling, stages = InstanceSampling(labels, counts, repeat), make_stages(own, counts)
    model = SimpleNamespace(num_class=len(counts), fc=nn.Linear(6, len(counts)))
    return GLMC(Parts(counts, sampling, Plain(counts), stages), model, **args)


def paired(vectors, case, name):
    """The two views of each pair one after the other: (2n, ...) float64."""
    both = (torch.from_numpy(vectors[f"{case}|{name}_{view}"]).double() for view in (1, 2))
    return torch.stack(list(both), 1).flatten(0, 1)


@pytest.mark.parametrize("case", CASES)
def test_the_loss_and_its_gradients_at_six_epochs(golden, case):
    vectors = np.load(golden / "loss_glmc.npz")
    saved = {key.partition("|")[2]: vectors[key] for key in vectors if key.startswith(case)}
    method = glmc(
        saved["class_counts"], int(saved["total_epochs"]),
        label_weighting=float(saved["label_weighting"]),
        contrast_weight=float(saved["contrast_weight"]),
    )  # fmt: skip
    np.testing.assert_allclose(method.weighting.weights, saved["class_weight"], rtol=1e-6)
    method.double()
    method.weighting.weights = torch.from_numpy(saved["class_weight"]).double()
    for step, epoch in enumerate(saved["epochs"]):
        method.begin_epoch(int(epoch))
        names = ("logits", "logits_cb", "z", "p")
        leaves = [paired(vectors, case, name).requires_grad_() for name in names]
        labels = torch.from_numpy(np.stack([saved["label_org"], saved["label_invs"]], 1))
        clips = torch.zeros(len(labels), 2, 2, 1, 4, 5, 3, dtype=torch.float64)
        lam = float(saved["lam_used"][step])
        _, targets = method.combine(clips, labels, lam, (0, 0))
        np.testing.assert_allclose(targets, saved["mixup_y"][step], atol=1e-6)
        targets = torch.from_numpy(saved["mixup_y"][step]).double().repeat_interleave(2, 0)
        plain, balanced, projected, predicted = leaves
        output = Output(balanced, torch.ones(1), {})
        loss = method.total(output, plain, projected, predicted, targets, len(labels))
        loss.backward()
        assert loss.item() == pytest.approx(saved["loss_f64"][step], rel=1e-6)
        for name, leaf in zip(names, leaves):
            views = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            for view, gradient in enumerate(views.unflatten(0, (-1, 2)).unbind(1), start=1):
                expected = saved[f"grad_{name}_{view}_f64"][step]
                np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("number", range(8))
def test_both_views_and_their_target(golden, number):
    """An image is one person's clip with one channel: its two axes are frames and joints."""
    vectors = np.load(golden / "loss_glmc.npz")
    saved = {k.partition("|")[2]: vectors[k] for k in vectors if k.startswith(f"mix{number}|")}
    images = [[torch.from_numpy(saved[f"{of}{view}"]) for view in (1, 2)] for of in
              ("org", "invs")]  # fmt: skip
    clips = torch.stack([torch.stack(views, 1) for views in images], 1)[..., None]
    labels = torch.from_numpy(np.stack([saved["label_org"], saved["label_invs"]], 1))
    draws = np.random.RandomState(int(saved["numpy_seed"]))
    lam = draws.beta(1, 1)
    assert lam == pytest.approx(float(saved["lam"]))
    center = [draws.randint(size) for size in clips.shape[4:6]]
    method = glmc([5, 4, 3, 2, 1], 10)
    views, targets = method.combine(clips, labels, lam, center)
    np.testing.assert_allclose(views[:, 0, ..., 0], saved["mixup_x"], atol=1e-6)
    np.testing.assert_array_equal(views[:, 1, ..., 0], saved["cutmix_x"])
    np.testing.assert_allclose(targets, saved["mixup_y"], atol=1e-6)
    weighted = targets * torch.from_numpy(saved["class_weight"])
    np.testing.assert_allclose(weighted, saved["cutmix_y_w"], atol=1e-6)


def test_boxes(golden):
    vectors = np.load(golden / "loss_glmc.npz")
    draws = np.random.RandomState(int(vectors["box|numpy_seed"]))
    for lam, expected in zip(vectors["box|lam"], vectors["box|box"]):
        box = paste_box(float(lam), [draws.randint(32), draws.randint(32)], (32, 32))
        top, left, bottom, right = expected.tolist()
        inside = np.zeros((32, 32), bool)
        inside[top:bottom, left:right] = True
        np.testing.assert_array_equal(box, inside)


@pytest.mark.parametrize("q", [0.0, 0.2, 1.0])
def test_the_second_sample_of_a_pair_is_drawn_by_the_weight_of_its_class(golden, q):
    vectors = np.load(golden / "loss_glmc.npz")
    counts = vectors[f"{CASES[0]}|class_counts"]
    method = glmc(counts, 10, repeat=3, resampling=q)
    rows = method.rows(torch.Generator().manual_seed(0), 0.0)
    assert rows.shape == (len(method), 2) == (3 * counts.sum(), 2)
    shown = method.sampling.labels[rows].T
    assert torch.equal(shown[0].bincount(), torch.from_numpy(3 * counts))
    expected = vectors[f"{CASES[0]}|sampler_class_weight|{q}"] * counts
    expected = expected / expected.sum() * len(rows)
    assert np.abs(shown[1].bincount().numpy() - expected).max() <= 1
    assert (rows[:, 0] != rows[:, 1]).float().mean() > 0.9


# --- whole runs ---


@pytest.mark.slow
def test_a_run_is_resumed_with_its_second_classifier(tiny, tmp_path, untested):
    more = [*SMALL, "batch_size=6"]

    def train(folder, *flags):
        run(tiny, folder, "glmc.yaml", more=[*more, *flags])

    whole = assert_resumes(train, 1, tmp_path / "whole", tmp_path / "cut")
    state = whole["training"]["method"]
    assert {"classifier.weight", "projection.weight", "prediction.bias"} <= state.keys()
    assert weights(tmp_path / "whole/last.pt").keys() == whole["model"].keys()


def test_a_loss_on_features_trains_both_classifiers(tiny, tmp_path):
    run(tiny, tmp_path / "run", "glmc.yaml",
        more=[*SMALL, "num_epoch=1", "loss=longtail.losses.InfluenceBalanced"])  # fmt: skip
    assert all(value.isfinite().all() for value in weights(tmp_path / "run/last.pt").values())


def test_what_the_method_has_in_itself_is_refused(tiny, tmp_path):
    for words, key in (
        (["mixing=longtail.mixing.Mixup"], "mixing"),
        (["class_weights=longtail.weights.InverseFrequency"], "class_weights"),
        (["model=model.experts.Model"], "objective"),
    ):
        with pytest.raises(InputError, match=f"^{key}") as error:
            run(tiny, tmp_path / "run", "glmc.yaml", more=[*SMALL, *words])
        assert "\n" not in str(error.value)


def test_it_takes_the_auxiliary_loss_of_a_backbone(tiny):
    files = [tiny / "tiny-lt/joint.yaml", METHODS / "glmc.yaml", METHODS.parent / "protogcn.yaml"]
    words = [*SMALL, "model_args.num_prototype=4", "frames=8", "num_epoch=2"]
    training = build_training(config.load(files, words), [CPU], World())
    rows = training.method.rows(torch.Generator().manual_seed(0), 0.0)[:4]
    ((clips, labels, _),) = training.feeder.batches([rows])
    assert clips.shape[:3] == (4, 2, 2) and labels.shape == (4, 2)
    clips, targets = training.method.mix(training.net, clips, labels, None)
    training.method.loss(training.net, clips, targets, 4).backward()
    assert training.state.model.prototypes.embed.weight.grad.any()
    assert training.method.classifier.weight.grad.any()


def test_a_loss_with_margins_takes_cosines_from_both_classifiers(tiny):
    files = [tiny / "tiny-lt/joint.yaml", METHODS / "glmc.yaml"]
    words = [*SMALL, "loss=longtail.losses.LDAM", "model_args.cosine=30"]
    method = build_training(config.load(files, words), [CPU], World()).method
    features = torch.randn(5, method.classifier.in_features)
    cosines = nn.functional.cosine_similarity(features[:, None], method.classifier.weight, dim=-1)
    torch.testing.assert_close(method.classifier(features), 30 * cosines)
