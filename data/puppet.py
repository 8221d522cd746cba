"""A kinematic NTU skeleton: poses in, joints out, with bone lengths that never change.

A pose says where a right-handed person's wrists, ankles, hips and trunk are; two-bone inverse
kinematics finds elbows and knees. A person's own axes are right, up, forward; the origin is on the
floor between the feet. Metres, radians; T frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import ndarray as Array
from numpy.random import Generator

import graph

SKELETON = graph.load("ntu_rgb_d")
SPINE_BASE, SPINE_MID, NECK, HEAD, SPINE_SHOULDER = 0, 1, 2, 3, 20
# Arms are shoulder, elbow, wrist, hand, tip, thumb; legs hip, knee, ankle, foot.
LEFT_ARM, RIGHT_ARM, LEFT_LEG, RIGHT_LEG = map(list, SKELETON.parts[:4])

BONES = {  # metres, of a person of about 1.70 m
    "belly": 0.29, "chest": 0.23, "neck": 0.07, "head": 0.14, "shoulder": 0.18,
    "upper arm": 0.28, "forearm": 0.25, "palm": 0.075, "finger": 0.08, "thumb": 0.05,
    "hip": 0.085, "thigh": 0.41, "shin": 0.39, "ankle": 0.08, "foot": 0.13,
}  # fmt: skip

# Wrists are given from their shoulder: outwards, up, forward, in lengths of the arm.
REST = np.array((0.11, -0.96, 0.08))
IDLE = np.array((REST, (0.00, -0.70, 0.00), (-0.15, -0.50, 0.40)))  # hanging, on hip, in front


@dataclass
class Pose:
    """What a right-handed person does: curves over T frames. What is not named stays at rest."""

    hand: Array | None = None  # (T, 3) right wrist, as REST
    other_hand: Array | None = None  # (T, 3) left wrist; outwards is to the left
    hips: Array | float = 0.0  # (T, 3) right, up, forward, from standing
    foot: Array | float = 0.0  # (T, 3) right ankle, from standing
    other_foot: Array | float = 0.0  # (T, 3)
    lean: Array | float = 0.0  # (T,) of the trunk, forward
    twist: Array | float = 0.0  # (T,) of the shoulders, to the left
    nod: Array | float = 0.0  # (T,) of the head, forward


@dataclass(frozen=True)
class Body:
    """A person: bone lengths in metres, and manners."""

    bones: dict[str, float]
    stoop: float  # lean of the trunk at rest
    vigour: float  # how far the wrists go, as a share of what the pose says
    tempo: float
    left_handed: bool

    @classmethod
    def draw(cls, rng: Generator) -> Body:
        """Draw somebody: tall or short, long- or short-limbed, brisk or slow."""
        height = rng.uniform(0.9, 1.12)
        bones = {name: length * height * rng.uniform(0.94, 1.06) for name, length in BONES.items()}
        manners = rng.normal(0, 0.05), rng.uniform(0.85, 1.1), rng.uniform(0.8, 1.25)
        return cls(bones, *manners, left_handed=rng.random() < 0.25)

    def perform(self, pose: Pose, t: Array, rng: Generator) -> Array:
        """Return the joints (T, 25, 3) at phase `t` (T,).

        A body is never still: smooth random sway is added to what the pose says. An idle hand
        hangs, rests on the hip or is held in front.
        """
        bone, leg, still = self.bones, self.bones["thigh"] + self.bones["shin"], 0 * t[:, None]
        scale = leg / (BONES["thigh"] + BONES["shin"])
        lean = self.stoop + pose.lean + 0.03 * wander(t, rng)
        twist = pose.twist + 0.05 * wander(t, rng)
        nod = pose.nod + 0.06 * wander(t, rng)
        trunk, upright = turned(lean, twist), turned(0 * t, twist)

        joints = np.empty((len(t), 25, 3))
        base = scale * pose.hips + 0.012 * wander(t, rng, 3) + (0, bone["ankle"] + 0.99 * leg, 0)
        joints[:, SPINE_BASE] = base
        joints[:, SPINE_MID] = base + bone["belly"] * turned(0.6 * lean, twist)[:, 1]
        joints[:, SPINE_SHOULDER] = joints[:, SPINE_MID] + bone["chest"] * trunk[:, 1]
        joints[:, NECK] = joints[:, SPINE_SHOULDER] + bone["neck"] * trunk[:, 1]
        joints[:, HEAD] = joints[:, NECK] + bone["head"] * turned(lean + nod, twist)[:, 1]

        idle = IDLE[rng.choice(len(IDLE), p=(0.7, 0.15, 0.15))] + still
        for side, arm, wrist in ((1, RIGHT_ARM, pose.hand), (-1, LEFT_ARM, pose.other_hand)):
            wrist = idle if wrist is None else REST + self.vigour * (wrist - REST)
            wrist = (wrist + 0.03 * wander(t, rng, 3)) * (side, 1, 1)
            joints[:, arm] = self.arm(joints[:, SPINE_SHOULDER], wrist, side, trunk, upright)
        for side, chain, step in ((1, RIGHT_LEG, pose.foot), (-1, LEFT_LEG, pose.other_foot)):
            joints[:, chain] = self.leg(base, scale * step + still, side)
        return joints

    def arm(self, root: Array, reach: Array, side: int, trunk: Array, upright: Array) -> Array:
        """Return shoulder, elbow, wrist, hand, tip and thumb (T, 6, 3)."""
        bone = self.bones
        shoulder = root + bone["shoulder"] * unit(np.array((side, -0.25, 0))) @ trunk
        reach = (bone["upper arm"] + bone["forearm"]) * np.einsum("ti,tij->tj", reach, upright)
        pole = np.array((0.5 * side, -1, -0.6)) @ upright  # elbows point down, out and back
        elbow, wrist = bend(shoulder, shoulder + reach, bone["upper arm"], bone["forearm"], pole)
        forearm = unit(wrist - elbow)
        hand = wrist + bone["palm"] * forearm
        tip = hand + bone["finger"] * forearm
        thumb = hand + bone["thumb"] * across(np.array((-0.5 * side, 0.3, 1)) @ trunk, forearm)
        return np.stack((shoulder, elbow, wrist, hand, tip, thumb), axis=1)

    def leg(self, base: Array, step: Array, side: int) -> Array:
        """Return hip, knee, ankle and foot (T, 4, 3)."""
        bone, ahead = self.bones, np.array((0.15 * side, 0, 1))  # knees point forward
        hip = base + (side * bone["hip"], 0, 0)
        ankle = step + (1.2 * side * bone["hip"], bone["ankle"], 0)
        knee, ankle = bend(hip, ankle, bone["thigh"], bone["shin"], ahead)
        shin = unit(ankle - knee)
        foot = ankle + bone["foot"] * unit(across(ahead, shin) + 0.4 * shin)
        return np.stack((hip, knee, ankle, foot), axis=1)


def mirrored(joints: Array) -> Array:
    """Return the left-handed performance of a right-handed one: (..., 25, 3) in own axes."""
    return joints[..., SKELETON.flip, :] * (-1, 1, 1)


def wander(t: Array, rng: Generator, *shape: int) -> Array:
    """Return (T, *shape) smooth random curves of unit variance."""
    frequency, phase = rng.uniform(0.3, 2.5, (4, *shape)), rng.uniform(0, 1, (4, *shape))
    angle = 2 * np.pi * (np.multiply.outer(t, frequency) + phase)  # (T, 4, *shape)
    return np.cos(angle).sum(axis=1) / np.sqrt(2)


def turned(lean: Array, twist: Array) -> Array:
    """Return (T, 3, 3): right, up and forward of one who leans forward and has turned left."""
    sin, cos, up = np.sin(twist), np.cos(twist), np.array((0, 1, 0))
    right, ahead = np.stack((cos, 0 * sin, sin), -1), np.stack((-sin, 0 * sin, cos), -1)
    sin, cos = np.sin(lean)[:, None], np.cos(lean)[:, None]
    return np.stack((right, cos * up + sin * ahead, cos * ahead - sin * up), axis=1)


def unit(vectors: Array) -> Array:
    """Return the vectors (..., 3) with length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def across(vector: Array, direction: Array) -> Array:
    """Return the unit vector at right angles to the unit `direction` that is nearest `vector`."""
    return unit(vector - (vector * direction).sum(-1, keepdims=True) * direction)


def bend(root: Array, goal: Array, upper: float, lower: float, pole: Array) -> tuple[Array, Array]:
    """Two-bone inverse kinematics: the middle joint, bent towards `pole`, and the end; (T, 3) each.

    The end lies in the direction of `goal`, as near to it as the two bones allow.
    """
    span = np.linalg.norm(goal - root, axis=-1, keepdims=True)
    direction = (goal - root) / span
    span = span.clip(0.35 * (upper + lower), 0.998 * (upper + lower))  # joints bend only so far
    along = (upper**2 - lower**2 + span**2) / (2 * span)  # the law of cosines
    middle = root + along * direction + np.sqrt(upper**2 - along**2) * across(pole, direction)
    return [middle, root + span * direction]
