"""The script that tools.export writes beside a network: a recorded clip to its input, by NumPy."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

from data import measure, normalize
from engine import predict
from engine.predict import LoadedNetwork
from errors import InputError
from feeders import frames
from feeders.streams import Stream

FEEDER = "feeders.skeleton.Feeder"
# What is copied into the script, so that there is one home for each step: modules below their
# imports, and single constants and functions
MODULES = (measure, normalize)
SINGLE = (frames.uniform_sample, frames.linspace, predict.with_persons)

MARK = "Written by tools.export for {file}."
HEAD = '''"""A recorded clip to the input of {file}, by NumPy: normalization, stream, frames.

    import onnxruntime, preprocess
    clips = preprocess.inputs(joints)  # (T, V, C) or (T, M, V, C) as recorded
    session = onnxruntime.InferenceSession("{file}")
    (logits,) = session.run(["logits"], {{"clips": clips}})
    found = preprocess.probabilities(logits)  # {{class name: probability}}
    preprocess.answer(found)  # the most probable class

or: python {script} [--image-size HEIGHT WIDTH] clip.npy

{mark} Positions of 3D joints are in meters; 2D poses
are in pixels, with `image_size` (height, width), or scaled to [-1, 1] already. Unseen joints are 0.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

InputError = ValueError
SETTINGS = {settings}
'''

BODY = '''
def boxed(joints):
    """Scale each axis of a clip to [-1, 1], but no score; an axis without extent becomes -1."""
    low, high = joints.min((0, 1, 2)), joints.max((0, 1, 2))
    scaled = (joints - low) / np.where(high > low, high - low, 1) * 2 - 1
    return np.concatenate([scaled[..., :2], joints[..., 2:]], -1) if SETTINGS["scored"] else scaled


def relative(joints):
    """Subtract the origin of each joint in this stream; a score is the mean of both joints."""
    origin, partner = np.array(SETTINGS["origin"]), np.array(SETTINGS["partner"])
    if SETTINGS["stream"].startswith("joint"):
        return joints
    result = joints - joints[:, :, origin]
    if SETTINGS["scored"]:
        result[..., 2] = (joints[..., 2] + joints[:, :, partner, 2]) / 2
    return result


def between(this, following):
    """Return the motion from frame to frame; a score is the mean of both."""
    result = following - this
    if SETTINGS["scored"]:
        result[..., 2] = (this[..., 2] + following[..., 2]) / 2
    return result


def inputs(clip, image_size=None):
    """Return (test clips, M, T, V, C) float32 of a clip (T, V, C) or (T, M, V, C) as recorded."""
    joints = clip_of(clip, "clip")
    check_finite(joints, "clip")
    if joints.shape[2:] != SETTINGS["joint_shape"]:
        expected = "(frames, persons, {}, {})".format(*SETTINGS["joint_shape"])
        raise InputError(f"the clip has shape {joints.shape}; expected {expected}")
    how = SETTINGS["normalization"]
    if image_size is not None and how not in HALF_WIDTHS:
        raise InputError("image_size: positions of this network are not scaled by an image size")
    if SETTINGS["scored"]:
        check_scores(joints, "clip")
    terms = Terms(SETTINGS["center"], image_size, SETTINGS["persons"])
    if how in HALF_WIDTHS:
        joints = apply(how, joints, terms)
    if not joints.any():
        raise InputError("the clip contains no body, all joints are zero")
    joints = with_persons(joints, SETTINGS["persons"])
    if SETTINGS["drops_empty_frames"]:
        joints = joints[joints.any(axis=(1, 2, 3))]
    if how not in HALF_WIDTHS:
        joints = apply(how, joints, terms)
    if SETTINGS["size"]:
        there = seen(joints, origin(how, joints.shape[2], SETTINGS["center"]))
        measured = size(joints, there, SETTINGS["planar"])
        check_size(measured, Size(*SETTINGS["size"]), SETTINGS["planar"], "clip")
    joints = joints.astype(np.float32)
    joints = relative(boxed(joints) if SETTINGS["box"] else joints)
    is_motion = SETTINGS["stream"].endswith("-motion")
    if is_motion and not SETTINGS["sampled_motion"]:
        joints = between(joints, np.roll(joints, -1, axis=0))
        joints[-1] = 0
    if SETTINGS["choice"] == "even":
        chosen = linspace(len(joints), SETTINGS["frames"])
    else:
        interval = tuple(SETTINGS["p_interval"])
        chosen = uniform_sample(len(joints), SETTINGS["frames"], SETTINGS["test_clips"], interval)
    clips = joints[chosen]  # (S, T, M, V, C)
    if is_motion and SETTINGS["sampled_motion"]:
        following = np.roll(chosen.reshape(-1), -1).reshape(chosen.shape)
        clips = between(clips, joints[following])
        clips[-1, -1] = 0
    return np.ascontiguousarray(clips.transpose(0, 2, 1, 3, 4), np.float32)


def probabilities(logits):
    """Return {class name: probability}, the mean over test clips of the softmax of (S, K).

    A calibration was fitted on this mean, so the temperature divides its logarithm.
    """
    logits = np.asarray(logits, np.float64)
    rises = np.exp(logits - logits.max(1, keepdims=True))
    mean = (rises / rises.sum(1, keepdims=True)).mean(0)
    if SETTINGS["temperature"] != 1:
        powers = (mean / mean.max()) ** (1 / SETTINGS["temperature"])
        mean = powers / powers.sum()
    return dict(zip(SETTINGS["class_names"], mean.tolist()))


def answer(found):
    """Return the most probable class, or `unknown` below the threshold of the calibration."""
    title = max(found, key=found.get)
    return title if found[title] >= SETTINGS["threshold"] else "unknown"


if __name__ == "__main__":
    import argparse

    import onnxruntime

    parser = argparse.ArgumentParser()
    parser.add_argument("clips", nargs="+", metavar="CLIP.npy")
    parser.add_argument("--image-size", nargs=2, type=float, metavar=("HEIGHT", "WIDTH"))
    given = parser.parse_args()
    session = onnxruntime.InferenceSession(str(Path(__file__).with_name(SETTINGS["file"])))
    for name in given.clips:
        (logits,) = session.run(["logits"], {"clips": inputs(np.load(name), given.image_size)})
        shares = probabilities(logits)
        most = sorted(shares.items(), key=lambda pair: -pair[1])[:3]
        said = f"{answer(shares)}:" if SETTINGS["threshold"] else ""
        print(*filter(None, (name, said)), ", ".join(f"{t} {share:.3f}" for t, share in most))
'''


def script(network: LoadedNetwork, file: Path, name: str) -> str:
    """Return the script `name` of a network that is exported to `file`.

    InputError if the network has a feeder of its own, which the script cannot know.
    """
    if network.config.feeder != FEEDER:
        raise InputError(f"feeder: {network.config.feeder} is not {FEEDER}; its steps are unknown")
    said = {"file": file.name, "script": name, "settings": repr(settings(network, file))}
    parts = [
        HEAD.format(mark=MARK.format(**said), **said),
        *map(_below_imports, MODULES),
        f"TEST_SEED = {frames.TEST_SEED}",
        *(inspect.getsource(each) for each in SINGLE),
    ]
    return "\n\n".join(part.rstrip() + "\n" for part in parts) + "\n" + BODY


def _below_imports(module: ModuleType) -> str:
    """Return the source of a module from its first constant on."""
    source = inspect.getsource(module)
    first = next(node for node in ast.parse(source).body if isinstance(node, ast.Assign))
    return "\n".join(source.splitlines()[first.lineno - 1 :])


def settings(network: LoadedNetwork, file: Path) -> dict[str, Any]:
    """Return what the script must know of a network."""
    takes, own = network.takes, network.config
    stream = Stream(own.stream, takes.skeleton, takes.channels)
    args = own.feeder_args
    return {
        "file": file.name, "class_names": list(takes.class_names), "persons": takes.persons,
        "normalization": takes.normalization, "center": takes.centre, "stream": own.stream,
        "size": takes.size and dataclasses.astuple(takes.size), "planar": takes.planar,
        "joint_shape": (takes.skeleton.num_joints, takes.channels),
        "origin": stream.origin.tolist(), "partner": stream.partner.tolist(),
        "scored": bool(stream.scored), "frames": own.frames, "test_clips": own.test_clips,
        "choice": args.get("choice", "uniform"), "p_interval": list(args.get("p_interval", (1, 1))),
        "box": bool(args.get("box", False)),
        "sampled_motion": bool(args.get("sampled_motion", False)),
        "temperature": network.temperature, "threshold": network.threshold or 0.0,
        "drops_empty_frames": takes.drops_empty_frames,
    }  # fmt: skip
