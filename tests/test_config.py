"""Configuration: what wins over what, and which mistakes are named."""

import itertools

import pytest
import yaml

from engine import config
from engine.run import RunFolder
from errors import InputError
from files import write_text
from flags import STREAMS
from tools.sweep import Sweep


def write(path, text):
    path.write_text(text)
    return path


def test_command_line_over_yaml_over_parents_over_defaults(tmp_path):
    write(tmp_path / "base.yaml", "lr: 0.5\nnum_epoch: 3\noptimizer_args: {momentum: 0.5}\n")
    child = write(tmp_path / "joint.yaml", "base: base.yaml\nnum_epoch: 4\n")
    resolved = config.load([child], ["batch_size=8"], seed=3)
    assert (resolved.lr, resolved.num_epoch, resolved.batch_size) == (0.5, 4, 8)
    assert (resolved.seed, resolved.frames) == (3, 64)
    # A mapping is laid over the one below, key by key.
    assert resolved.optimizer_args == {"momentum": 0.5, "nesterov": True, "weight_decay": 5e-4}


def test_later_files_override_and_drop_arguments_of_a_replaced_class(tmp_path):
    first = write(tmp_path / "a.yaml", "loss: longtail.losses.LDAM\nloss_args: {scale: 30}\n")
    second = write(tmp_path / "b.yaml", "loss: longtail.losses.CrossEntropy\n")
    third = write(tmp_path / "c.yaml", "loss: longtail.losses.LDAM\nloss_args: {max_margin: 1}\n")
    assert config.load([first]).loss_args == {"scale": 30}
    assert config.load([first, second]).loss_args == {}
    assert config.load([first, third]).loss_args == {"scale": 30, "max_margin": 1}
    assert config.load([first, second, third]).loss_args == {"max_margin": 1}


def test_set_reaches_inner_keys_and_replaces_whole_mappings():
    resolved = config.load([], ["model_args.base_channels=16", "model_args.dropout=0.5"])
    assert resolved.model_args == {"base_channels": 16, "dropout": 0.5}
    resolved = config.load([], ["optimizer_args={weight_decay: 1e-2}"])
    assert resolved.optimizer_args == {"weight_decay": 0.01}
    resolved = config.load(
        [], ["loss_args={a: [1e-2, 1.5E+3, 1e, x1e3]}", "schedule_args.gamma=1e-1"]
    )
    assert resolved.loss_args == {"a": [0.01, 1500.0, "1e", "x1e3"]}
    assert resolved.schedule_args == {"gamma": 0.1}
    assert config.load([], ["lr=1E-3", "ema=.5e0"]).replace(lr=0).ema == 0.5
    assert config.load([], ["loss_args={a: '1e-3'}"]).loss_args == {"a": "1e-3"}  # text stays text


WORDS = {
    "class": ["loss_args.gamma=3", "loss=longtail.losses.Focal"],
    "mapping": ["loss_args.gamma=3", "loss_args={gamma: 3}", "loss=longtail.losses.Focal"],
    "inner": ["model_args.dropout=0.5", "model_args.base_channels=16"],
    "flag": ["model_args.dropout=0.5", "model_args={base_channels: 16}", "seed=1"],
}


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_set_words_are_one_layer_in_any_order(tmp_path, words):
    """Also over a file that has arguments for the class that the words replace."""
    ldam = write(tmp_path / "a.yaml", "loss: longtail.losses.LDAM\nloss_args: {scale: 30}\n")
    first, *others = [config.load([ldam], order, seed=1) for order in itertools.permutations(words)]
    assert others == [first] * len(others)
    assert {other.to_yaml() for other in others} == {first.to_yaml()}
    if "loss=longtail.losses.Focal" in words:
        assert (first.loss, first.loss_args) == ("longtail.losses.Focal", {"gamma": 3})
    else:
        assert first.model_args == {"base_channels": 16, "dropout": 0.5}


@pytest.mark.parametrize(
    ("words", "flags", "said"),
    [
        (["lr=1", "lr=2"], {}, "--set lr=1 and --set lr=2: two values of lr"),
        (["loss_args.gamma=3", "loss_args={gamma: 2}"], {}, "two values of loss_args.gamma"),
        (["loss_args={a: 1}", "loss_args={b: 1}"], {}, "two values of loss_args"),
        (["loss_args.a=1", "loss_args.a=true"], {}, "two values of loss_args.a"),
        (["seed=4"], {"seed": 3}, "--seed 3 and --set seed=4: two values of seed"),
        (["stream=joint"], {"stream": "bone"}, "two values of stream"),
        (["compile=false"], {"compile": True}, "--compile and --set compile=false"),
        (["val_split=0.2"], {"val_split": 0.1}, "--val-split 0.1 and"),
        (["num_epoch=many"], {}, "--set num_epoch=many: num_epoch must be a whole number"),
        (["loss_args={a: 1, a: 2}"], {}, "key a is given twice"),
    ],
)
def test_two_values_of_a_key_are_rejected(words, flags, said):
    for order in (words, words[::-1]):
        with pytest.raises(InputError) as caught:
            config.load([], order, **flags)
        if order is words:
            assert said in str(caught.value)
    assert config.load([], ["lr=1", "lr=1.0", "seed=3"], seed=3).lr == 1


def test_amp_off_is_not_read_as_false():
    assert config.load([], ["amp=off"]).amp == "off"  # which YAML reads as false
    with pytest.raises(InputError, match="amp"):
        config.load([], ["amp=on"])
    with pytest.raises(InputError, match="num_epoch must be a whole number, not True"):
        config.load([], ["num_epoch=true"])


@pytest.mark.parametrize("spelling", ["data/mine", "data/mine/", "./data//mine"])
def test_a_store_has_one_name_however_its_path_is_spelled(spelling):
    """Else --resume of a run begun with the path that the shell completes would be refused."""
    for settings in (config.load([], [f"store={spelling}"]), config.load([], store=spelling)):
        assert settings.store == "data/mine"


def test_missing_keys_of_earlier_versions_have_their_defaults(tmp_path):
    resolved = config.load([], ["lr=0.1"])
    lines = [line for line in resolved.to_yaml().splitlines() if not line.startswith("tf32:")]
    write(tmp_path / "config.yaml", "\n".join(lines))
    run = RunFolder(tmp_path)
    assert run.changed_keys(resolved) == []
    assert run.changed_keys(resolved.replace(tf32=False, lr=0.2)) == ["lr", "tf32"]
    write(tmp_path / "config.yaml", "store: ./data/mine/")  # as it was typed
    assert run.changed_keys(config.load([], ["store=data/mine"])) == []
    assert run.changed_keys(config.load([], ["store=data/other"])) == ["store"]


def test_the_rate_is_linear_in_the_batch_of_a_step():
    resolved = config.load([], ["batch_size=64", "accumulate=2"])
    assert resolved.scaled_lr == pytest.approx(0.0125 * 64 * 2 / 16)


def test_a_file_of_ones_own_may_start_from_one_of_the_project(tmp_path, monkeypatch):
    """As docs/comparing.md says, in whatever folder the file is; one next to it comes first."""
    monkeypatch.chdir(tmp_path)
    own = write(tmp_path / "own.yaml", "base: config/methods/ldam.yaml\nlr: 0.5\n")
    resolved = config.load([own])
    assert (resolved.loss, resolved.lr) == ("longtail.losses.LDAM", 0.5)
    crt = write(tmp_path / "crt.yaml", "base: config/methods/ldam.yaml\n"
                "classifier: longtail.classifiers.Retraining\n")  # fmt: skip
    folder = config.benchmark_folder("demo-lt")
    assert Sweep(folder, (str(crt),), root=tmp_path).parent(str(crt)) == "ldam"
    (tmp_path / "config/methods").mkdir(parents=True)
    write(tmp_path / "config/methods/ldam.yaml", "loss: longtail.losses.Focal\n")
    assert config.load([own]).loss == "longtail.losses.Focal"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("num_epok: 3", "did you mean num_epoch"),
        ("num_epoch: many", "num_epoch must be a whole number"),
        ("amp: bf61", "did you mean bf16"),
        ("shots: [20, 100]", "shots"),
        ("batch_size: 0", "batch_size must be at least 1"),
        ("lr_batch: 0", "lr_batch must be at least 1"),
        ("imbalance: 0", "imbalance must be at least 1"),
        ("seed: -1", "seed must be at least 0"),
        ("lr: -0.1", "lr must be above 0"),
        ("lr: .nan", "lr must be above 0 and finite, not nan"),
        ("repeat: .inf", "repeat must be at least 1 and finite, not inf"),
        ("clip_grad: 0", "clip_grad must be above 0"),
        ("ema: 2", "ema must be above 0 and below 1"),
        ("val_split: 1", "val_split must be above 0 and below 1"),
        ("lr: [", "line"),
        ("num_epoch: 010", "num_epoch must be a whole number, not '010'"),  # 8 in YAML 1.1
        ("num_epoch: 1:30", "num_epoch must be a whole number, not '1:30'"),  # 90
        ("shots: [020, 010]", "shots must be a list of whole numbers"),
        ("lr: 1\nseed: 2\nlr: 2", "line 3: not valid YAML: key lr is given twice"),
        ("num_epoch: many", r"joint\.yaml: num_epoch must be a whole number"),
        ("shots: [1, b]", "shots must be a list of whole numbers"),
        ("shots: [100]", "shots"),
        ("loss_from: stage2", "loss_from must be one of start, second_stage"),
        ("stream: bones", "did you mean bone"),
        ("base: joint.yaml", "refers back"),
        ("base: nowhere.yaml", "no such file"),
        ("base: 3", "joint.yaml: base must name a file"),
        ("base: [a.yaml, 3]", "base must name a file"),
        ("- 1", "key: value"),
    ],
)
def test_errors_name_the_file_or_key(tmp_path, text, said):
    with pytest.raises(InputError, match=said) as caught:
        config.load([write(tmp_path / "joint.yaml", text)])
    assert "\n" not in str(caught.value)


def test_numbers_are_decimal():
    texts = {"1e-3": 0.001, "-2": -2, "0": 0, "1.5": 1.5, ".5": 0.5, "2.": 2.0, "1.0e3": 1000.0}
    texts |= {"0.0125": 0.0125, ".inf": float("inf"), "010": "010", "1/2": "1/2", "0x1F": "0x1F"}
    for text, value in texts.items():
        found = config.read_yaml(text)
        assert (found, type(found)) == (value, type(value)), text


def test_a_mapping_whose_lines_are_commented_out_changes_nothing(tmp_path):
    own = write(tmp_path / "own.yaml", "optimizer_args:\n#  weight_decay: 1.0e-4\n")
    assert config.load([own]).optimizer_args == config.Config().optimizer_args != {}


@pytest.mark.parametrize(
    "words, said",
    [
        (
            ["imbalance=50", "training_list=null"],
            "--set imbalance: not used, as training_list is None",
        ),
        (["imbalance=50", "training_list=a.txt"], "not used, as training_list is a.txt"),
        (["second_stage_share=0.5", "second_stage=3"], "not used, as second_stage is 3"),
    ],
)
def test_a_word_that_another_value_makes_useless_is_refused(words, said):
    with pytest.raises(InputError, match=said):
        config.load([], words)
    assert config.load([], ["second_stage_share=0.5"]).second_stage_share == 0.5
    kps = [config.CONFIG_ROOT / file for file in ("k400/joint.yaml", "methods/kps.yaml")]
    assert config.load(kps).second_stage is None  # the share of its authors, 0.4


@pytest.mark.parametrize("text", ["", "- 1", "lr: ["])
def test_damaged_config_yaml_is_rejected(tmp_path, text):
    with pytest.raises(InputError, match=r"config\.yaml: is damaged"):
        write(tmp_path / "config.yaml", text)
        RunFolder(tmp_path).changed_keys(config.Config())


def test_config_round_trips_through_yaml(tmp_path):
    resolved = config.load([], ["lr=1e-3", "model_args.graph=coco", "val_split=0.1"])
    write_text(tmp_path / "config.yaml", resolved.to_yaml())
    assert config.load([tmp_path / "config.yaml"]) == resolved
    assert isinstance(yaml.safe_load(resolved.to_yaml())["lr"], float)


@pytest.mark.parametrize("name", ["ntu120/xset", "ntu120-xset", "ntu120-xset-lt", "ntu120/xset/"])
def test_a_benchmark_has_several_spellings(name):
    assert config.benchmark_folder(name).name == "ntu120-xset-lt"


def test_an_unknown_benchmark_names_the_nearest():
    with pytest.raises(InputError, match="did you mean ntu60-xsub-lt"):
        config.benchmark_folder("ntu60-xsup-lt")


def test_run_folder_name_contains_the_differences_from_the_benchmark(tmp_path):
    folder = tmp_path / "ntu60-xsub-lt"
    folder.mkdir()
    joint = write(folder / "joint.yaml", "stream: joint\ntraining_list: a_{imbalance}.txt\n")
    method = write(tmp_path / "ldam-drw.yaml", "lr: 0.1\n")

    def path(*files, overrides=(), **values):
        return str(config.run_folder(config.resolve(files, overrides, **values)))

    assert path(joint) == "work_dir/ntu60-xsub-lt/joint"
    assert path(joint, method) == "work_dir/ntu60-xsub-lt-ldam-drw/joint"
    assert path(joint, overrides=["imbalance=50"]) == "work_dir/ntu60-xsub-lt-if50/joint"
    assert path(joint, overrides=["model=model.ctrgcn.Model"], seed=1, stream="bone") == (
        "work_dir/ntu60-xsub-lt-ctrgcn-seed1/bone"
    )
    assert path(joint, method, tag="mine") == "work_dir/ntu60-xsub-lt-mine/joint"


@pytest.mark.parametrize("path", sorted(config.CONFIG_ROOT.rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_file_of_the_project_resolves(path):
    resolved = config.load([path])
    if path.stem in STREAMS:
        assert resolved.stream == path.stem


def test_a_file_is_read_and_written_as_utf_8(tmp_path):
    path = tmp_path / "joint.yaml"
    path.write_bytes("store: data/été\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"joint\.yaml: not UTF-8"):
        config.load([path])


def test_config_yaml_of_a_run_reproduces_the_run(tmp_path):
    first = config.resolve(["config/demo-lt/bone.yaml"], ["seed=3", "imbalance=10"])
    folder = tmp_path / "bone"
    write_text(folder / "config.yaml", first.to_yaml())
    assert config.resolve([folder / "config.yaml"]) == first
    assert config.resolve([folder / "config.yaml"], ["seed=4"]).tag == "if10-seed3-seed4"
