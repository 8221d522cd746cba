"""Lists are the published ones byte for byte, or say that they are not."""

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

ROOT = Path(__file__).resolve().parents[1]
# First half of the digests as the contract states them, by benchmark and imbalance.
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


@pytest.mark.parametrize("benchmark, imbalance", NTU120)
def test_ntu120_lists_are_the_published_ones(ntu120, tmp_path, benchmark, imbalance) -> None:
    out = tmp_path / "list.txt"
    argv = [benchmark, "--names", ntu120, "--imbalance", imbalance, "--out", out]
    assert run_command(long_tail.main, [*map(str, argv)]) == 0
    expected, number = NTU120[benchmark, imbalance]
    assert hashlib.sha256(out.read_bytes()).hexdigest().startswith(expected)
    names = out.read_text().split("\n")
    assert len(names) == number
    assert long_tail.published(names) == f"{benchmark} {imbalance}"
    assert long_tail.published(names[::-1]) is None


@pytest.mark.parametrize("protocol, imbalance", NTU60)
def test_ntu60_lists_are_recognised(shared: Path, protocol, imbalance) -> None:
    path = shared / f"reference/lists/NTU60_{protocol}_exp_{imbalance}.txt"
    names = path.read_text().split()
    expected, number = NTU60[protocol, imbalance]
    assert digest(names).startswith(expected) and len(names) == number
    assert long_tail.published(names) == f"ntu60-{protocol} {imbalance}"
    per_class = np.bincount([parse(name)[0] for name in names])
    np.testing.assert_array_equal(per_class, long_tail.counts(600, imbalance, 60))


def test_ntu60_needs_own_order_to_be_drawn(ntu120: Path, tmp_path: Path, capsys) -> None:
    argv = ["ntu60/xsub", "--names", str(ntu120), "--out", str(tmp_path / "list.txt")]
    assert run_command(long_tail.main, argv) == 2
    assert "firework8/BRL" in capsys.readouterr().err
    assert not (tmp_path / "list.txt").exists()
    assert run_command(long_tail.main, [*argv, "--own-order"]) == 0
    assert "no published list" in capsys.readouterr().out
    labels = [parse(name)[0] for name in (tmp_path / "list.txt").read_text().split()]
    np.testing.assert_array_equal(np.bincount(labels), long_tail.counts(600, 100, 60))


def test_nw_ucla_names_are_those_of_the_recipe(shared: Path, tmp_path: Path) -> None:
    arrays = np.load(shared / "data/nw_ucla.npz")
    order = np.argsort(arrays["list_index"])
    (tmp_path / "official.txt").write_text("\n".join(arrays["names"][order]))
    drawn = long_tail.make_list(samples(tmp_path / "official.txt"), "nw-ucla", 10)
    expected = (shared / "data/nw_ucla_lt_10.txt").read_text()
    assert "\n".join(arrays["names"][order][drawn.rows]) == expected
    assert (ROOT / "data/lists/nw-ucla_10.txt").read_text() == expected
    by_name = samples(tmp_path / "official.txt")
    by_name.columns.pop("list_index")
    with pytest.raises(InputError, match=r"nw-ucla_10\.txt"):
        long_tail.make_list(by_name, "nw-ucla", 10)
    other = long_tail.make_list(by_name, "nw-ucla", 10, own_order=True)
    assert other.digest != drawn.digest and len(other.rows) == len(drawn.rows) == 403


def test_counts_of_both_profiles() -> None:
    assert long_tail.counts(100, 10, 10).tolist() == [100, 77, 59, 46, 35, 27, 21, 16, 12, 10]
    assert long_tail.counts(600, 100, 5, "step").tolist() == [600, 600, 6, 6, 6]
    assert long_tail.counts(50, 1, 3).tolist() == [50, 50, 50]
    for arguments in [
        (10, 0.5, 3),
        (10, np.nan, 3),
        (10, np.inf, 3),
        (10, 2, 3, "sqrt"),
        (10, 11, 3),  # the last class would keep int(10 / 11) samples
        (10, 11, 3, "step"),
        (0, 2, 3),
        (-5, 2, 3),
    ]:
        with pytest.raises(InputError):
            long_tail.counts(*arguments)


@pytest.fixture
def demo(tmp_path: Path) -> Store:
    """Three classes, two subjects in turn, 40 samples each, in shuffled rows."""
    names = [f"S001C001P{1 + i % 2:03d}R{i:03d}A{a:03d}" for a in (1, 2, 3) for i in range(80)]
    np.random.RandomState(0).shuffle(names)
    with StoreWriter(tmp_path / "demo", "ntu_rgb_d", ["a", "b", "c"], (1, 1, 3)) as writer:
        for name in names:
            label, columns = parse(name)
            writer.add(name, label, np.ones((1, 1, 1, 3)), **columns)
    return Store.open(tmp_path / "demo")


def test_every_benchmark_has_a_protocol_under_its_own_name() -> None:
    for folder in (ROOT / "config").glob("*/base.yaml"):
        protocol = yaml.safe_load(folder.read_text()).get("protocol", "given")  # k400's heir
        assert protocols.get(folder.parent.name) is protocols.get(protocol)
    with pytest.raises(InputError, match="did you mean ntu120-xset"):
        protocols.get("ntu120/xst")


def test_training_rows_follow_the_list(demo: Store, tmp_path: Path) -> None:
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
        (f"{names[0]}\n{demo.names[test[0]]}", "is no training sample"),
        (f"{names[0]}\n{names[0]}", "twice"),
        (f"{names[0]}\nS009C001P001R001A001", "holds no sample"),
        ("", "no names"),
    ]:
        path.write_text(content)
        with pytest.raises(InputError, match=f"^{path}: .*{words}"):
            long_tail.training_rows(demo, "demo-xsub", str(path), 4)


def test_names_with_spaces_are_drawn_and_read(tmp_path: Path) -> None:
    path, out = tmp_path / "my store", tmp_path / "my list.txt"
    with StoreWriter(path, "ntu_rgb_d", ["bow", "wave"], (1, 25, 3)) as store:
        for take in range(12):
            part = "train" if take < 8 else "test"
            store.add(f"line 1/take {take}", take % 2, np.ones((4, 1, 25, 3)), split=part)
    argv = ["given", "--names", str(path), "--imbalance", "2", "--out", str(out)]
    assert run_command(long_tail.main, argv) == 0
    with pytest.raises(InputError, match=r"--names '[^']*my store' --imbalance 2 --out 'no list'"):
        long_tail.training_rows(Store.open(path), "given", "no list", 2)
    as_windows_has_it = tmp_path / "windows.txt"
    as_windows_has_it.write_bytes(b"\xef\xbb\xbf" + out.read_bytes().replace(b"\n", b"\r\n"))
    for file in (out, as_windows_has_it):
        drawn = long_tail.training_rows(Store.open(path), "given", str(file), 2)
        names = Store.open(path).names[drawn.rows]
        assert names.tolist() == out.read_text().splitlines() and len(names) == 6


def test_the_head_is_as_long_as_all_classes_allow(tmp_path: Path) -> None:
    """Where a benchmark says no length: the least of what the classes have to train on."""
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


def test_bad_requests_are_one_line(demo: Store, tmp_path: Path, capsys) -> None:
    out = ["--out", str(tmp_path / "list.txt")]
    for argv, words in [
        (["ntu120-xsubb", "--names", str(demo.path)], "did you mean ntu120-xsub?"),
        (["nw-ucla", "--names", str(tmp_path / "no.txt")], "no.txt"),
        (["given", "--names", str(demo.path)], "'split'"),
        (["demo-xsub", "--names", str(demo.path), "--n-max", "41"], "--n-max"),
        (["demo-xsub", "--names", str(demo.path), "--n-max", "0"], "raise --n-max"),
        (["demo-xsub", "--names", str(demo.path), "--imbalance", "nan"], "imbalance: nan"),
        (["demo-xsub", "--names", str(demo.path), "--imbalanc", "4"], "did you mean --imbalance?"),
        (["demo-xsub", "--names", str(demo.path), "--profile", "stp"], "'stp'"),
    ]:
        assert run_command(long_tail.main, [*argv, *out]) == 2
        err = capsys.readouterr().err
        assert words in err and err.count("\n") == 1
    with pytest.raises(InputError, match=r"a07_s01_e00_v01"):
        parse("a07_s01_e00_v01")


def test_the_ntu_protocols_part_as_published(ntu120: Path) -> None:
    everything = samples(ntu120)
    for protocol, sizes in {
        "ntu60-xsub": (40091, 16487),
        "ntu60-xview": (37646, 18932),
        "ntu120-xsub": (63026, 50919),
        "ntu120-xset": (54468, 59477),
    }.items():
        assert tuple(map(len, protocols.split(everything, protocol))) == sizes


def test_the_module_runs_as_a_command() -> None:
    command = [sys.executable, "-m", "data.long_tail", "--help"]
    assert b"--own-order" in subprocess.run(command, cwd=ROOT, capture_output=True).stdout
