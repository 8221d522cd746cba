"""AEED against its authors' code: labels, losses and weights of whole epochs, what is pasted."""

import json
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import graph
from engine import config
from engine.build import make_stages
from errors import InputError
from longtail.aeed import AEED, AlignedMix, entropy, partner_share
from longtail.method import Parts
from longtail.mixing import ShapMix
from longtail.sampling import InstanceSampling
from model.backbone import Output
from tests.tiny_runs import METHODS, SMALL, assert_resumes, run

NTU = graph.load("ntu_rgb_d")


def aeed(class_counts, num_epoch=12, naive=5, **args):
    counts = torch.as_tensor(class_counts)
    own = config.load([METHODS / "aeed.yaml"], num_epoch=num_epoch)
    labels = torch.arange(len(counts)).repeat_interleave(counts)
    sampling, mixing = InstanceSampling(labels, counts), AlignedMix(counts, NTU, warm_up=naive)
    parts = Parts(counts, sampling, mixing, make_stages(own, counts))
    return AEED(parts, SimpleNamespace(num_class=len(counts)), **args)


@pytest.mark.parametrize("case", ["aeed", "strong", "no_weights", "aeed_f64"])
def test_whole_epochs_equal_the_released(golden, case):
    """The share of each partner, soft labels, losses, gradients, and the weights after an epoch."""
    vectors = np.load(golden / "loss_aeed.npz")
    saved = {k.partition("|")[2]: vectors[k] for k in vectors if k.startswith(f"{case}|")}
    setup = json.loads(str(saved["cfg"]))
    exact = 1e-6 if case == "aeed_f64" else 2e-4
    method = aeed(
        saved["class_counts"], setup["epochs"], setup["naive"], warm_up=setup["warm"],
        eta=setup["eta"] if setup["eca"] else 0.0, low=setup["wmin"], high=setup["wmax"],
        temperature=setup["temp"],
    ).double()  # fmt: skip
    if case == "aeed_f64":
        method.stages.second.shift = torch.from_numpy(saved["m_list"][0])
    for step, label in enumerate(torch.from_numpy(saved["label"])):
        epoch, batch = divmod(step, 3)
        if not batch:
            method.begin_epoch(epoch)
        logits = {
            name: torch.from_numpy(saved[f"logits_{name}"][step]).double() for name in
            ("a", "b", "mix")
        }  # fmt: skip
        method.measure(logits["a"], label)
        share = torch.from_numpy(saved["lamb"][step])[:, 0].double()
        if epoch >= setup["naive"]:
            ours = partner_share(logits["a"], logits["b"], logits["mix"], setup["temp"])
            np.testing.assert_allclose(ours, share, rtol=exact, atol=exact)
        others = label[torch.from_numpy(saved["randidx"][step])]
        entries, shares = method.targets(label, others, share)
        np.testing.assert_allclose(shares[8:], saved["label_mix"][step], atol=1e-6)
        outputs = [
            torch.from_numpy(saved[name][step]).double().requires_grad_() for name in
            ("output", "mix_output")
        ]  # fmt: skip
        criterion = method.stages.criterion(epoch)
        loss = criterion.part(torch.cat(outputs), torch.ones(1), entries, len(label))
        loss.backward()
        assert loss.item() == pytest.approx(float(saved["loss"][step]), rel=exact)
        for output, name in zip(outputs, ("grad_output", "grad_mix_output")):
            np.testing.assert_allclose(output.grad, saved[name][step], rtol=exact, atol=exact / 10)
        if batch == 2 and setup["eca"]:
            for ours, name in ((method.entropy_sum, "entropy_sum"), (method.seen, "samples")):
                np.testing.assert_allclose(ours, saved[name][epoch], rtol=exact, atol=exact)
            method.begin_epoch(epoch + 1)
            for ours, name in (
                (method.former, "H"), (method.drift, "ema_delta"),
                (method.weights, "class_weights"),
            ):  # fmt: skip
                np.testing.assert_allclose(ours, saved[name][epoch], rtol=exact, atol=exact)


@pytest.mark.parametrize("name", ["naive0", "naive2", "naive3", *(f"guided{i}" for i in range(4))])
def test_what_is_pasted_equals_the_released(golden, name):
    """Frames and parts are read off the released result; the rest is to follow from them."""
    vectors = np.load(golden / "loss_aeed.npz")
    source = torch.from_numpy(vectors[f"mix|{name}|source"]).float()  # (N, T, V)
    partners = torch.from_numpy(vectors[f"mix|{name}|randidx"]).long()
    own = torch.arange(4.0)[:, None, None]
    changed = source != own
    frames = changed.any(2)[0].nonzero().flatten()
    start, length = int(frames[0]), len(frames)
    assert start % 4 == length % 4 == 0 and 28 <= length <= 44
    mix = AlignedMix(torch.tensor([9, 5, 3, 1]), NTU)
    joints = changed.any(1)  # (N, V)
    subset = [int((mix.masks == each).all(1).nonzero()) for each in joints]
    clips = own[:, None, :, :, None].expand(4, 1, 64, 25, 1)
    place = start, length
    mixed, share = mix.replace(clips, clips[partners], mix.masks[subset], place, place)
    assert torch.equal(mixed[:, 0, ..., 0], source)
    np.testing.assert_allclose(share, vectors[f"mix|{name}|physical_lambda"][:, 0], rtol=1e-5)
    assert name.startswith("guided") or len(set(subset)) == 1


def test_a_batch_is_pasted_as_one_at_first_and_sample_by_sample_later():
    mix, random = AlignedMix(torch.tensor([9, 5, 3, 1]), NTU), torch.Generator().manual_seed(0)
    clips, labels = torch.randn(8, 1, 64, 25, 3), torch.arange(8) % 4
    mix.saliency[torch.arange(4), torch.arange(4)] = 50.0  # class c: the c-th subset
    plain = 0
    for _ in range(60):
        mixed, partners, share = mix.paste(clips, labels, random)
        changed = (mixed != clips).any(-1).any(1)  # (N, T, V)
        if changed.all():
            plain += 1
            g = float(share[0])
            torch.testing.assert_close(mixed, (1 - g) * clips + g * clips[partners])
        else:
            assert len(changed.any(1).unique(dim=0)) == 1
    assert 15 < plain < 45
    mix.begin_epoch(5)
    mixed, partners, share = mix.paste(clips, labels, random)
    changed = (mixed != clips).any(-1).any(1)
    assert torch.equal(changed.any(1), mix.masks[labels])
    torch.testing.assert_close(share, changed.float().mean((1, 2)))
    assert torch.equal(mixed[changed[:, None].expand(-1, 1, -1, -1)],
                       clips[partners][changed[:, None].expand(-1, 1, -1, -1)])  # fmt: skip


def test_the_entropy_is_that_of_the_prediction():
    assert entropy(torch.zeros(2, 5)).numpy() == pytest.approx(np.log(5))


# --- whole runs ---


@pytest.mark.slow
def test_a_run_is_resumed_within_the_epoch_whose_entropies_it_gathers(tiny, tmp_path, untested):
    more = [*SMALL, "num_epoch=4", "batch_size=6", "objective_args={warm_up: 1, eta: 5}",
            "mixing_args={warm_up: 1}"]  # fmt: skip

    def train(folder, *flags):
        run(tiny, folder, "aeed.yaml", more=[*more, *flags])

    whole = assert_resumes(train, 2, tmp_path / "whole", tmp_path / "cut")
    state = whole["training"]["method"]
    assert not torch.equal(state["weights"], torch.ones(4)) and state["measured"] == 3


def test_it_needs_the_mixing_that_it_measures(tiny, tmp_path):
    for words, key in (
        (["mixing=longtail.mixing.Mixup"], "mixing"),
        (["class_weights=longtail.weights.InverseFrequency"], "class_weights"),
    ):
        with pytest.raises(InputError, match=f"^{key}: objective=longtail.aeed.AEED"):
            run(tiny, tmp_path / "run", "aeed.yaml", more=[*SMALL, *words])


def test_the_saliency_equals_the_released(golden, monkeypatch):
    """Four estimates in a row, of the combinations and coalitions that the released code drew."""
    vectors = np.load(golden / "loss_aeed.npz")
    random = np.random.RandomState(int(vectors["shapley|data_seed"]))
    clips = random.standard_normal((8, 3, 64, 25, 1))
    mean = 0.1 * random.standard_normal((3, 64, 25, 1))
    labels = torch.tensor(vectors["shapley|label"])
    weights = torch.tensor(4 * random.standard_normal((4800, 6)) / np.sqrt(4800)).float()

    class Net(torch.nn.Module):
        def forward(self, clips):  # (N, M, T, V, C), as the released (N, C, T, V, M)
            return Output(clips.permute(0, 4, 2, 3, 1).flatten(1) @ weights, None, {})

    def ours(array, *axes):
        return torch.tensor(array).float().permute(*axes)

    mixing = AlignedMix(torch.ones(6), NTU, warm_up=5)
    # A mean of so many clips that these do not move it.
    mixing.mean_clip, mixing.seen = ours(mean, 3, 1, 2, 0), torch.tensor(10**15)
    places = [4, 1, 0, 3, 2]  # of trunk, right arm, left arm, right leg, left leg in the layout
    columns = [
        mixing.subsets.index(tuple(sorted(places[part] for part in subset)))
        for size in (2, 3)
        for subset in combinations(range(5), size)
    ]
    for step in range(4):
        own = {key: vectors[f"shapley|{step}|{key}"] for key in ("parts", "others", "part_dist")}
        subset = mixing.subsets.index(tuple(sorted(places[part] for part in own["parts"])))
        assert subset == columns[int(vectors[f"shapley|{step}|combination"])]
        coalition = [places[part] for part in own["others"]]
        monkeypatch.setattr(mixing, "draw_coalition", lambda _, drawn=(subset, coalition): drawn)
        mixing.begin_epoch(int(vectors[f"shapley|{step}|epoch"]))
        gains = []
        monkeypatch.setattr(
            mixing, "update",
            lambda s, y, gain, to=gains: to.append(gain) or ShapMix.update(mixing, s, y, gain),
        )  # fmt: skip
        mixing.observe(Net(), ours(clips, 0, 4, 2, 3, 1), labels, None)
        # Sums of 4,800 float32 numbers, in an order that depends on the processor.
        np.testing.assert_allclose(gains[0], vectors[f"shapley|{step}|scaled"], atol=5e-6)
        # Theirs starts from 1e-6, ours from 0.
        np.testing.assert_allclose(mixing.saliency[:, columns], own["part_dist"], atol=3e-6)
