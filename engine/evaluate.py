"""Class probabilities of a split, and their accuracy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from engine import checkpoint, recipe
from engine.config import Config, from_mapping
from engine.distributed import World
from engine.precision import autocast, set_tf32
from engine.run import BEST, LAST, RunFolder, digest
from engine.run_data import Data
from engine.wrap import eager_if_partial
from errors import InputError
from feeders.skeleton import Batch
from longtail import shots

# Clips per batch in evaluation: enough for the device, independent of the batch size in training
# and of the number of clips per sample.
CLIPS_AT_ONCE = {"cuda": 500, "cpu": 60}
# In a result as of the training of the weights, whatever the configuration of the test says
TRAINING = ("method", "seed", "training_list", "imbalance", "val_split")


def clips_at_once(config: Config, device: torch.device) -> int:
    """Return the clips per batch in evaluation: the configuration's, or enough for the device."""
    return config.test_batch_size or CLIPS_AT_ONCE.get(device.type, CLIPS_AT_ONCE["cpu"])


@torch.inference_mode()
def score(
    net: nn.Module, feeder: Any, config: Config, device: torch.device, world: World | None = None,
    *, show: str | None = None, before_batch: Callable[[], None] | None = None,
) -> np.ndarray:  # fmt: skip
    """Return class probabilities (n, K) float32 of a feeder's samples, averaged over their clips.

    The samples are divided between the ranks; every rank returns all scores. `show` is the title of
    the progress bar (None: no bar); `before_batch` may raise to stop. A batch has whole samples
    with up to `clips_at_once` clips. Raises InputError for scores that are not finite.
    """
    world = world or World()
    set_tf32(config.tf32)
    net.eval()
    samples = max(1, clips_at_once(config, device) // feeder.clips)
    mine = torch.arange(len(feeder))[world.local_rows(len(feeder))]
    parts = []
    is_off = True if show is None else None  # None: on, if on a terminal
    with tqdm(total=len(mine), desc=show, unit="sample", leave=False, disable=is_off) as bar:
        for clips, _, batch in feeder.batches(
            Batch(rows) for rows in mine.split(samples) if len(rows)
        ):
            if before_batch is not None:
                before_batch()
            partial = len(batch.rows) < samples
            with autocast(config.amp, device), eager_if_partial(config, partial):
                logits = net(clips)
            probabilities = logits.float().softmax(dim=1)
            parts.append(probabilities.view(-1, feeder.clips, probabilities.shape[1]).mean(1).cpu())
            bar.update(len(batch.rows))
    gathered = world.gather((mine, parts))
    rows = torch.cat([rows for rows, _ in gathered])
    scores = torch.cat([part for _, parts in gathered for part in parts])[rows.argsort()].numpy()
    broken = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if len(broken):
        raise InputError(
            f"the network's output is not finite for {len(broken)} of {len(scores)} samples (e.g. "
            f"{feeder.names[broken[0]]}): its weights are damaged, or training has diverged; lower "
            "lr or set clip_grad"
            f"{', or --amp off' if config.amp != 'off' else ''}"
        )
    return scores


def metrics(
    scores: np.ndarray, labels: np.ndarray, class_counts: torch.Tensor | None, config: Config
) -> dict[str, Any]:
    """Return top1, top5, mean_class, many, medium, few and per_class in percent."""
    counts = None if class_counts is None else class_counts.cpu().numpy()
    return shots.accuracy(scores, labels, counts, tuple(config.shot_limits))


def test(
    net: nn.Module, config: Config, data: Data, feeder: Any, weights: Path, run: RunFolder,
    world: World, *, facts: dict[str, Any], quiet: bool = False,
    before_batch: Callable[[], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Score a feeder of the test split, with all clips per sample; write and return the result.

    `facts` are those in the file `weights` (checkpoint.facts_of). A checkpoint from which a run can
    be resumed is written as the test of last.pt, any other as that of best.pt.
    """
    scores = score(
        net, feeder, config, feeder.device, world, before_batch=before_batch,
        show=None if quiet else f"test {weights.name}",
    )  # fmt: skip
    labels = np.asarray(data.store.labels)[data.test_rows]
    result = metrics(scores, labels, data.class_counts, config)
    trained = from_mapping(facts["config"], str(weights)) if "config" in facts else config
    deduplicated = ~data.duplicates
    counts = data.class_counts
    result |= shots.probability_metrics(scores, labels) | {
        "class_counts": None if counts is None else counts.tolist(),
        "class_names": data.store.class_names[: scores.shape[1]],
        "samples": len(labels),
        "top1_clean": metrics(scores[deduplicated], labels[deduplicated], counts, config)["top1"],
        "samples_clean": int(deduplicated.sum()),
        "weights": weights.name,
        "weights_digest": digest(weights),
        "epochs": facts.get("progress", {}).get("epoch"),  # that the weights were trained for
        **{key: facts.get(key) for key in checkpoint.ORIGIN},
        "benchmark": config.benchmark,
        "stream": config.stream,
        "tag": config.tag,
        **{key: getattr(trained, key) for key in TRAINING},
        "departures": recipe.departures_of_test(config, trained),
        "published_list": data.published_list,
        "list_digest": facts.get("list_digest"),
        "store_fingerprint": data.store.fingerprint,
        "code": facts.get("code"),
        "made_with": facts.get("made_with"),
    }
    if world.is_main:
        # Only last.pt has a state of training; an early version called it `stepper`.
        which = BEST if {"training", "stepper"}.isdisjoint(facts) else LAST
        run.write_test(which, feeder.names, labels, scores, result)
    return result
