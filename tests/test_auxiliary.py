"""Auxiliary losses next to the loss of a method: in runs, resumed, in parts and on ranks."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from engine import config
from engine.distributed import World
from engine.precision import Float32Outputs
from engine.session import build_training
from engine.train import epoch_batches
from errors import InputError
from longtail.class_contrast import ClassContrast
from longtail.latent_prior import LatentPrior
from longtail.losses import LabelSmoothing, soft_labels
from model import protogcn
from model.backbone import Output
from tests.batch_loss import batch_loss
from tests.test_distributed import on_two_ranks
from tests.test_embedding_losses import network
from tests.tiny_runs import METHODS, assert_resumes, run, weights
from tools.sweep import method_files

CONFIG = METHODS.parent
SMALL = ["model_args.num_blocks=2", "model_args.inflate=[]", "model_args.down=[2]"]
BACKBONES = {
    "protogcn": [*SMALL, "model_args.num_prototype=5", "frames=8", "lr=0.01"],
    "infogcn": [*SMALL, "schedule_args={milestones: [1]}", "lr=0.01"],
}
STATE = {"protogcn": "memory", "infogcn": "prior"}
CPU = torch.device("cpu")


def settings(tiny, backbone, method="brl", *more, **values):
    files = [tiny / "tiny-lt/joint.yaml", *method_files(method), CONFIG / f"{backbone}.yaml"]
    return config.load(files, [*BACKBONES[backbone], "num_epoch=2", *more], **values)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("method", ["brl", "released", "shap-mix", "ldam-drw"])
def test_an_auxiliary_loss_is_added_to_the_loss_of_any_method(tiny, backbone, method):
    """Against the method's own loss, and the auxiliary one of the same outputs."""
    own = settings(tiny, backbone, method, "batch_size=16", "repeat=4")
    training = build_training(own, [CPU], World())
    method, net = training.method.eval(), training.net.eval()  # no dropout, no noise
    batches = epoch_batches(training)
    clips, labels, batch = next(training.feeder.batches(batches))
    clips, targets = method.mix(net, clips, labels, batch.generator)
    loss = method.loss(net, clips, targets, len(clips))
    shares = targets[:, 1]
    torch.testing.assert_close(shares.sum(1), torch.ones(len(clips)))
    output = net(clips)
    values = {"features": output.features, **output.extra}[method.auxiliary_loss.takes]
    auxiliary = method.auxiliary_loss(values, output.logits, shares)
    method.auxiliary_loss = None
    plain = method.loss(net, clips, targets, len(clips))
    assert auxiliary > 1e-4
    torch.testing.assert_close(loss, plain + auxiliary)


def test_soft_labels_are_shares_whatever_the_targets():
    sets = torch.tensor([[[0.3, 0, 0], [0, 0.3, 0]], [[0, 0.7, 0], [0, 0.7, 0]]])
    expected = torch.tensor([[0.3, 0.7, 0], [0, 1, 0]])
    torch.testing.assert_close(soft_labels(sets), expected)
    torch.testing.assert_close(soft_labels(2 * sets.sum(0)), expected)


def test_a_mixed_sample_counts_by_its_share():
    """Against the formulas, one class at a time."""
    torch.manual_seed(0)
    values, shares = torch.randn(3, 4), torch.tensor([[1, 0, 0], [0.75, 0.25, 0], [0.4, 0.6, 0]])
    contrast, prior = ClassContrast(network(3), width=4), LatentPrior(network(3, 4), 1.0, 0.5)
    before, place = contrast.memory.clone(), contrast.memory.data_ptr()
    logits = torch.tensor([[9.0, 0, 0], [9, 0, 0], [9, 0, 0]])  # the third is not recognized
    loss = contrast(values, logits, shares)
    mean = (values[0] + 0.75 * values[1]) / 1.75
    after = torch.stack([0.9 * before[0] + 0.1 * mean, before[1], before[2]])
    torch.testing.assert_close(contrast.memory, after)
    assert contrast.memory.data_ptr() == place  # a captured step reads and writes one place
    cosines = torch.cosine_similarity(values[:, None], after, dim=-1)
    expected = 0.2 * cross_entropy(cosines / 0.125, shares)
    torch.testing.assert_close(loss, expected)
    squares = [
        ((shares[:, c] @ values / shares[:, c].sum() - prior.prior[c]) ** 2).mean() for c in (0, 1)
    ]
    expected = (squares[0] + squares[1]) / 2 + 0.5 * values.mean(0).norm()
    torch.testing.assert_close(prior(values, logits, shares), expected)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
def test_what_an_auxiliary_loss_remembers_is_resumed(tiny, tmp_path, backbone, untested):
    """Two epochs, and two of which the second is resumed within: the same weights and memory."""
    files, more = [CONFIG / f"{backbone}.yaml"], [*BACKBONES[backbone], "batch_size=8"]

    def train(folder, *flags):
        run(tiny, folder, *files, more=[*more, *flags])

    whole = assert_resumes(train, 1, tmp_path / "whole", tmp_path / "cut")
    assert whole["training"]["method"][f"auxiliary_loss.{STATE[backbone]}"].isfinite().all()


def test_the_memory_and_the_prototypes_move(tiny, tmp_path, untested):
    run(tiny, tmp_path / "run", CONFIG / "protogcn.yaml", more=BACKBONES["protogcn"])
    begun = build_training(settings(tiny, "protogcn"), [CPU], World())
    name = "prototypes.memory.weight"
    moved = weights(tmp_path / "run/last.pt")[name] - begun.state.model.state_dict()[name]
    assert moved.abs().max() > 1e-4
    memory = torch.load(tmp_path / "run/last.pt", weights_only=True)["training"]["method"]
    before = begun.method.auxiliary_loss.memory
    assert not torch.equal(memory["auxiliary_loss.memory"], before)


def test_a_network_without_the_output_is_refused_in_a_line(tiny, tmp_path):
    for words, said in (
        (["auxiliary_loss=longtail.class_contrast.ClassContrast"],
         "ClassContrast takes the output `embedding`, but the network gives features"),
        (["auxiliary_loss=builtins.id"],
         "must be a longtail.auxiliary.AuxiliaryLoss"),
        (["class_weights=longtail.losses.LDAM"], "must be a longtail.weights.Weighting"),
        (["sampling=longtail.losses.Focal"], "sampling"),
        (["auxiliary_loss_args={weight: 1}"],
         "auxiliary_loss_args: not used, because auxiliary_loss is null"),
    ):  # fmt: skip
        with pytest.raises(InputError) as error:
            run(tiny, tmp_path / "run", more=[*words, *SMALL])
        assert said in str(error.value) and "\n" not in str(error.value)


def test_a_loss_on_one_classifier_refuses_experts(tiny, tmp_path):
    more = [*SMALL, "auxiliary_loss=longtail.latent_prior.LatentPrior", "model=model.experts.Model"]
    with pytest.raises(InputError, match=r"^auxiliary_loss: needs .* one linear classifier"):
        run(tiny, tmp_path / "run", more=more)


def test_a_classifier_is_trained_without_the_auxiliary_loss(tiny, tmp_path, untested):
    files, more = [CONFIG / "protogcn.yaml"], [*BACKBONES["protogcn"], "num_epoch=1"]
    run(tiny, tmp_path / "run", *files, more=more)
    source = ["--phase", "classifier", "--weights", str(tmp_path / "run/last.pt")]
    run(tiny, tmp_path / "crt", "crt.yaml", *files, more=[*more, *source])
    state = torch.load(tmp_path / "crt/last.pt", weights_only=True)["training"]["method"]
    assert not [name for name in state if name.startswith("auxiliary_loss")]


def test_label_smoothing_is_that_of_torch():
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    ours = batch_loss(LabelSmoothing(torch.ones(4), 0.1), logits, one_hot(labels, 4).float())
    torch.testing.assert_close(ours, cross_entropy(logits, labels, label_smoothing=0.1))


@pytest.mark.parametrize("rows", [slice(0, 4), slice(0, 8)])
def test_parts_of_a_batch_have_their_share_of_the_loss(rows):
    values, logits = torch.randn(8, 4), torch.randn(8, 3)
    labels = one_hot(torch.arange(8) % 3, 3).float()
    prior = LatentPrior(network(3, 4))
    part = prior.part(Output(logits[rows], values[rows], {}), labels[rows], 8)
    share = (rows.stop - rows.start) / 8
    torch.testing.assert_close(part, share * prior(values[rows], logits[rows], labels[rows]))


def _share_a_loss(rank, folder):
    """On each of two ranks: gradients and memory over uneven parts, against the whole batch's."""
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    values, labels = torch.randn(7, 5), torch.randn(7, 3).softmax(1)
    mine, world = World(rank, 2).local_rows(7), World(rank, 2)
    for kind, args in ((ClassContrast, {"width": 4}), (LatentPrior, {})):
        torch.manual_seed(1)
        loss, net = kind(network(3, 4), **args), nn.Linear(5, 4)
        head = nn.Linear(5, 3)  # whose logits recognize some
        whole, begun = net(values), {name: value.clone() for name, value in loss.named_buffers()}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dist, "is_initialized", lambda: False)
            loss(whole, head(values), labels).backward()
        expected = net.weight.grad.clone()
        after = {name: value.clone() for name, value in loss.named_buffers()}
        loss.load_state_dict(begun)
        net.zero_grad()
        wrapped = nn.parallel.DistributedDataParallel(net)
        part = wrapped(values[mine])
        output = Output(head(values[mine]), part, {"embedding": part})
        (world.size * loss.part(output, labels[mine], 7)).backward()
        torch.testing.assert_close(net.weight.grad, expected)
        for name, value in loss.named_buffers():
            torch.testing.assert_close(value, after[name])
            first, second = world.gather(value)
            assert torch.equal(first, second)
        assert kind is not ClassContrast or not torch.equal(loss.memory, begun["memory"])

    # Prototypes that no loss acts on: the other rank is not waited for, step after step.
    model = protogcn.Model(base_channels=8, num_class=3, num_blocks=1, num_prototype=4, inflate=[])
    wrapped = nn.parallel.DistributedDataParallel(Float32Outputs(model, "off"))
    for _ in range(2):
        wrapped(torch.randn(2, 2, 4, 25, 3)).logits.sum().backward()
    assert not model.prototypes.embed.weight.grad.any() and model.fc.weight.grad.any()
    dist.destroy_process_group()


@pytest.mark.slow
def test_ranks_share_class_means_and_memory(tmp_path):
    on_two_ranks(_share_a_loss, (str(tmp_path),))
