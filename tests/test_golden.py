"""The reduced set of golden vectors: equal to the whole one, small, and figures only."""

import numpy as np
import pytest
import torch

from tests import make_golden


def test_the_reduced_set_is_what_its_script_makes_of_the_whole_one(shared):
    """Its own networks' figures, which a rounding may change, but for that."""
    expected = make_golden.reduced(shared / "golden")
    found = make_golden.contents_of(make_golden.ARCHIVE)
    del expected["small_networks.npz"], found["small_networks.npz"]
    assert found == expected


def test_the_reduced_set_equals_the_whole_one(shared, reduced):
    """Array by array, read as the tests read them; float64 may be rounded to float32."""
    for file in reduced.rglob("*.npz"):
        name = file.relative_to(reduced)
        if name.name == "small_networks.npz":
            continue
        with np.load(file) as ours, np.load(shared / "golden" / name) as theirs:
            assert ours.files, name
            for key in ours.files:
                whole = theirs[key]
                rounded = whole.dtype == np.float64 and ours[key].dtype == np.float32
                assert rounded or ours[key].dtype == whole.dtype, key
                np.testing.assert_array_equal(ours[key], whole.astype(ours[key].dtype), key)


def test_the_reduced_set_is_small_and_contains_no_code(reduced):
    assert make_golden.ARCHIVE.stat().st_size < make_golden.LIMIT
    for file in filter(lambda path: path.is_file(), reduced.rglob("*")):
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                assert all(arrays[key].dtype.kind in "fiubU" for key in arrays.files)
        else:
            assert file.suffix == ".pth"
            torch.load(file, weights_only=True)


def test_packing_the_same_files_makes_the_same_archive(tmp_path):
    contents = {"b.npz": b"2", "a/c.npz": b"1"}
    make_golden.pack(contents, tmp_path / "one")
    make_golden.pack(dict(reversed(contents.items())), tmp_path / "other")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    make_golden.unpack(tmp_path / "out", tmp_path / "one")
    assert (tmp_path / "out/a/c.npz").read_bytes() == b"1"


@pytest.mark.parametrize("name", make_golden.NETWORKS)
def test_small_networks_compute_what_they_did_when_the_whole_set_vouched_for_them(reduced, name):
    vectors = reduced.load("small_networks.npz")
    for key, value in make_golden.network_vectors(name).items():
        np.testing.assert_allclose(value, vectors[f"{name}|{key}"], rtol=1e-8, atol=1e-10)
