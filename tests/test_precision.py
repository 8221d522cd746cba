"""Half precision, TF32, compiled code: other arithmetic, the same results."""

import functools
import json
import shutil
import threading

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

import main
from engine import precision
from engine.config import Config
from engine.distributed import World
from engine.wrap import takes_cuda_graphs
from model.backbone import Output
from tests.tiny_runs import SMALL, run, weights


@pytest.mark.slow
@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_half_precision_follows_single(tiny, tmp_path, amp):
    more = [*SMALL, "num_epoch=1", "test_clips=1"]
    folders = [run(tiny, tmp_path / kind, more=[*more, "--amp", kind]) for kind in ("off", amp)]
    single, half = (json.loads((f / "metrics.jsonl").read_text())["loss"] for f in folders)
    assert half == pytest.approx(single, rel=0.05) and half != single
    scaler = torch.load(folders[1] / "last.pt", weights_only=True)["training"]["scaler"]
    assert bool(scaler) == (amp == "fp16")
    kept = weights(folders[1] / "last.pt").values()
    assert all(value.dtype != torch.float16 for value in kept)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_compiled_training_compiles_one_shape_and_follows_the_plain(tiny, tmp_path):
    """24 rows in batches of 5: the last, of 4, is trained on as well, but not compiled for."""
    more = [*SMALL, "model_args.num_blocks=1", "batch_size=5", "num_epoch=1", "test_clips=1"]
    plain = run(tiny, tmp_path / "plain", more=more)
    counters["stats"].clear()
    compiled = run(tiny, tmp_path / "compiled", more=[*more, "--compile"])
    assert counters["stats"]["unique_graphs"] == 1
    first, second = (json.loads((f / "metrics.jsonl").read_text()) for f in (plain, compiled))
    assert second["loss"] == pytest.approx(first["loss"], rel=1e-3)


def test_cuda_graphs_are_for_one_gpu_whose_steps_do_not_add_up():
    gpu, alone = torch.device("cuda"), World()
    assert takes_cuda_graphs(Config(), gpu, alone)
    assert not takes_cuda_graphs(Config(), torch.device("cpu"), alone)
    assert not takes_cuda_graphs(Config(accumulate=2), gpu, alone)
    assert not takes_cuda_graphs(Config(cuda_graphs=False), gpu, alone)
    assert not takes_cuda_graphs(Config(), gpu, World(0, 2))


@pytest.mark.slow
def test_a_mixed_batch_twice_as_long_is_compiled_too(tiny, tmp_path, monkeypatch):
    """Shap-Mix: the training pass of 2 N clips, and the passes that measure the saliency."""
    capture_only = functools.partial(torch.compile, backend="eager")
    monkeypatch.setattr(torch, "compile", lambda model, mode, **more: capture_only(model, **more))
    more = [*SMALL, "feeder_args.flip=0.0", "model_args.num_blocks=1", "batch_size=8"]
    counters["stats"].clear()
    run(tiny, tmp_path / "run", "shap-mix.yaml", more=[*more, "num_epoch=1", "--compile"])
    assert counters["stats"]["unique_graphs"] == 2


def test_testing_takes_amp_from_the_command_line(whole, tmp_path):
    argv = ["--phase", "test", "--weights", str(whole / "last.pt"), "--quiet"]
    main.main([*argv, "--work-dir", str(tmp_path), "--amp", "bf16"])
    single, half = (np.load(f / "scores-last.npz")["scores"] for f in (whole, tmp_path))
    assert not np.array_equal(half, single)
    np.testing.assert_allclose(half, single, atol=0.02)


PROCESSORS = {
    "avx2": ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, {"off"}),
    "avx512": ({"avx512_f": True, "avx512_vnni": True, "avx512_bf16": False}, {"off"}),
    "zen4": ({"avx512_f": True, "avx512_bf16": True, "avx512_fp16": False}, {"off", "bf16"}),
    "sapphire rapids": ({"amx_bf16": True, "avx512_fp16": True}, {"off", "bf16", "fp16"}),
    "graviton 3": ({"neon": True, "bf16": True, "fp16_arith": True}, {"off", "bf16", "fp16"}),
}


@pytest.mark.parametrize(("capabilities", "pays"), PROCESSORS.values(), ids=PROCESSORS)
def test_emulated_arithmetic_is_logged_and_not_selected_by_auto(monkeypatch, capabilities, pays):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    cpu = torch.device("cpu")
    chosen = "bf16" if "bf16" in pays else "off"
    assert precision.describe_amp("auto", cpu) == f"amp {chosen} (auto)"
    with precision.autocast("auto", cpu):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if chosen == "bf16" else torch.float32)
    for kind in ("off", "bf16", "fp16"):
        said = precision.describe_amp(kind, cpu)
        assert said.startswith(f"amp {kind}") and "\n" not in said
        assert ("--amp off" in said) == (kind not in pays)


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_that_emulates_bf16_is_not_given_it(monkeypatch, native):
    """Turing and Volta: torch counts them as able unless asked for more than emulation."""
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: native or including_emulation,
    )
    gpu = torch.device("cuda")
    assert precision.amp_kind("auto", gpu) == ("bf16" if native else "off")
    assert ("no bf16" in precision.describe_amp("bf16", gpu)) == (not native)
    assert precision.describe_amp("fp16", gpu) == "amp fp16"


@pytest.mark.slow
def test_the_kind_of_arithmetic_is_said_before_the_first_step(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    more = [*SMALL, "num_epoch=1", "test_clips=1"]
    run(tiny, tmp_path / "auto", more=[*more, "--amp", "auto"])
    run(tiny, tmp_path / "bf16", more=[*more, "--amp", "bf16"])
    for folder, said in (("auto", "amp off (auto)"), ("bf16", "this processor has no bf16")):
        lines = (tmp_path / folder / "log.txt").read_text(encoding="utf-8").splitlines()
        places = [
            next(i for i, line in enumerate(lines) if word in line) for word in (said, "epoch 1")
        ]
        assert places[0] < places[1]
        assert f"amp: {folder}\n" in (tmp_path / folder / "config.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("tf32", [True, False])
def test_tf32_is_for_products_and_convolutions(tf32, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", not tf32)
    before = torch.get_float32_matmul_precision()
    precision.set_tf32(tf32)
    assert torch.backends.cudnn.allow_tf32 == tf32
    assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")
    torch.set_float32_matmul_precision(before)


class Kind(torch.nn.Linear):
    """A network that notes the kind of numbers that it computes in."""

    def __init__(self):
        super().__init__(3, 2)
        self.seen = []

    def forward(self, clips, outputs):
        logits = super().forward(clips)
        self.seen.append(logits.dtype)
        return Output(logits, logits, {})


def test_a_network_in_a_thread_is_cast_as_the_run_says():
    """As DataParallel calls it: from a thread, where autocast is on and has its own default."""
    net, kinds = precision.Float32Outputs(Kind(), "bf16"), []
    thread = threading.Thread(target=lambda: kinds.extend(net(torch.zeros(1, 3))[:2]))
    with torch.autocast("cpu", torch.float16):
        thread.start()
        thread.join()
    logits, kind = kinds
    assert net.model.seen == [torch.bfloat16] and logits.dtype == kind.dtype == torch.float32
