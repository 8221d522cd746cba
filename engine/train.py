"""The training loop."""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from data import long_tail
from engine import checkpoint, evaluate, logs, recipe
from engine.build import Data, make, make_feeder, make_model, make_stages, open_data
from engine.config import Config
from engine.distributed import Ranks, synchronize_batch_norm
from engine.optimizer import Stepper
from engine.precision import describe_amp
from engine.rehearsal import rehearse
from engine.run import BEST, LAST, RunFolder, check_same_data, code_version, training_facts
from errors import InputError, Stopped
from feeders.skeleton import Batch
from longtail import shots
from longtail.classifiers import Classifier
from longtail.losses import CrossEntropy, label_weights
from longtail.mixing import Mixing
from model import upstream
from model.fold import fuse_bn

# Steps between two looks at the loss: each look waits for the device.
LOOK_EVERY = 50


def step_seed(*numbers: int) -> int:
    """Return a seed for (seed, epoch, step, ...): a resumed run draws what the first would have."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@dataclasses.dataclass
class Progress:
    """How far a run is: whole epochs, and steps within the one under way."""

    epoch: int = 0
    step: int = 0
    loss: float = 0.0  # sum over this epoch's steps so far
    best: float = -1.0
    seconds: float = 0.0


class Trainer:
    """One run of one stream: everything that lives from its first step to its last."""

    def __init__(
        self,
        config: Config,
        folder: Path,
        devices: list[torch.device],
        ranks: Ranks,
        quiet: bool = False,
        weights: str | Path | None = None,
        classifier: bool = False,
    ) -> None:
        """Build everything and write nothing. `weights` start the network; with `classifier` all
        of it but what `config.classifier` trains is frozen."""
        torch.manual_seed(step_seed(config.seed))
        model = None
        if weights is not None:
            config, model, _ = checkpoint.load_network(weights, config)
        evaluate.set_tf32(config)
        self.config, self.device, self.ranks = config, devices[0], ranks
        self.place = RunFolder(folder)
        self.started_from = None if weights is None else Path(weights).name
        self.same_code = True  # as that which the run began with
        self.quiet = quiet or not ranks.leads
        self.data: Data = open_data(config)
        counts = self.data.class_counts
        self.feeder = make_feeder(config, self.data, self.data.train_rows, self.device, train=True)
        self.val_feeder = make_feeder(config, self.data, self.data.val_rows, self.device)
        self.sampling = make(config, "sampling", self.feeder.labels, counts, config.repeat)
        self.mix: Mixing = make(config, "mixing", counts, self.data.skeleton).to(self.device)
        self.stages = make_stages(config, counts, self.device)
        model = make_model(config) if model is None else model
        self.model = model.to(self.device, memory_format=torch.channels_last)
        if config.sync_bn and ranks.world > 1:
            self.model = synchronize_batch_norm(self.model, self.device)
        self.classifier: Classifier | None = None
        if classifier:
            self.classifier = make(config, "classifier", counts).to(self.device)
            self.classifier.prepare(self.model, lambda: self.held_out(weights))
        self.features: list[torch.Tensor] = []  # what the classifier took, for losses that need it
        if self.stages.second.needs_features:
            self.keep_features(devices)
        self.progress = Progress()
        rehearse(self)
        self.net, self.judged = wrap(self.model, config, devices, ranks)
        self.stepper = Stepper(config, self.model, self.device)
        self.log = logs.Log(self.place if ranks.leads else None, quiet)
        self.stop_asked = False

    # --- the run, in order of time ---

    def run(self) -> None:
        """Train to the last epoch; SIGTERM saves and raises Stopped."""
        self.describe()
        self.log.start_metrics(self.progress.epoch)
        try:
            with self.heeding_sigterm():
                while self.progress.epoch < self.config.num_epoch:
                    self.train_epoch()
                    self.finish_epoch()
        finally:
            self.log.close()

    def keep_as_it_is(self) -> None:
        """Save a network that its classifier method has changed and that needs no training."""
        self.describe()
        self.log.line(self.classifier.summary())
        self.progress.epoch = self.config.num_epoch
        self.save(BEST)
        self.save(LAST)

    def train_epoch(self) -> None:
        """Step through the batches of one epoch, from where the run was."""
        epoch = self.progress.epoch
        criterion = self.stages.criterion(epoch)
        weights = self.stages.class_weights(epoch)  # (K,), ones in stage 1
        self.mix.begin_epoch(epoch)
        self.set_mode()
        batches = self.order(epoch)
        started, looked_at = time.monotonic(), []
        with self.bar(batches) as bar:
            for clips, labels, batch in self.feeder.batches(batches[self.progress.step :]):
                when = epoch + batch.step / len(batches)
                loss = self.step(clips, labels, batch, criterion, weights, when)
                self.progress.step += 1
                looked_at.append((batch, loss))
                if self.progress.step == len(batches) or len(looked_at) == LOOK_EVERY:
                    self.look(looked_at, bar)
                if self.should_stop(batch.step):
                    self.look(looked_at, bar)
                    self.progress.seconds += time.monotonic() - started
                    self.save_and_stop()
        self.progress.seconds += time.monotonic() - started

    def step(
        self, clips: torch.Tensor, labels: torch.Tensor, batch: Batch, criterion: CrossEntropy,
        weights: torch.Tensor, epoch: float,
    ) -> torch.Tensor:  # fmt: skip
        """Mix the batch of one optimizer step, and take that step; return the loss.

        The batch goes through the network in `accumulate` micro-batches. What is mixed, and how
        much each label weighs, is decided for all of it before, so that `accumulate` changes
        nothing but the memory. `epoch` is the time in epochs (2.5: half-way through the third).
        """
        config, ranks = self.config, self.ranks
        torch.manual_seed(step_seed(config.seed, self.progress.epoch, batch.step, 1 + ranks.rank))
        whole = len(batch.rows) == config.batch_size * config.accumulate
        with evaluate.only_whole(config, whole):
            clips, entries = self.mixed(clips, labels, batch, weights)
            total = entries.new_zeros(())
            parts = micro_batches(len(batch.rows), len(clips), config, ranks)
            for number, rows in enumerate(parts, start=1):
                loss = self.loss(clips[rows], entries[rows], len(clips), criterion)
                self.stepper.step(loss, epoch, number == len(parts))
                total += loss.detach()
        if self.classifier is not None:
            self.classifier.after_step(self.model)
        return total

    def mixed(
        self, clips: torch.Tensor, labels: torch.Tensor, batch: Batch, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mixed clips (N, M, T, V, C) of a whole batch and their label weights (N, K)."""
        if self.mix.observes:
            self.ranks.agree(self.model)  # all must mix alike
            with evaluate.autocast(self.config, self.device):
                self.mix.observe(self.judged, clips, labels, batch.generator)
        clips, targets = self.mix(clips, labels, batch.generator)  # (N, K), soft
        return clips, label_weights(targets, weights, self.config.weigh_by)

    def loss(
        self, clips: torch.Tensor, entries: torch.Tensor, count: int, criterion: CrossEntropy
    ) -> torch.Tensor:
        """Return what this rank's clips of a micro-batch add to the loss of `count` clips.

        Times the number of ranks: DistributedDataParallel takes the mean of their gradients.
        """
        with evaluate.autocast(self.config, self.device):
            logits = self.net(clips)
        features = {}
        if criterion.needs_features:
            features["features"] = self.features.pop().float()  # (n, D)
        return self.ranks.world * criterion.part(logits.float(), entries, count, **features)

    def finish_epoch(self) -> None:
        """Validate, log, and save last.pt; also best.pt when the top-1 accuracy rose."""
        epoch, rate = self.progress.epoch, self.stepper.rate
        net = self.judged if self.stepper.average is None else self.stepper.best_model
        self.ranks.agree(net)
        scores = evaluate.score(
            net, self.val_feeder, self.config, self.device, self.ranks,
            before_batch=lambda: self.stops_alone() and self.save_and_stop(),
        )  # fmt: skip
        labels = self.val_feeder.labels.numpy()
        figures = evaluate.judge(scores, labels, self.data.class_counts, self.config)
        done = self.progress
        loss = done.loss / done.step
        self.log.metrics(
            {
                "epoch": epoch,
                "stage": self.stages.stage(epoch),
                "loss": loss,
                "lr": rate,
                "seconds": round(done.seconds, 3),
                "samples_per_second": round(len(self.sampling) / max(done.seconds, 1e-9), 1),
                **{name: figures[name] for name in shots.METRICS},
            }
        )
        shown = "  ".join(f"{name} {logs.percent(figures[name])}" for name in shots.METRICS)
        rose = figures["top1"] > done.best
        self.log.line(
            f"epoch {epoch + 1}/{self.config.num_epoch}  loss {loss:.4f}  {shown}  "
            f"{len(self.sampling) / max(done.seconds, 1e-9):.0f} samples/s"
            + ("  (best so far)" if rose else "")
        )
        best = max(done.best, figures["top1"])
        self.progress = Progress(epoch=epoch + 1, best=best)
        if rose:
            self.save(BEST)
        self.save(LAST)

    def test(self) -> None:
        """Give the ten-clip test to both checkpoints and show the results.

        SIGTERM raises Stopped; the training is whole by then, and the test is given again.
        """

        def leave_if(stops: bool) -> None:
            if stops:
                raise Stopped(f"{self.place}: trained; --resume gives the test")

        rows, clips = [], self.config.test_clips
        if self.config.val_split is None:
            feeder = self.val_feeder.with_clips(clips)
        else:
            feeder = make_feeder(
                self.config, self.data, self.data.test_rows, self.device, clips=clips
            )
        with self.heeding_sigterm():
            for which in (BEST, LAST):
                path = self.place.checkpoint(which)
                leave_if(self.ranks.any(self.stop_asked))  # all ranks come here: it is saved, too
                state = checkpoint.read(path)
                checkpoint.load_strictly(self.model, state["model"], str(path))
                net = fuse_bn(self.model) if self.judged is self.model else self.judged
                result = evaluate.test(
                    net, self.config, self.data, feeder, path, self.place, self.ranks, state=state,
                    quiet=self.quiet, before_batch=lambda: leave_if(self.stops_alone()),
                )  # fmt: skip
                rows.append([path.name, *(logs.percent(result[key]) for key in shots.METRICS)])
        table = logs.table(["checkpoint", *logs.shot_headings(self.config.shots)], rows)
        chosen = "held-out training samples" if self.config.val_split else "the test split"
        self.log.line(f"test, {clips} clips a sample:\n{table}")
        self.log.line(f"best.pt was chosen by top-1 on {chosen} (one clip); last.pt was not chosen")
        if self.data.copied.any():
            self.log.line(
                f"{int(self.data.copied.sum())} of {len(self.data.copied)} test samples equal a "
                f"training sample; without them top-1 is {logs.percent(result['top1_clean'])} "
                "(last.pt)"
            )

    # --- its parts ---

    def set_mode(self) -> None:
        """Put the network in training mode; a frozen backbone stays in evaluation mode."""
        self.net.train(self.classifier is None)

    def keep_features(self, devices: list[torch.device]) -> None:
        """Let each training pass leave behind what went into the classifier, (N, D)."""
        if len(devices) > 1:
            raise InputError(f"loss={self.config.loss}: needs one device per process; use torchrun")
        if not hasattr(self.model, "fc"):
            raise InputError(
                f"loss={self.config.loss}: needs the features that go into one classifier, which "
                f"model={self.config.model} does not have"
            )

        def keep(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
            if torch.is_grad_enabled():
                self.features[:] = inputs

        self.model.fc.register_forward_pre_hook(keep)

    @torch.no_grad()
    def held_out(self, weights: str | Path | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits (n, K) and labels (n,) of the training samples held out by val_split.

        Raises InputError unless the network, of checkpoint `weights`, was trained without them.
        """
        keys = ("val_split", "seed", "protocol", "training_list", "imbalance")
        state = upstream.read(weights)
        its = state["config"] if checkpoint.is_own(state) else {}
        if self.config.val_split is None or any(
            its.get(key) != getattr(self.config, key) for key in keys
        ):
            raise InputError(
                "classifier_args.tau: auto is chosen on training samples that the network has not "
                "seen: train it with --val-split 0.1 and give this phase the same, with the same "
                f"--seed and list ({weights} was trained with val_split {its.get('val_split')}), "
                "or give a number, e.g. --set classifier_args.tau=1.0"
            )
        self.model.eval()
        rows = torch.arange(len(self.val_feeder))
        batches = self.val_feeder.batches(rows.split(evaluate.CLIPS_AT_ONCE["cpu"]))
        logits = torch.cat([self.model(clips).float() for clips, _, _ in batches])
        return logits, self.val_feeder.targets(rows)

    def order(self, epoch: int) -> list[Batch]:
        """Return the epoch's batches, each of one optimizer step.

        A rest smaller than the number of ranks joins the last.
        """
        generator = torch.Generator().manual_seed(step_seed(self.config.seed, epoch))
        rows = self.sampling.epoch(generator, epoch / self.config.num_epoch)
        parts = list(rows.split(self.config.batch_size * self.config.accumulate))
        if len(parts) > 1 and len(parts[-1]) < self.ranks.world:
            parts[-2:] = [torch.cat(parts[-2:])]
        return [
            Batch(part, step, step_seed(self.config.seed, epoch, step))
            for step, part in enumerate(parts)
        ]

    def bar(self, batches: list[Batch]) -> tqdm:
        return tqdm(
            total=sum(len(batch.rows) for batch in batches),
            initial=sum(len(batch.rows) for batch in batches[: self.progress.step]),
            desc=f"epoch {self.progress.epoch + 1}/{self.config.num_epoch}",
            unit="sample",
            leave=False,
            disable=logs.progress_bar_off(self.quiet),
        )

    def look(self, looked_at: list[tuple[Batch, torch.Tensor]], bar: tqdm) -> None:
        """Wait for the losses of the last steps: add them up, or stop at one that is not finite."""
        if not looked_at:
            return
        losses = self.ranks.mean(torch.stack([loss for _, loss in looked_at])).tolist()
        for (batch, _), loss in zip(looked_at, losses):
            if not np.isfinite(loss):
                names = ", ".join(self.feeder.names[i] for i in batch.rows.tolist())
                raise InputError(
                    f"the loss is {loss} in epoch {self.progress.epoch + 1}, step {batch.step}; "
                    f"samples {names}. Look at these with python -m data.inspect, or lower lr; "
                    "the last whole epoch is kept in last.pt"
                )
        self.progress.loss += sum(losses)
        bar.update(sum(len(batch.rows) for batch, _ in looked_at))
        bar.set_postfix(loss=f"{losses[-1]:.3f}", lr=f"{self.stepper.rate:.2g}", refresh=False)
        looked_at.clear()

    @contextmanager
    def heeding_sigterm(self) -> Iterator[None]:
        """Note SIGTERM instead of dying of it."""
        previous = signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stop_asked", True))
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

    def should_stop(self, step: int) -> bool:
        """Return whether SIGTERM came, after step `step` of the epoch.

        Several ranks must agree, and on GPUs ask now and then.
        """
        if self.ranks.world == 1:
            return self.stop_asked
        asks = self.device.type == "cpu" or step % LOOK_EVERY == 0
        return asks and self.ranks.any(self.stop_asked)

    def stops_alone(self) -> bool:
        """Return whether SIGTERM came to the only rank; several go on to where they can agree.

        In an evaluation one rank may have no batch left while another has.
        """
        return self.ranks.world == 1 and self.stop_asked

    def save_and_stop(self) -> None:
        self.save(LAST)
        self.ranks.barrier()  # a rank that ends may take the others with it, also one that saves
        epoch = self.progress.epoch + 1  # as the log counts
        raise Stopped(f"{self.place}: saved; --resume continues in epoch {epoch}")

    def describe(self) -> None:
        """Log what is run, on what, before the first step."""
        config, data = self.config, self.data
        counts = data.class_counts[data.class_counts > 0]
        largest, smallest = int(counts.max()), int(counts.min())
        listed = "not a published list"
        if data.published_list:
            listed = f"the published list of {long_tail.PUBLISHED[data.published_list]}"
        if data.list_made:
            self.log.line(data.list_made)
        self.log.line(
            f"{config.benchmark} {config.stream}: {len(data.train_rows)} training samples of "
            f"{len(counts)} classes ({listed}; {largest} to {smallest}: imbalance "
            f"{largest / smallest:.3g}), {len(data.test_rows)} test samples"
        )
        size = sum(p.numel() for p in self.model.parameters())
        self.log.line(
            f"{config.model}, {size:,} parameters; {self.device}, store {self.feeder.where}"
        )
        self.log.line(describe_amp(config.amp, self.device))
        if line := recipe.describe(config, recipe.departures(config), self.started_from):
            self.log.line(line)
        if isinstance(self.net, nn.DataParallel):
            count = len(self.net.device_ids)
            self.log.line(
                f"{count} GPUs in one process; torchrun --nproc-per-node {count} is faster"
            )
        if self.progress.epoch or self.progress.step:
            self.log.line(f"resumed at epoch {self.progress.epoch + 1}, step {self.progress.step}")
            if not self.same_code:
                self.log.line("the code has changed since the run began: it may go on otherwise")

    # --- checkpoints ---

    def save(self, which: str) -> None:
        if not self.ranks.leads:
            return
        state: dict[str, Any] = {
            "config": dataclasses.asdict(self.config),
            "model": self.stepper.best_model.state_dict(),
            **training_facts(self.data),
            "started_from": self.started_from,
            "layout": self.data.store.layout,
            "normalization": self.data.store.normalization,
            "centre": self.data.store.meta.get("centre"),
            "size": self.data.store.meta.get("size"),
            "progress": dataclasses.asdict(self.progress),
        }
        if which == LAST:
            state["stepper"] = self.stepper.state_dict()
            if hasattr(self.mix, "state_dict"):
                state["mixing"] = self.mix.state_dict()
        checkpoint.save(self.place.checkpoint(which), state)

    def restore(self, path: Path) -> None:
        """Continue from last.pt; what it contains is set as it was when it was saved.

        Raises InputError if the training list or the classes are no longer those of the run.
        """
        try:
            state = checkpoint.read(path)
            if "stepper" not in state:
                raise InputError(f"{path} is a best.pt, which has the weights only")
        except InputError as error:
            raise InputError(
                f"{error}; --overwrite begins anew, --weights FILE with weights"
            ) from None
        check_same_data(state, self.data, path)
        self.same_code = state.get("code") in (None, code_version())
        self.started_from = state.get("started_from")
        checkpoint.load_strictly(self.model, state["model"], str(path))
        self.stepper.load_state_dict(state["stepper"])
        if "mixing" in state:
            self.mix.load_state_dict(state["mixing"])
        self.progress = Progress(**state["progress"])


def micro_batches(count: int, rows: int, config: Config, ranks: Ranks) -> list[slice]:
    """Return which of `rows` this rank takes through the network in each micro-batch.

    `count` is the number of samples in the batch of one optimizer step, `rows` what its mixing made
    of them. At most `accumulate` micro-batches of about `batch_size` samples; every rank has a row
    in each. Rows are dealt out in turn, so that a mixing that appends its clips has some in each.
    """
    wanted = min(math.ceil(count / config.batch_size), config.accumulate, count // ranks.world)
    parts = max(1, wanted)
    return [slice(m + parts * ranks.rank, rows, parts * ranks.world) for m in range(parts)]


class Replica(nn.Module):
    """The network for DataParallel, whose threads are told that there is autocast, not to what."""

    def __init__(self, model: nn.Module, config: Config) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        with evaluate.autocast(self.config, clips.device):
            return self.model(clips)


def takes_cuda_graphs(config: Config, device: torch.device, ranks: Ranks) -> bool:
    """Return whether the compiled network is captured in CUDA graphs, if the configuration agrees.

    Not where batches accumulate: graphs keep a step's gradients in memory that the next step writes
    over. Nor with DistributedDataParallel: validation after training then crashed at random
    (https://github.com/pytorch/pytorch/issues/128218).
    """
    return (
        config.cuda_graphs and device.type == "cuda" and config.accumulate == 1 and ranks.world == 1
    )


def wrap(
    model: nn.Module, config: Config, devices: list[torch.device], ranks: Ranks
) -> tuple[nn.Module, nn.Module]:
    """Return (the network to train, the network to judge) around `model`, which stays itself."""
    judged: nn.Module = model
    if config.compile:
        mode = "reduce-overhead" if takes_cuda_graphs(config, devices[0], ranks) else None
        judged = torch.compile(model, mode=mode, dynamic=False)
    if ranks.world > 1:
        ids = [devices[0]] if devices[0].type == "cuda" else None
        return nn.parallel.DistributedDataParallel(judged, device_ids=ids), judged
    if len(devices) > 1:
        if config.compile:
            raise InputError("--compile with several devices: start it with torchrun instead")
        judged = nn.DataParallel(Replica(model, config), device_ids=[d.index for d in devices])
    return judged, judged
