"""Normalization: what is done once to every clip, so that no later step needs to.

All functions are pure and take joints (T, M, V, C): frames, persons, joints, channels. A joint that
was not seen is zero in all channels, before and after. `NORMALIZATIONS` has them by the name that a
store's meta.json, and each checkpoint trained on it, gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.measure import (
    check_pixels,
    check_scaled,
    check_unscaled,
    found,
    only_found,
    seen,
)
from errors import InputError
from graph import Skeleton

SPINE = (0, 1)  # NTU RGB+D's base and middle of the spine: this vector is turned onto z
SHOULDERS = (8, 4)  # right and left shoulder: from left to right is turned onto x
NOTHING = 1e-6  # vectors and angles below this have no direction


@dataclass(frozen=True)
class Terms:
    """What a normalization needs to know apart from the clip."""

    center: int = 1  # joint of the origin
    image_size: tuple[float, float] | None = None  # height, width; None: positions in [-1, 1]
    persons: int = 2  # the most persons of a frame
    where: str = "clip"  # what an InputError calls the clip


def upright(joints: np.ndarray) -> np.ndarray:
    """Center and straighten a 3D clip (T, M, V, 3) of at most two persons; returns (T', M, V, 3).

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
    center = joints[0, 0, upright_center(joints.shape[2])]
    joints = (joints - center) * seen(joints)[..., None]
    first = joints[0, 0]
    turn = shortest_rotation(first[SPINE[1]] - first[SPINE[0]], axis=2)
    across = turn @ (first[SHOULDERS[0]].astype(np.float64) - first[SHOULDERS[1]])
    turn = shortest_rotation(across, axis=0) @ turn
    return (joints @ turn.T).astype(np.float32)


def upright_center(num_joints: int) -> int:
    """Return the joint that `upright` takes for the origin."""
    return 1 if num_joints == 25 else num_joints - 1


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
    """Scale pixel positions (T, M, V, 2 or 3) to [-1, 1] over the image; returns float32.

    A score in the third channel stays as it is; a joint that was not found is zero in all channels.
    InputError if the size is not one.
    """
    if not (0 < height < np.inf and 0 < width < np.inf):
        raise InputError(f"--image-size: {height:g} {width:g}, but height and width are pixels")
    half = np.array([width / 2, height / 2], np.float32)
    scaled = np.concatenate([(joints[..., :2] - half) / half, joints[..., 2:]], axis=-1)
    return np.where(found(joints)[..., None], scaled, 0).astype(np.float32)


def in_image(
    joints: np.ndarray, image_size: tuple[float, float] | None, where: str = "clip",
    option: str = "--image-size",
) -> np.ndarray:  # fmt: skip
    """Return 2D poses in [-1, 1] as `to_image` does; without a size they are so already.

    InputError, which begins with `where`, if they are not, or are not pixels of such an image, or
    none of their scores is positive; `option` is what gives the size.
    """
    joints = only_found(joints, where)
    if image_size is None:
        check_scaled(joints, where)
        return joints.astype(np.float32)
    scaled = to_image(joints, *image_size)
    check_pixels(joints, *image_size, where, option)
    return scaled


def best_scored(joints: np.ndarray, persons: int = 2) -> np.ndarray:
    """Normalize OpenPose joints (T, M, V, 3), positions in [0, 1] and a score, as st-gcn does.

    The image's center becomes the origin, joints of score 0 are zero, and of each frame the persons
    with the largest total score are kept, best first (Yan et al., arXiv 1801.07455, section 4.1).
    """
    position = np.where(found(joints)[..., None], joints[..., :2] - 0.5, 0)
    joints = np.concatenate([position, joints[..., 2:]], axis=-1).astype(np.float32)
    best_first = np.argsort(-joints[..., 2].sum(axis=-1), axis=1, kind="stable")[:, :persons]
    return np.take_along_axis(joints, best_first[..., None, None], axis=1)


def nw_ucla(joints: np.ndarray) -> np.ndarray:
    """Subtract joint 1 of the first frame from a clip, as NW-UCLA's published protocol does.

    Unseen joints are shifted as well, and nothing is if joint 1 is unseen there.
    """
    return joints - joints[0, 0, 1]


def centered(joints: np.ndarray, center: int = 1) -> np.ndarray:
    """Subtract the place of joint `center` of the first body from all seen joints of a clip.

    The place is that of the first frame in which the joint is seen. If it never is, it is the mean
    of the body's joints in the first frame that has any. Unseen joints stay zero.
    """
    there = seen(joints)  # (T, M, V)
    if not there.any():
        return joints
    body = int(there.any(axis=(0, 2)).argmax())
    if there[:, body, center].any():
        origin = joints[there[:, body, center].argmax(), body, center]
    else:
        first = there[:, body].any(axis=-1).argmax()
        origin = joints[first, body, there[first, body]].mean(axis=0)
    return np.where(there[..., None], joints - origin, 0)


def _best_scored_in_image(joints: np.ndarray, terms: Terms) -> np.ndarray:
    """`best_scored` of poses in pixels or in [-1, 1]."""
    poses = in_image(joints, terms.image_size, terms.where)
    shares = np.concatenate([(poses[..., :2] + 1) / 2, poses[..., 2:]], axis=-1)
    return best_scored(shares, terms.persons)


def _in_pixels(joints: np.ndarray, terms: Terms) -> np.ndarray:
    check_unscaled(joints, terms.where)
    return joints


def _unchanged(joints: np.ndarray, terms: Terms) -> np.ndarray:
    return joints


# Name -> the normalization of a clip as recorded: 3D in meters, 2D in pixels or [-1, 1].
NORMALIZATIONS: dict[str, Callable[[np.ndarray, Terms], np.ndarray]] = {
    "upright": lambda joints, terms: upright(joints),
    "nw-ucla": lambda joints, terms: nw_ucla(joints),
    "centered": lambda joints, terms: centered(joints, terms.center),
    "image": lambda joints, terms: in_image(joints, terms.image_size, terms.where),
    "st-gcn": _best_scored_in_image,
    "pixels": _in_pixels,
    "none": _unchanged,
}
# Those that scale by the image's size, and half of its width and height afterwards.
HALF_WIDTHS = {"image": 1.0, "st-gcn": 0.5}
# The normalization of a layout's published data.
USUAL = {"ntu_rgb_d": "upright", "nw_ucla": "nw-ucla", "coco": "image", "openpose": "st-gcn"}
EARLIER_NAMES = {"centred": "centered"}


def apply(name: str, joints: np.ndarray, terms: Terms) -> np.ndarray:
    """Return a clip (T, M, V, C) normalized by name; InputError if there is no such name."""
    if name not in NORMALIZATIONS:
        raise InputError(
            f"{terms.where}: normalization {name!r} is not one of {', '.join(NORMALIZATIONS)} "
            "(NORMALIZATIONS of data/normalize.py)"
        )
    return NORMALIZATIONS[name](joints, terms)


def usual(skeleton: Skeleton, channels: int) -> str:
    """Return the normalization of one's own clips of a layout, unless another is asked for."""
    if skeleton.confidence or channels == 2:
        return "image"
    return "upright" if skeleton.name == "ntu_rgb_d" else "centered"


def origin(name: str | None, num_joints: int, center: int | None) -> int | None:
    """Return the joint of the first body that a normalization moves to the origin, or None."""
    joints = {"upright": upright_center(num_joints), "nw-ucla": 1, "centered": center}
    return joints.get(name)


def canonical(name: str) -> str:
    """Return the name in NORMALIZATIONS of what an earlier version may have called otherwise."""
    return EARLIER_NAMES.get(name, name)


def name_in(facts: Mapping[str, Any]) -> str | None:
    """Return the normalization that a meta.json or a checkpoint tells, or None.

    Earlier versions wrote the key `normalisation`.
    """
    name = facts.get("normalization") or facts.get("normalisation")
    return canonical(name) if name else None
