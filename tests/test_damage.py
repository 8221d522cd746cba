"""Files with random damage give a valid clip, or a one-line error that names file and line."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.data import is_sound, skeleton_text, synthetic_joints
from data.readers import Clip, kinetics_skeleton, ntu, nw_ucla
from data.readers.archive import File
from errors import InputError

JOINTS = synthetic_joints(np.random.RandomState(1), 3, 2)
SKELETON = skeleton_text(JOINTS)
NW_UCLA = (
    '{"label": 2, "file_name": "a02_s01_e00_v01",\n"skeletons": [\n'
    + ",\n".join(str(frame[0, :20].round(3).tolist()) for frame in JOINTS)
    + "]}\n"
).encode()
POSE = f'{{"pose": {[0.25] * 36}, "score": {[0.5] * 18}}}'
KINETICS = (
    '{"label_index": 3, "data": [\n'
    + ",\n".join(f'{{"frame_index": {t}, "skeleton": [{POSE}, {POSE}]}}' for t in (1, 2))
    + "]}\n"
).encode()

BYTES = st.one_of(
    st.sampled_from([bytes([byte]) for byte in b'0123456789-.eE+naif \r\n\t[]{},:"\x00\xff']),
    st.sampled_from([b"NaN", b"Infinity", b"1e999", b"-", b"99999999999999999999", b"null"]),
    st.binary(max_size=6),
)
# (place, bytes removed there, bytes written there)
DAMAGES = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from([0, 0, 1, 1, 2, 9, 200, 10**6]), BYTES),
    min_size=1,
    max_size=3,
)
FORMATS: dict[str, tuple[bytes, Callable[[Path], Clip], tuple[int, ...], int]] = {
    "S001C001P001R001A002.skeleton": (
        SKELETON,
        lambda path: ntu.read(File(str(path))),
        (2, 25, 3),
        1,
    ),
    "a02_s01_e00_v01.json": (NW_UCLA, nw_ucla.read_json, (1, 20, 3), 1),
    "clip.json": (
        KINETICS,
        lambda path: kinetics_skeleton.read((path, "train", 3, False)),
        (2, 18, 3),
        3,
    ),
}


def damage(content: bytes, damages: list[tuple[float, int, bytes]]) -> bytes:
    for place, removed, written in damages:
        start = round(place * len(content))
        content = content[:start] + written + content[start + removed :]
    return content


@pytest.mark.parametrize("name", FORMATS)
@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(damages=DAMAGES)
def test_damaged_file_gives_valid_clip_or_one_line_error(name, tmp_path, damages) -> None:
    content, read, shape, label = FORMATS[name]
    path = tmp_path / name
    path.write_bytes(damage(content, damages))
    try:
        clip = read(path)
    except InputError as error:
        said = re.fullmatch(rf"{re.escape(str(path))}: (?:line (\d+): )?[^\n]+", str(error))
        assert said and (said[1] or path.suffix == ".json")
        assert 1 <= int(said[1] or 1) <= path.read_bytes().count(b"\n") + 1
    else:
        assert is_sound(clip, shape) and clip.joints.dtype == np.float32
        assert (clip.name, clip.label) == (path.stem, label)


@pytest.mark.parametrize("name", FORMATS)
def test_undamaged_file_is_read(name: str, tmp_path: Path) -> None:
    content, read, shape, label = FORMATS[name]
    (tmp_path / name).write_bytes(content)
    clip = read(tmp_path / name)
    assert clip.joints.shape[1:] == shape and len(clip.joints) in (2, 3) and clip.label == label
