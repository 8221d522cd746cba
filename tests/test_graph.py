"""Layouts and adjacency matrices: compared with the released code; errors of invalid layouts."""

import numpy as np
import pytest
import yaml

import graph
from errors import InputError
from graph import adjacency

RELEASED = {"nturgb+d": "ntu_rgb_d", "nw_ucla": "nw_ucla", "coco": "coco", "openpose": "openpose"}
MODES = {
    "spatial": adjacency.spatial,
    "stgcn_spatial": adjacency.distance,
    "stgcn_spatial|max_hop2": lambda skeleton: adjacency.distance(skeleton, max_hop=2),
    "binary_adj": adjacency.binary,
    "hop_dis": lambda skeleton: adjacency.hops(adjacency.binary(skeleton)[0], 1),
    "msgcn13": lambda skeleton: adjacency.k_hop(skeleton, 13),
    "st_msgcn6_w3": lambda skeleton: adjacency.windowed(skeleton, 6, 3),
    "st_msgcn6_w5": lambda skeleton: adjacency.windowed(skeleton, 6, 5),
}


def test_matrices_equal_released_code(golden):
    with np.load(golden / "graphs.npz") as file:
        assert len(file.files) == 29
        for key in file.files:
            layout, mode = key.split("|", 1)
            matrix = MODES[mode](graph.load(RELEASED[layout]))
            np.testing.assert_allclose(matrix, file[key], rtol=0, atol=1e-7, err_msg=key)


@pytest.mark.parametrize("layout", graph.LAYOUTS)
def test_flip_and_parts_agree_with_joint_names(layout):
    """flip exchanges the joints named left and right, and the left and right parts."""
    skeleton = graph.load(layout)
    swapped = {"left": "right", "right": "left"}
    for joint, other in enumerate(skeleton.flip):
        words = skeleton.joints[joint].split()
        assert skeleton.joints[other].split() == [swapped.get(word, word) for word in words]
    left_arm, right_arm, left_leg, right_leg, torso = skeleton.parts
    assert {skeleton.flip[v] for v in left_arm} == set(right_arm)
    assert {skeleton.flip[v] for v in left_leg} == set(right_leg)
    assert {skeleton.flip[v] for v in torso} == set(torso)
    assert set(left_arm + right_arm) <= set(skeleton.upper)
    assert not set(left_leg + right_leg) & set(skeleton.upper)


def test_upper_body_equals_paper():
    assert graph.load("ntu_rgb_d").upper == (*range(1, 12), *range(20, 25))
    assert graph.load("nw_ucla").upper == tuple(range(1, 12))


def a_layout(**changes):
    table = {
        "edges": [[1, 0], [2, 0]],
        "parent": [0, 0, 0],
        "flip": [0, 2, 1],
        "upper": [1, 2],
        "center": 0,
    }
    return {key: value for key, value in {**table, **changes}.items() if value is not None}


def test_layout_file(tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(a_layout()))
    skeleton = graph.load(file)
    assert skeleton.num_joints == 3
    assert skeleton.name == "tiny"
    assert skeleton.parts == ()
    assert skeleton.center == 0
    assert adjacency.spatial(skeleton)[1:].tolist() == [
        [[0, 1, 1], [0, 0, 0], [0, 0, 0]],
        [[0, 0, 0], [0.5, 0, 0], [0.5, 0, 0]],
    ]


def test_earlier_key_centre_is_accepted(tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(a_layout(center=None, centre=2)))
    assert graph.load(file).center == 2
    file.write_text(yaml.safe_dump(a_layout(center=1, centre=2)))
    with pytest.raises(InputError, match="unknown key 'centre'"):
        graph.load(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edges": [[1, 0], [2, 3]]}, "edges has 3, but joints are numbered 0 to 2"),
        ({"edges": [[1, 0]]}, "joint 2"),
        ({"edges": [[1, 0], [0, 1], [2, 0]]}, "edge twice"),
        ({"edges": [[1, 1], [2, 0]]}, "self loop"),
        ({"edges": [[1, 0, 2]]}, "edges needs a list of 2"),
        ({"parent": [1, 0, 0]}, "one root"),
        ({"parent": [0, 2, 1]}, "cycle"),
        ({"flip": [1, 2, 0]}, "pairs"),
        ({"flip": [0, 2]}, "flip needs a list of 3"),
        ({"upper": [1, 1]}, "twice"),
        ({"center": "hip"}, "center has 'hip'"),
        ({"center": None}, "'center' is missing"),
        ({"parents": [0]}, "did you mean parent?"),
        ({"parts": {"left arm": [0]}}, "parts must have exactly"),
        ({"joints": ["head"]}, "name 3 joints"),
        ({"confidence": "no"}, "confidence must be true or false, not 'no'"),
    ],
)
def test_invalid_layout_is_one_line_error(tmp_path, changes, message):
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(a_layout(**changes)))
    with pytest.raises(InputError) as raised:
        graph.load(file)
    assert message in str(raised.value)
    assert str(file) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_unknown_layout_suggests_closest_name():
    with pytest.raises(InputError, match="did you mean ntu_rgb_d"):
        graph.load("ntu_rgbd")


def test_file_that_is_not_yaml(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("edges: [[1, 0\n")
    with pytest.raises(InputError, match="is not a YAML file"):
        graph.load(file)
    other = tmp_path / "own.txt"  # in a store it would be read as the name of a layout
    other.write_text(yaml.safe_dump(a_layout()))
    with pytest.raises(InputError, match="not a known layout or a YAML file"):
        graph.load(other)
