"""Training lists: byte for byte as published, or reported as not published."""

import gzip
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from data import long_tail, protocols
from data.names import digest, parse, samples
from data.store import Store, StoreWriter
from errors import InputError, run_command
from tests import quick

ROOT = Path(__file__).resolve().parents[1]
# First 16 digits of the digest and number of samples, by benchmark and imbalance.
NTU120 = {
    ("ntu120-xsub", 10): ("3d1058b7817640a5", 28182),
    ("ntu120-xsub", 50): ("9eb339922064ab63", 18137),
    ("ntu120-xsub", 100): ("7978b035e9a24c2b", 15600),
    ("ntu120-xset", 10): ("4eac40d4b0403a8e", 18771),
    ("ntu120-xset", 50): ("06bc03b7b60cfff7", 12069),
    ("ntu120-xset", 100): ("cb849477aefd71aa", 10378),
}
NTU60 = {
    ("xsub", 10): ("4bc0779e83d192d0", 14142),
    ("xsub", 50): ("2cce99ef2be828a2", 9150),
    ("xsub", 100): ("992425d1b1f67414", 7892),
    ("xview", 10): ("7ac11c28379ee988", 14142),
    ("xview", 50): ("5507e59373288535", 9150),
    ("xview", 100): ("e4777be86c39a357", 7892),
}


@pytest.fixture(scope="module")
def ntu120(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("names") / "ntu120.txt"
    with gzip.open(shared / "reference/lists/ntu120_available.txt.gz") as file:
        path.write_bytes(file.read())
    return path


@pytest.mark.parametrize("benchmark, imbalance", quick.only([("ntu120-xset", 100)], NTU120))
def test_generated_ntu120_lists_equal_published(ntu120, tmp_path, benchmark, imbalance) -> None:
    out = tmp_path / "list.txt"
    argv = [benchmark, "--names", ntu120, "--imbalance", imbalance, "--out", out]
    assert run_command(long_tail.main, [*map(str, argv)]) == 0
    expected, number = NTU120[benchmark, imbalance]
    assert hashlib.sha256(out.read_bytes()).hexdigest().startswith(expected)
    names = out.read_text().split("\n")
    assert len(names) == number
    assert long_tail.PUBLISHED.get(digest(names)) == f"{benchmark} {imbalance}"
    assert long_tail.PUBLISHED.get(digest(names[::-1])) is None


@pytest.mark.parametrize("protocol, imbalance", NTU60)
def test_ntu60_lists_are_identified_as_published(shared: Path, protocol, imbalance) -> None:
    path = shared / f"reference/lists/NTU60_{protocol}_exp_{imbalance}.txt"
    names = path.read_text().split()
    expected, number = NTU60[protocol, imbalance]
    assert digest(names).startswith(expected) and len(names) == number
    assert long_tail.PUBLISHED.get(digest(names)) == f"ntu60-{protocol} {imbalance}"
    per_class = np.bincount([parse(name)[0] for name in names])
    np.testing.assert_array_equal(per_class, long_tail.counts(600, imbalance, 60))


@pytest.mark.parametrize("protocol, imbalance", NTU60)
def test_included_ntu60_lists_equal_published(tmp_path: Path, protocol, imbalance, capsys) -> None:
    out = tmp_path / "list.txt"
    argv = [f"ntu60/{protocol}", "--imbalance", str(imbalance), "--out", str(out)]
    assert run_command(long_tail.main, argv) == 0
    expected, number = NTU60[protocol, imbalance]
    assert hashlib.sha256(out.read_bytes()).hexdigest().startswith(expected)
    assert len(out.read_text().split("\n")) == number
    assert f"the published list of ntu60-{protocol} {imbalance}" in capsys.readouterr().out


def test_ntu60_lists_of_other_imbalances(tmp_path: Path, capsys) -> None:
    """A list of larger imbalance is a subset of the published one; below 10 there is none."""
    out = tmp_path / "list.txt"
    argv = ["ntu60/xsub", "--out", str(out), "--imbalance"]
    assert run_command(long_tail.main, [*argv, "20"]) == 0
    assert "not a published list" in capsys.readouterr().out
    names = out.read_text().split()
    labels = [parse(name)[0] for name in names]
    np.testing.assert_array_equal(np.bincount(labels), long_tail.counts(600, 20, 60))
    assert labels == sorted(labels)
    assert set(names) < set(long_tail.shipped("ntu60-xsub").names.tolist())
    out.unlink()
    for more, words in [
        (["5"], "--imbalance 10 or more"),
        (["100", "--own-order"], "--names"),
        (["100", "--fold", "1/4"], "--names"),
    ]:
        assert run_command(long_tail.main, [*argv, *more]) == 2
        assert words in capsys.readouterr().err and not out.exists()


@pytest.mark.slow
def test_own_order_draws_ntu60_list_in_name_order(ntu120: Path, tmp_path: Path, capsys) -> None:
    argv = ["ntu60/xsub", "--names", str(ntu120), "--out", str(tmp_path / "list.txt")]
    assert run_command(long_tail.main, argv) == 0
    assert "the published list of ntu60-xsub 100" in capsys.readouterr().out
    assert run_command(long_tail.main, [*argv, "--own-order"]) == 0
    assert "not a published list" in capsys.readouterr().out
    labels = [parse(name)[0] for name in (tmp_path / "list.txt").read_text().split()]
    np.testing.assert_array_equal(np.bincount(labels), long_tail.counts(600, 100, 60))


def test_nw_ucla_list_equals_official_order(shared: Path, tmp_path: Path) -> None:
    arrays = np.load(shared / "data/nw_ucla.npz")
    order = np.argsort(arrays["list_index"])
    (tmp_path / "official.txt").write_text("\n".join(arrays["names"][order]))
    official = samples(tmp_path / "official.txt")
    drawn = long_tail.make_list(official, "nw-ucla", 10)
    expected = (shared / "data/nw_ucla_lt_10.txt").read_text()
    assert "\n".join(arrays["names"][order][drawn.rows]) == expected
    assert (ROOT / "data/lists/nw-ucla_10.txt").read_text() == expected
    of_20 = long_tail.make_list(official, "nw-ucla", 20)
    official.columns.pop("list_index")  # as with JSON files: the included list is used
    for imbalance, list_drawn in ((10, drawn), (20, of_20)):
        shipped = long_tail.make_list(official, "nw-ucla", imbalance)
        assert shipped.rows.tolist() == list_drawn.rows.tolist()
    other = long_tail.make_list(official, "nw-ucla", 10, own_order=True)
    assert other.digest != drawn.digest and len(other.rows) == len(drawn.rows) == 403


def test_any_class_can_be_the_largest_of_a_shuffled_list(shared: Path, tmp_path: Path) -> None:
    """NW-UCLA's list begins with 100 samples, and its smallest class has fewer."""
    (tmp_path / "names.txt").write_text("\n".join(np.load(shared / "data/nw_ucla.npz")["names"]))
    official = samples(tmp_path / "names.txt")
    available = np.bincount(official.labels[protocols.split(official, "nw-ucla")[0]])
    assert available.min() == 96
    drawn = long_tail.make_list(official, "nw-ucla", 10, shuffle_classes=0)
    assert np.bincount(official.labels[drawn.rows]).max() == 96


def test_counts_of_both_profiles() -> None:
    assert long_tail.counts(100, 10, 10).tolist() == [100, 77, 59, 46, 35, 27, 21, 16, 12, 10]
    assert long_tail.counts(600, 100, 5, "step").tolist() == [600, 600, 6, 6, 6]
    assert long_tail.counts(50, 1, 3).tolist() == [50, 50, 50]
    for arguments in [
        (10, 0.5, 3),
        (10, np.nan, 3),
        (10, np.inf, 3),
        (10, 2, 3, "sqrt"),
        (10, 11, 3),  # the last class would keep int(10 / 11) = 0 samples
        (10, 11, 3, "step"),
        (0, 2, 3),
        (-5, 2, 3),
    ]:
        with pytest.raises(InputError):
            long_tail.counts(*arguments)


@pytest.fixture
def demo(tmp_path: Path) -> Store:
    """Three classes, two alternating subjects, 40 samples each, in shuffled rows."""
    names = [f"S001C001P{1 + i % 2:03d}R{i:03d}A{a:03d}" for a in (1, 2, 3) for i in range(80)]
    np.random.RandomState(0).shuffle(names)
    with StoreWriter(tmp_path / "demo", "ntu_rgb_d", ["a", "b", "c"], (1, 1, 3)) as writer:
        for name in names:
            label, columns = parse(name)
            writer.add(name, label, np.ones((1, 1, 1, 3)), **columns)
    return Store.open(tmp_path / "demo")


def test_every_benchmark_name_resolves_to_its_protocol() -> None:
    for folder in (ROOT / "config").glob("*/base.yaml"):
        protocol = yaml.safe_load(folder.read_text()).get("protocol", "given")  # inherits from k400
        assert protocols.get(folder.parent.name) is protocols.get(protocol)
    with pytest.raises(InputError, match="did you mean ntu120-xset"):
        protocols.get("ntu120/xst")


def test_training_rows_are_in_list_order(demo: Store, tmp_path: Path) -> None:
    train, test = protocols.split(demo, "demo-xsub")
    assert set(demo.columns["subject"][train]) == {1} and set(demo.columns["subject"][test]) == {2}
    assert demo.names[train].tolist() == sorted(demo.names[train])
    assert not np.intersect1d(train, test).size and len(train) + len(test) == len(demo)
    whole = long_tail.training_rows(demo, "demo-xsub", None, 100)
    assert whole.rows.tolist() == train.tolist() and whole.published is None

    template = str(tmp_path / "demo-xsub_{imbalance}.txt")
    with pytest.raises(InputError, match=r"data\.long_tail demo-xsub --names .*demo --imbalance 4"):
        long_tail.training_rows(demo, "demo-xsub", template, 4)
    argv = ["demo-xsub", "--names", demo.path, "--imbalance", 4, "--out", template]
    argv = [str(arg).replace("{imbalance}", "4") for arg in argv]
    assert run_command(long_tail.main, argv) == 0
    drawn = long_tail.training_rows(demo, "demo-xsub", template, 4.0)
    names = (tmp_path / "demo-xsub_4.txt").read_text().split()
    assert demo.names[drawn.rows].tolist() == names and drawn.digest == digest(names)
    assert np.bincount(demo.labels[drawn.rows]).tolist() == [40, 20, 10]

    path = tmp_path / "leak.txt"
    for content, words in [
        (f"{names[0]}\n{demo.names[test[0]]}", "is not a training sample"),
        (f"{names[0]}\n{names[0]}", "twice"),
        (f"{names[0]}\nS009C001P001R001A001", "1 of 2 names are not in"),
        ("", "no names"),
    ]:
        path.write_text(content)
        with pytest.raises(InputError, match=f"^{path}: .*{words}"):
            long_tail.training_rows(demo, "demo-xsub", str(path), 4)


def test_names_with_spaces(tmp_path: Path) -> None:
    path, out = tmp_path / "my store", tmp_path / "my list.txt"
    with StoreWriter(path, "ntu_rgb_d", ["bow", "wave"], (1, 25, 3)) as store:
        for take in range(12):
            part = "train" if take < 8 else "test"
            store.add(f"line 1/take {take}", take % 2, np.ones((4, 1, 25, 3)), split=part)
    argv = ["given", "--names", str(path), "--imbalance", "2", "--out", str(out)]
    assert run_command(long_tail.main, argv) == 0
    with pytest.raises(InputError, match=r"--names '[^']*my store' --imbalance 2 --out 'no list'"):
        long_tail.training_rows(Store.open(path), "given", "no list", 2)
    windows_file = tmp_path / "windows.txt"
    windows_file.write_bytes(b"\xef\xbb\xbf" + out.read_bytes().replace(b"\n", b"\r\n"))
    for file in (out, windows_file):
        drawn = long_tail.training_rows(Store.open(path), "given", str(file), 2)
        names = Store.open(path).names[drawn.rows]
        assert names.tolist() == out.read_text().splitlines() and len(names) == 6


def test_largest_class_defaults_to_smallest_available(tmp_path: Path) -> None:
    """Without n_max the largest class gets the training count of the smallest class."""
    names = [
        f"S001C001P{subject:03d}R{i:03d}A{action:03d}"
        for action, available in ((1, 6), (2, 5), (3, 4))
        for subject, number in ((1, available), (2, 9))
        for i in range(number)
    ]
    (tmp_path / "names.txt").write_text("\n".join(names))
    drawn = long_tail.make_list(samples(tmp_path / "names.txt"), "demo-xsub", 2)
    labels = [parse(names[row])[0] for row in drawn.rows]
    assert np.bincount(labels).tolist() == [4, 2, 2]  # 4, 4 / sqrt 2, 4 / 2


def test_invalid_arguments_are_one_line_errors(demo: Store, tmp_path: Path, capsys) -> None:
    out = ["--out", str(tmp_path / "list.txt")]
    for argv, words in [
        (["ntu120-xsubb", "--names", str(demo.path)], "did you mean ntu120-xsub?"),
        (["nw-ucla", "--names", str(tmp_path / "no.txt")], "no.txt"),
        (["given", "--names", str(demo.path)], "'split'"),
        (["demo-xsub", "--names", str(demo.path), "--n-max", "41"], "--n-max"),
        (["demo-xsub", "--names", str(demo.path), "--n-max", "0"], "raise --n-max"),
        (
            ["demo-xsub", "--names", str(demo.path), "--imbalance", "nan"],
            "smallest class), not nan",
        ),
        (["demo-xsub", "--names", str(demo.path), "--imbalanc", "4"], "did you mean --imbalance?"),
        (["demo-xsub", "--names", str(demo.path), "--profile", "stp"], "'stp'"),
        (["demo-xsub", "--names", str(demo.path), "--shuffle-classes", "-1"], "--shuffle-classes"),
        (
            ["demo-xsub", "--names", str(demo.path), "--fold", "1/3"],
            "from 2 to 2, the number of subjects",
        ),
        (["demo-xsub", "--names", str(demo.path), "--fold", "3/2"], "3/2"),
        (["demo-xsub", "--names", str(demo.path), "--fold", "0.5"], "0.5"),
    ]:
        assert run_command(long_tail.main, [*argv, *out]) == 2
        err = capsys.readouterr().err
        assert words in err and err.count("\n") == 1
    assert run_command(long_tail.main, ["utd-mhad", *out]) == 2
    assert "--names" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"a07_s01_e00_v01"):
        parse("a07_s01_e00_v01")


def test_ntu_split_sizes_equal_published(ntu120: Path) -> None:
    everything = samples(ntu120)
    for protocol, sizes in {
        "ntu60-xsub": (40091, 16487),
        "ntu60-xview": (37646, 18932),
        "ntu120-xsub": (63026, 50919),
        "ntu120-xset": (54468, 59477),
    }.items():
        assert tuple(map(len, protocols.split(everything, protocol))) == sizes


def test_module_runs_as_a_command() -> None:
    command = [sys.executable, "-m", "data.long_tail", "--help"]
    assert b"--own-order" in subprocess.run(command, cwd=ROOT, capture_output=True).stdout


def own_data(path: Path, per_class: dict[str, int], **left_out: list[str]) -> Store:
    """A store with a given split: `per_class` training clips, and two test clips per class."""
    classes = sorted(per_class)
    with StoreWriter(path, "nw_ucla", classes, (1, 20, 3), left_out=left_out) as writer:
        for label, name in enumerate(classes):
            for i in range(per_class[name] + 2):
                split = "train" if i < per_class[name] else "test"
                joints = np.ones((2, 1, 20, 3))
                writer.add(f"{name} {i}", label, joints, split=split, subject=i % 4)
    return Store.open(path)


@pytest.mark.parametrize(
    ("available", "imbalance", "expected", "words"),
    [
        # The larger class is the head: 18 and int(18 / 3).
        ({"bow": 6, "wave": 18}, 3, {"bow": 6, "wave": 18}, "imbalance 3)"),
        # int(18 / 10) = 1: the resulting imbalance is printed.
        ({"bow": 6, "wave": 18}, 10, {"bow": 1, "wave": 18}, "imbalance 18, 10 requested)"),
        ({"bow": 6, "wave": 18}, 100, {"bow": 1, "wave": 18}, "imbalance 18, 100 requested)"),
        # By rank 18, 11 = int(18 / 4 ** (1 / 3)), 7, 4; d and c have fewer.
        ({"a": 12, "b": 18, "c": 3, "d": 6}, 4, {"a": 11, "b": 18, "c": 3, "d": 6}, "imbalance 6,"),
        # Classes with equal counts are ordered by label.
        ({"a": 5, "b": 8, "c": 8}, 4, {"a": 2, "b": 8, "c": 4}, "imbalance 4)"),
        ({"a": 8, "b": 0, "c": 4}, 2, {"a": 8, "b": 0, "c": 4}, "2 classes (8 to 4: imbalance 2)"),
    ],
)
def test_natural_classes_are_ranked_by_count(
    available, imbalance, expected, words, tmp_path: Path, capsys
) -> None:
    store = own_data(tmp_path / "own", available)
    out = tmp_path / "list.txt"
    argv = ["given", "--names", store.path, "--imbalance", imbalance, "--out", out]
    assert run_command(long_tail.main, [*map(str, argv)]) == 0
    assert words in capsys.readouterr().out
    names = out.read_text().splitlines()
    assert {c: sum(name.startswith(c) for name in names) for c in available} == expected


def test_list_with_names_missing_in_the_store(tmp_path: Path) -> None:
    store = own_data(
        tmp_path / "own", {"bow": 3, "wave": 3}, nobody=["bow 8"], missing=["bow 9"],
        unreadable=["raw/wave 7.npy: frame 3 has a joint that is NaN or infinite",
                    "raw/arrays: wave 9: frame 5 is too large"],
    )  # fmt: skip
    path = tmp_path / "list.txt"
    for names, words in [
        (
            ["bow 1", "bow 8", "jump 1"],
            "2 of 3 names .* lists 1 of them; the first is 'bow 8': it has no body",
        ),
        (["wave 7", "wave 1"], "1 of 2 names .* 'wave 7': unreadable, raw/wave 7.npy: frame 3 .*"),
        (["wave 9", "wave 1"], "1 of 2 names .* 'wave 9': unreadable, raw/arrays: wave 9: frame 5"),
        (["bow 9"], "'bow 9' is not in .*own: excluded by --missing"),
        (
            ["wave", "bow 0", "bow 8"],
            "2 of 3 .*left_out .* lists 1 of them.* 'wave': not among the prepared samples",
        ),
    ]:
        path.write_text("\n".join(names))
        with pytest.raises(InputError, match=f"^{path}: {words}") as raised:
            long_tail.training_rows(store, "given", str(path), 1)
        assert "did you mean" not in str(raised.value)


@pytest.mark.parametrize(
    ("subjects", "words"),
    [
        (["1", "01", "2"], "clip 1: subject '01' may be the subject '1' of other samples"),
        (["Ann", "Bo", "ann"], "clip 2: subject 'ann' may be the subject 'Ann' of other samples"),
        (["1", "", "2"], "clip 1: its subject is empty"),
    ],
)
def test_a_person_of_two_spellings_is_not_divided(tmp_path: Path, subjects, words) -> None:
    with StoreWriter(tmp_path / "store", "nw_ucla", ["a"], (1, 20, 3)) as writer:
        for row, subject in enumerate(subjects):
            writer.add(f"clip {row}", 0, np.ones((2, 1, 20, 3)), subject=subject, split="train")
    store = Store.open(tmp_path / "store")
    with pytest.raises(InputError, match=f"fold 1/2: {words}"):
        protocols.split(store, "given", "1/2")
    with pytest.raises(InputError, match=f"val_by: subject: {words}"):
        protocols.persons(store, "val_by: subject")


def small_set(path: Path, persons: int = 7, takes: int = 3) -> Store:
    with StoreWriter(path, "nw_ucla", [*"abcde"], (1, 20, 3)) as writer:
        for person in range(1, persons + 1):
            for label in range(5):
                for take in range(takes):
                    name = f"a{label}_s{person}_t{take}"
                    writer.add(name, label, np.ones((2, 1, 20, 3)), subject=person)
    return Store.open(path)


@pytest.mark.parametrize("folds", [2, 3, 7])
def test_folds_share_no_subject(tmp_path: Path, folds: int) -> None:
    store = small_set(tmp_path / "store")
    subjects = store.columns["subject"]
    tested = []
    for k in range(1, folds + 1):
        train, test = protocols.split(store, "utkinect", f"{k}/{folds}")
        assert not set(subjects[train]) & set(subjects[test])
        assert len(train) + len(test) == len(store)
        drawn = long_tail.make_list(store, "demo-xsub", 3, fold=f"{k}/{folds}")
        assert not set(subjects[drawn.rows]) & set(subjects[test])
        tested += np.unique(subjects[test]).tolist()
    assert sorted(tested) == [1, 2, 3, 4, 5, 6, 7]  # each subject once


def test_folds_exclude_samples_outside_the_split(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "own", "nw_ucla", ["a"], (1, 20, 3)) as writer:
        for i, part in enumerate(["train", "test", "", "train", "test", ""]):
            writer.add(f"clip {i}", 0, np.ones((2, 1, 20, 3)), split=part, subject=f"p{i % 3}")
    train, test = protocols.split(Store.open(tmp_path / "own"), "given", "1/2")
    assert test.tolist() == [0, 3] and train.tolist() == [1, 4]
    with pytest.raises(InputError, match="no 'subject', which fold 1/2 needs"):
        protocols.split(samples_without_subject(tmp_path), "given", "1/2")


def samples_without_subject(tmp_path: Path) -> Store:
    with StoreWriter(tmp_path / "none", "nw_ucla", ["a"], (1, 20, 3)) as writer:
        writer.add("clip", 0, np.ones((2, 1, 20, 3)), split="train")
    return Store.open(tmp_path / "none")


def test_shuffled_classes(tmp_path: Path) -> None:
    """The seed determines the rare classes and the samples; the sizes follow the profile."""
    store = small_set(tmp_path / "store")
    lists = [
        long_tail.make_list(store, "demo-xsub", 6, shuffle_classes=seed) for seed in (0, 0, 1, 2, 3)
    ]
    assert lists[0].digest == lists[1].digest
    assert len({drawn.digest for drawn in lists}) == 4
    sizes = [tuple(np.bincount(store.labels[drawn.rows])) for drawn in lists]
    assert len(set(sizes)) > 2
    # 4 odd persons with 3 takes of each class: 12, 12 / 6^(1/4) = 7.7, ...
    assert {tuple(sorted(size)) for size in sizes} == {(2, 3, 4, 7, 12)}
    in_order = long_tail.make_list(store, "demo-xsub", 6)
    assert np.bincount(store.labels[in_order.rows]).tolist() == [12, 7, 4, 3, 2]
    other = long_tail.make_list(store, "demo-xsub", 1.5, shuffle_classes=5)
    same_size = long_tail.make_list(store, "demo-xsub", 1.5, shuffle_classes=6)
    a, b = (set(drawn.rows[store.labels[drawn.rows] == 0].tolist()) for drawn in (other, same_size))
    assert a - b and b - a  # other samples too


def test_each_class_of_a_small_set_keeps_a_sample(tmp_path: Path) -> None:
    """int(9 / 10) = 0, but each class keeps at least one sample."""
    assert long_tail.class_sizes(np.array([15, 9, 12]), 10).tolist() == [9, 2, 1]
    with pytest.raises(InputError, match="raise --n-max"):
        long_tail.class_sizes(np.array([15, 9, 12]), 10, n_max=9)
    order = np.array([2, 0, 1])
    assert long_tail.class_sizes(np.array([15, 9, 12]), 10, order=order).tolist() == [2, 1, 9]


def test_missing_list_is_generated_only_with_make(tmp_path: Path, monkeypatch) -> None:
    store = small_set(tmp_path / "store")
    template = str(tmp_path / "lists" / "set_{imbalance}_by{seed}.txt")

    def rows(**options) -> long_tail.TrainingList:
        return long_tail.training_rows(store, "demo-xsub", template, 6, **options)

    path = tmp_path / "lists" / "set_6_by4-fold2of3.txt"
    with pytest.raises(InputError, match=rf"{path} is .* --fold 2/3 --shuffle-classes 4"):
        rows(fold="2/3", seed=4)
    made = rows(fold="2/3", seed=4, make=True)
    expected = long_tail.make_list(store, "demo-xsub", 6, fold="2/3", shuffle_classes=4)
    assert made.rows.tolist() == expected.rows.tolist()
    assert path.read_text().split() == store.names[made.rows].tolist()
    assert str(path) in made.made and made.digest[:16] in made.made
    assert rows(fold="2/3", seed=4).made == ""  # it exists now
    with pytest.raises(InputError, match="in fold 1/3"):  # the list of another fold
        long_tail.training_rows(store, "demo-xsub", str(path), 6, fold="1/3")
    with pytest.raises(InputError, match="is missing"):  # a custom file is never generated
        long_tail.training_rows(store, "demo-xsub", str(tmp_path / "my.txt"), 6, make=True)

    plain = str(tmp_path / "plain_{imbalance}.txt")
    by_rule = long_tail.make_list(store, "demo-xsub", 6)
    monkeypatch.setitem(long_tail.PUBLISHED, "0" * 64, "demo-xsub 6")
    with pytest.raises(InputError, match="is not the published list of demo-xsub 6"):
        long_tail.training_rows(store, "demo-xsub", plain, 6, make=True)
    assert not (tmp_path / "plain_6.txt").exists()
    monkeypatch.setitem(long_tail.PUBLISHED, by_rule.digest, "demo-xsub 6")
    known = long_tail.training_rows(store, "demo-xsub", plain, 6, make=True)
    assert known.published == "demo-xsub 6" and "published list of demo-xsub 6" in known.made


def test_ntu60_list_is_generated_from_the_included_one(tmp_path: Path) -> None:
    whole = long_tail.shipped("ntu60-xview")
    names = whole.names[long_tail.make_list(whole, "ntu60-xview", 100).rows].tolist()
    with StoreWriter(tmp_path / "ntu", "ntu_rgb_d", [*map(str, range(60))], (1, 1, 3)) as writer:
        for name in [*names, "S001C001P001R001A001"]:  # and one test sample
            label, columns = parse(name)
            writer.add(name, label, np.ones((1, 1, 1, 3)), **columns)
    store, template = Store.open(tmp_path / "ntu"), str(tmp_path / "ntu60-xview_{imbalance}.txt")
    listed = long_tail.training_rows(store, "ntu60-xview", template, 100, make=True)
    assert listed.digest.startswith("e4777be86c39a357") and len(listed.rows) == 7892
    content = (tmp_path / "ntu60-xview_100.txt").read_bytes()
    assert hashlib.sha256(content).hexdigest() == listed.digest
    with pytest.raises(InputError, match=r"included list of ntu60-xview: 1258 of 9150 names are"):
        long_tail.training_rows(store, "ntu60-xview", template, 50, make=True)
    assert not (tmp_path / "ntu60-xview_50.txt").exists()


def test_classes_without_samples_take_no_place_in_the_tail() -> None:
    """20 * 10^(-c/2) of three classes, not 20 * 10^(-c/3)."""
    available = np.array([20, 0, 20, 0, 20])
    kept = long_tail.class_sizes(available, 10, natural=True)
    assert kept.tolist() == [20, 0, 6, 0, 2]
    step = long_tail.class_sizes(available, 10, "step", natural=True)
    assert step.tolist() == [20, 0, 2, 0, 2]
