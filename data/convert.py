"""Convert the output of a pose estimator to a layout of this project.

python -m data.convert --from mediapipe-33 --to coco poses.npy --out clip.npz
python -m data.convert --from body-25 --to openpose FOLDER --image-size 1080 1920 --out c.npz
python -m data.convert --from h36m-17 --to h36m lifted/ --out clips/    # each file of a folder
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

import flags
import graph
from data import clip_file, measure, normalize
from data.readers import ClipFile
from data.readers.pose_json import read_openpose
from errors import InputError, Parser, run_command
from files import check_output, check_outputs

# Joint names of the estimators; joints are matched with those of the layouts by name.
MEDIAPIPE_33 = (
    "nose", "left eye inner", "left eye", "left eye outer",
    "right eye inner", "right eye", "right eye outer", "left ear", "right ear",
    "mouth left", "mouth right", "left shoulder", "right shoulder", "left elbow", "right elbow",
    "left wrist", "right wrist", "left pinky", "right pinky", "left index", "right index",
    "left thumb", "right thumb", "left hip", "right hip", "left knee", "right knee",
    "left ankle", "right ankle", "left heel", "right heel", "left foot index", "right foot index",
)  # fmt: skip
BODY_25 = (
    "nose", "neck", "right shoulder", "right elbow", "right wrist",
    "left shoulder", "left elbow", "left wrist", "middle of hips",
    "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle",
    "right eye", "left eye", "right ear", "left ear",
    "left big toe", "left small toe", "left heel", "right big toe", "right small toe", "right heel",
)  # fmt: skip
FORMS = {
    "coco-17": graph.load("coco").joints,
    "openpose-18": graph.load("openpose").joints,
    "body-25": BODY_25,
    "mediapipe-33": MEDIAPIPE_33,
    "kinect-25": graph.load("ntu_rgb_d").joints,
    "kinect-20": graph.load("nw_ucla").joints,
    "h36m-17": graph.load("h36m").joints,
}
IN_METERS = ("kinect-25", "kinect-20", "h36m-17")  # and unchanged
# A joint that the estimator lacks -> the two joints between which it is placed.
BETWEEN = {"neck": ("left shoulder", "right shoulder")}
SCORE = 2  # the channel after x and y
# MediaPipe's x and y are relative to the image; then come z and visibility, or one of them.
MEDIAPIPE_CHANNELS = {2: (0, 1), 3: (0, 1), 4: (0, 1, 3), 5: (0, 1, 3)}


def sources(form: str, layout: str) -> np.ndarray:
    """Return (V, 2): for each joint of `layout`, the two joints of `form` that it is between.

    Both are the same joint if the estimator has it. InputError if a joint cannot be obtained.
    """
    names = FORMS[form]
    wanted = graph.load(layout).joints
    pairs = [(name, name) if name in names else BETWEEN.get(name, ()) for name in wanted]
    if any(not pair or not set(pair) <= set(names) for pair in pairs):
        raise InputError(f"--from {form}: lacks joints of --to {layout}")
    return np.array([[names.index(name) for name in pair] for pair in pairs])


def rearrange(joints: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return joints (..., V, 3) from joints (..., U, 3) and the pairs (V, 2) of `sources`.

    x and y are the mean of the pair; the third channel, a score, is the minimum.
    """
    first, second = joints[..., pairs[:, 0], :], joints[..., pairs[:, 1], :]
    score = np.minimum(first[..., 2:], second[..., 2:])
    return np.concatenate([(first[..., :2] + second[..., :2]) / 2, score], axis=-1)


def with_score(joints: np.ndarray, form: str) -> np.ndarray:
    """Return x, y and score (..., 3) of the estimator's channels; without scores they are 1."""
    channels = joints.shape[-1]
    if form == "mediapipe-33" and channels in MEDIAPIPE_CHANNELS:
        third = joints[..., 2:3]  # z, from between the hips, has both signs, or is 0 throughout
        is_visibility = channels == 3 and third.any() and third.min() >= 0 and third.max() <= 1
        joints = joints[..., (0, 1, 2) if is_visibility else MEDIAPIPE_CHANNELS[channels]]
    elif channels not in (2, 3):
        raise InputError(f"--from {form}: {channels} channels; expected x, y and a score")
    if joints.shape[-1] == 2:
        score = measure.found(joints)[..., None].astype(joints.dtype)
        joints = np.concatenate([joints, score], axis=-1)
    return joints


def convert(
    joints: np.ndarray,
    form: str,
    layout: str,
    image_size: tuple[float, float] | None = None,
    source: str = "",
) -> np.ndarray:
    """Convert an estimator's clip (T, [M,] U, C) to a layout, (T, M, V, 3) float32.

    3D forms (IN_METERS) are unchanged. Of the others, x and y are scaled from pixels of an image of
    `image_size` (height, width) to [-1, 1], with a score; joints with score 0 are unseen and become
    zero. MediaPipe's relative positions need no image size. InputError, which begins with `source`,
    if shape or units do not fit.
    """
    where = f"{source}: --from {form}" if source else f"--from {form}"
    joints = clip_file.as_clip(joints, where)
    if joints.shape[2] != len(FORMS[form]):
        raise InputError(f"{where}: has {len(FORMS[form])} joints, not {joints.shape[2]}")
    pairs = sources(form, layout)
    if form in IN_METERS:
        if joints.shape[-1] != 3:
            raise InputError(f"{where}: {joints.shape[-1]} channels; expected x, y and z")
        if image_size is not None:
            raise InputError(f"{where}: has 3D positions; --image-size does not apply")
        measure.check_lost(joints, where)
        size = measure.size(joints, measure.seen(joints))
        if doubt := measure.compare(size, measure.METERS, "people in meters"):
            raise InputError(f"{where}: {doubt}")
        return joints
    joints = measure.only_found(with_score(joints, form), where)
    if image_size is None and form == "mediapipe-33":
        image_size = (1, 1)
    if image_size is None:
        raise InputError(f"{where}: give --image-size HEIGHT WIDTH in pixels")
    return normalize.in_image(rearrange(joints, pairs), image_size, where)


def main(argv: list[str]) -> None:
    parser = Parser(prog="python -m data.convert", description=__doc__)
    add = parser.add_argument
    add("--from", dest="form", choices=FORMS, required=True, help="joints of the pose estimator")
    add("--to", choices=graph.LAYOUTS, required=True, help="layout to convert to")
    add(
        "file", type=Path,
        help="clip (.npy, .npz or .json), folder of clips, or OpenPose's folder of .json files",
    )  # fmt: skip
    add("--image-size", type=float, nargs=2, metavar=("HEIGHT", "WIDTH"),
        help="image size in pixels; 1 1 if positions are relative to the image")  # fmt: skip
    flags.add_nan(parser)
    add("--out", type=Path, required=True,
        help=".npz file to write, or the folder for a folder of clips")  # fmt: skip
    options = parser.parse_args(argv)
    size = tuple(options.image_size) if options.image_size else None
    is_single = not options.file.is_dir() or is_openpose(options.file)
    if is_single:
        if options.out.suffix != ".npz":
            raise InputError(f"--out {options.out}: must end in .npz")
        check_output("--out", options.out, options.file)
        targets = {options.file: options.out}
    else:
        targets = targets_of(options.file, options.out)
    failed = 0
    for source, target in targets.items():
        try:
            convert_file(source, target, options.form, options.to, size, options.nan)
        except InputError as error:
            if is_single:
                raise
            print(f"error: {error}", file=sys.stderr)
            failed += 1
    if failed:
        raise InputError(f"{failed} of {len(targets)} files could not be converted, see above")


def targets_of(folder: Path, out: Path) -> dict[Path, Path]:
    """Return the clip files in a folder, in natural order -> the files to write below `out`."""
    files = clip_file.clips_of(folder, str(folder))
    if out.suffix:
        raise InputError(f"--out {out}: must be a folder, as {folder} is one of clips")
    targets = {file: (out / file.relative_to(folder)).with_suffix(".npz") for file in files}
    check_outputs("--out", targets)
    return targets


def convert_file(
    source: Path, target: Path, form: str, layout: str, size: tuple[float, float] | None, nan: str
) -> None:
    """Convert a clip, or OpenPose's folder, and print what was written; `size` as in `convert`,
    None for that in the file, which it must not contradict."""
    if source.is_dir():
        clip = read_openpose(source)
        clip = replace(clip, joints=clip_file.as_clip(clip.joints, str(source), nan, SCORE))
    else:
        # MediaPipe has x, y, z, visibility.
        score = None if form in IN_METERS else 3 if form == "mediapipe-33" else SCORE
        clip = clip_file.read(source, nan, score)
        if clip.layout in graph.LAYOUTS and FORMS[form] != graph.load(clip.layout).joints:
            raise InputError(f"{source}: has layout {clip.layout}, not joints of --from {form}")
    if clip.doubt:
        print(f"{source}: {clip.doubt}", file=sys.stderr)
    joints = convert(clip.joints, form, layout, clip.image_size_or(size, source), str(source))
    clip_file.save(target, ClipFile(joints, layout, frames=clip.frames, fps=clip.fps))
    frames, persons, *_ = joints.shape
    print(f"{target}: {frames} frames, {persons} persons, layout {layout}")


def is_openpose(folder: Path) -> bool:
    """Return whether a folder directly contains OpenPose's files, one per frame."""
    first = next(iter(sorted(folder.glob("*.json"))), None)
    return first is not None and '"people"' in first.read_text(encoding="utf-8", errors="replace")


if __name__ == "__main__":
    sys.exit(run_command(main))
