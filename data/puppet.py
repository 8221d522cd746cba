"""A kinematic NTU skeleton that converts poses to joints, with constant bone lengths.

A pose gives the positions of a right-handed person's wrists, ankles, hips and trunk; two-bone
inverse kinematics computes elbows and knees. The axes of a person are right, up, forward; the
origin is on the floor between the feet. Meters, radians; T frames.
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

BONES = {  # meters, for a person of about 1.70 m
    "belly": 0.29, "chest": 0.23, "neck": 0.07, "head": 0.14, "shoulder": 0.18,
    "upper arm": 0.28, "forearm": 0.25, "palm": 0.075, "finger": 0.08, "thumb": 0.05,
    "hip": 0.085, "thigh": 0.41, "shin": 0.39, "ankle": 0.08, "foot": 0.13,
}  # fmt: skip

# Wrists are relative to their shoulder: outward, up, forward, in units of the arm length.
REST = np.array((0.11, -0.96, 0.08))
IDLE = np.array((REST, (0.00, -0.70, 0.00), (-0.15, -0.50, 0.40)))  # hanging, on hip, in front


@dataclass
class Pose:
    """The motion of a right-handed person: curves over T frames; the default is rest."""

    hand: Array | None = None  # (T, 3) right wrist, in the units of REST
    other_hand: Array | None = None  # (T, 3) left wrist; outward is to the left
    hips: Array | float = 0.0  # (T, 3) right, up, forward, relative to standing
    foot: Array | float = 0.0  # (T, 3) right ankle, relative to standing
    other_foot: Array | float = 0.0  # (T, 3)
    lean: Array | float = 0.0  # (T,) of the trunk, forward
    twist: Array | float = 0.0  # (T,) of the shoulders, to the left
    nod: Array | float = 0.0  # (T,) of the head, forward


@dataclass(frozen=True)
class Body:
    """A person: bone lengths in meters, and style of motion."""

    bones: dict[str, float]
    stoop: float  # lean of the trunk at rest
    vigor: float  # factor of the wrist motion
    tempo: float
    left_handed: bool

    @classmethod
    def draw(cls, rng: Generator) -> Body:
        """Draw a random person, of random height, limb lengths and tempo."""
        height = rng.uniform(0.9, 1.12)
        bones = {name: length * height * rng.uniform(0.94, 1.06) for name, length in BONES.items()}
        style = rng.normal(0, 0.05), rng.uniform(0.85, 1.1), rng.uniform(0.8, 1.25)
        return cls(bones, *style, left_handed=rng.random() < 0.25)

    def perform(self, pose: Pose, t: Array, rng: Generator) -> Array:
        """Return the joints (T, 25, 3) at phase `t` (T,).

        Smooth random motion is added to the pose. An idle hand hangs, rests on the hip or is held
        in front.
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
            wrist = idle if wrist is None else REST + self.vigor * (wrist - REST)
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
    """Return the mirror image of joints (..., 25, 3) in the axes of the person."""
    return joints[..., SKELETON.flip, :] * (-1, 1, 1)


def wander(t: Array, rng: Generator, *shape: int) -> Array:
    """Return (T, *shape) smooth random curves of unit variance."""
    frequency, phase = rng.uniform(0.3, 2.5, (4, *shape)), rng.uniform(0, 1, (4, *shape))
    angle = 2 * np.pi * (np.multiply.outer(t, frequency) + phase)  # (T, 4, *shape)
    return np.cos(angle).sum(axis=1) / np.sqrt(2)


def turned(lean: Array, twist: Array) -> Array:
    """Return (T, 3, 3): right, up and forward after leaning forward and twisting to the left."""
    sin, cos, up = np.sin(twist), np.cos(twist), np.array((0, 1, 0))
    right, ahead = np.stack((cos, 0 * sin, sin), -1), np.stack((-sin, 0 * sin, cos), -1)
    sin, cos = np.sin(lean)[:, None], np.cos(lean)[:, None]
    return np.stack((right, cos * up + sin * ahead, cos * ahead - sin * up), axis=1)


def unit(vectors: Array) -> Array:
    """Return the vectors (..., 3) with length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def across(vector: Array, direction: Array) -> Array:
    """Return the unit vector perpendicular to the unit `direction` that is closest to `vector`."""
    return unit(vector - (vector * direction).sum(-1, keepdims=True) * direction)


def bend(root: Array, goal: Array, upper: float, lower: float, pole: Array) -> tuple[Array, Array]:
    """Two-bone inverse kinematics; returns the middle joint, bent toward `pole`, and the end.

    Both are (T, 3). The end is in the direction of `goal`, as close to it as the bones allow.
    """
    span = np.linalg.norm(goal - root, axis=-1, keepdims=True)
    direction = (goal - root) / span
    span = span.clip(0.35 * (upper + lower), 0.998 * (upper + lower))  # limits of the joint
    along = (upper**2 - lower**2 + span**2) / (2 * span)  # the law of cosines
    middle = root + along * direction + np.sqrt(upper**2 - along**2) * across(pole, direction)
    return middle, root + span * direction
