"""Synthetic demo data: procedurally generated actions in NTU RGB+D's text format, then read.

The clips have NTU names and go through the same code as the real data. Twenty subjects differ in
body proportions and style. Three cameras record them in four setups (with the heights and distances
of NTU's first four). The simulated sensor is noisy, estimates hidden limbs and misses whole frames.
The partner of a test subject is a test subject too.

An action is a function of the phase, which goes from 0 to 1 over the performance, and returns the
poses of a right-handed person. Classes are listed from head to tail. The last, rare ones resemble a
frequent one (phone call and drink, push and punch; stand up is sit down in reverse), which makes
the long tail difficult.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy import ndarray as Array
from numpy.random import Generator

from data import readers
from data.puppet import (
    LEFT_ARM,
    LEFT_LEG,
    REST,
    RIGHT_ARM,
    RIGHT_LEG,
    SPINE_MID,
    Body,
    Pose,
    mirrored,
    wander,
)
from data.readers import Raw, ntu, splits
from data.readers.archive import File
from errors import Parser, run_command
from files import write_text

SUBJECTS = range(1, 21)
SETUPS = ((1.7, 3.5), (1.7, 2.5), (1.4, 2.5), (1.2, 3.0))  # S001-S004: camera height, distance (m)
CAMERAS = (0.0, -np.pi / 4, np.pi / 4)  # C001-C003: direction of the camera from the performer
FACING = (-np.pi / 4, np.pi / 4)  # R001, R002: the performer faces C002, C003

# Positions of a wrist, in the units of puppet.REST.
MOUTH = (-0.26, 0.20, 0.42)
EAR = (0.02, 0.34, 0.18)
CHEST = (-0.30, -0.30, 0.50)  # in front of the chest, where both hands can meet
PARTNER = (-0.25, -0.20, 0.90)  # at the hand of the other person


def smooth(t: Array, start: float, end: float) -> Array:
    """Return 0 before `start`, 1 after `end`, with a smooth transition (smoothstep)."""
    s = np.clip((t - start) / (end - start), 0, 1)
    return s * s * (3 - 2 * s)


def held(t: Array, start: float, full: float, leave: float, end: float) -> Array:
    """Return a curve that rises from 0 to 1, stays, and returns to 0."""
    return smooth(t, start, full) - smooth(t, leave, end)


def beat(t: Array, cycles: float) -> Array:
    """Return an oscillation between -1 and 1."""
    return np.sin(2 * np.pi * cycles * t)


def move(curve: Array, vector: Array | tuple[float, ...]) -> Array:
    """Return a vector (3,) times a curve (T,): (T, 3)."""
    return np.multiply.outer(curve, vector)


def reach(curve: Array, target: Array | tuple[float, ...]) -> Array:
    """Move a wrist from rest to `target` (3,) as the curve (T,) goes from 0 to 1: (T, 3)."""
    return REST + move(curve, target - REST)


def near(rng: Generator, place: tuple[float, ...], spread: float = 0.06) -> Array:
    """Return a random position (3,) near `place`, for one performance."""
    return rng.normal(place, spread)


def drink(t: Array, rng: Generator) -> tuple[Pose]:
    lift, sip = held(t, 0.05, 0.3, 0.75, 0.95), held(t, 0.3, 0.45, 0.6, 0.75)
    hand = reach(lift, near(rng, MOUTH)) + move(sip, (0, rng.uniform(0.04, 0.14), 0))
    return (Pose(hand, nod=-rng.uniform(0.1, 0.45) * sip),)


def brush_teeth(t: Array, rng: Generator) -> tuple[Pose]:
    lift, strength = held(t, 0.02, 0.22, 0.85, 1.0), rng.uniform(0.06, 0.14)
    strokes = strength * lift * beat(t, rng.uniform(4, 8))
    return (Pose(reach(lift, near(rng, MOUTH)) + move(strokes, (1, 0.2, 0.2)), nod=0.15 * lift),)


def phone_call(t: Array, rng: Generator) -> tuple[Pose]:
    lift = held(t, 0.05, 0.3, 0.85, 1.0)
    return (Pose(reach(lift, near(rng, EAR)), nod=rng.uniform(-0.1, 0.25) * lift),)


def wave(t: Array, rng: Generator) -> tuple[Pose]:
    lift, width = held(t, 0.02, 0.22, 0.8, 1.0), rng.uniform(0.2, 0.4)
    hand = reach(lift, near(rng, (0.3, rng.uniform(0.2, 0.6), 0.35)))
    return (Pose(hand + move(width * lift * beat(t, rng.uniform(2.5, 5)), (1, 0, 0))),)


def throw(t: Array, rng: Generator) -> tuple[Pose]:
    wind, fling = held(t, 0.1, 0.4, 0.45, 0.6), held(t, 0.45, 0.62, 0.68, 0.95)
    behind, ahead = near(rng, (0.35, 0.45, -0.25)), near(rng, (-0.2, 0.1, 0.9))
    hand = reach(wind, behind) + move(fling, ahead - REST)
    step = move(smooth(t, 0.35, 0.55), (0, 0, rng.uniform(0, 0.3)))
    twist, lean = 0.45 * (fling - wind), 0.25 * fling - 0.1 * wind
    return (Pose(hand, hips=0.5 * step, other_foot=step, lean=lean, twist=twist),)


def both_hands(t: Array, rng: Generator, gap: Array | float, slide: Array | float) -> tuple[Pose]:
    """Hold the hands in front of the chest, `gap` apart, and slide one along the other."""
    lift, place = held(t, 0.0, 0.2, 0.85, 1.0), near(rng, CHEST)
    hand = reach(lift, place) + move(lift * gap / 2, (1, 0, 0))
    slide = move(lift * slide, (0, 0.5, 1))
    return (Pose(hand + slide, hand - slide, nod=0.1 * lift),)


def clap(t: Array, rng: Generator) -> tuple[Pose]:
    gap = rng.uniform(0.15, 0.5) * (1 + beat(t, rng.uniform(3, 6)))
    return both_hands(t, rng, gap, slide=0.0)


def rub_hands(t: Array, rng: Generator) -> tuple[Pose]:
    slide = rng.uniform(0.05, 0.12) * beat(t, rng.uniform(3, 6))
    return both_hands(t, rng, 0.12, slide)


def bow(t: Array, rng: Generator) -> tuple[Pose]:
    down = held(t, 0.1, 0.45, 0.55, 0.95) * rng.uniform(0.5, 1.1)
    hand = reach(down, near(rng, (0.0, -0.9, 0.25)))
    return (Pose(hand, hand, hips=move(down, (0, -0.02, -0.18)), lean=down, nod=0.2 * down),)


def sit_down(t: Array, rng: Generator) -> tuple[Pose]:
    down, tip = smooth(t, 0.15, 0.75), held(t, 0.1, 0.4, 0.5, 0.85)
    hand = reach(down, near(rng, (-0.05, -0.65, 0.50)))
    hips = move(down, (0, -rng.uniform(0.32, 0.42), -0.38))
    return (Pose(hand, hand, hips, lean=rng.uniform(0.3, 0.7) * tip + 0.1 * down),)


def stand_up(t: Array, rng: Generator) -> tuple[Pose]:
    return sit_down(1 - t, rng)


def kick(t: Array, rng: Generator) -> tuple[Pose]:
    wind, strike = held(t, 0.15, 0.35, 0.4, 0.52), held(t, 0.4, 0.55, 0.6, 0.85)
    foot = move(wind, (0, 0.12, -0.35)) + move(strike, (-0.08, rng.uniform(0.15, 0.7), 0.65))
    hands = reach(strike, near(rng, (0.4, -0.6, -0.3))), reach(strike, near(rng, (0.3, -0.5, 0.3)))
    return (Pose(*hands, hips=move(strike, (-0.08, -0.02, 0.05)), foot=foot, lean=-0.25 * strike),)


def jump(t: Array, rng: Generator) -> tuple[Pose]:
    crouch = held(t, 0.1, 0.3, 0.33, 0.42) + 0.7 * held(t, 0.6, 0.68, 0.7, 0.9)
    flight = np.clip(1 - ((t - 0.52) / 0.12) ** 2, 0, None)
    hand = reach(crouch, (0.2, -0.8, -0.4)) + move(flight, near(rng, (0.1, 0.4, 0.4), 0.15))
    rise = move(flight, (0, rng.uniform(0.12, 0.35), 0))
    hips = rise + move(crouch, (0, -0.22, -0.12))
    return (Pose(hand, hand, hips, foot=rise, other_foot=rise, lean=0.5 * crouch),)


def punch(t: Array, rng: Generator) -> tuple[Pose, Pose]:
    guard, strike = held(t, 0.05, 0.3, 0.6, 0.9), held(t, 0.35, 0.48, 0.52, 0.7)
    hand = reach(guard, near(rng, (0.1, -0.45, 0.15))) + move(strike, near(rng, (-0.35, 0.5, 0.8)))
    other_hand = reach(guard, near(rng, (-0.1, -0.35, 0.45)))
    lunge, twist = move(strike, (0, 0, rng.uniform(0.05, 0.2))), 0.45 * strike - 0.15 * guard
    attacker = Pose(hand, other_hand, hips=lunge, lean=0.15 * strike, twist=twist)
    return attacker, stagger(held(t, 0.42, 0.55, 0.6, 0.9), rng)


def push(t: Array, rng: Generator) -> tuple[Pose, Pose]:
    guard, strike = held(t, 0.05, 0.3, 0.65, 0.95), held(t, 0.3, 0.5, 0.58, 0.8)
    hand = reach(guard, near(rng, (0.0, -0.4, 0.2))) + move(strike, near(rng, (-0.2, 0.35, 0.75)))
    both = rng.uniform(0.5, 1.0)  # from almost one-handed to both hands equally
    lunge, twist = move(strike, (0, 0, rng.uniform(0.05, 0.2))), 0.3 * (1 - both) * strike
    pusher = Pose(hand, REST + both * (hand - REST), hips=lunge, lean=0.25 * strike, twist=twist)
    return pusher, stagger(held(t, 0.4, 0.58, 0.65, 0.95), rng)


def stagger(hit: Array, rng: Generator) -> Pose:
    """React to a hit: the trunk moves back, then a step back."""
    step = move(smooth(np.maximum.accumulate(hit), 0.3, 1.0), (0, 0, -rng.uniform(0.05, 0.3)))
    hips, lean = step - move(hit, (0, 0, 0.06)), -rng.uniform(0.1, 0.35) * hit
    return Pose(hips=hips, foot=step, other_foot=0.7 * step, lean=lean, nod=lean)


def hand_over(t: Array, rng: Generator) -> tuple[Pose, Pose]:
    offer, take = held(t, 0.05, 0.35, 0.6, 0.85), held(t, 0.2, 0.5, 0.6, 0.9)
    keep = rng.uniform(0, 1) * smooth(t, 0.6, 0.9)  # the hand may stay in front of the chest
    giver = Pose(reach(offer, near(rng, PARTNER)), lean=0.12 * offer)
    hand = reach(take, near(rng, PARTNER)) + move(keep, CHEST - REST)
    return giver, Pose(hand, lean=0.12 * take)


def shake_hands(t: Array, rng: Generator) -> tuple[Pose, Pose]:
    grip, firm = held(t, 0.05, 0.35, 0.75, 0.95), held(t, 0.3, 0.4, 0.65, 0.75)
    shake = rng.uniform(0.05, 0.12) * firm * beat(t, rng.uniform(4, 7))
    hand = reach(grip, near(rng, PARTNER)) + move(shake, (0, 1, 0))
    return Pose(hand, lean=0.1 * grip), Pose(hand, lean=0.1 * grip)


ACTIONS: dict[str, Callable[[Array, Generator], tuple[Pose, ...]]] = {
    "drink": drink,
    "sit down": sit_down,
    "hand over": hand_over,
    "punch": punch,
    "clap": clap,
    "wave": wave,
    "jump": jump,
    "brush teeth": brush_teeth,
    "bow": bow,
    "kick": kick,
    "throw": throw,
    "rub hands": rub_hands,
    "shake hands": shake_hands,
    "phone call": phone_call,
    "stand up": stand_up,
    "push": push,
}
CLASS_NAMES = list(ACTIONS)


@dataclass(frozen=True)
class Clip:
    """Numbers from 1 that form the name of a clip and, with the seed, determine its content."""

    setup: int
    camera: int
    subject: int
    replication: int
    action: int

    def __str__(self) -> str:
        return "".join(f"{letter}{n:03}" for letter, n in zip("SCPRA", astuple(self)))


def clips() -> Iterator[Clip]:
    """Yield all clips: odd subjects (training) perform each action twice, even subjects once."""
    for subject in SUBJECTS:
        setup = 1 + (subject - 1) * len(SETUPS) // len(SUBJECTS)
        for replication in (1, 2) if subject % 2 else (1 + subject // 2 % 2,):
            for action in range(1, len(ACTIONS) + 1):
                for camera in range(1, len(CAMERAS) + 1):
                    yield Clip(setup, camera, subject, replication, action)


def perform(clip: Clip, seed: int, rng: Generator) -> tuple[Array, Array]:
    """Return the joints (M, T, 25, 3) of one or two persons, in the axes of the first, and t."""
    half = [subject for subject in SUBJECTS if (subject - clip.subject) % 2 == 0]
    partner = rng.choice([subject for subject in half if subject != clip.subject])
    bodies = [Body.draw(np.random.default_rng((seed, who))) for who in (clip.subject, partner)]
    frames = round(np.clip(40 * rng.uniform(0.75, 1.25) / bodies[0].tempo, 24, 60))
    t = np.linspace(rng.uniform(-0.05, 0.08), rng.uniform(0.92, 1.05), frames)
    t += rng.uniform(-0.5, 0.5) * np.sin(np.pi * t) / np.pi  # uneven tempo
    poses = ACTIONS[CLASS_NAMES[clip.action - 1]](t, rng)
    persons = np.stack([body.perform(pose, t, rng) for body, pose in zip(bodies, poses)])
    if bodies[0].left_handed != (rng.random() < 0.1):  # sometimes the other hand is used
        persons = mirrored(persons)
    if len(persons) == 2:  # face to face, about an arm's length from the middle
        persons[..., 2] -= rng.uniform(0.42, 0.55)
        persons[1] *= (-1, 1, -1)
    return persons, t


def record(clip: Clip, seed: int) -> tuple[Array, Array, Array]:
    """Record an action with a camera.

    Returns the joints in camera axes (M, T, 25, 3): x points to the right hand of a person who
    faces the camera, y up, z away from the camera; the mask of estimated joints (M, T, 25); and the
    mask of seen bodies (M, T).
    """
    rng = np.random.default_rng((seed, *astuple(clip)))
    persons, t = perform(clip, seed, rng)
    turn = FACING[clip.replication - 1] - CAMERAS[clip.camera - 1] + rng.normal(0, 0.15)
    turn += np.pi / 2 * (len(persons) == 2)  # two persons are seen side by side
    own_axes = ((np.cos(turn), 0, np.sin(turn)), (0, 1, 0), (np.sin(turn), 0, -np.cos(turn)))
    height, distance = SETUPS[clip.setup - 1]
    place = rng.normal((0, -height, distance), (0.2, 0.02, 0.15))
    tilt = np.arctan2(height - 0.9, distance)  # the camera looks down at the middle of the body
    level = ((1, 0, 0), (0, np.cos(tilt), -np.sin(tilt)), (0, np.sin(tilt), np.cos(tilt)))
    joints = (rng.permutation(persons) @ own_axes + place) @ level  # random order of the persons
    return sense(joints, t, rng)


def sense(joints: Array, t: Array, rng: Generator) -> tuple[Array, Array, Array]:
    """Simulate a depth sensor on joints (M, T, 25, 3); returns the same as `record`."""
    behind = joints[..., 2] - joints[:, :, [SPINE_MID], 2]
    hidden = np.clip(behind / 0.2, 0, 1)  # (M, T, 25): occluded by the body
    guessed, seen = np.zeros(hidden.shape, bool), np.ones(hidden.shape[:2], bool)
    for person in range(len(joints)):
        for limb in (LEFT_ARM, RIGHT_ARM, LEFT_LEG, RIGHT_LEG):
            if rng.random() < 0.08 + 0.3 * hidden[person][:, limb].mean():
                guessed[person, some(rng, t, 4, 15), limb[1:]] = True
        if rng.random() < 0.1:
            seen[person, some(rng, t, 1, 5)] = False
    wild = (1 + 1.5 * hidden + 5 * guessed)[..., None]
    drift = 0.008 * np.stack([wander(t, rng, 25, 3) for _ in joints])
    return joints + wild * (drift + rng.normal(0, 0.005, joints.shape)), guessed, seen


def some(rng: Generator, t: Array, low: int, high: int) -> slice:
    """Draw a range of `low` to `high` - 1 frames that does not include the first two frames."""
    start = rng.integers(2, len(t) - low)
    return slice(start, start + rng.integers(low, high))


BODY_ID = 72057594037930000  # of the same magnitude as Kinect's
BODY = "%d 0 0 0 0 0 0 0 0 2\n25\n"  # bodyID, ..., trackingState; number of joints
# x y z, trackingState; positions in the images and orientations, which readers ignore, are zero
JOINT = "%.4f %.4f %.4f 0 0 0 0 0 0 0 0 %d\n"


def text(joints: Array, guessed: Array, seen: Array) -> str:
    """Return the result of `record` in the NTU RGB+D text format, with rounded numbers."""
    rows = np.concatenate((joints, 2 - guessed[..., None]), axis=-1)  # (M, T, 25, 4)
    parts = [f"{seen.shape[1]}\n"]
    for frame, present in enumerate(seen.T):
        parts.append(f"{present.sum()}\n")
        for body in np.flatnonzero(present):
            parts.append(BODY % (BODY_ID + body))
            parts.append(25 * JOINT % tuple(rows[body, frame].flat))
    return "".join(parts)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=splits.seed, default=0, help="random seed (default: 0)")


def reader(args: argparse.Namespace) -> Raw:
    recordings = sorted(clips(), key=str)
    return Raw(
        items=recordings,
        total=len(recordings),
        read=partial(read, seed=args.seed),
        layout="ntu_rgb_d",
        class_names=CLASS_NAMES,
        shape=(ntu.MAX_BODIES, ntu.NUM_JOINTS, 3),
        meta={"normalization": "upright", "seed": args.seed},
    )


def read(clip: Clip, seed: int) -> readers.Clip:
    """Generate the file of a clip and return the clip in it."""
    content = text(*record(clip, seed)).encode()
    return ntu.read(File(f"{clip}.skeleton", content=content))


def main(argv: list[str]) -> None:
    parser = Parser(
        prog="python -m data.demo", description="Write a new clip, of a person in no split."
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .skeleton file")
    parser.add_argument("--action", choices=CLASS_NAMES, default="wave", metavar="NAME",
        help=f"one of {', '.join(CLASS_NAMES)} (default: %(default)s)")  # fmt: skip
    options = parser.parse_args(argv)
    person = len(SUBJECTS) + 1
    clip = Clip(1, 1, person, 1, 1 + CLASS_NAMES.index(options.action))
    write_text(options.out, text(*record(clip, seed=0)))
    print(f"{options.out}: {options.action}")


if __name__ == "__main__":
    sys.exit(run_command(main))
