"""What is done once to every clip, so that no later step needs to: design of the field's recipes.

All functions are pure and take joints (T, M, V, C): frames, persons, joints, channels. A store's
meta.json, and each checkpoint trained on it, names what was done: `upright`, `nw-ucla`, `centred`
(on the joint `centre`), `image`, `st-gcn`, `pixels` (2D poses as they are) or `none`.
"""

from __future__ import annotations

import numpy as np

from errors import InputError

SPINE = (0, 1)  # NTU RGB+D's base and middle of the spine: this vector is turned onto z
SHOULDERS = (8, 4)  # right and left shoulder: from left to right is turned onto x
NOTHING = 1e-6  # vectors and angles below this have no direction


def normalise(joints: np.ndarray, how: str, centre: int = 1) -> np.ndarray:
    """Return a clip normalised by name; what needs more than the clip, or nothing, leaves it so."""
    if how == "upright":
        return upright(joints)
    if how == "nw-ucla":
        return centred(joints)
    if how == "centred":
        return np.where(joints.any(axis=-1, keepdims=True), centred(joints, centre), 0)
    return joints


def upright(joints: np.ndarray) -> np.ndarray:
    """Centre and straighten a 3D clip (T, M, V, 3) of at most two persons; returns (T', M, V, 3).

    Frames without the first body are dropped; if the second body has strictly more frames the two
    are exchanged. The origin is joint 1 (the last one where there are not 25) of the first body in
    the first frame kept; its spine is turned onto z, then its shoulders onto x, by the shortest
    rotations. All-zero joints stay zero. T' = 0 if nobody is there.

    This is PYSKL's PreNormalize3D (Duan et al., arXiv 2205.09443), which the released weights saw:
    a float16 clip is centred, and its unit spine taken, in float16; all that follows is float64.
    """
    present = (np.abs(joints) > 1e-8).any(axis=(2, 3))  # (T, M)
    frames = present.sum(axis=0)
    if joints.shape[1] == 2 and frames[1] > frames[0]:
        joints, present = joints[:, ::-1], present[:, ::-1]
    joints = joints[present[:, 0]]
    if not len(joints):
        return joints.astype(np.float32)
    centre = joints[0, 0, 1 if joints.shape[2] == 25 else -1]
    is_there = (joints[..., 0] != 0) | (joints[..., 1] != 0) | (joints[..., 2] != 0)
    joints = (joints - centre) * is_there[..., None]
    first = joints[0, 0]
    turn = shortest_rotation(first[SPINE[1]] - first[SPINE[0]], axis=2)
    across = turn @ (first[SHOULDERS[0]].astype(np.float64) - first[SHOULDERS[1]])
    turn = shortest_rotation(across, axis=0) @ turn
    return (joints @ turn.T).astype(np.float32)


def shortest_rotation(vector: np.ndarray, axis: int) -> np.ndarray:
    """Return the (3, 3) float64 rotation that turns `vector` onto +axis the short way.

    The identity if the vector is nearly zero or nearly parallel to the axis, in either sense.
    """
    onto = np.eye(3)[axis]
    around = np.cross(vector, onto)
    if np.abs(vector).sum() < NOTHING or np.abs(around).sum() < NOTHING:
        return np.eye(3)
    cosine = np.clip(np.dot(vector / np.linalg.norm(vector), onto), -1, 1)
    x, y, z = around / np.linalg.norm(around)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    # Rodrigues: I + sin K + (1 - cos) K^2
    return np.eye(3) + np.sqrt(1 - cosine**2) * cross + (1 - cosine) * cross @ cross


def to_image(joints: np.ndarray, height: float, width: float) -> np.ndarray:
    """Scale pixel positions (T, M, V, 2 or 3) to [-1, 1] over the image.

    A score in the third channel stays as it is, and an absent body (all zero) stays zero.
    InputError if the size is none.
    """
    if not (0 < height < np.inf and 0 < width < np.inf):
        raise InputError(f"--image-size: {height:g} {width:g}, but height and width are pixels")
    half = np.array([width / 2, height / 2], np.float32)
    is_there = joints.any(axis=(2, 3), keepdims=True)
    position = np.where(is_there, (joints[..., :2] - half) / half, 0)
    return np.concatenate([position, joints[..., 2:]], axis=-1).astype(np.float32)


def centred(joints: np.ndarray, joint: int = 1) -> np.ndarray:
    """Subtract one joint of the first body's first frame from a clip (NW-UCLA's protocol)."""
    return joints - joints[0, 0, joint]


def best_scored(joints: np.ndarray, persons: int = 2) -> np.ndarray:
    """Normalise OpenPose joints (T, M, V, 3), positions in [0, 1] and a score, as st-gcn does.

    The image's centre becomes the origin, joints of score 0 are zero, and of each frame the persons
    with the largest total score are kept, best first (Yan et al., arXiv 1801.07455, section 4.1).
    """
    position = np.where(joints[..., 2:] == 0, 0, joints[..., :2] - 0.5)
    joints = np.concatenate([position, joints[..., 2:]], axis=-1).astype(np.float32)
    best_first = np.argsort(-joints[..., 2].sum(axis=-1), axis=1, kind="stable")[:, :persons]
    return np.take_along_axis(joints, best_first[..., None, None], axis=1)
