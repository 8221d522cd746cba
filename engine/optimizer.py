"""The optimizer and its learning rate."""

from __future__ import annotations

import inspect
import math
from typing import Annotated, Any

import torch
from torch import nn

import model as models
from engine.build import find_class, make
from engine.config import Config, check_value
from errors import InputError, nearest
from longtail.ranges import Range, Rate

# The schedule_args that each schedule uses.
SCHEDULE_ARGS = {
    "cosine": ("warm_up",),
    "step": ("warm_up", "milestones", "gamma"),
    "constant": ("warm_up",),
}


def check_schedule(config: Config) -> None:
    """Raise InputError for schedule_args that the schedule does not use, or that are invalid."""
    args, used = config.schedule_args, SCHEDULE_ARGS[config.schedule]
    for key in args.keys() - used:
        raise InputError(
            f"schedule_args.{key}: schedule={config.schedule} does not use it, only "
            f"{', '.join(used)}{nearest(key, used)}"
        )
    if config.schedule == "step" and not args.get("milestones"):
        raise InputError("schedule=step needs schedule_args.milestones, a list of epochs")
    warm_up = Annotated[float, Range(0, config.num_epoch, below=True)]
    for key, annotation in (("warm_up", warm_up), ("gamma", Rate)):
        if key in args:
            check_value(args[key], annotation, f"schedule_args.{key}")
    epochs = args.get("milestones", [])
    is_list = isinstance(epochs, list) and all(each in Range(0) for each in epochs)
    if not is_list or epochs != sorted(set(epochs)):
        raise InputError(
            f"schedule_args.milestones must be a rising list of epochs, not {epochs!r}"
        )


def idle(config: Config, classifier: bool) -> list[str]:
    """Return lines on keys that have no effect in a run, which may train a classifier alone."""
    lines, last = [], f"the run has {config.num_epoch} epochs"
    milestones = config.schedule_args.get("milestones") if config.schedule == "step" else None
    if milestones and milestones[0] >= config.num_epoch:
        lines.append(f"schedule_args.milestones {milestones}: {last}, so the rate never falls")
    if classifier:
        acting = {
            "backbone_lr": config.backbone_lr != 1, "frozen_epochs": config.frozen_epochs > 0,
            "auxiliary_loss": config.auxiliary_loss is not None,
        }  # fmt: skip
        lines += [f"{key}: only the classifier is trained" for key, acts in acting.items() if acts]
    elif config.frozen_epochs >= config.num_epoch:
        lines.append(f"frozen_epochs {config.frozen_epochs:g}: {last}, all with a frozen backbone")
    if config.val_by == "subject" and config.val_split is None:
        lines.append("val_by: without val_split no person is held out")
    return lines


def lr_factor(config: Config, epoch: float) -> float:
    """Return the learning rate at a time in epochs, relative to `config.scaled_lr`.

    cosine: (1 + cos(pi t)) / 2, t the completed fraction of the run, so 0 at the end; step: gamma
    to the power of the number of milestones (epochs) passed; constant: 1. In epoch e, from 0, of
    the `warm_up` epochs it is (e + 1) / warm_up, as in the training of CTR-GCN and Shap-Mix.
    """
    warm_up = float(config.schedule_args.get("warm_up", 0))
    if epoch < warm_up:
        return min(1.0, (math.floor(epoch) + 1) / warm_up)
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (epoch - warm_up) / (config.num_epoch - warm_up)))
    if config.schedule == "step":
        gamma = config.schedule_args.get("gamma", 0.1)
        return gamma ** sum(epoch >= m for m in config.schedule_args["milestones"])
    return 1.0


def fused(config: Config, device: torch.device) -> dict[str, bool]:
    """Return {"fused": True} for an optimizer that can update all weights in one GPU kernel.

    A fused optimizer also avoids the synchronization of the fp16 scaler with the device. SGD is not
    fused with fp16: if the scaler skips the first step, which is common, torch's fused SGD keeps
    uninitialized memory as momentum. `fused` or `foreach` in optimizer_args takes precedence.
    """
    factory = find_class(config.optimizer, "optimizer")
    said = {"fused", "foreach"} & config.optimizer_args.keys()
    if device.type != "cuda" or "fused" not in inspect.signature(factory).parameters or said:
        return {}
    sgd = isinstance(factory, type) and issubclass(factory, torch.optim.SGD)
    return {} if sgd and config.amp == "fp16" else {"fused": True}


def make_optimizer(
    config: Config, model: nn.Module, method: nn.Module, device: torch.device
) -> torch.optim.Optimizer:
    """Build the optimizer of all parameters of a network and its method that require gradients.

    If the backbone has a learning rate of its own, it is the second group, with "backbone": True.
    """
    check_schedule(config)
    own = [(name.partition(".")[0], p) for name, p in model.named_parameters() if p.requires_grad]
    extra = [p for p in method.parameters() if p.requires_grad]
    groups: Any = [*(p for _, p in own), *extra]
    if config.backbone_lr != 1 or config.frozen_epochs:
        layers = models.classification_layers(model)
        classifying = [p for layer, p in own if layer in layers]
        backbone = [p for layer, p in own if layer not in layers]
        groups = [{"params": [*classifying, *extra]}, {"params": backbone, "backbone": True}]
        groups = [group for group in groups if group["params"]]
    optimizer = make(config, "optimizer", groups, lr=config.scaled_lr, **fused(config, device))
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise InputError(
            f"optimizer={config.optimizer}: needs a closure that computes the loss several "
            "times per step, which is not supported; choose another optimizer"
        )
    return optimizer
