"""JSON output of pose estimators: OpenPose's folders, AlphaPose, MediaPipe, st-gcn's clips.

OpenPose writes one file per frame, {people: [{person_id, pose_keypoints_2d: [x, y, score, ...]}]}
(in old versions pose_keypoints). AlphaPose writes a list of {image_id, keypoints: [x, y, score,
...], idx}, one per person and frame. person_id and idx are the tracked person. MediaPipe's
landmarks are a list of {x, y, z, visibility} per frame. st-gcn's clip is {data: [{frame_index,
skeleton: [{pose, score}]}]}.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from data.names import natural_order
from data.readers import LAST_FRAME, ClipFile, kinetics_skeleton
from data.readers.json_file import JsonFile, to_numbers
from data.tracks import to_clip
from errors import InputError

OPENPOSE_KEYS = ("pose_keypoints_2d", "pose_keypoints")
RELATIVE = (1, 1)  # image size for positions relative to the image (0 to 1)
UNTRACKED = (
    "several persons in a frame are not tracked, so they can change places between frames; assign "
    "each person a fixed index first"
)

Person = tuple[float | None, np.ndarray]  # the number of a tracked person, and its pose (V, 3)


def read_clip(file: JsonFile) -> ClipFile | None:
    """Return the clip in a file in one of these formats, None for other content.

    Positions are in pixels (AlphaPose) or shares of the image; NaN stays.
    """
    content = file.content
    if isinstance(content, dict) and isinstance(content.get("people"), list):
        file.fail("is a single OpenPose frame; give its folder to python -m data.convert")
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        joints, first = kinetics_skeleton.read_frames(file)
        frames = first + np.arange(len(joints))
        return ClipFile(joints, "openpose", RELATIVE, frames=frames)
    if not isinstance(content, list):
        return None
    if content and all(isinstance(entry, dict) and "keypoints" in entry for entry in content):
        return _alphapose(file)
    persons = [person for frame in content for person in _persons(frame)]
    if persons and all(isinstance(point, dict) for person in persons for point in person):
        doubt = UNTRACKED if any(len(_persons(frame)) > 1 for frame in content) else ""
        return ClipFile(_landmarks(file), image_size=RELATIVE, doubt=doubt)
    return None


def read_openpose(folder: Path, persons: int = 2) -> ClipFile:
    """Return the clip in OpenPose's folder of one numbered JSON file per frame.

    Of persons that are not tracked, it has the first `persons` of each frame; see `_recording`.
    Absent ones are zero; NaN stays. InputError names a file that has another form.
    """
    frames = {path.name: _people(JsonFile(path)) for path in sorted(folder.glob("*.json"))}
    clip, is_tracked = _recording(folder, frames, "person_id", "folder")
    if is_tracked:
        return clip
    absent = max(0, persons - clip.joints.shape[1])
    joints = np.pad(clip.joints[:, :persons], ((0, 0), (0, absent), (0, 0), (0, 0)))
    return replace(clip, joints=joints)


def _recording(
    source: Path, frames: dict[str, list[Person]], key: str, home: str
) -> tuple[ClipFile, bool]:
    """Return the clip of frames by name, sorted by number, and whether its persons are tracked.

    If all persons have a number (the `key` in the files), each keeps its index in all frames,
    sorted by total score. Else those of each frame are sorted by score. The doubt says which
    frames are missing. `home`: see `_frame_numbers`.
    """
    names = sorted(frames, key=natural_order)
    numbers = _frame_numbers(source, names, home)
    sizes = sorted({len(pose) for people in frames.values() for _, pose in people})
    if len(sizes) != 1:
        found = f"people with {' and '.join(map(str, sizes))} joints" if sizes else "no people"
        raise InputError(f"{source}: contains {found}")
    is_tracked = all(number is not None for people in frames.values() for number, _ in people)
    persons: list[dict[Any, np.ndarray]] = []
    for name in names:
        people = frames[name]
        if is_tracked:
            persons.append(dict(people))
        else:
            best_first = sorted(people, key=lambda found: -_score(found[1]))
            persons.append({place: pose for place, (_, pose) in enumerate(best_first)})
        if len(persons[-1]) < len(people):
            raise InputError(f"{source}: {name}: two persons have the same {key}")
    joints = to_clip(persons, _score)
    untracked = "" if is_tracked or joints.shape[1] < 2 else UNTRACKED
    doubt = "; ".join(filter(None, (_gaps(numbers), untracked)))
    is_numbered = len(numbers) == len(names) and max(numbers) <= LAST_FRAME
    clip = ClipFile(joints, doubt=doubt, frames=np.array(numbers) if is_numbered else None)
    return clip, is_tracked


def _gaps(numbers: Sequence[int]) -> str:
    """Return which of ascending numbers of frames are missing between them, '' if none."""
    steps = [later - number for number, later in pairwise(numbers)]
    if not steps or max(steps) == min(steps):
        return ""
    step = min(steps)
    gaps = [(a + step, b - step) for a, b in pairwise(numbers) if b - a > step]
    shown = ", ".join(str(a) if a >= b else f"{a} to {b}" for a, b in gaps[:5])
    more = f" and {len(gaps) - 5} other gaps" if len(gaps) > 5 else ""
    return (
        f"frames {shown}{more} are missing between {numbers[0]} and {numbers[-1]}; the clip "
        "consists of the others"
    )


def _frame_numbers(source: Path, names: Iterable[str], home: str) -> list[int]:
    """Return the numbers of frames, the last ones in their names, which may be below folders.

    InputError if names differ in more than that, or a number comes twice; `home` is what a
    recording should have of its own.
    """
    of_number: dict[int, str] = {}
    of_rest: dict[tuple[PurePosixPath, str], str] = {}
    for name in names:
        path = PurePosixPath(name)
        of_rest.setdefault((path.parent, re.sub(r"\d+(?=\D*$)", "", path.stem)), name)
        for number in re.findall(r"\d+", path.stem)[-1:]:
            if (other := of_number.setdefault(int(number), name)) != name:
                raise InputError(
                    f"{source}: frame {int(number)} is found twice, as {other} and {name}; use one "
                    f"{home} per recording"
                )
    if len(of_rest) > 1:
        first, second, *_ = of_rest.values()
        raise InputError(
            f"{source}: {first} and {second} differ in more than the number of the frame; give "
            f"every recording a {home} of its own"
        )
    return list(of_number)


def _people(file: JsonFile) -> list[Person]:
    """Return the persons in one OpenPose frame, without empty poses."""
    people: list[Person] = []
    for place, person in enumerate(file.get_list("people")):
        keys = [key for key in OPENPOSE_KEYS if isinstance(person, dict) and key in person]
        if not keys:
            file.fail(f"person {place} has no {OPENPOSE_KEYS[0]!r}")
        people += _person(file, f"person {place}", person.get("person_id"), person[keys[0]])
    return people


def _person(file: JsonFile, place: str, number: Any, keypoints: Any) -> list[Person]:
    """Return a person, none for an empty pose; a tracked one has a number, also written as [0.0],
    and not -1."""
    pose, said = to_numbers(keypoints), to_numbers(number)
    if pose is None or pose.ndim != 1 or len(pose) % 3:
        file.fail(f"{place}: the pose is not a list of x, y, score, x, y, score, ...")
    tracked = None
    if said is not None and said.size == 1 and 0 <= said.item() < np.inf:
        tracked = said.item()
    return [(tracked, pose.reshape(-1, 3))] if len(pose) else []


def _score(pose: np.ndarray) -> float:
    """Return the sum of the scores of a pose (V, 3); a joint that is NaN has none."""
    return float(np.nansum(pose[:, 2]))


def _alphapose(file: JsonFile) -> ClipFile:
    """Return frames sorted by image number; the file does not contain frames without persons."""
    poses: dict[str, list[Person]] = {}
    for row, entry in enumerate(file.content):
        if "image_id" not in entry:
            file.fail(f"element {row} has no 'image_id'")
        people = poses.setdefault(str(entry["image_id"]).replace("\\", "/"), [])
        people += _person(file, f"element {row}", entry.get("idx"), entry["keypoints"])
    clip, _ = _recording(file.path, poses, "idx", "file")
    return replace(clip, layout="coco" if clip.joints.shape[2] == 17 else None)


def _persons(frame: Any) -> list[list[Any]]:
    """Return the landmark lists of the persons in a MediaPipe frame (of one person, or several)."""
    if not isinstance(frame, list):
        return []
    has_several = all(isinstance(part, list) for part in frame)
    return [part for part in (frame if has_several else [frame]) if part]


def _landmarks(file: JsonFile) -> np.ndarray:
    """Return (T, M, U, 4): x, y, z, visibility; (T, M, U, 3) if a visibility is missing."""
    frames = [_persons(frame) for frame in file.content]
    points = [point for people in frames for person in people for point in person]
    keys = [key for key in ("x", "y", "z", "visibility") if all(key in point for point in points)]
    if keys[:3] != ["x", "y", "z"]:
        file.fail("a landmark has no x, y or z")
    most_people = max(map(len, frames))
    joints = np.zeros((len(frames), most_people, len(max(frames, key=len)[0]), len(keys)))
    for t, people in enumerate(frames):
        for place, person in enumerate(people):
            values = to_numbers([[point[key] for key in keys] for point in person])
            if values is None or values.shape != joints.shape[2:]:
                file.fail(f"frame {t}: expected {joints.shape[2]} landmarks of numbers")
            joints[t, place] = values
    return joints
