"""The relevance of joints and frames for a prediction: gradient x input, drawn on the skeleton."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from graph import Skeleton

FOR, AGAINST, BODY = "#d55e00", "#0072b2", "#9aa0a8"
POSES = 6  # frames that are drawn


def relevance(model: nn.Module, clips: Tensor, classes: Tensor) -> Tensor:
    """Return (N, M, T, V): the contribution of each joint to the logits of `classes` (N,).

    Gradient x input (Shrikumar et al., arXiv 1605.01713): the sum over C of x * d logit / dx, the
    first-order change of the logit per relative change of the joint. Clips (N, M, T, V, C) are the
    input of the network; in a bone stream, a joint stands for the bone that ends in it.
    """
    was_training = model.training
    model.eval()
    clips = clips.detach().requires_grad_()
    logits = model(clips).gather(1, classes[:, None]).sum()
    (gradient,) = torch.autograd.grad(logits, clips)
    model.train(was_training)
    return (gradient * clips).sum(-1).detach()


def draw(
    relevance: np.ndarray, points: np.ndarray, skeleton: Skeleton, title: str, stream: str
) -> Figure:
    """Draw relevance (M, T, V) on the body, points (T, M, V, 3) as right, up, depth; NaN if absent.

    Above: frames of the clip, where the area of a dot is the relevance of the joint and its color
    the sign. Below: the relevance of each frame, and of the ten most relevant joints.
    """
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    figure.suptitle(title, fontsize=10)
    parts: Any = figure.subfigures(2, 1, height_ratios=(3, 2))
    poses, lower = parts
    bodies = poses.subplots(1, POSES, sharex=True, sharey=True)
    times = np.linspace(0, len(points) - 1, 2 * POSES + 1).round().astype(int)[1::2]
    left, right = np.nanmin(points[..., 0]), np.nanmax(points[..., 0])
    largest = np.abs(relevance).max() or 1.0
    for axes, t in zip(bodies, times):
        for body, share in zip(points[t], relevance[:, t] / largest):  # (V, 3), (V,)
            for child, parent in skeleton.edges:
                axes.plot(*body[[child, parent], :2].T, color=BODY, linewidth=1.2, zorder=1)
            sizes, colors = 120 * np.abs(share), colors_of(share)
            axes.scatter(*body[:, :2].T, s=sizes, c=colors, alpha=0.8, linewidth=0, zorder=2)
        axes.set(aspect="equal", xlim=(left - 0.1, right + 0.1), ylim=(-1.05, 1.05))
        axes.set_title(f"frame {t}", fontsize=8)
        axes.axis("off")
    frames, joints = lower.subplots(1, 2)
    of_frames = relevance.sum((0, 2))
    frames.bar(np.arange(len(points)), of_frames, color=colors_of(of_frames))
    frames.set(xlabel="frame", ylabel="contribution to the logit")
    share = relevance.sum((0, 1))
    top = np.argsort(-np.abs(share))[:10][::-1]
    joints.barh(np.arange(len(top)), share[top], color=colors_of(share[top]))
    joints.set_yticks(range(len(top)), [skeleton.joints[v] for v in top])
    joints.set_xlabel(f"contribution to the logit ({stream} stream)")
    for axes in (frames, joints):
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def colors_of(values: np.ndarray) -> list[str]:
    """Return the color of each contribution, by its sign."""
    return [FOR if value > 0 else AGAINST for value in values]
