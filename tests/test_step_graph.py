"""The step as one CUDA graph; without a GPU with a stand-in that calls what was captured."""

import contextlib
from typing import ClassVar

import pytest
import torch

from engine import config, session, step_graph
from engine.config import Config
from engine.distributed import World
from engine.session import build_training
from engine.step_graph import EAGER_CALLS, StepGraphs, make_step_graphs
from engine.train import epoch_batches, training_step
from errors import InputError
from tests import quick
from tests.test_training_step import ALL
from tests.tiny_runs import SMALL
from tools.sweep import method_files, trains

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class Stream:
    def __init__(self, device=None):
        pass

    def wait_stream(self, stream):
        pass


class Recorded:
    """In place of step_graph.Captured: runs nothing while it captures, as a CUDA graph."""

    made: ClassVar[list] = []

    def __init__(self, function, tensors, pool):
        self.function, self.inputs = function, [torch.empty_like(tensor) for tensor in tensors]
        self.calls, self.former, self.graph = 0, pool, self
        Recorded.made.append(self)

    def pool(self):
        return self

    def __call__(self, *tensors):
        self.calls += 1
        for own, tensor in zip(self.inputs, tensors):
            own.copy_(tensor)
        return self.function(*self.inputs).clone()


@pytest.fixture
def recorded(monkeypatch):
    """What StepGraphs has captured, on the CPU."""
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(step_graph, "Captured", Recorded)
    monkeypatch.setattr(Recorded, "made", [])
    return Recorded.made


def train(tiny, method, device, graphs=None, **values):
    """Train three epochs; return the losses and the state of the run."""
    files = [tiny / "tiny-lt/joint.yaml", *method_files(method)]
    words = ["num_epoch=3", "second_stage=1", "repeat=4", "batch_size=6", "tf32=false", *SMALL]
    own = config.load(files, words, **values)
    with pytest.MonkeyPatch.context() as patch:
        if graphs is not None:
            patch.setattr(session, "make_step_graphs", lambda *_: graphs(device))
        training = build_training(own, [device], World(), classifier=own.classifier is not None)
    losses = []
    for epoch in range(3):
        training.state.progress.epoch, training.state.progress.step = epoch, 0
        training.method.begin_epoch(epoch)
        training.method.set_mode(training.net)
        batches = epoch_batches(training)
        losses += [
            training_step(training, clips, labels, batch, len(batches))
            for clips, labels, batch in training.feeder.batches(batches)
        ]
    return torch.stack(losses), training


@pytest.mark.parametrize("method", quick.only(["ldam-drw"], ["brl", "ldam-drw", "shap-mix"]))
def test_captured_steps_equal_eager_ones(tiny, recorded, method):
    """Losses, weights and running averages, bit for bit, over stages and learning rates."""
    losses, eager = train(tiny, method, CPU, ema=0.9)
    captured_losses, captured = train(tiny, method, CPU, StepGraphs, ema=0.9)
    assert torch.equal(losses, captured_losses)
    for own in ("model", "evaluated", "method"):
        first, second = (getattr(t.state, own).state_dict() for t in (eager, captured))
        assert all(torch.equal(first[name], second[name]) for name in first)
    steps = len(losses) // 3
    assert [each.calls for each in recorded][1:] == [recorded[0].calls + EAGER_CALLS] * 2
    assert recorded[0].calls < steps  # the last batch has fewer samples, and runs eagerly


def test_graphs_of_an_epoch_use_the_memory_of_those_before(recorded):
    graphs, values = StepGraphs(CPU), torch.ones(2)
    for period in range(3):
        for _ in range(EAGER_CALLS + 1):
            graphs(period, lambda x: 2 * x, values)
        graphs(period, lambda x: 2 * x, torch.ones(3))
    first, *others = recorded
    assert first.former is None and all(each.former in recorded for each in others)
    assert set(graphs.captured.values()) == set(others[-2:])  # those of the last epoch


def test_a_graph_reads_new_values_at_each_call(recorded):
    graphs, seen = StepGraphs(CPU), []
    for number in range(6):
        seen.append(graphs(0, lambda x: x.sum(), torch.full((2,), float(number))).item())
    assert seen == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    assert recorded[0].calls == 6 - EAGER_CALLS


def test_what_cannot_be_captured_is_one_clear_line(monkeypatch, recorded):
    def refuse(*_):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(step_graph, "Captured", refuse)
    graphs = StepGraphs(CPU)
    with pytest.raises(InputError, match=r"not permitted .* capturing\); --set step_graph=false"):
        for _ in range(EAGER_CALLS + 1):
            graphs(0, torch.sum, torch.ones(2))


def test_a_checkpoint_has_the_learning_rate_as_a_number(tiny, recorded):
    _, training = train(tiny, "brl", CPU, StepGraphs)
    state = training.state
    assert isinstance(state.optimizer.param_groups[0]["lr"], torch.Tensor)
    (group,) = state.state_dict()["optimizer"]["param_groups"]
    assert group["lr"] == state.lr and isinstance(group["lr"], float)
    state.load_state_dict(state.state_dict())
    state.set_lr(0.0)
    assert state.lr == pytest.approx(training.config.scaled_lr)


@pytest.mark.parametrize(
    "values, devices, world, reason",
    [
        ({}, [GPU, GPU], World(), "one GPU"),
        ({}, [GPU], World(0, 2), "one GPU"),
        ({"amp": "fp16"}, [GPU], World(), "--amp bf16"),
        ({"compile": True}, [GPU], World(), "cuda_graphs=false"),
    ],
)
def test_other_devices_and_precisions_are_refused(values, devices, world, reason):
    with pytest.raises(InputError, match=reason):
        make_step_graphs(Config(step_graph=True, **values), devices, world)
    assert make_step_graphs(Config(**values), devices, world) is None
    assert make_step_graphs(Config(step_graph=True, **values), [CPU], world) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", [m for m in ALL if trains(config.load(method_files(m)))])
def test_every_method_is_captured_on_a_gpu(tiny, method):
    """The losses of three epochs as the eager ones; a low rate amplifies no rounding."""
    values = {"lr": 1e-4, "schedule": "constant", "schedule_args": {}}
    eager, _ = train(tiny, method, GPU, **values)
    captured, training = train(tiny, method, GPU, step_graph=True, **values)
    assert training.graphs.captured
    torch.testing.assert_close(captured, eager, rtol=1e-3, atol=1e-3)
