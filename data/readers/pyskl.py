"""PYSKL's annotation pickles, 3D and 2D, and the compressed ones of Kinetics-400.

A pickle is `{split, annotations}`. An annotation has frame_dir, label, total_frames and keypoint
(M, T, V, C); 2D poses also have keypoint_score (M, T, V) and img_shape (height, width). The
compressed form lists the persons of all frames, frame by frame: keypoint (n, V, 3) with the score
as third channel, frame_inds (n,) and box_score (n,); its keypoints can be in other files
(raw_file). The split has train and val (or test), or there are several: train1, test1, train2, ...
The sample names of NTU determine its split. Source: Duan et al., PYSKL, arXiv 2205.09443.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import groupby
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

import graph
from data import measure, names, normalize, unpickle
from data.readers import Clip, Raw, image_size, splits
from data.readers.ntu import add_normalize
from errors import InputError

MAX_BODIES = 2
CROWD = 10  # if a frame has more persons, those of all frames are sorted by score
# (joints, coordinates) of a pose -> layout; the compressed form always has 2D poses
LAYOUTS = {(25, 3): "ntu_rgb_d", (20, 3): "nw_ucla", (17, 2): "coco", (18, 2): "openpose"}
IMAGE_LAYOUTS = ("coco", "openpose")
NUM_KINETICS = 400
FORM = "{'split': {'train': [frame_dir, ...], 'val': [...]}, 'annotations': [{...}, ...]}"
_PART = "|".join(sorted(splits.PARTS, key=len, reverse=True))  # the longest that matches
SPLIT_KEY = re.compile(rf"(?:(.+?)[_-]?)?({_PART})(?:[_-]?(.+))?", re.IGNORECASE)
UNREADABLE = "unreadable"  # stands in an annotation for the keypoints, with the reason

Annotation = dict[str, Any]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="annotation pickle")
    parser.add_argument("--kpfiles", type=Path, help="folder of Kinetics-400's keypoint files")
    parser.add_argument("--threshold", type=float,
        help="minimum box score in the compressed form (default: 0, which keeps all boxes, as in "
        "the released configurations; 0.5 removes clips, also from the test split)")  # fmt: skip
    parser.add_argument("--pixels", action="store_true",
        help="keep 2D poses in pixels, as in the released code for Kinetics")  # fmt: skip
    add_normalize(parser)
    splits.add_arguments(
        parser,
        "name of the split if there are several: 1 for train1 and test1; if the pickle has no "
        "split, draw a test split: fraction of the clips, e.g. 0.3",
    )


def reader(args: argparse.Namespace) -> Raw:
    annotations, split = _load(args.source)
    frame_dirs = [annotation["frame_dir"] for annotation in annotations]
    labels, class_names = names.classes(
        [annotation["label"] for annotation in annotations],
        lambda row: f"{args.source}: {frame_dirs[row]}",
    )
    for annotation, label in zip(annotations, labels):
        annotation["label"] = label
    layout = _layout(annotations, args.source)
    is_ntu = all(map(names.NTU.fullmatch, frame_dirs))
    is_compressed = any("frame_inds" in annotation for annotation in annotations)
    is_apart = any("keypoint" not in a and "raw_file" in a for a in annotations)
    is_image = layout in IMAGE_LAYOUTS
    for flag, is_used, why in (
        ("kpfiles", is_apart, "contains its keypoints"),
        ("threshold", is_compressed, "is not in the compressed form"),
        ("pixels", is_image, "contains 3D poses"),
        ("normalize", not is_image, "contains 2D poses"),
        ("split", not is_ntu, "has names of NTU RGB+D, which determine the split"),
        ("test_split", not is_ntu, "has names of NTU RGB+D, which determine the split"),
        ("seed", splits.share(args.split) is not None, "has a split, so none is drawn"),
    ):
        if not is_used and getattr(args, flag) not in (None, False):
            raise InputError(f"--{flag.replace('_', '-')}: {args.source} {why}")
    normalization = normalize.OF_PYSKL[args.normalize or "upright"]
    if is_image:
        normalization = "pixels" if args.pixels else "image"
    parts: Mapping[str, str | None]  # None: the name of the sample says it
    unmatched: list[str]
    if is_ntu:
        parts, unmatched = dict.fromkeys(frame_dirs), []
        class_names = names.class_names("ntu120", 60 if max(labels) < 60 else 120)
    else:
        parts, unmatched = _parts(split, frame_dirs, labels, args)
    if layout == "coco" and len(class_names) == NUM_KINETICS:
        class_names = names.class_names("kinetics400")
    items = _with_keypoints(annotations, args) if is_apart else _emptying(annotations)
    return Raw(
        items=((item, parts.get(item["frame_dir"], "")) for item in items),
        total=len(labels),
        read=partial(
            read,
            path=args.source,
            layout=layout,
            normalization=normalization,
            threshold=args.threshold or 0,
        ),
        layout=layout,
        class_names=class_names,
        shape=(MAX_BODIES, graph.load(layout).num_joints, 3),
        meta={"normalization": normalization},
        left_out={"unmatched": unmatched},
    )


def read(
    item: tuple[Annotation, str | None],
    path: Path,
    layout: str,
    normalization: str,
    threshold: float = 0,
) -> Clip:
    """Return the clip of an annotation and its part of the split (None: from NTU's name).

    `threshold` is the minimum box score in the compressed form.
    """
    annotation, part = item
    name, label = annotation["frame_dir"], annotation["label"]
    try:
        joints = _normalized(annotation, layout, normalization, threshold)
    except InputError as error:
        raise InputError(f"{path}: {name}: {error}") from None
    columns = {"split": part} if part is not None else names.columns_of(name, label, path)
    return Clip(name, label, joints, columns)


def _normalized(
    annotation: Annotation, layout: str, normalization: str, threshold: float
) -> np.ndarray:
    if UNREADABLE in annotation and "keypoint" not in annotation:
        raise InputError(annotation[UNREADABLE])
    is_image = layout in IMAGE_LAYOUTS
    joints = _joints(annotation, threshold, is_image)
    coordinates = joints.shape[3] - 1 if is_image else joints.shape[3]  # without the score
    if LAYOUTS.get((joints.shape[2], coordinates)) != layout:
        raise InputError(f"joints {joints.shape} are not of layout {layout}")
    if not np.isfinite(joints).all():
        raise InputError("a joint is NaN or infinite")
    if not is_image and joints.shape[1] > MAX_BODIES:
        raise InputError(f"{joints.shape[1]} persons, but 3D poses have one or two")
    joints = joints[:, :MAX_BODIES]
    if not joints.any():
        return joints[:0]
    if not is_image:
        return normalize.apply(normalization, joints, normalize.Terms())
    joints = joints.astype(np.float32)
    if normalization == "pixels":
        return joints
    if "img_shape" not in annotation:
        raise InputError("has no 'img_shape', (height, width) in pixels; add it or give --pixels")
    try:
        size = image_size(annotation["img_shape"], "img_shape")
    except InputError as error:
        raise InputError(f"{error}; correct it, or keep the positions with --pixels") from None
    return normalize.in_image(joints, size, "keypoint", "img_shape")


def _load(path: Path) -> tuple[list[Annotation], dict[str, list[str]]]:
    """Return the annotations, whose frame_dir is a str with slashes, and the split, which is empty
    for a plain list."""
    content = unpickle.load(path)
    if isinstance(content, dict) and "keypoint" in content and "annotations" not in content:
        raise InputError(
            f"{path}: is a single annotation ({content.get('frame_dir', 'without frame_dir')}); a "
            f"data set is {FORM}"
        )
    split: Any = {}
    annotations = content
    if isinstance(content, dict):
        annotations, split = content.get("annotations"), content.get("split")
    if not isinstance(annotations, list | tuple) or not isinstance(split, dict):
        raise InputError(f"{path}: is not an annotation pickle, {FORM}")
    if not all(isinstance(part, list | tuple | set | np.ndarray) for part in split.values()):
        raise InputError(f"{path}: split: the values are not lists of frame_dir, as in {FORM}")
    split = {
        str(key): [str(name).replace("\\", "/") for name in part] for key, part in split.items()
    }
    annotations = list(annotations)
    if not annotations or not all(isinstance(annotation, dict) for annotation in annotations):
        raise InputError(f"{path}: contains no annotations")
    for row, annotation in enumerate(annotations):
        if "frame_dir" not in annotation:
            raise InputError(f"{path}: annotation {row} has no 'frame_dir', the clip's name")
        annotation["frame_dir"] = str(annotation["frame_dir"]).replace("\\", "/")
        if "label" not in annotation:
            raise InputError(f"{path}: {annotation['frame_dir']}: has no 'label'")
    return annotations, split


def _layout(annotations: list[Annotation], path: Path) -> str:
    """Return the layout of the first annotation that has one."""
    if any("frame_inds" in annotation for annotation in annotations):
        return "coco"
    shapes = [getattr(annotation.get("keypoint"), "shape", ())[-2:] for annotation in annotations]
    for shape in shapes:
        if shape in LAYOUTS:
            return LAYOUTS[shape]
    raise InputError(
        f"{path}: {annotations[0]['frame_dir']}: the last two axes of 'keypoint' are {shapes[0]}; "
        f"(joints, coordinates) of known layouts: {', '.join(map(str, LAYOUTS))}"
    )


def _parts(
    split: dict[str, list[str]],
    frame_dirs: list[str],
    labels: list[int],
    args: argparse.Namespace,
) -> tuple[dict[str, str], list[str]]:
    """Return sample name -> 'train' or 'test', and the names in the split without a clip."""
    share = splits.share(args.split)
    if not split:
        if share is None:
            raise InputError(
                f"{args.source}: has no split; draw one, e.g. --split 0.3, or use the form {FORM}"
            )
        return dict(zip(frame_dirs, splits.drawn(args, labels))), []
    if share is not None:
        raise InputError(f"--split {args.split}: {args.source} already has a split")
    keys = _keys(split, args)
    tested = splits.test_part(keys, args.test_split, f"the split of {args.source}")
    chosen = {"train": split[keys["train"]], "test": split[keys[tested]]}
    if both := sorted(set(chosen["train"]) & set(chosen["test"])):
        raise InputError(
            f"{args.source}: split: {both[0]} is in both {keys['train']} and {keys[tested]} "
            f"({len(both)} such names)"
        )
    known = set(frame_dirs)
    for part, members in chosen.items():
        if not known.intersection(members):
            shown = repr(members[0]) if members else "nothing"
            raise InputError(
                f"{args.source}: split: none of the {len(members)} names in {part} is the frame_dir"
                f" of an annotation: {shown}, but annotations have {frame_dirs[0]!r}"
            )
    unmatched = [name for members in chosen.values() for name in members if name not in known]
    return {name: part for part, members in chosen.items() for name in members}, unmatched


def _keys(split: dict[str, list[str]], args: argparse.Namespace) -> dict[str, str]:
    """Return part ('train', 'val', 'test') -> key, of the only split or the one of --split."""
    keys: dict[str, dict[str, str]] = {}  # which split -> part -> key
    for key in split:
        if found := SPLIT_KEY.fullmatch(key):
            before, part, after = found.groups(default="")
            part = splits.PARTS[part.lower()]
            other = keys.setdefault(before + after, {}).setdefault(part, key)
            if other != key:
                raise InputError(f"{args.source}: split: both {other} and {key} are for {part}")
    whole = {which: parts for which, parts in keys.items() if "train" in parts and len(parts) > 1}
    which = args.split if args.split is not None else next(iter(whole), "")
    if args.split is None and len(whole) > 1:
        raise InputError(f"{args.source}: has several splits; give --split: {', '.join(whole)}")
    if which not in whole:
        chosen = f"--split {args.split}: " if args.split is not None else ""
        raise InputError(
            f"{chosen}{args.source}: the split has {', '.join(split) or 'no keys'}, not "
            f"train{which} and val{which} (or test{which})"
        )
    return whole[which]


def _emptying(annotations: list[Annotation]) -> Iterator[Annotation]:
    """Yield the annotations and release each, so that memory decreases."""
    annotations.reverse()
    while annotations:
        yield annotations.pop()


def _with_keypoints(
    annotations: list[Annotation], args: argparse.Namespace
) -> Iterator[Annotation]:
    """Yield annotations with keypoints from other files, one of which is in memory at a time.

    Keypoints that cannot be read are replaced by the reason. InputError if a file is missing.
    """
    if args.kpfiles is None:
        raise InputError(
            f"{args.source}: contains no keypoints; give the folder of keypoint files: --kpfiles"
        )

    def by_file(annotation: Annotation) -> str:
        return PureWindowsPath(str(annotation.get("raw_file", ""))).name  # either slash

    wanted = {by_file(annotation) for annotation in annotations if "keypoint" not in annotation}
    absent = sorted(name for name in wanted if not (args.kpfiles / name).is_file())
    if absent:
        raise InputError(
            f"--kpfiles {args.kpfiles}: has no file {absent[0]!r} ({len(absent)} of "
            f"{len(wanted)} files listed in {args.source} are missing)"
        )
    for name, members in groupby(sorted(annotations, key=by_file), by_file):
        keypoints, reason = _keypoints(args.kpfiles / name)
        for annotation in members:
            found = keypoints.pop(annotation["frame_dir"], None)
            yield annotation | (found if isinstance(found, dict) else {UNREADABLE: reason})


def _keypoints(path: Path) -> tuple[dict[str, Any], str]:
    """Return the keypoints in a file by frame_dir, and the reason if a clip is not among them."""
    try:
        content = unpickle.load(path)
    except InputError as error:
        return {}, str(error)
    if not isinstance(content, dict):
        return {}, f"{path}: is not a file of keypoints by frame_dir"
    return content, f"{path}: does not contain it"


def _array(annotation: Annotation, key: str) -> np.ndarray:
    if key not in annotation:
        raise InputError(f"has no {key!r}")
    try:
        array = np.asarray(annotation[key])
    except ValueError:  # nested lists of different lengths
        array = np.empty(0, object)
    if array.dtype.kind not in "fiu":
        raise InputError(f"{key} is not an array of numbers")
    return array


def _joints(annotation: Annotation, threshold: float, is_image: bool) -> np.ndarray:
    """Return the joints (T, M, V, C); the last channel of 2D poses is a score."""
    joints = _array(annotation, "keypoint")
    if joints.dtype.kind != "f":
        joints = joints.astype(np.float32)  # integer pixels
    if "frame_inds" in annotation:
        frames = _array(annotation, "frame_inds")
        if joints.ndim != 3 or joints.shape[2] != 3 or frames.shape != joints.shape[:1]:
            raise InputError(f"keypoint {joints.shape} and frame_inds {frames.shape} do not match")
        if threshold > 0:
            scores = _array(annotation, "box_score")
            if scores.shape != frames.shape:
                raise InputError(f"box_score {scores.shape} and frame_inds {frames.shape} differ")
            frames, joints = frames[scores >= threshold], joints[scores >= threshold]
        return decompress(frames, joints)
    if joints.ndim != 4:
        raise InputError(f"keypoint is {joints.shape}, not (M, T, V, C)")
    persons, frames = joints.shape[:2]
    if persons > max(frames, measure.MOST_PERSONS) or (
        persons == names.whole_number(annotation.get("total_frames")) != frames
    ):
        raise InputError(
            f"keypoint is {joints.shape}, {frames} frames of {persons} persons; persons come "
            "first: exchange the first two axes, (M, T, V, C)"
        )
    if is_image:
        if "keypoint_score" in annotation:
            score = _array(annotation, "keypoint_score")
        else:  # score 1 for joints that were seen
            score = joints.any(axis=-1).astype(joints.dtype)
        if score.shape != joints.shape[:3]:
            raise InputError(f"keypoint {joints.shape} and keypoint_score {score.shape} differ")
        joints = np.concatenate([joints, score[..., None]], axis=-1)
    return joints.swapaxes(0, 1)


def decompress(frames: np.ndarray, poses: np.ndarray, crowd: int = CROWD) -> np.ndarray:
    """Return joints (T, M, V, 3) from poses (n, V, 3) with their ascending `frames` (n,).

    Frames without a person are dropped. The persons of a frame keep their order, unless a frame has
    more than `crowd` persons: then those of all frames are sorted by score, and at most `crowd` are
    kept.
    """
    if not len(frames):
        return np.zeros((0, 1, *poses.shape[1:]), poses.dtype)
    if (np.diff(frames.astype(np.int64)) < 0).any():
        raise InputError("frame_inds are not ascending")
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
