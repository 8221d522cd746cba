"""The files of config/methods: each builds, and differs from BRL in what it says."""

import pytest
import torch

import graph
from engine import build, config
from errors import InputError
from longtail.stages import Stages
from tests.batch_loss import batch_loss
from tests.comparisons import METHODS, NW_UCLA
from tools.sweep import method_files

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


@pytest.mark.parametrize("part", BRL_PARTS)
def test_each_part_of_brl_is_there_alone_and_left_out(part):
    """Left out, it is that of cross entropy; alone, all others are."""
    brl, plain, without, alone = (
        config.load([NW_UCLA / "joint.yaml", *method_files(name)])
        for name in ("brl", "cross-entropy", f"brl-without-{part}", BRL_PARTS[part][1])
    )
    for name, (key, _) in BRL_PARTS.items():
        full, none = getattr(brl, key), getattr(plain, key)
        assert full != none
        assert getattr(without, key) == (none if name == part else full)
        assert getattr(alone, key) == (full if name == part else none)


@pytest.mark.parametrize("method", [*METHODS, "released", "brl"])
def test_every_method_builds_on_a_benchmark_and_is_pure(method):
    settings = config.load([NW_UCLA / "joint.yaml", *method_files(method)])
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
        loss = batch_loss(criterion, logits, targets, weights, torch.ones(len(clips), 4))
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
    settings = config.load([NW_UCLA / "joint.yaml", *method_files(method)], small)
    model = build.make_model(settings).eval()
    logits = model(100 * torch.randn(4, 1, 16, 20, 3))
    assert 1 < logits.abs().max() <= scale * (1 + 1e-6)
    counts = torch.arange(10) + 1
    build.make_stages(settings, counts)
    for override in ("model_args.cosine=0", "model_args.cosine=true", "loss_args.scale=12"):
        other = config.load([NW_UCLA / "joint.yaml", *method_files(method)], [override])
        with pytest.raises(InputError, match="the same number"):
            build.make_stages(other, counts)


def test_the_released_values_keep_the_rest_of_the_recipe():
    paper = config.load([NW_UCLA / "joint.yaml"])
    released = config.load([NW_UCLA / "joint.yaml", config.CONFIG_ROOT / "released.yaml"])
    changed = {k for k in vars(paper) if getattr(paper, k) != getattr(released, k)}
    assert changed == {"method", "mixing_args", "class_weights_args"}
