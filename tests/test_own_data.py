"""Custom data: CSV dialects, class folders, labels, random splits."""

import json
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from data import names, prepare, protocols
from data.readers import splits
from data.store import Store
from errors import InputError, run_command


def run(*argv: object) -> int:
    return run_command(prepare.main, [*map(str, argv), "--workers", "1"])


def fails(capsys, words: str, *argv: object) -> None:
    """Check that a command fails with a one-line error that contains these words."""
    capsys.readouterr()  # discard earlier output
    assert run(*argv) == 2
    err = capsys.readouterr().err
    assert words in err and err.startswith("error: ") and err.count("\n") == 1, err


def clip(path: Path, value: float = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.full((3, 25, 3), value, np.float32))


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """clips/0.npy to clips/11.npy, each filled with its number plus one."""
    for number in range(12):
        clip(tmp_path / f"clips/{number}.npy", number + 1)
    return tmp_path


def custom(folder: Path, *more: object, source: str = "labels.csv") -> list[object]:
    argv = [folder / source, "--layout", "ntu_rgb_d", "--normalise", "none", "--out", folder / "s"]
    return ["custom", *argv, *more]


def numbers(store: Store) -> list[int]:
    """The numbers of the clips in a store, from the values that they are filled with."""
    return [round(float(store.clip(row)[0, 0, 0, 0])) - 1 for row in range(len(store))]


TABLE = "file,label,split\nclips/0.npy,wave,train\nclips/1.npy,bow,test\nclips/2.npy,été,\n"
UPPER = TABLE.replace("file,label,split", "File,LABEL,Split").replace("train", "Train")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (TABLE, "utf-8"),
        (TABLE, "utf-8-sig"),
        (TABLE, "utf-16"),
        (TABLE, "cp1252"),
        (TABLE.replace(",", ";"), "cp1252"),
        (TABLE.replace(",", "\t"), "utf-16"),
        (UPPER.replace("test", " TEST "), "utf-8"),
        (TABLE.replace("\n", "\r\n").replace("/", "\\"), "utf-8-sig"),
        (TABLE.replace("wave", '"wave"') + "\n,,\n", "utf-8"),
        (TABLE.replace("wave", ' "wave" ').replace("test", '"test" '), "utf-8"),
        ("".join(f"{i - 1},{line}\n" for i, line in enumerate(TABLE.split("\n")[:-1])).replace(
            "-1,", ",", 1), "utf-8"),
    ],
    ids=["plain", "BOM", "UTF-16", "cp1252", "semicolons", "tabs", "case", "Windows", "quotes and "
         "empty rows", "blanks beside quotes", "index of pandas"],
)  # fmt: skip
def test_csv_dialects(clips: Path, text: str, encoding: str) -> None:
    (clips / "labels.csv").write_bytes(text.encode(encoding))
    assert run(*custom(clips)) == 0
    store = Store.open(clips / "s")
    assert store.names.tolist() == ["clips/0", "clips/1", "clips/2"]
    assert numbers(store) == [0, 1, 2]
    assert [store.class_names[label] for label in store.labels] == ["wave", "bow", "été"]
    assert store.columns["split"].tolist() == ["train", "test", ""]
    assert store.columns.keys() == {"split"}


@pytest.mark.parametrize(
    "table, said",
    [
        ('file,label\nclips/0.npy,"wave\nclips/1.npy,bow\n', "line 2: not a CSV"),
        (
            'file,label\nclips/0.npy,a\nclips/1.npy,"b\nclips/2.npy,c\nclips/3.npy,d"\n',
            "line 3: 'b' goes on in the next line, in quotes",
        ),
        ('file,label\nclips/0.npy,"a" b\n', "line 2: not a CSV"),
        ('file;label\n"clips/0.npy";"a\n', "line 2: not a CSV"),
    ],
)
def test_a_quote_that_is_not_closed_swallows_no_rows(clips: Path, capsys, table, said) -> None:
    (clips / "labels.csv").write_text(table)
    fails(capsys, f"labels.csv: {said}", *custom(clips))


def test_a_store_among_class_folders_is_not_a_class(clips: Path) -> None:
    clip(clips / "set/run/0.npy", 1)
    clip(clips / "set/sit/1.npy", 2)
    argv = ["custom", clips / "set", "--layout", "ntu_rgb_d", "--normalize", "none"]
    for _ in range(2):
        assert run(*argv, "--out", clips / "set/store") == 0
        assert Store.open(clips / "set/store").names.tolist() == ["run/0", "sit/1"]


def test_links_to_folders_are_followed_once(clips: Path) -> None:
    """A class has clips in a folder elsewhere; a link that leads in circles changes nothing."""
    for number, place in enumerate(("set/run/0.npy", "elsewhere/1.npy", "set/sit/2.npy")):
        clip(clips / place, number + 1)
    (clips / "set/run/more").symlink_to(clips / "elsewhere")
    (clips / "elsewhere/again").symlink_to(clips / "set/run")
    assert run(*custom(clips, source="set")) == 0
    store = Store.open(clips / "s")
    assert store.names.tolist() == ["run/0", "run/more/1", "sit/2"]


def test_other_columns_are_kept(clips: Path, capsys) -> None:
    table = "Subject,file,label,camera,hand\n7,clips/0.npy,a,01,left\n12,clips/1.npy,b,02,\n"
    (clips / "labels.csv").write_text(table)
    assert run(*custom(clips)) == 0
    store = Store.open(clips / "s")
    assert store.columns["subject"].tolist() == [7, 12]
    assert store.columns["camera"].tolist() == ["01", "02"]  # as written
    assert store.columns["hand"].tolist() == ["left", ""]
    large = ["9223372036854775807", "9223372036854775808"]  # int64 ends between them
    for number, expected in zip(large, (2**63 - 1, large[1])):
        (clips / "labels.csv").write_text(f"file,label,take\nclips/0.npy,a,{number}\n")
        assert run(*custom(clips)) == 0
        assert Store.open(clips / "s").columns["take"].tolist() == [expected]
    for column in ("names", "Lengths"):
        (clips / "labels.csv").write_text(table.replace("hand", column))
        fails(capsys, f"the column name {column.lower()!r} is reserved", *custom(clips))
    (clips / "labels.csv").write_text(table.replace("hand", "Camera"))
    fails(capsys, "line 1: duplicate column 'camera'", *custom(clips))


def test_validation_part_is_used_only_with_test_split(clips: Path, capsys) -> None:
    parts = ["Train"] * 5 + ["Valid"] * 4 + ["Testing"] * 3
    rows = "".join(f"clips/{i}.npy,{i % 2},{part}\n" for i, part in enumerate(parts))
    (clips / "labels.csv").write_text("file,label,split\n" + rows)
    for more, tested, rest in (([], 3, 4), (["--test-split", "val"], 4, 3)):
        assert run(*custom(clips, *more)) == 0
        assert f"samples outside the split (neither training nor test): {rest}" in (
            capsys.readouterr().out
        )
        store = Store.open(clips / "s")
        train, test = protocols.split(store, "given")
        assert train.tolist() == list(range(5)) and len(test) == tested
        part = "Testing" if tested == 3 else "Valid"
        assert store.names[test].tolist() == [f"clips/{i}" for i in range(12) if parts[i] == part]
        assert len(store.meta["left_out"]["no_part"]) == rest
    (clips / "labels.csv").write_text("file,label,split\n" + rows.replace("Valid", "Train"))
    fails(capsys, "--test-split val: the split of", *custom(clips, "--test-split", "val"))
    (clips / "labels.csv").write_text("file,label,split\n" + rows.replace(",0,Train", ",0,"))
    assert run(*custom(clips)) == 0
    assert "classes without training samples: 1 (class 0)" in capsys.readouterr().out


@pytest.mark.parametrize("spelling", ["{}", "{}.0", "{:02}", "+{}", "{}.", "{}e0", " {} "])
def test_integer_labels_in_any_spelling(clips: Path, spelling: str) -> None:
    rows = "".join(f"clips/{i}.npy,{spelling.format(i)}\n" for i in range(12))
    (clips / "labels.csv").write_text("file,label\n" + rows)
    assert run(*custom(clips)) == 0
    store = Store.open(clips / "s")
    assert store.labels.tolist() == list(range(12)) == numbers(store)
    assert store.class_names == [f"class {label}" for label in range(12)]


def test_invalid_label_error_names_the_line(clips: Path, capsys) -> None:
    for label, words in [
        ("-1", "label -1 is not a class; labels must number the classes from 0"),
        ("1.5", "label 1.5 is not a class"),
        ("1e9", "label 1e9 is not a class"),
        ("wave", "label wave is a word, but others are numbers"),
        ("nan", "label nan is a word, but others are numbers"),
        ("", "file or label is empty"),
    ]:
        (clips / "labels.csv").write_text(f"file,label\nclips/0.npy,0\nclips/1.npy,{label}\n")
        fails(capsys, f"labels.csv: line 3: {words}", *custom(clips))


def test_class_names_are_in_natural_order() -> None:
    def where(row: int) -> str:
        return f"row {row}"

    labels, class_names = names.classes(["A10", "A2", "b", "A1", "A2"], where)
    assert class_names == ["A1", "A2", "A10", "b"] and labels == [2, 1, 3, 0, 1]
    assert names.classes([np.int64(2), 1.0, np.float32(0), "1"], where)[0] == [2, 1, 0, 1]
    for label in (None, [1], "", np.nan, -1, 2.5):
        with pytest.raises(InputError, match="row 1: label"):
            names.classes([0, label], where)


def test_prepare_says_what_the_split_has(clips: Path, capsys) -> None:
    """Which classes are in no figure, that labels count from 0, and that a split is needed."""

    def said(labels, parts=None):
        rows = [f"clips/{n}.npy,{label}" for n, label in enumerate(labels)]
        rows = [f"{row},{part}" for row, part in zip(rows, parts)] if parts else rows
        head = "file,label,split" if parts else "file,label"
        (clips / "labels.csv").write_text("\n".join([head, *rows]) + "\n")
        assert run(*custom(clips)) == 0
        return capsys.readouterr().out

    out = said(["a", "b", "a", "c"], ["train", "train", "test", "test"])
    assert "split: 2 train, 2 test\n" in out
    assert "classes without training samples: 1 (c)\n" in out
    assert "classes without test samples: 1 (b)\n" in out and "warning: without" not in out
    out = said([1, 2, 1, 2], ["train", "train", "test", "test"])
    assert "warning: the labels start at 1: class 0 has no samples" in out
    assert "classes without" not in out
    needs = "without training and test samples only --phase predict can use the store"
    assert needs in said([0, 1, 0]) and needs in said([0, 1], ["train", "train"])


def test_words_that_look_alike_are_one_class() -> None:
    def where(row: int) -> str:
        return f"row {row}"

    words = ["gehé", "gehe\u0301", "sit  down", "sit\u00a0down", " sit down"]
    assert names.classes(words, where) == ([0, 0, 1, 1, 1], ["gehé", "sit down"])
    with pytest.raises(InputError, match="row 1: label walk and Walk differ in case alone"):
        names.classes(["Walk", "walk"], where)
    with pytest.raises(InputError, match="row 1: label 1,000 is a word, but others are numbers"):
        names.classes(["3", "1,000"], where)
    assert names.classes(["1,5e1", "0,0"], where)[0] == [15, 0]


def test_class_folders(clips: Path, capsys) -> None:
    folder = clips / "mine"
    for number in range(12):
        clip(folder / f"A{number}" / "take 1" / f"{number}.npy", number + 1)
    (folder / "A3" / "notes.txt").write_text("x")
    clip(folder / ".ipynb_checkpoints" / "old.npy")
    assert run(*custom(clips, source="mine")) == 0
    assert "skipped files that are not clips: 1, e.g. A3/notes.txt" in capsys.readouterr().out
    store = Store.open(clips / "s")
    assert store.class_names == [f"A{number}" for number in range(12)]
    assert store.labels.tolist() == numbers(store) == list(range(12))
    assert store.names[10] == "A10/take 1/10" and not store.columns
    clip(folder / "outside.npy")
    fails(capsys, "outside.npy: is not in a class folder", *custom(clips, source="mine"))
    (folder / "labels.csv").write_text(TABLE)
    fails(capsys, "mine/labels.csv?", *custom(clips, source="mine"))
    (folder / "outside.npy").unlink()
    (folder / "A12").mkdir()
    fails(capsys, "A12: this class folder has no .skeleton", *custom(clips, source="mine"))
    (clips / "empty").mkdir()
    fails(capsys, "empty: has no class folders", *custom(clips, source="empty"))


def test_class_folders_in_train_and_test(clips: Path, capsys) -> None:
    folder = clips / "mine"
    for number, place in enumerate(("train/bow", "Test/bow", "train/wave", "val/wave")):
        clip(folder / place / f"{number}.npy", number + 1)
    assert run(*custom(clips, source="mine")) == 0
    store = Store.open(clips / "s")
    found = dict(zip(numbers(store), zip(store.labels.tolist(), store.columns["split"].tolist())))
    assert found == {0: (0, "train"), 1: (0, "test"), 2: (1, "train"), 3: (1, "")}
    assert store.class_names == ["bow", "wave"]
    clip(folder / "extra/bow/4.npy")
    fails(capsys, "extra: is next to folders of a split", *custom(clips, source="mine"))


def test_a_class_can_have_the_name_of_a_part(clips: Path) -> None:
    for name in ("test", "walk"):
        clip(clips / "mine" / name / "0.npy")
    assert run(*custom(clips, source="mine")) == 0
    assert Store.open(clips / "s").class_names == ["test", "walk"]


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["plain", "BOM"])
def test_null_in_json_is_a_joint_that_is_not_a_number(clips: Path, capsys, start: bytes) -> None:
    frames = np.arange(1, 226, dtype=float).reshape(3, 25, 3).tolist()
    frames[1][4] = [None, None, None]
    (clips / "a.json").write_bytes(start + json.dumps(frames).encode())
    (clips / "labels.csv").write_text("file,label\na.json,0\n")
    fails(capsys, "a.json: 1 of 3 frames have a joint that is NaN", *custom(clips))
    assert run(*custom(clips, "--nan", "interpolate")) == 0
    found = Store.open(clips / "s").clip(0)[:, 0]
    np.testing.assert_array_equal(found, np.arange(1, 226).reshape(3, 25, 3))


def test_split_by_subject_shares_no_subject(clips: Path, capsys) -> None:
    rows = "".join(f"clips/{i}.npy,{i % 2},P{i // 3}\n" for i in range(12))
    (clips / "labels.csv").write_text("file,label,Subject\n" + rows)
    drawn = []
    for seed in (0, 0, 1, 2, 3):
        assert run(*custom(clips, "--split", 0.3, "--by", "subject", "--seed", seed)) == 0
        store = Store.open(clips / "s")
        parts = defaultdict(set)
        for person, part in zip(store.columns["subject"], store.columns["split"]):
            parts[person].add(part)
        assert sorted(map(len, parts.values())) == [1] * 4  # no subject is in both parts
        assert store.columns["split"].tolist().count("test") == 3  # 0.3 of 12: one person of four
        drawn.append(tuple(store.columns["split"].tolist()))
    assert drawn[0] == drawn[1] and len(set(drawn)) > 1
    for more, words in [
        (["--split", "0.3", "--by", "actor"], "--by actor: no such column"),
        (["--split", "1.5"], "--split: '1.5' is not a fraction"),
        (["--by", "subject"], "--by: applies only to --split"),
        (["--seed", "3"], "--seed: applies only to --split"),
        (["--seed", "-1", "--split", "0.3"], "-1 is not an integer"),
        (
            ["--split", "0.3", "--test-split", "val"],
            "cannot be combined with --split, which draws no val",
        ),
        (["--test-split", "val"], "has no split"),
    ]:
        fails(capsys, words, *custom(clips, *more))
    (clips / "labels.csv").write_text("file,label,split\nclips/0.npy,0,train\n")
    fails(capsys, "already has a split", *custom(clips, "--split", "0.3"))


def test_random_split_is_stratified() -> None:
    labels = np.repeat([0, 1, 2, 3], [40, 10, 2, 1])
    parts = np.array(splits.draw(labels.tolist(), 0.2, seed=0))
    assert [int((parts[labels == k] == "test").sum()) for k in range(4)] == [8, 2, 1, 0]
    with pytest.raises(InputError, match="no class has two clips"):
        splits.draw([0, 1, 2], 0.3, seed=0)
    with pytest.raises(InputError, match="--by: all clips have the same value 'P1'"):
        splits.draw([0, 1], 0.3, seed=0, groups=["P1", "P1"])


def test_group_split_is_close_to_the_fraction() -> None:
    groups = [person for person, count in zip("abcde", (50, 20, 15, 10, 5)) for _ in range(count)]
    sizes = {person: groups.count(person) for person in "abcde"}
    for seed in range(20):
        parts = splits.draw([0] * 100, 0.3, seed, groups)
        tested = {person for person, part in zip(groups, parts) if part == "test"}
        trained = {person for person, part in zip(groups, parts) if part == "train"}
        assert tested and trained and not tested & trained
        assert abs(sum(sizes[person] for person in tested) - 30) <= 25  # half the largest


def test_backslashes_are_path_separators(clips: Path) -> None:
    text = (
        "2\r\n"
        + ("1\r\n7 0 1 1 1 1 0 0 0 2\r\n25\r\n" + "0.1 0.2 3 0 0 0 0 0 0 0 0 0\r\n" * 25) * 2
    )
    with zipfile.ZipFile(clips / "windows.zip", "w") as archive:
        info = zipfile.ZipInfo("x")
        info.filename = "nturgb+d_skeletons\\S001C001P001R001A001.skeleton"
        archive.writestr(info, text)
    assert run("ntu", clips / "windows.zip", "--out", clips / "s") == 0
    assert Store.open(clips / "s").names.tolist() == ["S001C001P001R001A001"]
    (clips / "list.txt").write_text("clips\\0\nclips\\1\n")
    assert names.read(clips / "list.txt") == ["clips/0", "clips/1"]
    (clips / "list.txt").write_text("clips\\0\nclips/0\n")
    with pytest.raises(InputError, match="contains clips/0 twice"):
        names.read(clips / "list.txt")


def test_pickled_objects_are_rejected_and_image_size_is_read(clips: Path, capsys) -> None:
    (clips / "labels.csv").write_text("file,label\nclips/0.npy,0\n")
    np.save(clips / "clips/0.npy", np.array([np.ones((3, 25, 3)), None], dtype=object))
    fails(
        capsys,
        "0.npy: cannot be read as a clip (it contains pickled Python objects",
        *custom(clips),
    )
    poses = np.full((3, 17, 3), [100, 100, 0.5])
    argv = ["custom", clips / "labels.csv", "--layout", "coco", "--out", clips / "s"]
    np.savez(clips / "clips/0.npz", joints=poses, image_size=(200, 400))
    (clips / "labels.csv").write_text("file,label\nclips/0.npz,0\n")
    assert run(*argv) == 0  # the file contains the image size
    np.testing.assert_allclose(Store.open(clips / "s").clip(0)[0, 0, 0], [-0.5, 0, 0.5], atol=1e-6)
    fails(capsys, "not --image-size 480 640", *argv, "--image-size", 480, 640)
    fails(
        capsys, "--image-size: applies only to --normalize image, not none", *argv,
        "--image-size", 200, 400, "--normalise", "none",
    )  # fmt: skip


def test_two_channels_are_scaled_by_image_size(clips: Path) -> None:
    layout = json.dumps({
        "name": "stick", "joints": ["a", "b"], "edges": [[1, 0]], "parent": [0, 0], "flip": [0, 1],
        "upper": [1], "centre": 0,
    })  # fmt: skip
    (clips / "stick.yaml").write_text(layout)
    np.save(clips / "clips/0.npy", np.full((3, 2, 2), 50.0))
    (clips / "labels.csv").write_text("file,label\nclips/0.npy,0\n")
    argv = ["custom", clips / "labels.csv", "--layout", clips / "stick.yaml", "--channels", 2]
    assert run(*argv, "--image-size", 100, 200, "--out", clips / "s") == 0
    store = Store.open(clips / "s")
    assert store.clip(0)[0, 0, 0].tolist() == [-0.5, 0]


def test_unseen_persons_are_dropped(clips: Path, capsys) -> None:
    joints = np.zeros((3, 4, 25, 3), np.float32)
    joints[:, 0] = 1
    np.save(clips / "clips/0.npy", joints)
    (clips / "labels.csv").write_text("file,label\nclips/0.npy,0\n")
    assert run(*custom(clips, "--persons", 1)) == 0
    assert Store.open(clips / "s").joints.shape == (3, 1, 25, 3)
    joints[1, 2] = 1
    np.save(clips / "clips/0.npy", joints)
    fails(capsys, "0.npy: has 3 persons; add --persons 3", *custom(clips, "--persons", 1))


def test_encodings_of_name_lists(tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "cp1252"):
        (tmp_path / "list.txt").write_bytes("été 1\r\nA2\r\n".encode(encoding))
        assert names.read(tmp_path / "list.txt") == ["été 1", "A2"]
    (tmp_path / "list.txt").write_bytes(b"\x81\x00\xff")
    with pytest.raises(InputError, match=r"list.txt: is not text in UTF-8, UTF-16 .* or cp1252"):
        names.read(tmp_path / "list.txt")


def test_a_guessed_encoding_is_told_once(clips: Path, capsys) -> None:
    for word, encoding in (("été", "utf-8"), ("été", "utf-16"), ("été", "cp1252"), ("挥手", "gbk")):
        file = clips / f"{encoding}.csv"
        file.write_bytes(TABLE.replace("été", word).encode(encoding))
        for _ in range(2):
            assert run("custom", file, "--layout", "ntu_rgb_d", "--out", clips / encoding) == 0
        told = f"warning: {file}: is not UTF-8 and was read as cp1252"
        assert capsys.readouterr().err.count(told) == (encoding in ("cp1252", "gbk"))
    assert Store.open(clips / "gbk").class_names[-1] == "»ÓÊÖ"
    (clips / "gbk.csv").write_text(TABLE.replace("été", "挥手"), encoding="utf-8")
    assert run("custom", clips / "gbk.csv", "--layout", "ntu_rgb_d", "--out", clips / "gbk") == 0
    assert Store.open(clips / "gbk").class_names[-1] == "挥手"


def test_as_many_persons_as_any_clip_has(tmp_path: Path, capsys) -> None:
    """Without --persons: one, unless a clip has a second one."""
    labels = "file,label\n" + "".join(f"clips/{n}.npy,{'ab'[n % 2]}\n" for n in range(6))
    (tmp_path / "labels.csv").write_text(labels)
    for number in range(6):
        clip(tmp_path / f"clips/{number}.npy", number + 1)
    assert run(*custom(tmp_path)) == 0
    assert Store.open(tmp_path / "s").joints.shape[1:] == (1, 25, 3)
    np.save(tmp_path / "clips/4.npy", np.ones((3, 2, 25, 3)))
    assert run(*custom(tmp_path)) == 0
    assert Store.open(tmp_path / "s").joints.shape[1:] == (2, 25, 3)
    np.save(tmp_path / "clips/4.npy", np.ones((3, 3, 25, 3)))
    capsys.readouterr()
    assert run(*custom(tmp_path)) == 2
    assert "4.npy: has 3 persons; add --persons 3" in capsys.readouterr().err
    assert run(*custom(tmp_path, "--persons", "3")) == 0
