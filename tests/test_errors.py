"""Every command ends in an exit code and, where something is wrong, in one line."""

from importlib import import_module

import pytest

import main
from errors import BAD_INPUT, RESUMABLE, InputError, Stopped, run_command


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--confg", "a.yaml"], "unknown argument --confg (did you mean --config?)"),
        (["--steam=bone"], "unknown argument --steam (did you mean --stream?)"),
        (["--weight", "a.pt"], "unknown argument --weight (did you mean --weights?)"),
        (["--phase", "prdict"], "'predict'"),
        (["--seed", "one"], "--seed"),
        ([], "--config"),
    ],
)
def test_a_mistake_on_the_command_line_is_told_in_one_line(argv, told, capsys):
    assert run_command(main.main, [*argv, "--device", "cpu"]) == BAD_INPUT
    out, err = capsys.readouterr()
    assert out == "" and told in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    (
        "ensemble", "data.prepare", "data.long_tail", "data.inspect", "data.convert",
        "tools.calibrate", "tools.compare", "tools.embed", "tools.export", "tools.report.__main__",
        "tools.weights", "tools.zoo", "tools.benchmark",
    ),
)  # fmt: skip
def test_every_command_tells_a_mistake_in_one_line(command, capsys):
    run = import_module(command).main
    for argv in (["--debgu"], ["a", "--debgu"], ["--no-such-flag", "b"]):
        assert run_command(run, argv) == BAD_INPUT
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("error: ") and err.count("\n") == 1


@pytest.mark.parametrize("command", ("data.prepare", "tools.weights", "tools.benchmark"))
def test_the_help_keeps_the_examples_on_lines_of_their_own(command, capsys):
    module = import_module(command)
    with pytest.raises(SystemExit):
        module.main(["--help"])
    shown = capsys.readouterr().out.splitlines()
    examples = [line for line in module.__doc__.splitlines() if line.strip().startswith("python")]
    assert examples and set(examples) <= set(shown)


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (InputError("a.yaml: no"), BAD_INPUT, "error: a.yaml: no\n"),
        (FileNotFoundError("b"), BAD_INPUT, "error: b\n"),
        (IsADirectoryError("b"), BAD_INPUT, "error: b\n"),
        (PermissionError("c"), 1, "error: c\n"),
        (KeyError("two\nlines"), 1, "error: KeyError: 'two\\nlines' (--debug shows where)\n"),
        (RuntimeError("two\nlines"), 1, "error: RuntimeError: two lines (--debug shows where)\n"),
        (Stopped("saved"), RESUMABLE, "stopped: saved\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_the_exit_code_says_what_kind_of_end_it_was(error, code, told, capsys):
    assert (BAD_INPUT, RESUMABLE) == (2, 75)  # schedulers rely on them

    def fail(argv):
        raise error

    assert run_command(fail, []) == code
    assert capsys.readouterr().err == told
    if code in (1, BAD_INPUT):
        with pytest.raises(type(error)):
            run_command(fail, ["--debug"])


def test_the_help_is_short_enough_to_read(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as end:
        main.main(["--help"])
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 55 and max(map(len, lines)) <= 100
