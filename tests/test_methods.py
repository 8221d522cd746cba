"""Methods as files on top of a benchmark, in whole runs."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import main
from engine import build, checkpoint, config, evaluate, optimizer, run_data, train
from engine.build import find_class, make_model, make_stages
from errors import InputError
from longtail.classifiers import TauNormalization
from longtail.losses import Equalization
from longtail.mixing import ShapMix
from tests import quick
from tests.tiny_runs import METHODS, SMALL, assert_resumes, run, weights


@pytest.mark.parametrize(
    "method",
    quick.only(
        ["ldam-drw"],
        ["shap-mix", "influence-balanced", "ldam-drw", "remix-drw", "kps", "ride"],
    ),
)
def test_a_method_is_one_file_on_top(tiny, tmp_path, method):
    settings = ["feeder_args.flip=0.0", "model_args.base_channels=6", "second_stage=1"]
    run(tiny, tmp_path / "run", f"{method}.yaml", more=settings)
    metrics = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert len(metrics) == 2 and np.isfinite([m["loss"] for m in metrics]).all()
    before = (tmp_path / "run/result.json").read_text()
    main.main(["--phase", "test", "--weights", str(tmp_path / "run/best.pt"), "--quiet"])
    assert (tmp_path / "run/result.json").read_text() == before


def test_observe_is_called_with_whole_batches_before_mixing(tiny, tmp_path, monkeypatch):
    """Shap-Mix doubles a batch; a whole one is to run compiled nonetheless."""
    seen, eager = [], train.eager_if_partial
    monkeypatch.setattr(
        train,
        "eager_if_partial",
        lambda config, partial: seen.append(not partial) or eager(config, partial),
    )
    monkeypatch.setattr(evaluate, "score", lambda net, feeder, *_, **__: np.eye(4)[feeder.labels])
    more = [*SMALL, "num_epoch=1", "batch_size=10"]  # 16 draws
    run(tiny, tmp_path / "run", "shap-mix.yaml", more=more)
    assert seen == [True, False]  # saliency and step together, of 10 and of 6


def test_shap_mix_is_called_in_every_epoch(tiny, tmp_path, monkeypatch, untested):
    heard = []
    monkeypatch.setattr(ShapMix, "begin_epoch", lambda mix, epoch: heard.append(epoch))
    more = [*SMALL, "model_args.num_blocks=1", "batch_size=24"]
    run(tiny, tmp_path / "run", "shap-mix.yaml", more=more)
    assert heard[-2:] == [0, 1]  # before them the rehearsal


def test_a_classifier_is_retrained_on_a_frozen_backbone(tiny, whole, tmp_path):
    run(
        tiny, tmp_path / "crt", "crt.yaml",
        more=["--phase", "classifier", "--weights", str(whole / "last.pt")],
    )  # fmt: skip
    before, after = weights(whole / "last.pt"), weights(tmp_path / "crt/last.pt")
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"fc.weight", "fc.bias"}


def test_learnable_scaling_resumes_and_is_averaged(tiny, whole, tmp_path):
    """Whatever the optimizer, each class has one factor, also in the averaged network."""
    source = ["--phase", "classifier", "--weights", str(whole / "last.pt")]
    words = ["optimizer=torch.optim.Adam", "optimizer_args={}", "lr=0.1", "ema=0.5", "repeat=2"]

    def train(folder, *flags):
        run(tiny, folder, "lws.yaml", more=[*words, *source, *flags])

    last = assert_resumes(train, 1, tmp_path / "whole", tmp_path / "cut")
    before, after = weights(whole / "last.pt"), last["model"]
    assert before.keys() == after.keys()
    factors = (after["fc.weight"] / before["fc.weight"]).median(1).values
    torch.testing.assert_close(after["fc.weight"], factors[:, None] * before["fc.weight"])
    torch.testing.assert_close(after["fc.bias"], factors * before["fc.bias"])
    assert (factors - 1).abs().min() > 1e-3


def test_tau_normalization_needs_no_training(tiny, whole, tmp_path):
    run(
        tiny, tmp_path / "tau", "tau-normalization.yaml",
        more=["classifier_args.tau=1", "--phase", "classifier", "--weights",
              str(whole / "last.pt")],
    )  # fmt: skip
    lengths = weights(tmp_path / "tau/last.pt")["fc.weight"].norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(4))


def test_class_means_are_of_all_training_samples_as_they_are_tested(tiny, whole, tmp_path):
    """Against the features of one sample at a time."""
    run(
        tiny, tmp_path / "ncm", "ncm.yaml",
        more=["--phase", "classifier", "--weights", str(whole / "last.pt")],
    )  # fmt: skip
    settings, model, _ = checkpoint.load_network(whole / "last.pt")
    data = run_data.open_data(settings, model.eval())
    feeder = build.make_feeder(settings, data, data.train_rows, torch.device("cpu"))
    features, labels = [], []
    for row in torch.arange(len(feeder)).split(1):
        for clips, label, _ in feeder.batches([row]):
            features.append(model(clips, outputs=True).features.detach()[0].numpy())
            labels.append(int(label))
    labels = np.array(labels)
    assert np.bincount(labels).tolist() == data.class_counts.tolist()
    means = [np.stack(features)[labels == k].mean(0) for k in range(4)]
    expected = np.stack([mean / np.linalg.norm(mean) for mean in means])
    found = weights(tmp_path / "ncm/last.pt")
    np.testing.assert_allclose(found["fc.weight"].numpy(), expected, rtol=1e-4, atol=1e-6)
    assert not found["fc.bias"].any()
    said = [(folder / "log.txt").read_text() for folder in (whole, tmp_path / "ncm")]
    assert ["best.pt was selected" in text for text in said] == [True, False]  # of one network


def test_max_norm_holds_after_the_last_step(tiny, whole, tmp_path, untested):
    more = ["lr=10", "--phase", "classifier", "--weights", str(whole / "last.pt")]
    run(tiny, tmp_path / "run", "max-norm.yaml", more=more)
    start = weights(whole / "last.pt")["fc.weight"].norm(dim=1)
    limit = start.min() + 0.1 * (start.max() - start.min())
    lengths = weights(tmp_path / "run/last.pt")["fc.weight"].norm(dim=1)
    assert lengths.max() <= limit * (1 + 1e-6) and lengths.max() > 0.99 * limit


@pytest.mark.slow
def test_tau_is_chosen_on_samples_that_the_network_has_not_seen(tiny, tmp_path):
    held_out = ["--val-split", "0.34"]
    run(tiny, tmp_path / "plain", "cross-entropy.yaml", more=[*SMALL, *held_out])
    source = ["--phase", "classifier", "--weights", str(tmp_path / "plain/last.pt")]
    for method in ("post-hoc-adjustment", "tau-normalization"):
        run(tiny, tmp_path / method, f"{method}.yaml", more=[*SMALL, *held_out, *source])
        changed = weights(tmp_path / method / "last.pt")
        log = (tmp_path / method / "log.txt").read_text()
        assert re.search(r", tau [\d.]+ \(the best on held-out training samples\)", log)
        assert changed.keys() == weights(tmp_path / "plain/last.pt").keys()
    refusal = r"train it with --val-split|held-out samples"
    for other in ([], ["--val-split", "0.5"], [*held_out, "--seed", "3"]):
        with pytest.raises(InputError, match=refusal) as error:
            run(tiny, tmp_path / "no", "post-hoc-adjustment.yaml", more=[*SMALL, *other, *source])
        assert "\n" not in str(error.value)
    assert not (tmp_path / "no").exists()


def test_tau_is_not_chosen_on_a_list_that_has_changed(tiny, tmp_path):
    """Another sample in the file: the draw may hold out what the network was trained on."""
    listed = tmp_path / "list.txt"
    names = (tiny / "list.txt").read_text().split()
    listed.write_text("\n".join(names))
    more = [*SMALL, f"training_list={listed}", "num_epoch=1", "--val-split", "0.34"]
    run(tiny, tmp_path / "plain", "cross-entropy.yaml", more=more)
    listed.write_text("\n".join(names[::-1]))
    source = ["--phase", "classifier", "--weights", str(tmp_path / "plain/last.pt")]
    with pytest.raises(InputError, match="was trained on another list"):
        run(tiny, tmp_path / "no", "post-hoc-adjustment.yaml", more=[*more, *source])
    assert not (tmp_path / "no").exists()


def test_classifier_methods_refuse_a_network_of_cosines(tiny, tmp_path):
    run(tiny, tmp_path / "ldam", "ldam.yaml", more=[*SMALL, "num_epoch=1"])
    source = ["--phase", "classifier", "--weights", str(tmp_path / "ldam/last.pt")]
    for method in ("lws", "post-hoc-adjustment", "tau-normalization", "weight-balancing"):
        more = [*SMALL, "model_args.cosine=30", *source]
        with pytest.raises(InputError, match="needs a linear classifier with a bias"):
            run(tiny, tmp_path / "no", f"{method}.yaml", more=more)


def test_an_import_string_of_a_former_name_says_the_present_one():
    for key, former, now in (
        ("classifier", "longtail.classifiers.TauNormalisation", "TauNormalization"),
        ("loss", "longtail.losses.Equalisation", "Equalization"),
    ):
        with pytest.raises(InputError, match=f"did you mean {now}"):
            find_class(former, key)


def test_ride_has_narrower_experts_and_no_temperature_at_first(tiny):
    files = [tiny / "tiny-lt/joint.yaml", METHODS / "ride.yaml"]
    own = config.load(files, ["model_args.base_channels=16"])
    ride = make_model(own)
    widths = [block.temporal.merge.conv.out_channels for block in ride.branches[0]]
    assert widths == [24] * 3 + [48] * 3  # 3/4 of 32 and 64, after four common blocks of 16
    assert len(ride.trunk.blocks) == 4 and ride.heads[0].in_features == 48
    full = make_model(own.replace(model_args={**own.model_args, "width": 1}))
    assert full.heads[0].in_features == 64
    for counts in ([1000, 10, 1], [5000, *[1] * 199], [7, 0, 3]):
        stages = make_stages(own, torch.tensor(counts))
        first, second = (stages.criterion(epoch).temperature for epoch in (0, own.num_epoch - 1))
        assert torch.equal(first, torch.ones(len(counts)))
        share = len(counts) * torch.tensor(counts) / sum(counts)
        expected = 0.95 + 0.05 * share
        torch.testing.assert_close(second, expected / expected.max())
        assert (second > 0).all()


@pytest.mark.parametrize(
    "wrong", ["model.stgcnp.Model", "os.system", "Model", "model.fuse_bn.fuse_bn"]
)
def test_experts_reject_invalid_backbones(tiny, wrong):
    own = config.load([tiny / "tiny-lt/joint.yaml", METHODS / "ride.yaml"])
    own = own.replace(model_args={**own.model_args, "backbone": wrong})
    with pytest.raises(InputError, match=r"model_args\.backbone[:=]"):
        make_model(own)


def test_a_loss_that_needs_features_refuses_experts(tiny, tmp_path):
    more = [*SMALL, "loss=longtail.losses.InfluenceBalanced", "model_args.cosine=0"]
    with pytest.raises(InputError, match="takes the logits of one classifier"):
        run(tiny, tmp_path / "run", "ride.yaml", more=more)
    assert not (tmp_path / "run").exists()


def test_methods_have_their_authors_values():
    """What each paper's own code has, where several could be meant."""

    def method(name, *more, benchmark="ntu60-xsub-lt"):
        files = [config.CONFIG_ROOT / benchmark / "joint.yaml", METHODS / f"{name}.yaml"]
        return config.load(files, more)

    kps = method("kps")
    stages = make_stages(kps, torch.tensor([9, 3, 1]))
    assert (kps.loss_args, kps.model_args["cosine"]) == ({"max_margin": 0.2, "scale": 15.0}, 15)
    assert stages.switch == 14  # the last 40 % of 24 epochs
    assert method("logit-adjustment").loss_args == {"tau": 1.0}
    weighed = {name: method(name).weigh_by for name in (
        "class-balanced", "class-balanced-drw", "ldam-drw", "remix-drw", "influence-balanced",
        "weight-balancing", "inverse-frequency",
    )}  # fmt: skip
    assert [name for name, by in weighed.items() if by == "batch"] == [
        "class-balanced-drw", "ldam-drw", "inverse-frequency",
    ]  # fmt: skip
    first, second = method("weight-decay"), method("weight-balancing")
    assert first.optimizer_args["weight_decay"] == 5e-3
    assert second.optimizer_args == {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}
    assert second.class_weights.endswith("EffectiveNumber") and second.weights_from == "start"


def test_the_release_on_kinetics_has_no_reverse_sampling_and_21_epochs_of_stage_two():
    folder = config.CONFIG_ROOT / "k400"
    paper = config.load([folder / "joint.yaml"])
    released = config.load([folder / "joint.yaml", folder / "released.yaml"])
    counts = torch.tensor([900, 300, 200])
    for own, switch, sampling in (
        (paper, 130, "longtail.brl.ReverseSampling"),
        (released, 129, "longtail.sampling.InstanceSampling"),
    ):
        stages = make_stages(own, counts)
        assert (stages.switch, own.sampling) == (switch, sampling)
        assert [stages.stage(e) for e in (switch - 1, switch, 149)] == [1, 2, 2]
    assert released.mixing_args["batch_share"] and released.class_weights_args["alternate"]


def idle(file, words, classifier=False):
    files = [METHODS.parent / "nw-ucla-lt/joint.yaml", *([METHODS / file] if file else [])]
    small = {"model_args.base_channels": 8, "num_epoch": 24, "batch_size": 16}
    given = [word.partition("=")[0] for word in words]
    small = [f"{key}={value}" for key, value in small.items() if key not in given]
    settings = config.load(files, [*small, *words])
    counts = torch.tensor([40, 20, 10, 5, 5, 5, 5, 2, 2, 1])
    labels = torch.arange(10).repeat_interleave(counts).numpy()
    model = make_model(settings)
    data = SimpleNamespace(
        class_counts=counts, store=SimpleNamespace(labels=labels), skeleton=model.skeleton,
        train_rows=np.arange(len(labels)),
    )  # fmt: skip
    method = build.make_method(settings, data, model, classifier)
    batch = settings.batch_size * settings.accumulate
    return [*method.idle(batch), *optimizer.idle(settings, classifier)]


def test_a_misspelled_word_is_no_other_method():
    """Built in Python, where no configuration is checked."""
    counts = torch.tensor([5, 2, 1])
    with pytest.raises(InputError, match=r"masked.*did you mean tail\?"):
        Equalization(counts, masked="tial")
    with pytest.raises(InputError, match=r"tau.*did you mean auto\?"):
        TauNormalization(counts, tau="atuo")


@pytest.mark.parametrize(
    ("file", "without", "acting", "said"),
    [
        ("cmo.yaml", ["num_epoch=6"], ["num_epoch=7"], "plain is 3: in 6 epochs nothing is mixed"),
        ("shap-mix.yaml", ["num_epoch=5"], ["num_epoch=6"], "warm_up is 5: in 5 epochs no salien"),
        ("aeed.yaml", ["num_epoch=6"], ["num_epoch=7"], "in 6 epochs all weights are 1"),
        ("ldam-drw.yaml", ["second_stage=0"], [], "second_stage is 0: no epoch has its class_w"),
        ("kps.yaml", ["second_stage=0"], [], "second_stage is 0: no epoch has its loss"),
        ("brl-without-weights.yaml", ["batch_size=15"], [], "ratio is 0.0625: of a batch of 15 no"),
        (None, ["batch_size=8"], ["batch_size=8", "accumulate=2"], "of a batch of 8 no sample is"),
        ("bone-mixup.yaml", ["batch_size=8"], ["mixing_args.ratio=0", "batch_size=8"], "ratio is"),
        (None, ["frozen_epochs=24"], ["frozen_epochs=23"], "frozen_epochs 24: the run has 24 ep"),
        (None, ["schedule=step", "schedule_args.milestones=[24, 30]"],
         ["schedule=step", "schedule_args.milestones=[23, 30]"], "the rate never falls"),
        (None, ["val_by=subject"], ["val_by=subject", "val_split=0.1"], "val_by: without val_sp"),
    ],
)  # fmt: skip
def test_a_run_says_what_never_acts(file, without, acting, said):
    (line,) = idle(file, without)
    assert said in line
    assert not idle(file, acting)


def test_training_a_classifier_says_what_acts_on_the_backbone_alone():
    words = ["backbone_lr=0.5", "auxiliary_loss=longtail.latent_prior.LatentPrior"]
    keys = [line.partition(":")[0] for line in idle("crt.yaml", words, classifier=True)]
    assert keys == ["backbone_lr", "auxiliary_loss"]


def test_the_log_has_what_never_acts(tiny, tmp_path, untested):
    run(tiny, tmp_path / "run", more=[*SMALL, "num_epoch=1", "repeat=1", "batch_size=8"])
    line = "without effect: mixing_args.ratio is 0.0625: of a batch of 8 no sample is mixed"
    assert line in (tmp_path / "run/log.txt").read_text()
