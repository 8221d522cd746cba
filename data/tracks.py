"""Follow persons from frame to frame, for pose estimators that do not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

NEAR = 0.5  # a pose continues a track if its joints moved less than this share of the body's size
LEAST_SCORE = 0.3  # mean score below which a pose is no person
PATIENCE = 15  # frames for which a person may be hidden


class Tracks:
    """Poses of frame after frame, assigned to persons.

    Each pose continues the nearest track: distances are means over joints, relative to the diagonal
    of the body, and the smallest are assigned first. A pose that is near to none is a new person.
    """

    def __init__(self) -> None:
        self.frames: list[dict[int, np.ndarray]] = []  # person -> pose (V, 3), per frame
        self.last: dict[int, tuple[int, np.ndarray]] = {}  # person -> (frame, pose) last seen
        self.persons = 0
        self.time = 0  # frames added

    def add(self, poses: np.ndarray) -> dict[int, np.ndarray]:
        """Add the poses (P, V, 3) of the next frame, x, y in pixels and score; return {person:
        pose}."""
        now, self.time = self.time, self.time + 1
        self.last = {p: seen for p, seen in self.last.items() if now - seen[0] <= PATIENCE}
        poses = poses[poses[..., 2].mean(-1) >= LEAST_SCORE]
        near = sorted(
            (distance(pose, known), number, person)
            for number, pose in enumerate(poses)
            for person, (_, known) in self.last.items()
        )
        owner: dict[int, int] = {}  # pose -> person
        for far, number, person in near:
            if far < NEAR and number not in owner and person not in owner.values():
                owner[number] = person
        found = {}
        for number, pose in enumerate(poses):
            person = owner.get(number, self.persons)
            self.persons += number not in owner
            found[person], self.last[person] = pose, (now, pose)
        self.frames.append(found)
        return found


def distance(pose: np.ndarray, known: np.ndarray) -> float:
    """Return the mean distance of the joints of two poses (V, 3), relative to the body's size."""
    size = np.linalg.norm(np.ptp(known[:, :2], axis=0))
    return float(np.linalg.norm(pose[:, :2] - known[:, :2], axis=1).mean() / max(size, 1.0))


def to_clip(
    frames: Sequence[dict[Any, np.ndarray]], worth: Callable[[np.ndarray], float] = lambda pose: 1
) -> np.ndarray:
    """Return {person: pose (V, 3)} per frame as a clip (T, M, V, 3) float32.

    The persons come in the order of the total `worth` of their poses (default: their number of
    frames), the largest first; absent ones are zero. Without any person M is 0.
    """
    total: dict[Any, float] = defaultdict(float)
    for frame in frames:
        for person, pose in frame.items():
            total[person] += worth(pose)
    order = sorted(total, key=lambda person: (-total[person], person))
    joints = next((len(pose) for frame in frames for pose in frame.values()), 0)
    clip = np.zeros((len(frames), len(order), joints, 3), np.float32)
    for t, frame in enumerate(frames):
        for person, pose in frame.items():
            clip[t, order.index(person)] = pose
    return clip
