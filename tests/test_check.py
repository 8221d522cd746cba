"""What is said before a run: everything that is missing, and with --check what it will take."""

import re

import pytest

import main
from engine import check, train
from errors import InputError, run_command
from tests.tiny_runs import SMALL, command


def test_everything_missing_is_one_message_in_the_order_of_mending(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = ["--config", "config/utd-mhad-lt/joint.yaml", "--device", "7", "--weights", "no.pt"]
    for more in ([], ["--check"]):
        assert run_command(main.main, [*argv, *more]) == 2
        first, *lines = capsys.readouterr().err.splitlines()
        assert first == "error: 3 things to mend first:"
        assert [re.match(r"  (\d)\. ", line)[1] for line in lines] == ["1", "2", "3"]
        device, store, weights = lines
        assert "--device 7: no such GPU" in device and "no.pt: no such checkpoint" in weights
        assert "python -m data.prepare utd-mhad" in store and "--out data/utd-mhad" in store
    assert list(tmp_path.iterdir()) == []


def test_a_list_of_ones_own_that_is_missing_is_found_with_the_rest(tiny, tmp_path, capsys):
    lost = f"training_list={tmp_path / 'lost.txt'}"
    argv = command(tiny, tmp_path / "run", "--set", lost)
    argv[argv.index("cpu")] = "9"
    assert run_command(main.main, argv) == 2
    said = capsys.readouterr().err
    assert "--device 9" in said and "lost.txt" in said and said.count("\n") == 3


def test_check_estimates_the_run_and_leaves_nothing(tiny, tmp_path, monkeypatch, capsys):
    """The number of steps is that of the run."""
    monkeypatch.chdir(tmp_path)
    argv = command(tiny, tmp_path / "run", "--check", "--set", *SMALL, "num_epoch=3")
    main.main(argv)
    said = capsys.readouterr().out
    assert said.startswith(f"nothing is missing; {tmp_path / 'run'}: ")
    steps, each, unit = re.search(r": ([\d,]+) steps, ([\d.e-]+) s each: \d+ (\w+);", said).groups()
    assert 0 < float(each) < 10 and unit in ("s", "min")
    assert re.search(r"3 validations and the test of two checkpoints: \d+ s; \d\.\d GB\n", said)
    assert list(tmp_path.iterdir()) == []
    own, taken = train.training_step, []
    monkeypatch.setattr(train, "training_step", lambda *args: taken.append(1) or own(*args))
    main.main([word for word in argv if word != "--check"])
    assert int(steps) == len(taken) > 3


@pytest.mark.parametrize(
    "seconds, text",
    [(3.2, "3 s"), (89, "89 s"), (600, "10 min"), (13_320, "3.7 h"), (200_000, "2.3 days")],
)
def test_durations_read_as_people_say_them(seconds, text):
    assert check.duration(seconds) == text


def test_findings_keep_each_message_once_and_one_alone_as_it_is():
    def fail(text):
        raise InputError(text)

    found = check.Findings()
    assert found.attempt(lambda: 5) == 5
    found.refuse()
    for text in ("a", "a"):
        assert found.attempt(fail, text) is None
    with pytest.raises(InputError, match=r"^a$"):
        found.refuse()
    found.attempt(fail, "b")
    with pytest.raises(InputError, match=r"2 things to mend first:\n  1\. a\n  2\. b"):
        found.refuse()
