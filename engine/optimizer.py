"""The optimiser, its learning rate, and one step of it."""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any

import torch
from torch import nn

from engine.build import find_class, make
from engine.config import Config
from errors import InputError, nearest

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


# The schedule_args that each schedule uses.
SCHEDULE_ARGS = {
    "cosine": ("warm_up",),
    "step": ("warm_up", "milestones", "gamma"),
    "constant": ("warm_up",),
}


def check_schedule(config: Config) -> None:
    """Raise InputError for schedule_args that the schedule does not use, or cannot."""
    args, used = config.schedule_args, SCHEDULE_ARGS[config.schedule]
    for key in args.keys() - used:
        raise InputError(
            f"schedule_args.{key}: schedule={config.schedule} does not use it, only "
            f"{', '.join(used)}{nearest(key, used)}"
        )
    if config.schedule == "step" and not args.get("milestones"):
        raise InputError("schedule=step needs schedule_args.milestones, a list of epochs")
    warm_up, milestones = args.get("warm_up", 0), args.get("milestones", [0])
    for key, holds, rule in (
        ("warm_up", _is_number(warm_up) and 0 <= warm_up < config.num_epoch,
         f"a number of epochs, at least 0 and less than num_epoch ({config.num_epoch})"),
        ("milestones", isinstance(milestones, list) and all(map(_is_number, milestones))
         and all(a < b for a, b in zip([-1, *milestones], milestones)),
         "a rising list of epochs"),
        ("gamma", _is_number(gamma := args.get("gamma", 0.1)) and 0 < gamma < math.inf,
         "a number more than 0"),
    ):  # fmt: skip
        if not holds:
            raise InputError(f"schedule_args.{key} must be {rule}, not {args[key]!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def rate_factor(config: Config, epoch: float) -> float:
    """Return the learning rate at a time in epochs, as a share of `config.rate`.

    cosine: (1 + cos(pi t)) / 2 with t the share of the run behind us, so 0 at the end;
    step: gamma to the number of milestones (epochs) passed. Epoch e of the `warm_up` epochs, from
    0, has (e + 1) / warm_up of the rate, as in CTR-GCN's and Shap-Mix's training.
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
    """Return {"fused": True} for an optimiser that can update all weights in one kernel of a GPU.

    That also keeps the scaler of fp16 from waiting for the device. SGD is not fused then: if the
    scaler skips its first step, as it often does, torch's fused one keeps as its momentum whatever
    was in memory. What the user says goes first.
    """
    factory = find_class(config.optimizer, "optimizer")
    said = {"fused", "foreach"} & config.optimizer_args.keys()
    if device.type != "cuda" or "fused" not in inspect.signature(factory).parameters or said:
        return {}
    sgd = isinstance(factory, type) and issubclass(factory, torch.optim.SGD)
    return {} if sgd and config.amp == "fp16" else {"fused": True}


class Average:
    """A copy of a network with the exponential moving average of its weights and batch statistics.

    After the first step it is the network as it then is. torch's AveragedModel would wait for the
    GPU in every step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay, self.steps = copy.deepcopy(model), decay, 0
        both = [net.state_dict().values() for net in (self.model, model)]
        self.averaged = [[x for x in tensors if x.is_floating_point()] for tensors in both]
        self.counters = [[x for x in tensors if not x.is_floating_point()] for tensors in both]

    @torch.no_grad()
    def follow(self) -> None:
        """Take one step of the network into the average."""
        torch._foreach_lerp_(*self.averaged, 1 - self.decay if self.steps else 1.0)
        if self.counters[0]:
            torch._foreach_copy_(*self.counters)
        self.steps += 1


class Stepper:
    """Backward, clipping, optimiser and averaged weights: everything after the loss.

    `config.accumulate` batches make one step; fp16 scales its loss.
    """

    def __init__(self, config: Config, model: nn.Module, device: torch.device) -> None:
        check_schedule(config)
        self.config, self.model = config, model
        trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer: torch.optim.Optimizer = make(
            config, "optimizer", trained, lr=config.rate, **fused(config, device)
        )
        closure = inspect.signature(self.optimizer.step).parameters.get("closure")
        if closure is not None and closure.default is closure.empty:
            raise InputError(
                f"optimizer={config.optimizer}: takes a closure that computes the loss several "
                "times per step, which this training does not do; choose another"
            )
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")
        self.average = None if config.ema is None else Average(model, config.ema)
        self.waiting = 0

    @property
    def best_model(self) -> nn.Module:
        """The weights to judge and keep: the averaged ones where there are."""
        return self.model if self.average is None else self.average.model

    def step(self, loss: torch.Tensor, epoch: float, last: bool = False, share: float = 1) -> None:
        """Take the gradient of one batch; step the optimiser when enough are together.

        `epoch` is the time in epochs (2.5: half-way through the third), `last` the epoch's last;
        `share` what the batch is of all samples of its step.
        """
        self.scaler.scale(loss * share).backward()
        self.waiting += 1
        if self.waiting < self.config.accumulate and not last:
            return
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate * rate_factor(self.config, epoch)
        if self.config.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.follow()
        self.waiting = 0

    @property
    def rate(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def state_dict(self) -> dict[str, Any]:
        state = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        if self.average is not None:
            state |= {"raw": self.model.state_dict(), "averaged": self.average.steps}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.model.load_state_dict(self.model.state_dict())
            self.average.steps = state["averaged"]
            self.model.load_state_dict(state["raw"])
