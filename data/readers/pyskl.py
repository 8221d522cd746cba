"""PYSKL's annotation pickles, 3D and 2D, and the compressed ones of Kinetics-400.

A pickle is `{split, annotations}`. An annotation has frame_dir, label, total_frames and keypoint
(M, T, V, C); 2D poses also keypoint_score (M, T, V) and img_shape (height, width). The compressed
form lists the persons of all frames, frame by frame: keypoint (n, V, 3) with the score as third
channel, frame_inds (n,) and box_score (n,); its keypoints may lie in files of their own (raw_file).
Source: Duan et al., PYSKL, arXiv 2205.09443.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from data import names, normalize, unpickle
from data.readers import Clip, Raw
from errors import InputError

MAX_BODIES = 2
CROWD = 10  # with more persons in a frame the best-scoring come first, in all frames
# (joints, coordinates) of a pose -> the layout; the compressed form is always of 2D poses
LAYOUTS = {(25, 3): "ntu_rgb_d", (20, 3): "nw_ucla", (17, 2): "coco", (18, 2): "openpose"}
NUM_JOINTS = {layout: joints for (joints, _), layout in LAYOUTS.items()}
NUM_KINETICS = 400
UNREADABLE = "unreadable"  # stands in an annotation for the keypoints, with the reason

Annotation = dict[str, Any]


@dataclass(frozen=True)
class Read:
    """How an annotation becomes a clip; what it is called with goes to the worker processes."""

    path: Path
    layout: str
    threshold: float  # of the box scores of the compressed form
    in_pixels: bool  # 2D positions stay as they are

    def __call__(self, item: tuple[Annotation, str | None]) -> Clip:
        """Return the clip of an annotation and its part of the split (None: NTU's names tell)."""
        annotation, part = item
        name = str(annotation["frame_dir"])
        try:
            joints = self._normalised(annotation)
            label = int(annotation["label"])
            expected, columns = (label, {"split": part}) if part is not None else names.parse(name)
            if label != expected:
                raise ValueError(f"label {label} is not {expected}, as the name says")
        except KeyError as error:
            raise InputError(f"{self.path}: {name}: has no {error}") from None
        except (TypeError, ValueError, IndexError) as error:
            raise InputError(f"{self.path}: {name}: {error}") from None
        return Clip(name, label, joints, columns)

    def _normalised(self, annotation: Annotation) -> np.ndarray:
        if UNREADABLE in annotation and "keypoint" not in annotation:
            raise ValueError(annotation[UNREADABLE])
        joints = _joints(annotation, self.threshold)
        is_image = "keypoint_score" in annotation or "frame_inds" in annotation
        layout = LAYOUTS.get((joints.shape[2], 2 if is_image else joints.shape[3]))
        if layout != self.layout:
            raise ValueError(f"joints {joints.shape} are not of layout {self.layout}")
        if not np.isfinite(joints).all():
            raise ValueError("a joint is NaN or infinite")
        if not is_image and joints.shape[1] > MAX_BODIES:
            raise ValueError(f"{joints.shape[1]} persons, but 3D poses are of one or two")
        joints = joints[:, :MAX_BODIES]
        if not joints.any():
            return joints[:0]
        if not is_image:
            return normalize.upright(joints)
        joints = joints.astype(np.float32)
        if self.in_pixels:
            return joints
        height, width = annotation["img_shape"]
        if height <= 0 or width <= 0:
            raise ValueError(f"img_shape is {height} by {width}")
        return normalize.to_image(joints, height, width)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="the annotation pickle")
    parser.add_argument("--kpfiles", type=Path, help="folder of Kinetics-400's keypoint files")
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="least box score in the compressed form (0.5)"
    )
    parser.add_argument(
        "--pixels", action="store_true", help="keep 2D poses in pixels, as released for Kinetics"
    )


def reader(args: argparse.Namespace) -> Raw:
    annotations, splits = _load(args.source)
    try:
        labels = [int(annotation["label"]) for annotation in annotations]
        frame_dirs = [str(annotation["frame_dir"]) for annotation in annotations]
        layout = "coco" if "frame_inds" in annotations[0] else _layout(annotations[0])
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise InputError(f"{args.source}: is no annotation pickle ({error!r})") from None
    is_ntu = all(map(names.NTU.fullmatch, frame_dirs))
    parts = {} if is_ntu else _parts(splits, args.source)
    is_image = layout in ("coco", "openpose")
    if is_image:
        normalisation = "pixels" if args.pixels else "image"
    else:
        normalisation = "upright"
    is_apart = any("keypoint" not in a and "raw_file" in a for a in annotations)
    items = _with_keypoints(annotations, args) if is_apart else _emptying(annotations)
    return Raw(
        items=((item, parts.get(str(item["frame_dir"]), "") if parts else None) for item in items),
        total=len(labels),
        read=Read(args.source, layout, args.threshold, args.pixels),
        layout=layout,
        class_names=_class_names(labels, is_ntu, layout),
        shape=(MAX_BODIES, NUM_JOINTS[layout], 3),
        meta={"normalisation": normalisation},
    )


def _load(path: Path) -> tuple[list[Annotation], dict[str, list[str]]]:
    content = unpickle.load(path)
    try:
        annotations = list(content["annotations"])
        splits = {key: [str(name) for name in part] for key, part in dict(content["split"]).items()}
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"{path}: is no annotation pickle ({error!r})") from None
    if not annotations or not all(isinstance(annotation, dict) for annotation in annotations):
        raise InputError(f"{path}: holds no annotations")
    return annotations, splits


def _layout(annotation: Annotation) -> str:
    shape = np.shape(annotation["keypoint"])[-2:]
    if shape not in LAYOUTS:
        raise ValueError(f"no known layout has (joints, coordinates) {shape}")
    return LAYOUTS[shape]


def _class_names(labels: list[int], is_ntu: bool, layout: str) -> list[str]:
    if is_ntu:
        return names.class_names("ntu120", 60 if max(labels) < 60 else 120)
    if layout == "coco" and max(labels) == NUM_KINETICS - 1:
        return names.class_names("kinetics400")
    return names.numbered(labels)


def _parts(splits: dict[str, list[str]], path: Path) -> dict[str, str]:
    """Return sample name -> 'train' or 'test' by the pickle's own split."""
    test = next((key for key in ("val", "test") if key in splits), None)
    if "train" not in splits or test is None:
        raise InputError(f"{path}: its split has {sorted(splits)}, not train and val")
    if both := sorted(set(splits["train"]) & set(splits[test])):
        raise InputError(f"{path}: split: {both[0]} is both in train and in {test} ({len(both)})")
    return dict.fromkeys(splits[test], "test") | dict.fromkeys(splits["train"], "train")


def _emptying(annotations: list[Annotation]) -> Iterator[Annotation]:
    """Yield the annotations and let go of each, so that memory falls as the store grows."""
    annotations.reverse()
    while annotations:
        yield annotations.pop()


def _with_keypoints(
    annotations: list[Annotation], args: argparse.Namespace
) -> Iterator[Annotation]:
    """Yield annotations whose keypoints lie in other files, of which one is in memory at a time.

    In place of keypoints that cannot be read there is the reason. InputError if a file is missing.
    """
    if args.kpfiles is None:
        raise InputError(
            f"{args.source}: holds no keypoints; give the folder of its keypoint files: --kpfiles"
        )

    def by_file(annotation: Annotation) -> str:
        return Path(str(annotation.get("raw_file", ""))).name

    wanted = {by_file(annotation) for annotation in annotations if "keypoint" not in annotation}
    absent = sorted(name for name in wanted if not (args.kpfiles / name).is_file())
    if absent:
        raise InputError(
            f"--kpfiles {args.kpfiles}: has no file {absent[0]!r} ({len(absent)} of the "
            f"{len(wanted)} that {args.source} names are missing)"
        )
    for name, members in groupby(sorted(annotations, key=by_file), by_file):
        keypoints, reason = _keypoints(args.kpfiles / name)
        for annotation in members:
            found = keypoints.pop(str(annotation["frame_dir"]), None)
            yield annotation | (found if isinstance(found, dict) else {UNREADABLE: reason})


def _keypoints(path: Path) -> tuple[dict[str, Any], str]:
    """Return what a file of keypoints holds, by frame_dir, and why a clip is not among it."""
    try:
        content = unpickle.load(path)
    except InputError as error:
        return {}, str(error)
    if not isinstance(content, dict):
        return {}, f"{path}: is no file of keypoints by frame_dir"
    return content, f"{path}: does not hold it"


def _joints(annotation: Annotation, threshold: float) -> np.ndarray:
    """Return the joints (T, M, V, C), a score as the last channel where there is one."""
    joints = np.asarray(annotation["keypoint"])
    if joints.dtype.kind != "f":
        raise ValueError(f"keypoint is of {joints.dtype}, not of floating-point numbers")
    if "frame_inds" in annotation:
        frames = np.asarray(annotation["frame_inds"])
        if joints.ndim != 3 or joints.shape[2] != 3 or frames.shape != joints.shape[:1]:
            raise ValueError(f"keypoint {joints.shape} and frame_inds {frames.shape} do not match")
        if threshold > 0:
            kept = np.asarray(annotation["box_score"]) >= threshold
            frames, joints = frames[kept], joints[kept]
        return decompress(frames, joints)
    if joints.ndim != 4:
        raise ValueError(f"keypoint is {joints.shape}, not (M, T, V, C)")
    if "keypoint_score" in annotation:
        score = np.asarray(annotation["keypoint_score"])[..., None]
        joints = np.concatenate([joints, score], axis=-1)
    return joints.swapaxes(0, 1)


def decompress(frames: np.ndarray, poses: np.ndarray, crowd: int = CROWD) -> np.ndarray:
    """Return joints (T, M, V, 3) of poses (n, V, 3) that are seen in `frames` (n,), ascending.

    Frames without a person are left out. The persons of a frame stay in their order; only if some
    frame has more than `crowd`, the best-scoring come first and no more than so many are kept.
    """
    if not len(frames):
        return np.zeros((0, 1, *poses.shape[1:]), poses.dtype)
    if (np.diff(frames.astype(np.int64)) < 0).any():
        raise ValueError("frame_inds do not ascend")
    _, first, frame, persons = np.unique(
        frames, return_index=True, return_inverse=True, return_counts=True
    )
    place = np.arange(len(frames)) - first[frame]
    if persons.max() > crowd:
        score = poses[..., 2].sum(axis=-1)
        best_first = np.lexsort([place, -score, frame])
        frame, poses = frame[best_first], poses[best_first]
    joints = np.zeros((len(first), persons.max(), *poses.shape[1:]), poses.dtype)
    joints[frame, place] = poses
    return joints[:, :crowd]
