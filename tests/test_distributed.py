"""Two processes on the CPU against one: the same losses, scores and files."""

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

import main
from engine import checkpoint, config, evaluate
from engine.config import Config
from engine.distributed import World, choose_devices, synchronize_batch_norm
from engine.session import build_training
from engine.state import Progress
from engine.stopping import StopRequest
from engine.train import epoch_batches, training_step
from errors import BAD_INPUT, RESUMABLE, InputError, run_command
from longtail import experts, losses
from longtail.sampling import InstanceSampling
from tests.batch_loss import batch_loss
from tests.double import synchronize
from tests.tiny_runs import CEILING, wait_until

PROJECT = Path(__file__).resolve().parents[1]
SMALL = ["model_args.num_blocks=2", "model_args.inflate=[]", "model_args.down=[2]"]


def on_two_ranks(function, arguments):
    """Call function(rank, *arguments) in two processes; an error of either is raised here."""
    multiprocessing.set_forkserver_preload(["main", "engine.train"])
    torch.multiprocessing.start_processes(function, arguments, 2, start_method="forkserver")


def command(tiny, folder, num_epoch=3):
    return [
        "--config", str(tiny / "tiny-lt/joint.yaml"), "--device", "cpu", "--work-dir", str(folder),
        "--quiet", "--set", "model=tests.double.Model", "batch_size=8",
        "repeat=6", f"num_epoch={num_epoch}",
    ]  # fmt: skip


def start_two_ranks(tiny, folder, *more):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*torchrun, "--master-port", "29517", "main.py", *command(tiny, folder), *more],
        cwd=PROJECT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def kill_a_worker(torchrun, metrics):
    """Kill -9 the second rank once an epoch is whole; torchrun ends the other, and fails."""
    wait_until(
        lambda: metrics.is_file() and metrics.read_text(), alive=lambda: torchrun.poll() is None
    )
    children = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    torchrun.communicate(timeout=CEILING)
    assert torchrun.returncode != 0


@pytest.mark.slow
def test_two_ranks_follow_one_though_a_rank_is_killed(tiny, tmp_path):
    """27 steps of one global batch, resumed after a kill: losses and final scores agree."""
    torch.set_num_threads(1)
    main.main(command(tiny, tmp_path / "one"))
    metrics = tmp_path / "two" / "metrics.jsonl"
    kill_a_worker(start_two_ranks(tiny, tmp_path / "two"), metrics)
    assert len(metrics.read_text().splitlines()) < 3
    resumed = start_two_ranks(tiny, tmp_path / "two", "--resume")
    said = resumed.communicate(timeout=CEILING)[1]
    assert resumed.returncode == 0, said
    one, two = (
        [json.loads(line)["loss"] for line in (tmp_path / run / "metrics.jsonl").open()]
        for run in ("one", "two")
    )
    np.testing.assert_allclose(two, one, atol=1e-4)
    one, two = (np.load(tmp_path / run / "scores-last.npz") for run in ("one", "two"))
    assert (one["names"] == two["names"]).all()
    np.testing.assert_allclose(two["scores"], one["scores"], atol=1e-4)


def _normalize_half(rank, folder):
    """On each of two ranks: batch norm over one half, against torch's own over the whole."""
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    whole = torch.randn(10, 3, 4, 5, dtype=torch.float64)
    norm = nn.BatchNorm2d(3).double()
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    ours = nn.BatchNorm2d(3).double()
    ours.load_state_dict(norm.state_dict())
    ours = synchronize(nn.Sequential(ours))

    expected = whole.clone().requires_grad_()
    (norm(expected) ** 3).sum().backward()
    part = slice(0, 7) if rank == 0 else slice(7, 10)  # unequal shares
    mine = whole[part].clone().requires_grad_()
    (ours(mine) ** 3).sum().backward()

    torch.testing.assert_close(mine.grad, expected.grad[part])
    torch.testing.assert_close(ours[0].running_mean, norm.running_mean)
    torch.testing.assert_close(ours[0].running_var, norm.running_var)
    assert ours[0].num_batches_tracked == 1

    # without it the first rank's statistics are every rank's before they are used
    world, norm = World(rank, 2), nn.BatchNorm1d(3)
    norm.running_mean.fill_(rank + 1)
    norm.running_var.copy_(torch.tensor([1.0, 2, 3]) if rank == 0 else torch.zeros(3))
    norm.num_batches_tracked.fill_(5 + rank)
    world.broadcast_buffers(norm)
    assert norm.running_mean.tolist() == [1, 1, 1] and norm.running_var.tolist() == [1, 2, 3]
    assert norm.num_batches_tracked == 5
    assert world.mean(torch.tensor([1.0, 2 * rank])).tolist() == [1, 1]
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_have_the_same_batch_statistics(tmp_path):
    on_two_ranks(_normalize_half, (str(tmp_path),))


def test_batch_norm_is_synchronized_between_gpus_only():
    with pytest.raises(InputError, match=r"sync_bn: .* only between GPUs"):
        synchronize_batch_norm(nn.BatchNorm1d(3), torch.device("cpu"))
    net = synchronize_batch_norm(nn.Sequential(nn.BatchNorm1d(3)), torch.device("cuda"))
    assert isinstance(net[0], nn.SyncBatchNorm)


@pytest.mark.parametrize("count", [1, 7, 16])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_ranks_share_a_batch_without_loss_or_repetition(count, world):
    rows = [list(range(count))[World(rank, world).local_rows(count)] for rank in range(world)]
    assert sorted(row for part in rows for row in part) == list(range(count))


@pytest.mark.parametrize(
    ("names", "world", "chosen"),
    [
        (None, World(), [0]),
        (["0", "2"], World(), [0, 2]),
        (None, World(5, 8, 1), [1]),  # the second machine of two with four GPUs each
        (["3", "2"], World(3, 4, 1), [2]),
    ],
)
def test_a_rank_takes_the_gpu_of_its_place_in_the_machine(monkeypatch, names, world, chosen):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [device.index for device in choose_devices(names, world)] == chosen


@pytest.mark.parametrize(
    ("count", "names", "world", "said"),
    [
        (0, ["0", "1"], World(), "no such GPU (available: none; use --device cpu)"),
        (2, ["0", "2"], World(), "--device 2: no such GPU (available: 0 to 1)"),
        (2, None, World(2, 3, 2), "--device 2: no such GPU"),
        (4, ["0", "1"], World(2, 3, 2), "torchrun --nproc-per-node 2"),
        (4, ["gpu"], World(), "give GPU indices"),
    ],
)
def test_a_gpu_that_is_not_there_is_one_line(monkeypatch, count, names, world, said):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(InputError) as error:
        choose_devices(names, world)
    assert said in str(error.value) and "\n" not in str(error.value)


def _gradient_of_half(rank, folder):
    """On each rank: the gradient of a network under DDP, against that of the whole batch."""
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    world = World(rank, 2)
    counts, weights = torch.tensor([9, 3, 1]), torch.tensor([0.2, 1, 2])
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(7, 5, generator=random)  # uneven shares: 4 and 3 rows
    soft = torch.rand(7, 3, generator=random).softmax(1)
    sets = torch.stack([0.7 * soft, 0.3 * soft.flip(1)])  # the released form: (P, N, K)
    for loss, targets, outputs in (
        (losses.CrossEntropy(counts), soft, (3,)),
        (losses.CrossEntropy(counts), sets, (3,)),
        (losses.InfluenceBalanced(counts), soft, (3,)),
        (experts.Diversity(counts), soft, (2, 3)),
    ):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, math.prod(outputs)), nn.Unflatten(1, outputs))
        batch_loss(loss, net(inputs), targets, weights, inputs).backward()
        expected = net[0].weight.grad.clone()
        net.zero_grad()
        wrapped = nn.parallel.DistributedDataParallel(net)
        mine = world.local_rows(7)
        entries = losses.label_weights(targets, weights)[mine]
        part = loss.part(wrapped(inputs[mine]), inputs[mine], entries, 7)
        (world.size * part).backward()
        torch.testing.assert_close(net[0].weight.grad, expected)
    dist.destroy_process_group()


@pytest.mark.slow
def test_every_loss_is_that_of_the_global_batch(tmp_path):
    on_two_ranks(_gradient_of_half, (str(tmp_path),))


def _follow_saliency(rank, tiny, folder):
    """On each of two ranks: an epoch of methods that measure with the network itself."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost",
                   "MASTER_PORT": "29520"}  # fmt: skip
    torch.set_num_threads(1)
    more = ["mixing_args={warm_up: 0}", "batch_size=8", *SMALL]
    with World.from_environment() as world:
        for method, name in (
            ("shap-mix", "mixing.saliency"), ("aeed", "mixing.saliency"), ("aeed", "entropy_sum"),
        ):  # fmt: skip
            files = [tiny / "tiny-lt/joint.yaml", PROJECT / f"config/methods/{method}.yaml"]
            training = build_training(config.load(files, more), [torch.device("cpu")], world)
            training.method.begin_epoch(0)
            batches = epoch_batches(training)
            for clips, labels, batch in training.feeder.batches(batches):
                training_step(training, clips, labels, batch, len(batches))
            first, second = world.gather(training.method.state_dict()[name])
            assert first.any() and torch.equal(first, second)


@pytest.mark.slow
def test_every_rank_mixes_the_same_batch(tiny, tmp_path):
    on_two_ranks(_follow_saliency, (tiny, tmp_path))


class _Asked:
    """A second rank that SIGTERM reached, as the first one sees it."""

    size = 2

    def any(self, flag):
        return True


def test_ranks_ask_for_sigterm_together():
    stop = StopRequest(_Asked())
    assert stop.requested(together=True) and not stop.requested(together=False)


def stop_in_evaluation(rank, tiny, folder, function):
    """Rank 1 of two gets SIGTERM as an evaluation begins; both end as resumable."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost",
                   "MASTER_PORT": "29518"}  # fmt: skip
    torch.set_num_threads(1)
    own = getattr(evaluate, function)

    def interrupted(*args, **keywords):
        if rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return own(*args, **keywords)

    setattr(evaluate, function, interrupted)
    assert run_command(main.main, command(tiny, folder, num_epoch=2)) == RESUMABLE


@pytest.mark.slow
@pytest.mark.parametrize("function", ["score", "test"])
def test_sigterm_to_one_rank_in_an_evaluation_ends_both(tiny, tmp_path, function):
    folder = tmp_path / "run"
    on_two_ranks(stop_in_evaluation, (tiny, folder, function))
    progress = checkpoint.read(folder / "last.pt")["progress"]
    assert (progress["epoch"], progress["step"]) == {"score": (1, 1), "test": (2, 0)}[function]


def resume_apart(rank, tiny, folders):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost",
                   "MASTER_PORT": "29519"}  # fmt: skip
    torch.set_num_threads(1)
    argv = [*command(tiny, folders[rank], num_epoch=2), "--resume"]
    assert run_command(main.main, argv) == BAD_INPUT


@pytest.mark.slow
def test_ranks_that_see_other_folders_do_not_train_on(tiny, tmp_path):
    """The second machine has no last.pt: its rank would begin where the first one goes on."""
    first = tmp_path / "first" / "joint"
    main.main(command(tiny, first, num_epoch=2))
    folders = (first, tmp_path / "second" / "joint")
    on_two_ranks(resume_apart, (tiny, folders))
    assert not folders[1].exists()


@pytest.mark.parametrize(("count", "sizes"), [(9, [9]), (10, [8, 2]), (17, [8, 9]), (1, [1])])
def test_no_rank_is_left_without_rows(count, sizes):
    """A last batch of fewer rows than ranks joins the one before; none of them is lost."""
    sampling = InstanceSampling(torch.zeros(count).long(), torch.tensor([count]))
    training = SimpleNamespace(
        config=Config(batch_size=8), world=World(0, 2), state=SimpleNamespace(progress=Progress()),
        method=SimpleNamespace(rows=sampling.epoch),
    )  # fmt: skip
    batches = epoch_batches(training)
    assert [len(batch.rows) for batch in batches] == sizes
    assert sorted(torch.cat([batch.rows for batch in batches]).tolist()) == list(range(count))
