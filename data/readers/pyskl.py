"""PYSKL's annotation pickles (Duan et al., arXiv 2205.09443): `{split, annotations}`.

An annotation has frame_dir, label, total_frames and keypoint (M, T, V, C); 2D poses also
keypoint_score (M, T, V) and img_shape (height, width).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data import names, normalize, unpickle
from data.readers import Clip, Raw
from errors import InputError

MAX_BODIES = 2
# (joints, coordinates) of a keypoint -> the layout
LAYOUTS = {(25, 3): "ntu_rgb_d", (20, 3): "nw_ucla", (17, 2): "coco", (18, 2): "openpose"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="the annotation pickle")


def reader(args: argparse.Namespace) -> Raw:
    content = unpickle.load(args.source)
    try:
        annotations, splits = content["annotations"], content["split"]
        shape = np.shape(annotations[0]["keypoint"])[-2:]
        labels = [int(annotation["label"]) for annotation in annotations]
        frame_dirs = [str(annotation["frame_dir"]) for annotation in annotations]
        layout = LAYOUTS[shape]
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise InputError(
            f"{args.source}: is no annotation pickle of 3D or 2D poses ({error!r})"
        ) from None
    is_ntu = all(map(names.NTU.fullmatch, frame_dirs))
    parts = {} if is_ntu else _parts(splits, args.source)
    if is_ntu:
        class_names = names.class_names("ntu120", 60 if max(labels) < 60 else 120)
    else:
        class_names = names.numbered(labels)
    return Raw(
        items=_emptying(annotations, parts),
        total=len(labels),
        read=partial(read, path=args.source, layout=layout),
        layout=layout,
        class_names=class_names,
        shape=(MAX_BODIES, shape[0], 3),
        meta={"normalisation": "upright" if shape[1] == 3 else "image to [-1, 1]"},
    )


def read(item: tuple[dict[str, Any], str | None], path: Path, layout: str) -> Clip:
    """Return the clip of one annotation; InputError names the file and the sample."""
    annotation, part = item
    name = str(annotation["frame_dir"])
    try:
        joints = _joints(annotation)
        label = int(annotation["label"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: {name}: {error!r}") from None
    if LAYOUTS.get((joints.shape[2], joints.shape[3] - ("keypoint_score" in annotation))) != layout:
        raise InputError(f"{path}: {name}: joints {joints.shape} are not of layout {layout}")
    if joints.shape[1] > MAX_BODIES:
        raise InputError(f"{path}: {name}: {joints.shape[1]} persons; at most {MAX_BODIES} fit")
    if not np.isfinite(joints).all():
        raise InputError(f"{path}: {name}: a joint is NaN or infinite")
    if "keypoint_score" in annotation:
        joints = normalize.to_image(joints, *annotation["img_shape"])
    else:
        joints = normalize.upright(joints)
    columns = names.parse(name)[1] if part is None else {"split": part}
    return Clip(name, label, joints, columns)


def _joints(annotation: dict[str, Any]) -> np.ndarray:
    """Return the joints (T, M, V, C), a score as the last channel where there is one."""
    joints = np.asarray(annotation["keypoint"])
    if "keypoint_score" in annotation:
        score = np.asarray(annotation["keypoint_score"])[..., None]
        joints = np.concatenate([joints, score], axis=-1)
    if joints.ndim != 4 or joints.dtype.kind != "f":
        raise ValueError(f"keypoint is {joints.dtype} {joints.shape}, not (M, T, V, C) floats")
    return joints.swapaxes(0, 1)


def _parts(splits: dict[str, list[str]], path: Path) -> dict[str, str]:
    """Return sample name -> 'train' or 'test' by the pickle's own split."""
    test = next((key for key in ("val", "test") if key in splits), None)
    if "train" not in splits or test is None:
        raise InputError(f"{path}: its split has {sorted(splits)}, not train and val")
    return dict.fromkeys(splits[test], "test") | dict.fromkeys(splits["train"], "train")


def _emptying(
    annotations: list[dict[str, Any]], parts: dict[str, str]
) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Yield the annotations and let go of each, so that memory falls as the store grows."""
    annotations.reverse()
    while annotations:
        annotation = annotations.pop()
        yield annotation, parts.get(str(annotation["frame_dir"]), "") if parts else None
