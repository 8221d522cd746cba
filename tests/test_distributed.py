"""Two processes on the CPU against one: the same losses, scores and files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

import main
from engine.distributed import Ranks, synchronise_batch_norm

PROJECT = Path(__file__).resolve().parents[1]


def command(tiny, folder):
    return [
        "--config", str(tiny / "tiny-lt/joint.yaml"), "--device", "cpu", "--work-dir", str(folder),
        "--quiet", "--set", "model=tests.double.Model", "sync_bn=true", "batch_size=8",
        "repeat=6", "num_epoch=3",
    ]  # fmt: skip


def test_two_ranks_follow_one(tiny, tmp_path):
    """27 steps of one global batch: the losses and the final scores agree."""
    torch.set_num_threads(1)
    main.main(command(tiny, tmp_path / "one"))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    subprocess.run(
        [*torchrun, "--master-port", "29517", "main.py", *command(tiny, tmp_path / "two")],
        cwd=PROJECT, check=True, timeout=300, stdin=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    one, two = (
        [json.loads(line)["loss"] for line in (tmp_path / run / "metrics.jsonl").open()]
        for run in ("one", "two")
    )
    np.testing.assert_allclose(two, one, atol=1e-4)
    one, two = (np.load(tmp_path / run / "scores-last.npz") for run in ("one", "two"))
    assert (one["names"] == two["names"]).all()
    np.testing.assert_allclose(two["scores"], one["scores"], atol=1e-4)


def _normalise_half(rank, folder):
    """On each of two ranks: batch norm over one half, against torch's own over the whole."""
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    whole = torch.randn(10, 3, 4, 5, dtype=torch.float64)
    norm = nn.BatchNorm2d(3).double()
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    ours = nn.BatchNorm2d(3).double()
    ours.load_state_dict(norm.state_dict())
    ours = synchronise_batch_norm(nn.Sequential(ours), torch.device("cpu"))

    expected = whole.clone().requires_grad_()
    (norm(expected) ** 3).sum().backward()
    part = slice(0, 7) if rank == 0 else slice(7, 10)  # unequal shares
    mine = whole[part].clone().requires_grad_()
    (ours(mine) ** 3).sum().backward()

    torch.testing.assert_close(mine.grad, expected.grad[part])
    torch.testing.assert_close(ours[0].running_mean, norm.running_mean)
    torch.testing.assert_close(ours[0].running_var, norm.running_var)
    dist.destroy_process_group()


def test_synchronised_batch_norm_equals_the_whole_batch(tmp_path):
    torch.multiprocessing.spawn(_normalise_half, (str(tmp_path),), nprocs=2)


@pytest.mark.parametrize("count", [1, 7, 16])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_ranks_share_a_batch_without_loss_or_repetition(count, world):
    rows = [list(range(count))[Ranks(rank, world).share(count)] for rank in range(world)]
    assert sorted(row for part in rows for row in part) == list(range(count))
