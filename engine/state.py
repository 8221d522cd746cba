"""The state of a run between two steps: optimizer, averaged weights, epoch and step."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from torch import nn

from engine.config import Config
from engine.optimizer import lr_factor, make_optimizer
from longtail.method import Method


class ModelEMA:
    """A copy of a network with the exponential moving average of its weights and batch statistics.

    The first step copies the network. torch's AveragedModel would synchronize with the GPU in
    every step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay, self.steps = copy.deepcopy(model), decay, 0
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values()))
        numbers = [pair for pair in pairs if pair[0].is_floating_point()]
        counters = [pair for pair in pairs if not pair[0].is_floating_point()]
        self.averages, self.weights = [a for a, _ in numbers], [w for _, w in numbers]
        self.copies, self.counters = [a for a, _ in counters], [c for _, c in counters]

    @torch.no_grad()
    def update(self) -> None:
        """Update the average after an optimizer step."""
        torch._foreach_lerp_(self.averages, self.weights, 1 - self.decay if self.steps else 1.0)
        if self.counters:
            torch._foreach_copy_(self.copies, self.counters)
        self.steps += 1


@dataclasses.dataclass
class Progress:
    """Completed epochs, and optimizer steps in the current epoch."""

    epoch: int = 0
    step: int = 0
    loss: float = 0.0  # sum over the steps of this epoch so far
    best: float = -1.0  # highest top-1 accuracy of an epoch
    seconds: float = 0.0  # training time of this epoch so far


class TrainState:
    """Everything that a step changes, with `state_dict` and `load_state_dict`."""

    def __init__(
        self, config: Config, model: nn.Module, method: Method, device: torch.device,
        captured: bool = False,
    ) -> None:  # fmt: skip
        """With `captured`, `update` can be captured in a CUDA graph."""
        self.config, self.model, self.method = config, model, method
        self.captured = captured
        self.optimizer = make_optimizer(config, model, method, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")
        self.ema = None if config.ema is None else ModelEMA(model, config.ema)
        self.progress = Progress()
        for group in self.optimizer.param_groups:
            if captured and "capturable" in group:
                group["capturable"] = True

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated and saved: the averaged one with `ema`."""
        return self.model if self.ema is None else self.ema.model

    @property
    def lr(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def backward(self, loss: torch.Tensor) -> None:
        """Accumulate the gradient of a loss, scaled for fp16."""
        self.scaler.scale(loss).backward()

    def set_lr(self, time: float) -> None:
        """Set the learning rates of a time in epochs (2.5: halfway through the third).

        For a captured update they are tensors on the device.
        """
        full = self.config.scaled_lr * lr_factor(self.config, time)
        backbone = full * self.config.backbone_lr if time >= self.config.frozen_epochs else 0.0
        for group in self.optimizer.param_groups:
            rate = backbone if group.get("backbone", False) else full
            if not self.captured:
                group["lr"] = rate
            elif isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = torch.tensor(rate, device=group["params"][0].device)

    def update(self) -> None:
        """Update the weights by the gradients; work of the device alone."""
        if self.config.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.config.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def end_step(self) -> None:
        """Average the weights, as the step and the method have left them, and count the step."""
        if self.ema is not None:
            self.ema.update()
        self.progress.step += 1

    def end_epoch(self, top1: float) -> bool:
        """Start the next epoch; return whether the top-1 accuracy of this one is the best so
        far.

        Of equal ones on the test split the first is, as in the field. Few held-out samples are
        often all right early in training, so of equal ones on these it is the last.
        """
        done = self.progress
        self.progress = Progress(epoch=done.epoch + 1, best=max(done.best, top1))
        return top1 > done.best or (self.config.val_split is not None and top1 == done.best)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs in addition to the evaluated network."""
        optimizer = self.optimizer.state_dict()
        groups = [group | {"lr": float(group["lr"])} for group in optimizer["param_groups"]]
        state: dict[str, Any] = {
            "optimizer": optimizer | {"param_groups": groups},
            "scaler": self.scaler.state_dict(),
            "method": self.method.state_dict(),
        }
        if self.ema is not None:
            state |= {"model": self.model.state_dict(), "averaged_steps": self.ema.steps}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; the model already has the evaluated weights."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.method.load_state_dict(state["method"])
        if self.ema is not None:
            self.ema.model.load_state_dict(self.model.state_dict())
            self.ema.steps = state["averaged_steps"]
            self.model.load_state_dict(state["model"])
