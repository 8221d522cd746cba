"""The training loop: `train` is a run, `training_step` a step, each in order of time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from tqdm import tqdm

import model as models
from engine import checkpoint, evaluate, logs
from engine.build import make_feeder
from engine.config import Config
from engine.distributed import World
from engine.run import BEST, LAST, RunFolder
from engine.session import Training, describe, save, step_seed
from engine.stopping import deferred_stop
from engine.wrap import eager_if_partial
from errors import InputError, Stopped
from feeders.skeleton import Batch
from longtail import shots
from model.fuse_bn import fuse_bn
from model.upstream import Checkpoint

# Steps between two reads of the loss, and between two exchanges of ranks about a signal; they
# synchronize with a GPU, and cost a CPU nothing.
SYNC_EVERY = {"cuda": 50, "cpu": 1}
SHOWN = 4  # samples of a batch that an error names


def train(training: Training, run: RunFolder, log: logs.Log) -> None:
    """Train from the current state to the last epoch; validate, log and save after each epoch.

    SIGTERM and Ctrl-C save the state and raise Stopped. Raises InputError for a loss that is not
    finite.
    """
    config, method, state = training.config, training.method, training.state
    describe(training, log)
    if not method.trains:  # `prepare` has changed the classifier
        state.progress.epoch = config.num_epoch
        save(training, run, BEST)
        save(training, run, LAST)
        return
    with log.epochs(state.progress.epoch), deferred_stop(training.world) as stop:

        def save_if_stopped() -> None:
            if stop.requested(together=False):
                save_and_stop(training, run)

        while state.progress.epoch < config.num_epoch:
            method.begin_epoch(state.progress.epoch)
            method.set_mode(training.net)
            batches = epoch_batches(training)
            losses = LossMeter(training, batches, log.quiet)
            for clips, labels, batch in training.feeder.batches(batches[state.progress.step :]):
                loss = training_step(training, clips, labels, batch, len(batches))
                losses.update(loss, batch)
                is_due = batch.step % SYNC_EVERY[training.device.type] == 0
                if stop.requested(together=is_due):
                    losses.flush()
                    save_and_stop(training, run)
            losses.close()
            metrics = validate(training, save_if_stopped)
            improved = end_epoch(training, metrics, log)
            if improved:
                save(training, run, BEST)
            save(training, run, LAST)


def training_step(
    training: Training, clips: torch.Tensor, labels: torch.Tensor, batch: Batch, steps: int
) -> torch.Tensor:
    """Take step `batch.step` of an epoch's `steps`; return the loss.

    clips and labels, as `method.mix` takes them, are the batch of all ranks. What is mixed, and how
    much each label weighs, is decided for the whole batch before it goes through the network:
    neither accumulation nor the number of ranks changes the loss.
    """
    config, method, state = training.config, training.method, training.state
    epoch, step = state.progress.epoch, batch.step
    # of dropout, and of losses and networks that draw
    torch.manual_seed(step_seed(config.seed, epoch, step, 1 + training.world.rank))
    is_whole = len(labels) == config.batch_size * config.accumulate
    with eager_if_partial(config, not is_whole):
        clips, targets = method.mix(training.net, clips, labels, batch.generator)
        state.set_lr(epoch + step / steps)
        update = partial(network_update, training, len(labels))
        if training.graphs is not None and is_whole:
            loss = training.graphs(epoch, update, clips, targets)
        else:
            loss = update(clips, targets)
    method.after_step(state.model)
    state.end_step()
    return loss


def network_update(
    training: Training, samples: int, clips: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Update the weights with the mixed batch of so many samples; return the loss.

    It goes through the network in `accumulate` micro-batches, of which every rank takes its rows.
    """
    config, world, net = training.config, training.world, training.net
    method, state = training.method, training.state
    parts = micro_batches(samples, len(clips), config, world)
    total = torch.zeros((), device=training.device)
    for number, rows in enumerate(parts, start=1):
        with world.sync_gradients(net, number == len(parts)):
            loss = method.loss(net, clips[rows], targets[rows], len(clips))
            state.backward(world.size * loss)  # gradients are averaged over ranks
        total += world.size * loss.detach()
    world.average_gradients(method)
    state.update()
    return total


def micro_batches(samples: int, rows: int, config: Config, world: World) -> list[slice]:
    """Return the rows that this rank computes in each micro-batch.

    `samples` is the number of samples in the batch of one optimizer step, `rows` the number of
    clips after mixing. There are at most `accumulate` micro-batches of about `batch_size` samples,
    and every rank has at least one row in each. Rows are interleaved, so that clips appended by a
    mixing are spread over the micro-batches.
    """
    wanted = min(math.ceil(samples / config.batch_size), config.accumulate, samples // world.size)
    parts = max(1, wanted)
    return [slice(m + parts * world.rank, rows, parts * world.size) for m in range(parts)]


def epoch_batches(training: Training) -> list[Batch]:
    """Return the batches of the current epoch, one per optimizer step.

    If the last batch is smaller than the number of ranks, it is merged with the one before it.
    """
    config, epoch = training.config, training.state.progress.epoch
    generator = torch.Generator().manual_seed(step_seed(config.seed, epoch))
    rows = training.method.rows(generator, epoch / config.num_epoch)
    parts = list(rows.split(config.batch_size * config.accumulate))
    if len(parts) > 1 and len(parts[-1]) < training.world.size:
        parts[-2:] = [torch.cat(parts[-2:])]
    return [
        Batch(part, step, step_seed(config.seed, epoch, step)) for step, part in enumerate(parts)
    ]


class LossMeter:
    """The losses of an epoch: read every SYNC_EVERY steps, summed, and shown on a progress bar."""

    def __init__(self, training: Training, batches: list[Batch], quiet: bool) -> None:
        self.training = training
        self.pending: list[tuple[torch.Tensor, Batch]] = []
        self.progress = training.state.progress
        self.last = len(batches)
        self.every = SYNC_EVERY[training.device.type]
        self.started = time.monotonic() - self.progress.seconds
        done = sum(len(batch.rows) for batch in batches[: self.progress.step])
        self.bar = tqdm(
            total=sum(len(batch.rows) for batch in batches), initial=done,
            desc=f"epoch {self.progress.epoch + 1}/{training.config.num_epoch}", unit="sample",
            leave=False, disable=quiet or None,
        )  # fmt: skip

    def update(self, loss: torch.Tensor, batch: Batch) -> None:
        """Record the loss of a step; most calls do not synchronize with the device."""
        self.pending.append((loss, batch))
        if len(self.pending) == self.every or self.progress.step == self.last:
            self.flush()

    def flush(self) -> None:
        """Read the recorded losses; InputError for one that is not finite."""
        if not self.pending:
            return
        losses, batches = zip(*self.pending)
        self.pending = []
        values = self.training.world.mean(torch.stack(losses)).tolist()
        for value, batch in zip(values, batches):
            if not math.isfinite(value):
                rows, epoch = batch.rows.flatten().tolist(), self.progress.epoch
                names = ", ".join(self.training.feeder.names[row] for row in rows[:SHOWN])
                more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
                kept = f"; last.pt contains the first {epoch} epochs" if epoch else ""
                raise InputError(
                    f"the loss is {value} in epoch {epoch + 1}, step {batch.step}; samples "
                    f"{names}{more}. Inspect them with python -m data.inspect, or lower lr{kept}"
                )
        self.progress.loss += sum(values)
        self.progress.seconds = time.monotonic() - self.started
        self.bar.update(sum(len(batch.rows) for batch in batches))
        lr = self.training.state.lr
        left = f"{tqdm.format_interval(self.left())} left"
        self.bar.set_postfix(loss=f"{values[-1]:.3f}", lr=f"{lr:.2g}", run=left, refresh=False)

    def left(self) -> float:
        """Return the seconds of training left in the run, validation not counted."""
        done, epochs = self.progress.step / self.last, self.training.config.num_epoch
        return self.progress.seconds / done * (epochs - self.progress.epoch - done)

    def close(self) -> None:
        self.flush()
        self.bar.close()


def validate(training: Training, before_batch: Callable[[], None]) -> dict[str, Any]:
    """Return the metrics of the network on the validation samples, one clip per sample."""
    state, feeder = training.state, training.val_feeder
    net = training.eval_net if state.ema is None else state.ema.model
    training.world.broadcast_buffers(net)
    scores = evaluate.score(
        net, feeder, training.config, training.device, training.world, before_batch=before_batch
    )
    labels = feeder.labels.numpy()
    return evaluate.metrics(scores, labels, training.data.class_counts, training.config)


def end_epoch(training: Training, metrics: dict[str, Any], log: logs.Log) -> bool:
    """Log an epoch and start the next; return whether its top-1 accuracy is the best so far."""
    state, samples = training.state, len(training.method)
    done, lr = state.progress, state.lr
    loss, rate = done.loss / done.step, samples / max(done.seconds, 1e-9)
    improved = state.end_epoch(metrics["top1"])
    shown = {name: metrics[name] for name in shots.METRICS}
    log.metrics(
        {
            "epoch": done.epoch, "stage": training.method.stages.stage(done.epoch),
            "loss": loss, "lr": lr,
            "seconds": round(done.seconds, 3), "samples_per_second": round(rate, 1), **shown,
        }
    )  # fmt: skip
    log.line(
        f"epoch {done.epoch + 1}/{training.config.num_epoch}  loss {loss:.4f}  "
        + "  ".join(
            f"{name} {logs.percent(value)}" for name, value in shown.items() if value is not None
        )
        + f"  {rate:.0f} samples/s"
        + ("  (best so far)" if improved else "")
    )
    return improved


def test(training: Training, run: RunFolder, log: logs.Log) -> None:
    """Test both checkpoints with `test_clips` clips per sample; write and log the results.

    SIGTERM and Ctrl-C raise Stopped: the training is complete, and --resume runs the test again.
    """
    config, data, model = training.config, training.data, training.state.model
    clips, rows = config.test_clips, []
    if config.val_split is None:
        feeder = training.val_feeder.with_clips(clips)
    else:
        feeder = make_feeder(config, data, data.test_rows, training.device, clips=clips)
    with deferred_stop(training.world) as stop:

        def end_if_stopped(together: bool = False) -> None:
            if stop.requested(together):
                raise Stopped(f"{run}: trained; --resume runs the test")

        for which in (BEST, LAST):
            path = run.checkpoint(which)
            end_if_stopped(together=True)
            content = checkpoint.read(path)
            models.fill(model, Checkpoint(path, content), {})
            net = fuse_bn(model) if training.eval_net is model else training.eval_net
            result = evaluate.test(
                net, config, data, feeder, path, run, training.world, facts=content,
                quiet=log.quiet, before_batch=end_if_stopped,
            )  # fmt: skip
            rows.append([path.name, *(logs.percent(result[key]) for key in shots.METRICS)])
    table = logs.table(["checkpoint", *logs.shot_headings(config.shot_limits)], rows)
    chosen = "held-out training samples" if config.val_split else "the test split"
    log.line(f"test, {clips} clips per sample:\n{table}")
    if training.method.trains:
        log.line(f"best.pt was selected by top-1 on {chosen} (one clip); last.pt was not selected")
    if data.duplicates.any():
        log.line(
            f"{int(data.duplicates.sum())} of {len(data.duplicates)} test samples equal a training "
            f"sample; without them top-1 is {logs.percent(result['top1_clean'])} (last.pt)"
        )


def save_and_stop(training: Training, run: RunFolder) -> None:
    save(training, run, LAST)
    training.world.barrier()  # a rank that exits can end the others, even while one saves
    epoch = training.state.progress.epoch + 1  # from 1, as in the log
    raise Stopped(f"{run}: saved; --resume continues in epoch {epoch}")
