"""Backbones against what the released implementations computed from the same weights."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import model as models
from engine.build import make_model
from engine.config import Config
from errors import InputError
from graph import adjacency, load
from longtail.class_contrast import ClassContrast
from longtail.latent_prior import LatentPrior
from model import aagcn, ctrgcn, dgstgcn, infogcn, msg3d, protogcn, stgcn, stgcnpp, upstream
from model.backbone import Output
from model.fuse_bn import fuse_bn
from model.layers import temporal_conv
from tests import quick

BACKBONES = {
    "stgcn": stgcn,
    "stgcnpp": stgcnpp,
    "aagcn": aagcn,
    "ctrgcn": ctrgcn,
    "msg3d": msg3d,
    "dgstgcn": dgstgcn,
    "protogcn": protogcn,
    "infogcn": infogcn,
}
RELEASED = [
    "stgcnpp_b16",
    "stgcnpp_b16_nw_ucla",
    "stgcnpp_b16_coco",
    "stgcnpp_b16_offset_post",
    "stgcn_b16",
    "aagcn_b16",
    "aagcn_b16_nw_ucla",
    "ctrgcn_b16",
    "msg3d_b12_s5_2",
    "dgstgcn_b16",
    "dgstgcn_b16_nw_ucla",
    "dgstgcn_b16_coco",
    "protogcn_b16",
    "protogcn_b8",
    "protogcn_b8_coco",
    "protogcn_b8_coco_new",
]
WITH_GRADIENTS = ["stgcnpp_b16", "stgcn_b16", "aagcn_b16", "ctrgcn_b16", "msg3d_b12_s5_2"]
WITH_GRADIENTS += ["dgstgcn_b16"]
# whose gradients are those of its classifier's loss and of its contrastive one
CONTRASTIVE = ["protogcn_b16", "protogcn_b8", "protogcn_b8_coco"]
# what `original_<name>` is here, and the parameters that its authors' network has
ORIGINAL = {
    "ctrgcn": ("ctrgcn", "ntu_rgb_d"),
    "ctrgcn_ucla": ("ctrgcn", "nw_ucla"),
    "msg3d": ("msg3d", "ntu_rgb_d"),
    "agcn": ("aagcn", "ntu_rgb_d"),
    "aagcn": ("aagcn", "ntu_rgb_d"),
    "stgcn": ("stgcn", "ntu_rgb_d"),
    "infogcn": ("infogcn", "ntu_rgb_d"),
}


def relative(ours, theirs):
    return np.abs(ours.numpy() - theirs).max() / np.abs(theirs).max()


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", RELEASED)
def test_released_logits(golden, name):
    """A released checkpoint tells its backbone and variant, and gives the released logits."""
    vectors = np.load(golden / f"model_{name}.npz")
    model = models.from_checkpoint(golden / f"model_{name}.pth", num_person=2)
    assert type(model).__module__ == f"model.{name.split('_')[0]}"
    clips = torch.from_numpy(vectors["keypoint"])
    with torch.no_grad():
        assert relative(model(clips), vectors["logits_f64"]) < 1e-4
        assert relative(model.double()(clips.double()), vectors["logits_f64"]) < 1e-6


def with_their_names(tensors, entries, shapes):
    """Return our tensors, or gradients, under the names and in the `shapes` that they have there.

    Joining and arranging are linear and only move entries, so their transpose takes them back.
    """
    found = {}
    for entry in entries:
        value = tensors.get(entry.ours)
        if value is None or value.ndim == 0:
            continue
        theirs = [torch.zeros(shapes[key], dtype=value.dtype) for key in entry.theirs]

        def join(*parts, arrange=entry.arrange, shape=value.shape):
            joined = torch.cat(parts)
            return (arrange(joined) if arrange else joined).reshape(shape)

        _, parts = torch.autograd.functional.vjp(join, tuple(theirs), value.detach())
        found |= zip(entry.theirs, parts)
    return found


def check_gradients(model, weights, vectors):
    """Compare every gradient's norm with that of the released code, under the name it has there."""
    entries = list(upstream.recognize(weights).names(model))
    shapes = {key: value.shape for key, value in weights.items()}
    gradients = {key: value.grad for key, value in model.named_parameters()}
    gradients = with_their_names(gradients, entries, shapes)
    assert set(gradients) == set(vectors["names"])
    ours = [gradients[key].norm().item() for key in vectors["names"]]
    np.testing.assert_allclose(ours, vectors["grad_norm_f64"], rtol=1e-6, atol=1e-8)
    assert relative(model.fc.weight.grad, vectors["grad_fc"]) < 1e-3
    buffers = with_their_names(dict(model.named_buffers()), entries, shapes)
    ours = [buffers[key].norm().item() for key in vectors["bn_names"]]
    np.testing.assert_allclose(ours, vectors["bn_norms"], rtol=1e-4)


@pytest.mark.parametrize("name", WITH_GRADIENTS)
def test_released_gradients(golden, name):
    """Every gradient's norm in float64, each under the name that the released code gives it."""
    vectors = np.load(golden / f"grad_{name}.npz")
    weights = upstream.weights(upstream.read(golden / f"model_{name}.pth"))
    model = models.from_checkpoint(golden / f"model_{name}.pth").double().train()
    logits = model(torch.from_numpy(vectors["keypoint"]).double())
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(vectors["label"]))
    loss.backward()
    assert loss.item() == pytest.approx(float(vectors["loss_f64"]), rel=1e-6)
    check_gradients(model, weights, vectors)


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_prototypes_and_their_loss(golden, name):
    """ProtoGCN's graph, both parts of its loss, its memory after a step, and every gradient."""
    vectors = np.load(golden / f"grad_{name}.npz")
    released = np.load(golden / f"model_{name}.npz")
    model = models.from_checkpoint(golden / f"model_{name}.pth")
    with torch.no_grad():
        output = model(torch.from_numpy(released["keypoint"]), outputs=True)
        assert relative(output.extra["graph"], released["graph_f64"]) < 1e-4
        assert relative(output.logits, released["logits_f64"]) < 1e-4
    weights = upstream.weights(upstream.read(golden / f"model_{name}.pth"))
    model.double().train().prototypes.dropout.p = 0
    labels = torch.from_numpy(vectors["label"])
    contrast = ClassContrast(model, weight=1.0).double()
    bank = np.random.RandomState(int(vectors["bank_seed"])).standard_normal((256, model.num_class))
    contrast.memory = torch.from_numpy(bank.astype(np.float32).T).double()
    before = contrast.memory.clone()
    logits, _, extra = model(torch.from_numpy(vectors["keypoint"]).double(), outputs=True)
    one_hot = torch.nn.functional.one_hot(labels, model.num_class)
    csc = contrast(extra["embedding"], logits, one_hot)
    ce = torch.nn.functional.cross_entropy(logits, labels)
    (ce + float(vectors["csc_weight"]) * csc).backward()
    assert relative(extra["graph"].detach(), vectors["graph_f64"]) < 1e-6
    assert relative(logits.detach(), vectors["logits_train_f64"]) < 1e-6
    assert ce.item() == pytest.approx(float(vectors["loss_ce_f64"]), rel=1e-6)
    assert csc.item() == pytest.approx(float(vectors["loss_csc_f64"]), rel=1e-6)
    changed = (contrast.memory != before).any(1)
    assert changed.nonzero().flatten().tolist() == sorted(vectors["bank_changed"].tolist())
    ours = contrast.memory[torch.from_numpy(vectors["bank_changed"])].t()
    assert relative(ours, vectors["bank_after_f64"]) < 1e-6
    check_gradients(model, weights, vectors)


def original_weights(vectors):
    """Make the weights of an original network by the rule in the golden README, section 9."""
    random = np.random.RandomState(int(vectors["seed"]))
    norms = set(vectors["bn_modules"])
    state = {key[5:]: vectors[key] for key in vectors.files if key.startswith("stat|")}
    for name, shape in zip(vectors["filled"], json.loads(str(vectors["shapes"]))):
        module, _, leaf = str(name).rpartition(".")
        if module in norms and leaf == "weight":
            value = random.uniform(0.8, 1.2, shape)
        elif leaf == "bias":
            value = 0.1 * random.standard_normal(shape)
        elif leaf == "weight" and len(shape) > 1:
            value = random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        else:
            value = 0.3 * np.abs(random.standard_normal(shape))
        state[str(name)] = value.astype(np.float32)
    return {key: torch.from_numpy(np.asarray(value)) for key, value in state.items()}


@pytest.mark.parametrize("name", ORIGINAL)
def test_original_networks(golden, tmp_path, name):
    """The authors' own checkpoints, as DataParallel saves them, give the authors' logits."""
    vectors = np.load(golden / f"original_{name}.npz")
    backbone, layout = ORIGINAL[name]
    state = original_weights(vectors)
    file = tmp_path / "weights.pt"
    torch.save({f"module.{key}": value for key, value in state.items()}, file)
    num_person = vectors["input"].shape[-1]
    model = models.from_checkpoint(file, graph=layout, num_person=num_person)
    assert type(model) is BACKBONES[backbone].Model
    assert parameters(model) == vectors["params"]
    with torch.no_grad():
        logits = model(torch.from_numpy(vectors["input"]).permute(0, 4, 2, 3, 1))
    assert relative(logits, vectors["logits_f64"]) < 1e-4


@pytest.mark.parametrize(
    ("backbone", "count"),
    [
        ("stgcnpp", 1403144),
        ("aagcn", 3781668),
        ("ctrgcn", 1446672),
        ("msg3d", 3194595),
        ("dgstgcn", 1701172),
        ("protogcn", 4344860),
        ("infogcn", 1556807),
        ("protogcn", 4344860),
        ("infogcn", 1556807),
    ],
)
def test_parameters_at_full_width(backbone, count):
    """As many as golden/timing.json has for the released networks."""
    assert parameters(BACKBONES[backbone].Model()) == count


def original_infogcn(golden):
    vectors = np.load(golden / "original_infogcn.npz")
    model = infogcn.Model().double()
    weights = original_weights(vectors)
    model.load_state_dict(upstream.translate(weights, model))
    return model, vectors, weights


@pytest.mark.parametrize("k", [1, 8])
def test_latent_code_of_k_ancestors(golden, k):
    """InfoGCN's matrix of ancestors, latent code and logits, in float64."""
    model, vectors, _ = original_infogcn(golden)
    suffix = "" if k == 1 else f"_k{k}"
    model.difference = infogcn.Model(k=k).difference.double()
    np.testing.assert_array_equal(model.difference, vectors[f"A_vector{suffix}"])
    clips = torch.from_numpy(vectors["input"]).permute(0, 4, 2, 3, 1).double()
    with torch.no_grad():
        logits, features, extra = model.eval()(clips, outputs=True)
    assert relative(features, vectors[f"z_f64{suffix}"]) < 1e-6
    assert relative(extra["mean"], vectors[f"z_f64{suffix}"]) < 1e-6
    assert relative(logits, vectors[f"logits_f64{suffix}"]) < 1e-6


def test_infogcn_rejects_impossible_k_and_root():
    with pytest.raises(InputError, match=r"model_args\.k is 0: must be at least 1"):
        infogcn.Model(k=0)
    with pytest.raises(InputError, match=r"model_args\.root is 25"):
        infogcn.Model(root=25)


def test_latent_loss_and_its_gradients(golden, monkeypatch):
    """InfoGCN in training with the noise given: every part of the loss, and every gradient."""
    model, _, weights = original_infogcn(golden)
    vectors = np.load(golden / "grad_infogcn.npz")
    noise = torch.from_numpy(vectors["eps"]).double()
    monkeypatch.setattr(torch, "randn_like", lambda tensor: noise)
    labels = torch.from_numpy(vectors["label"])
    clips = torch.from_numpy(vectors["input"]).permute(0, 4, 2, 3, 1).double()
    logits, latent, extra = model.train()(clips, outputs=True)
    for ours, name in (
        (extra["mean"], "mu"), (extra["log_variance"], "logvar"), (latent, "z"),
        (logits, "logits_train"),
    ):  # fmt: skip
        assert relative(ours.detach(), vectors[f"{name}_f64"]) < 1e-6
    args = float(vectors["lambda_2"]), float(vectors["lambda_1"])
    prior = LatentPrior(model, *args).double()
    prior.prior[torch.from_numpy(vectors["classes"])] = torch.from_numpy(
        vectors["z_prior_rows"]
    ).double()
    loss = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    one_hot = torch.nn.functional.one_hot(labels, 60)
    loss = loss + prior(latent, logits, one_hot)
    loss.backward()
    assert loss.item() == pytest.approx(float(vectors["loss_f64"]), rel=1e-6)
    for kind, args in (("loss_mmd_f64", (1.0, 0.0)), ("l2_z_mean_f64", (0.0, 1.0))):
        prior.discrepancy, prior.center = args
        term = prior(latent, logits, one_hot).item()
        assert term == pytest.approx(float(vectors[kind]), rel=1e-6)
    check_gradients(model, weights, vectors)


def tiny(backbone="stgcnpp", **changes):
    size = {"num_blocks": 2, "inflate": [2], "down": [2]}
    if backbone == "msg3d":
        size = {"num_gcn_scales": 3, "num_g3d_scales": 2}
    args = {"base_channels": 12, "num_class": 5, **size, **changes}
    return BACKBONES[backbone].Model(**args)


@pytest.mark.parametrize(
    ("shape", "named"),
    [
        ((1, 2, 8, 20, 3), "model_args.graph"),
        ((1, 2, 8, 25, 2), "model_args.in_channels"),
        ((1, 1, 8, 25, 3), "model_args.num_person"),
        ((2, 8, 25, 3), "(N, M, T, V, C)"),
    ],
)
def test_clips_of_another_shape_are_refused(shape, named):
    with pytest.raises(InputError) as raised:
        tiny()(torch.zeros(shape))
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_outputs_are_the_two_halves_of_forward(backbone):
    model = tiny(backbone).eval()
    clips = torch.randn(3, 2, 9, 25, 3)
    features = model.features(clips)
    assert features.shape == (3, model.fc.in_features)
    torch.testing.assert_close(model.classify(features), model(clips))
    output = model(clips, outputs=True)
    torch.testing.assert_close(output.logits, model(clips))
    torch.testing.assert_close(output.features, features)
    assert all(len(value) == 3 for value in output.extra.values())


def wrapped_in_ddp(model, folder):
    store = torch.distributed.FileStore(str(folder / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    return torch.nn.parallel.DistributedDataParallel(model)


@pytest.mark.parametrize("backbone", quick.only(["stgcnpp", "infogcn"], BACKBONES))
def test_outputs_pass_through_every_wrapper(backbone, tmp_path, monkeypatch):
    """DDP, a compiled network without a graph break, and what DataParallel makes of two shares."""
    model = trained(backbone)
    clips = torch.randn(4, 2, 8, 25, 3)
    expected = model(clips, outputs=True)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=False)
    gather = torch.nn.parallel.scatter_gather
    monkeypatch.setattr(gather.Gather, "apply", lambda device, dim, *parts: torch.cat(parts, dim))
    shares = [model(share, outputs=True) for share in clips.split(2)]
    try:
        distributed = wrapped_in_ddp(model, tmp_path)(clips, outputs=True)
    finally:
        torch.distributed.destroy_process_group()
    for output in (compiled(clips, outputs=True), gather.gather(shares, "cpu"), distributed):
        assert type(output) is Output and output.extra.keys() == expected.extra.keys()
        for ours, theirs in zip([*output[:2], *output.extra.values()],
                                [*expected[:2], *expected.extra.values()]):  # fmt: skip
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "argument", "hint"),
    [
        *((backbone, "num_clas", "did you mean num_class") for backbone in BACKBONES),
        ("stgcnpp", "base_chanels", "did you mean base_channels"),
        ("stgcnpp", "adaptiv", "did you mean adaptive"),
        ("msg3d", "num_blocks", "takes no such argument"),
    ],
)
def test_an_argument_that_no_base_takes_is_refused(backbone, argument, hint):
    config = Config(model=f"model.{backbone}.Model", model_args={argument: 5})
    with pytest.raises(InputError, match=f"model_args.{argument}: .*{hint}"):
        make_model(config)


def trained(backbone, **changes):
    """Return a tiny network that is far from its initial state, in evaluation mode."""
    torch.manual_seed(0)
    model = tiny(backbone, **changes)
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith(("norm.weight", "running_var", "alpha", "beta", "coefficient")):
            torch.nn.init.uniform_(value, 0.5, 1.5)
        elif name.endswith(("bias", "running_mean")):
            torch.nn.init.normal_(value, std=0.2)
    torch.nn.init.normal_(model.fc.weight)
    return model.eval()


def close(ours, theirs, tolerance):
    with torch.no_grad():
        assert ((ours - theirs).abs().max() / theirs.abs().max()).item() < tolerance


@pytest.mark.parametrize("backbone", BACKBONES)
def test_fused_network_has_the_same_outputs(backbone):
    model = trained(backbone)
    folded = fuse_bn(model)
    clips = torch.randn(2, 2, 13, 25, 3)
    assert not any(type(m) is torch.nn.BatchNorm2d for m in folded.modules())
    with torch.no_grad():
        close(folded(clips), model(clips), 1e-5)


@pytest.mark.parametrize("norm_persons", [True, False])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_absent_persons_are_computed_once(backbone, norm_persons):
    """In inference mode: one absent body for each person of the batch, and the same logits."""
    model = trained(backbone, norm_persons=norm_persons)
    clips = torch.randn(5, 2, 9, 25, 3)
    clips[1:4, 1] = clips[2, 0] = clips[4] = 0  # 2 has nobody at all, as 4
    clips[0, 0, 1:] = clips[0, 0, :, 1:] = 0  # a person of one joint in one frame is there
    clips[3, 0, :-1] = 0  # and one who comes in the last
    bodies = []
    model.blocks.register_forward_pre_hook(lambda _, inputs: bodies.append(len(inputs[0])))
    expected = model(clips)
    with torch.inference_mode():
        close(model(clips), expected, 1e-5)
        close(model(clips[:1]), expected[:1], 1e-5)
        close(fuse_bn(model)(clips), expected, 1e-5)
    assert bodies == [10, 4 + 2, 2, 4 + 2]
    with torch.inference_mode():
        model.train()(clips)  # batch statistics are of all bodies
    assert bodies[-1] == 10


@pytest.mark.parametrize("said", [{"num_blocks": 0}, {"inflate": [0]}, {"down": [2, -1]}])
def test_blocks_count_from_one(said):
    """Block 0 would be none, and its frames stay whole without a word."""
    args = {"graph": "nw_ucla", "num_class": 3, "num_person": 1, "base_channels": 8, **said}
    with pytest.raises(InputError, match=r"num_blocks must be at least 1|blocks count from 1"):
        make_model(Config(model_args=args))


def test_dropout_is_of_the_features():
    model, features = tiny(dropout=0.5), torch.randn(4, 24)
    torch.manual_seed(0)
    dropped = torch.nn.functional.dropout(features, 0.5)
    torch.manual_seed(0)
    torch.testing.assert_close(model.train().classify(features), model.fc(dropped))
    torch.testing.assert_close(model.eval().classify(features), model.fc(features))


def test_networks_start_as_the_released_ones():
    """Nearly equal logits; convolutions of x as torch draws them; graphs that do nothing yet."""
    torch.manual_seed(0)
    for backbone in BACKBONES:
        model = tiny(backbone, base_channels=48, num_class=60)
        std = (2 / 60) ** 0.5 if backbone == "infogcn" else 0.01
        assert model.fc.weight.std().item() == pytest.approx(std, rel=0.1)
        assert not model.fc.bias.any()
    for backbone in ("stgcn", "stgcnpp"):
        conv = tiny(backbone, base_channels=48).blocks[1].graph.conv
        drawn = torch.nn.Conv2d(48, 3 * 96, 1).weight
        assert conv.weight.abs().max().item() == pytest.approx(drawn.abs().max().item(), rel=0.01)
    spatial = torch.from_numpy(adjacency.spatial(load("ntu_rgb_d"))).float()
    for adaptive in ("init", "offset", "importance"):
        graph = tiny(adaptive=adaptive).blocks[0].graph
        torch.testing.assert_close(graph.matrix(), spatial, rtol=0, atol=2e-6)
    x = torch.randn(2, 12, 5, 25)
    for backbone, more in (("ctrgcn", {}), ("aagcn", {"attention": False})):
        block = tiny(backbone, inflate=[], down=[], **more).blocks[1].graph
        torch.testing.assert_close(block(x), x.relu(), rtol=0, atol=1e-3)


def test_cosine_classifier():
    """model_args.cosine: logits are that number times torch's cosine similarities of features and
    class vectors, which begin as unit vectors."""
    torch.manual_seed(0)
    model = stgcnpp.Model(num_class=5, base_channels=8, num_blocks=1, cosine=7).eval()
    clips = torch.randn(2, 2, 8, 25, 3)
    features, vectors = model.features(clips), model.fc.weight
    expected = torch.cosine_similarity(features[:, None], vectors[None], dim=-1)
    torch.testing.assert_close(model(clips), 7 * expected)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(5))
    with torch.no_grad():
        vectors.mul_(3)  # a retrained classifier begins so, too
    model.fc.reset_parameters()
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(5))
    assert vectors.min() < 0 < vectors.max()
    assert "fc.bias" not in model.state_dict()
    with pytest.raises(InputError, match="cosine: must be at least 0, not -7"):
        stgcnpp.Model(num_class=5, base_channels=8, num_blocks=1, cosine=-7)


@pytest.mark.parametrize("layout", ["ntu_rgb_d", "nw_ucla", "coco", "openpose"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_any_layout_and_length_each_clip_by_itself(backbone, layout):
    """One frame, odd and even lengths: a clip's logits are the same alone and in a batch."""
    model = trained(backbone, graph=layout)
    for frames in (1, 2, 7):
        clips = torch.randn(3, 2, frames, model.skeleton.num_joints, 3)
        with torch.no_grad():
            close(model(clips)[1:2], model(clips[1:2]), 1e-5)


def total(output):
    """Return a number on which every weight has an influence."""
    return sum(value.float().sum() for value in (output.logits, *output.extra.values()))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("backbone", quick.only(["stgcn"], BACKBONES))
def test_compiles_without_graph_breaks(backbone, training):
    """fullgraph refuses any break, under autocast too; the values are those of the network."""
    torch.compiler.reset()
    model = trained(backbone).train(training)
    compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=False)
    clips = torch.randn(3, 2, 8, 25, 3)
    torch.manual_seed(0)
    expected = model(clips)
    torch.manual_seed(0)
    close(compiled(clips), expected, 1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        total(compiled(clips, outputs=True)).backward()
    assert all(weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_half_precision_gives_nearly_the_same(backbone, dtype):
    model = trained(backbone, base_channels=24)
    clips = torch.randn(3, 2, 8, 25, 3)
    with torch.autocast("cpu", dtype):
        output = model(clips, outputs=True)
    close(output.logits.float(), model(clips), 0.05)
    total(output).backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


def test_refined_topologies_are_not_kept_for_backward():
    """Of a CTR-GCN block no tensor with C V V values per body is saved, but computed again."""
    model, kept = tiny("ctrgcn", base_channels=64).train(), []
    clips = torch.randn(2, 2, 2, 25, 3)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.numel()) or tensor, lambda tensor: tensor
    ):
        model(clips).sum().backward()
    assert kept and max(kept) < len(clips) * 2 * 64 * 25 * 25


def test_strided_pointwise_convolutions_are_torchs():
    """The values and gradients of nn.Conv2d with a stride."""
    torch.manual_seed(0)
    ours = temporal_conv(5, 4, stride=3)
    theirs = torch.nn.Conv2d(5, 4, 1, stride=(3, 1))
    theirs.load_state_dict(ours.state_dict())
    clips = torch.randn(2, 5, 8, 7)
    torch.testing.assert_close(ours(clips), theirs(clips))
    for conv in (ours, theirs):
        conv(clips).square().sum().backward()
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)


CRASHES = """
import torch
from model.layers import temporal_conv

conv = temporal_conv(8, 8, stride=2).to(memory_format=torch.channels_last)
clips = torch.randn(4, 8, 8, 17).to(memory_format=torch.channels_last).requires_grad_()
for _ in range(100):
    with torch.autocast("cpu", torch.bfloat16):
        out = conv(clips)
    out.float().sum().backward()
    [torch.empty(n) for n in range(1, 300, 7)]
"""


@pytest.mark.slow
def test_narrow_strided_convolutions_survive_bf16():
    """In a process of its own: what oneDNN makes of a stride ends it."""
    ended = subprocess.run([sys.executable, "-c", CRASHES], cwd=Path(__file__).parents[1])
    assert ended.returncode == 0


@pytest.mark.parametrize(
    ("network", "argument", "near"),
    [
        (stgcnpp.Model, {"adaptive": "ofset"}, "offset"),
        (aagcn.Model, {"similarity": "Tanh"}, "tanh"),
        (msg3d.Model, {"normalize": "colum"}, "column"),
    ],
)
def test_a_misspelled_word_is_no_other_network(network, argument, near):
    """Built in Python, where no configuration is checked."""
    with pytest.raises(InputError, match=rf"did you mean {near}\?"):
        network(**argument)
