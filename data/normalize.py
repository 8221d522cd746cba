"""Normalizations, applied once to every clip when a store is prepared.

All functions are pure and take joints (T, M, V, C): frames, persons, joints, channels. Unseen
joints are zero in all channels, before and after. `NORMALIZATIONS` maps the names in the meta.json
of stores and in checkpoints to functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.measure import (
    check_lost,
    check_pixels,
    check_scaled,
    check_unscaled,
    found,
    only_found,
    seen,
)
from errors import InputError
from graph import Skeleton

SPINE = (0, 1)  # NTU RGB+D's base and middle of the spine; this vector is rotated onto z
SHOULDERS = (8, 4)  # right and left shoulder; the vector from left to right is rotated onto x
EPSILON = 1e-6  # shorter vectors have no direction


@dataclass(frozen=True)
class Terms:
    """The parameters of a normalization."""

    center: int = 1  # joint at the origin
    image_size: tuple[float, float] | None = None  # height, width; None: positions in [-1, 1]
    persons: int = 2  # maximum number of persons in a frame
    where: str = "clip"  # name of the clip in an InputError


def upright(joints: np.ndarray) -> np.ndarray:
    """Center and align a 3D clip (T, M, V, 3); returns (T', M, V, 3).

    After `unaligned`, the spine of the first body in the first frame is rotated onto z, then its
    shoulders onto x, by the shortest rotations.

    This is PYSKL's PreNormalize3D (Duan et al., arXiv 2205.09443), used for the released weights: a
    float16 clip is centered, and its unit spine vector computed, in float16, the rest in float64.
    """
    joints = unaligned(joints)
    if not len(joints):
        return joints.astype(np.float32)
    first = joints[0, 0]
    turn = shortest_rotation(first[SPINE[1]] - first[SPINE[0]], axis=2)
    across = turn @ (first[SHOULDERS[0]].astype(np.float64) - first[SHOULDERS[1]])
    turn = shortest_rotation(across, axis=0) @ turn
    return (joints @ turn.T).astype(np.float32)


def unaligned(joints: np.ndarray) -> np.ndarray:
    """Center a 3D clip (T, M, V, 3); returns (T', M, V, 3) of its type.

    If another body has strictly more frames than the first, the one with the most is swapped with
    it; then frames without the first body are dropped. The origin is joint 1 (the last joint unless
    there are 25) of the first body in the first remaining frame. All-zero joints stay zero. T' = 0
    if there are no bodies. This is PreNormalize3D without alignment, used for DG-STGCN and
    ProtoGCN.
    """
    present = (np.abs(joints) > 1e-8).any(axis=(2, 3))  # (T, M)
    order = np.arange(joints.shape[1])
    main = present.sum(axis=0).argmax()  # the first of equals
    order[[0, main]] = main, 0
    joints, present = joints[:, order], present[:, order]
    joints = joints[present[:, 0]]
    if not len(joints):
        return joints
    center = joints[0, 0, upright_center(joints.shape[2])]
    return (joints - center) * seen(joints)[..., None]


def upright_center(num_joints: int) -> int:
    """Return the joint that `upright` and `unaligned` move to the origin."""
    return 1 if num_joints == 25 else num_joints - 1


def has_spine(skeleton: Skeleton) -> bool:
    """Return whether SPINE and SHOULDERS can be these joints: the spine is in the middle of the
    body, the shoulders are exchanged by its mirror image."""
    partner = dict(enumerate(skeleton.flip))
    right, left = SHOULDERS
    return all(partner.get(joint) == joint for joint in SPINE) and partner.get(right) == left


def shortest_rotation(vector: np.ndarray, axis: int) -> np.ndarray:
    """Return the (3, 3) float64 rotation by the smallest angle that rotates `vector` onto +axis.

    The identity if the vector is nearly zero or nearly (anti)parallel to the axis.
    """
    onto = np.eye(3)[axis]
    around = np.cross(vector, onto)
    if np.abs(vector).sum() < EPSILON or np.abs(around).sum() < EPSILON:
        return np.eye(3)
    cosine = np.clip(np.dot(vector / np.linalg.norm(vector), onto), -1, 1)
    x, y, z = around / np.linalg.norm(around)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    # Rodrigues: I + sin K + (1 - cos) K^2
    return np.eye(3) + np.sqrt(1 - cosine**2) * cross + (1 - cosine) * cross @ cross


def to_image(joints: np.ndarray, height: float, width: float) -> np.ndarray:
    """Scale pixel positions (T, M, V, 2 or 3) to [-1, 1] over the image; returns float32.

    A score in the third channel is unchanged; joints that were not found are zero in all channels.
    InputError if height or width is not positive and finite.
    """
    if not (0 < height < np.inf and 0 < width < np.inf):
        raise InputError(
            f"--image-size: must be height and width in pixels, not {height:g} {width:g}"
        )
    half = np.array([width / 2, height / 2], np.float32)
    scaled = np.concatenate([(joints[..., :2] - half) / half, joints[..., 2:]], axis=-1)
    return np.where(found(joints)[..., None], scaled, 0).astype(np.float32)


def in_image(
    joints: np.ndarray, image_size: tuple[float, float] | None, where: str = "clip",
    option: str = "--image-size",
) -> np.ndarray:  # fmt: skip
    """Return 2D poses scaled by `to_image`; without a size they must be in [-1, 1] already.

    InputError, which begins with `where`, if the units are wrong or no score is positive; `option`
    is the flag that gives the size.
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

    The image center becomes the origin, joints with score 0 become zero, and in each frame the
    persons with the largest total score are kept, best first (Yan et al., arXiv 1801.07455,
    section 4.1).
    """
    position = np.where(found(joints)[..., None], joints[..., :2] - 0.5, 0)
    joints = np.concatenate([position, joints[..., 2:]], axis=-1).astype(np.float32)
    best_first = np.argsort(-joints[..., 2].sum(axis=-1), axis=1, kind="stable")[:, :persons]
    return np.take_along_axis(joints, best_first[..., None, None], axis=1)


def nw_ucla(joints: np.ndarray) -> np.ndarray:
    """Subtract joint 1 of the first frame from a clip, as in NW-UCLA's published protocol.

    Unseen joints are shifted too. If joint 1 is unseen in the first frame, nothing is shifted.
    """
    return joints - joints[0, 0, 1]


def centered(joints: np.ndarray, center: int = 1) -> np.ndarray:
    """Subtract the position of joint `center` of the first body from all seen joints of a clip.

    The position is taken from the first frame in which the joint is seen. If it is never seen, the
    mean of the body's seen joints in its first frame is used. Unseen joints stay zero.
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
    """Apply `best_scored` to poses in pixels or in [-1, 1]."""
    poses = in_image(joints, terms.image_size, terms.where)
    shares = np.concatenate([(poses[..., :2] + 1) / 2, poses[..., 2:]], axis=-1)
    return best_scored(shares, terms.persons)


def _in_pixels(joints: np.ndarray, terms: Terms) -> np.ndarray:
    check_unscaled(joints, terms.where)
    return joints


# Name -> normalization of a raw clip: 3D in meters, 2D in pixels or [-1, 1].
NORMALIZATIONS: dict[str, Callable[[np.ndarray, Terms], np.ndarray]] = {
    "upright": lambda joints, terms: upright(joints),
    "unaligned": lambda joints, terms: unaligned(joints).astype(np.float32),
    "nw-ucla": lambda joints, terms: nw_ucla(joints),
    "centered": lambda joints, terms: centered(joints, terms.center),
    "image": lambda joints, terms: in_image(joints, terms.image_size, terms.where),
    "st-gcn": _best_scored_in_image,
    "pixels": _in_pixels,
    "none": lambda joints, terms: joints,
}
# `--normalize` of 3D clips as PYSKL has them -> the normalization.
OF_PYSKL = {"upright": "upright", "centered": "unaligned", "centred": "unaligned"}
# Normalizations that scale by the image size -> half of the image width and height afterwards.
HALF_WIDTHS = {"image": 1.0, "st-gcn": 0.5}
# The normalization of a layout's published data.
USUAL = {"ntu_rgb_d": "upright", "nw_ucla": "nw-ucla", "coco": "image", "openpose": "st-gcn"}
EARLIER_NAMES = {"centred": "centered"}


def apply(name: str, joints: np.ndarray, terms: Terms) -> np.ndarray:
    """Apply the normalization `name` to a clip (T, M, V, C); InputError for an unknown name."""
    if name not in NORMALIZATIONS:
        raise InputError(
            f"{terms.where}: normalization {name!r} is not one of {', '.join(NORMALIZATIONS)} "
            "(NORMALIZATIONS of data/normalize.py)"
        )
    if name not in HALF_WIDTHS and joints.shape[-1] == 3:  # 2D: in check_pixels
        check_lost(joints, terms.where)
    return NORMALIZATIONS[name](joints, terms)


def usual(skeleton: Skeleton, channels: int) -> str:
    """Return the default normalization of custom clips of a layout."""
    if skeleton.confidence or channels == 2:
        return "image"
    return "upright" if skeleton.name == "ntu_rgb_d" else "centered"


def origin(name: str | None, num_joints: int, center: int | None) -> int | None:
    """Return the joint of the first body that a normalization moves to the origin, or None."""
    joints: dict[str | None, int | None] = {
        "upright": upright_center(num_joints),
        "unaligned": upright_center(num_joints),
        "nw-ucla": 1,
        "centered": center,
    }
    return joints.get(name)


def canonical(name: str) -> str:
    """Return the current name of a normalization, which can be a name of an earlier version."""
    return EARLIER_NAMES.get(name, name)


def name_in(facts: Mapping[str, Any]) -> str | None:
    """Return the normalization in the facts of a meta.json or a checkpoint, or None.

    Earlier versions wrote it with the key `normalisation`.
    """
    name = facts.get("normalization") or facts.get("normalisation")
    return canonical(name) if name else None
