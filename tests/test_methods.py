"""Methods as files on top of a benchmark, in whole runs."""

import json

import numpy as np
import pytest
import torch

import main
from engine import evaluate
from longtail.mixing import ShapMix
from tests.tiny_runs import SMALL, run, weights


@pytest.mark.parametrize(
    "method", ["shap-mix", "influence-balanced", "ldam-drw", "remix-drw", "kps", "ride"]
)
def test_a_method_is_one_file_on_top(tiny, tmp_path, method):
    settings = ["feeder_args.flip=0.0", "model_args.base_channels=6", "second_stage=1"]
    run(tiny, tmp_path / "run", f"{method}.yaml", more=settings)
    metrics = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert len(metrics) == 2 and np.isfinite([m["loss"] for m in metrics]).all()
    before = (tmp_path / "run/result.json").read_text()
    main.main(["--phase", "test", "--weights", str(tmp_path / "run/best.pt"), "--quiet"])
    assert (tmp_path / "run/result.json").read_text() == before


def test_whole_batches_are_told_before_they_are_mixed(tiny, tmp_path, monkeypatch):
    """Shap-Mix doubles a batch; a whole one is to run compiled nonetheless."""
    seen, only_whole = [], evaluate.only_whole
    monkeypatch.setattr(
        evaluate,
        "only_whole",
        lambda config, whole: seen.append(whole) or only_whole(config, whole),
    )
    monkeypatch.setattr(evaluate, "score", lambda net, feeder, *_, **__: np.eye(4)[feeder.labels])
    more = [*SMALL, "num_epoch=1", "batch_size=10"]  # 16 draws
    run(tiny, tmp_path / "run", "shap-mix.yaml", more=more)
    assert seen[-2:] == [True, False]  # saliency and step together, of 10 and of 6
    assert not any(seen[:-2])  # the rehearsal's, smaller than a batch


def test_shap_mix_hears_of_every_epoch(tiny, tmp_path, monkeypatch, untested):
    heard = []
    monkeypatch.setattr(ShapMix, "begin_epoch", lambda mix, epoch: heard.append(epoch))
    more = [*SMALL, "model_args.num_blocks=1", "batch_size=24"]
    run(tiny, tmp_path / "run", "shap-mix.yaml", more=more)
    assert heard == [0, 1]


def test_a_classifier_is_retrained_on_a_frozen_backbone(tiny, whole, tmp_path):
    run(
        tiny, tmp_path / "crt", "crt.yaml",
        more=["--phase", "classifier", "--weights", str(whole / "last.pt")],
    )  # fmt: skip
    before, after = weights(whole / "last.pt"), weights(tmp_path / "crt/last.pt")
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"fc.weight", "fc.bias"}


def test_tau_normalisation_needs_no_training(tiny, whole, tmp_path):
    run(
        tiny, tmp_path / "tau", "tau-normalisation.yaml",
        more=["--phase", "classifier", "--weights", str(whole / "last.pt")],
    )  # fmt: skip
    lengths = weights(tmp_path / "tau/last.pt")["fc.weight"].norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(4))


def test_max_norm_holds_after_the_last_step(tiny, whole, tmp_path, untested):
    more = ["lr=10", "--phase", "classifier", "--weights", str(whole / "last.pt")]
    run(tiny, tmp_path / "run", "max-norm.yaml", more=more)
    limit = weights(whole / "last.pt")["fc.weight"].norm(dim=1).mean()
    lengths = weights(tmp_path / "run/last.pt")["fc.weight"].norm(dim=1)
    assert lengths.max() <= limit * (1 + 1e-6) and lengths.max() > 0.99 * limit
