"""The parts of a run: built from the configuration, saved to and restored from last.pt."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import model as models
from data import long_tail
from engine import checkpoint, logs, optimizer, precision, recipe, samples
from engine.build import make_feeder, make_method, make_model, to_device
from engine.config import Config
from engine.distributed import World, synchronize_batch_norm
from engine.rehearsal import rehearse
from engine.run import LAST, RunFolder, code_version
from engine.run_data import (
    TrainingData,
    check_same_data,
    check_store,
    check_unseen,
    open_data,
)
from engine.state import TrainState
from engine.step_graph import StepGraphs, make_step_graphs
from engine.wrap import wrap
from errors import InputError
from longtail.method import Method
from model.upstream import Checkpoint


def step_seed(*numbers: int) -> int:
    """Return a seed that depends on (seed, epoch, step, ...) only, so that runs can be resumed."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@dataclasses.dataclass
class Training:
    """The parts of a run."""

    config: Config
    world: World
    device: torch.device
    data: TrainingData
    feeder: Any
    val_feeder: Any
    method: Method
    net: nn.Module  # the network to train: `net(clips)` returns an Output in float32
    eval_net: nn.Module  # the network to evaluate: returns logits
    state: TrainState  # contains the model that `net` and `eval_net` wrap
    graphs: StepGraphs | None  # with `step_graph`
    origin: dict[str, str | None]  # checkpoint.ORIGIN: where the initial weights come from
    doubt: str  # in what the clips may be other ones than the checkpoint's network takes
    same_code: bool = True  # since the start of the run
    threads: int | None = None  # of the CPU, with which a resumed run began


def build_training(
    config: Config,
    devices: list[torch.device],
    world: World,
    weights: Path | None = None,
    classifier: bool = False,
    new_head: bool = False,
) -> Training:
    """Build and check all parts of a run; nothing is written.

    `weights` is a checkpoint with the initial weights, with `new_head` of all layers but the
    classification layers; with `classifier` only the classifier is trained, by the method
    `config.classifier`. Raises InputError for anything that cannot work.
    """
    torch.manual_seed(step_seed(config.seed))
    facts: dict[str, Any] = {}
    if weights is None:
        model = make_model(config)
    else:
        load = checkpoint.load_for_new_classes if new_head else checkpoint.load_network
        config, model, facts = load(weights, config)
    precision.set_tf32(config.tf32)
    data, device = open_data(config, model), devices[0]
    doubt, origin = "", dict.fromkeys(checkpoint.ORIGIN)
    if weights is not None:
        origin = {
            "started_from": weights.name,
            "started_from_digest": checkpoint.weights_digest(model.state_dict()),
            "started_from_method": recipe.method_of(facts, weights),
        }
        doubt = check_store(facts, data.store, 0 if new_head else model.num_class, weights)
        other = checkpoint.other_input(facts, config, model.skeleton, weights)
        doubt = "; ".join(filter(None, (doubt, other)))
        if classifier and facts.get("list_digest") not in (None, data.list_digest):
            raise InputError(
                f"{weights}: was trained on another list than {config.training_list} (imbalance "
                f"{config.imbalance}); --phase classifier needs the list of its network"
            )
        check_unseen(facts, data, weights, training=True)
        data = dataclasses.replace(data, seen_before=facts.get("trained_on"))
    model = to_device(model, device)
    if config.sync_bn and world.size > 1:
        model = synchronize_batch_norm(model, device)
    method = make_method(config, data, model, classifier).to(device)
    feeder = make_feeder(config, data, data.train_rows, device, train=True, views=method.views)
    val_feeder = make_feeder(config, data, data.val_rows, device)
    method.prepare(model, samples.for_method(config, data, model, device, facts))
    rehearse(config, world, device, data, feeder, method, model)
    net, eval_net = wrap(model, config, devices, world)
    graphs = make_step_graphs(config, devices, world)
    train_state = TrainState(config, model, method, device, captured=graphs is not None)
    return Training(
        config, world, device, data, feeder, val_feeder, method, net, eval_net, train_state, graphs,
        origin, doubt,
    )  # fmt: skip


def describe(training: Training, log: logs.Log) -> None:
    """Log the data, the network, the device and the method before the first step."""
    config, data, state, method = training.config, training.data, training.state, training.method
    counts = data.class_counts[data.class_counts > 0]
    largest, smallest = int(counts.max()), int(counts.min())
    listed = "not a published list"
    if data.published_list:
        listed = f"the published list of {long_tail.PUBLISHED[data.published_list]}"
    size = sum(p.numel() for p in state.model.parameters())
    idle: list[str] = []  # lines on what has been asked for and never acts
    if method.trains:
        idle += method.idle(config.batch_size * config.accumulate)
        idle += optimizer.idle(config, classifier=method.classifier_change is not None)
    lines = [
        data.list_note,
        f"{config.benchmark} {config.stream}: {len(data.train_rows)} training samples of "
        f"{len(counts)} classes ({listed}; {largest} to {smallest}: imbalance "
        f"{largest / smallest:.3g}), {len(data.test_rows)} test samples",
        untested(data),
        f"{config.model}, {size:,} parameters; {training.device}, store {training.feeder.where}",
        precision.describe_amp(config.amp, training.device),
        "step_graph: network, loss and optimizer are one CUDA graph" if training.graphs else "",
        recipe.describe(config, recipe.departures(config), training.origin["started_from"]),
        method.summary(),
        training.doubt and f"warning: {training.doubt}",
        *(f"without effect: {line}" for line in idle),
    ]
    if isinstance(training.net, nn.DataParallel):
        count = len(training.net.device_ids)
        lines.append(f"{count} GPUs in one process; torchrun --nproc-per-node {count} is faster")
    progress = state.progress
    if progress.step or 0 < progress.epoch < config.num_epoch:
        lines.append(f"resumed at epoch {progress.epoch + 1}, step {progress.step}")
        if not training.same_code:
            lines.append("the code has changed since the run began: results may differ")
    for line in lines:
        log.line(line)


def untested(data: TrainingData) -> str:
    """Return a line on the classes that are trained and cannot be tested, "" if there are none."""
    tested = set(data.store.labels[data.test_rows].tolist())
    missing = [k for k in data.class_counts.nonzero().flatten().tolist() if k not in tested]
    if not missing:
        return ""
    names = ", ".join(data.store.class_names[k] for k in missing[:4])
    more = ", ..." if len(missing) > 4 else ""
    return f"without test samples, so in no figure: {len(missing)} classes ({names}{more})"


def save(training: Training, run: RunFolder, which: str) -> None:
    """Write best.pt, or last.pt, which also contains what a resumed run needs."""
    if not training.world.is_main:
        return
    state, data, store = training.state, training.data, training.data.store
    device = f"{training.device.type} ({torch.backends.cpu.get_cpu_capability()})"
    if training.device.type == "cuda":
        device = torch.cuda.get_device_name(training.device)
    content: dict[str, Any] = {
        "config": dataclasses.asdict(training.config),
        "model": state.evaluated.state_dict(),
        "list_digest": data.list_digest,
        "store_fingerprint": store.fingerprint,
        "trained_on": data.trained_on,
        "skeleton": dataclasses.asdict(data.skeleton),
        "class_counts": data.class_counts,
        "class_names": list(store.class_names),
        "code": code_version(),
        **training.origin,
        "layout": store.layout,
        "normalization": store.normalization,
        "centre": store.meta.get("centre"),
        "size": store.meta.get("size"),
        "drops_empty_frames": store.meta.get("drops_empty_frames"),
        "progress": dataclasses.asdict(state.progress),
        "made_with": {
            "date": time.strftime("%Y-%m-%d"),
            "torch": str(torch.__version__),
            "device": device,
            "threads": torch.get_num_threads(),
        },
    }
    if which == LAST:
        content["training"] = state.state_dict()
    checkpoint.save(run.checkpoint(which), content)


def restore(training: Training, path: Path) -> None:
    """Restore the state in last.pt.

    Raises InputError if the file cannot be resumed from, or if the training list or the classes
    have changed.
    """
    try:
        content = checkpoint.read(path)
        if "training" not in content:
            raise InputError(
                f"{path} has no state of training (is a best.pt), so it cannot be resumed"
            )
    except InputError as error:
        raise InputError(
            f"{error}; --overwrite starts again, --weights FILE starts from these weights"
        ) from None
    check_same_data(content, training.data, path)
    checkpoint.check_skeleton(content, training.data.skeleton, path)
    training.same_code = content.get("code") in (None, code_version())
    training.threads = (content.get("made_with") or {}).get("threads")
    then, now = {key: content.get(key) for key in checkpoint.ORIGIN}, training.origin
    if now["started_from_digest"] not in (None, then["started_from_digest"]):
        raise InputError(
            f"--weights {now['started_from']}: the run to resume began with other weights "
            f"({then['started_from'] or 'random ones'}); omit the flag, or --overwrite begins again"
        )
    training.origin = then
    training.data = dataclasses.replace(training.data, seen_before=content.get("trained_on"))
    state = training.state
    models.fill(state.model, Checkpoint(path, content), {})
    state.load_state_dict(content["training"])
    state.progress = dataclasses.replace(state.progress, **content["progress"])
