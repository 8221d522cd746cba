"""Exit codes of the commands, and errors of one line."""

from importlib import import_module

import pytest

import main
from errors import BAD_INPUT, RESUMABLE, InputError, Stopped, run_command


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--confg", "a.yaml"], "unknown argument --confg (did you mean --config?)"),
        (["--steam=bone"], "unknown argument --steam (did you mean --stream?)"),
        (["--weight", "a.pt"], "unknown argument --weight (did you mean --weights?)"),
        (["--phase", "prdict"], "'predict'"),
        (["--seed", "one"], "--seed"),
        ([], "--config"),
    ],
)
def test_wrong_argument_is_one_line_error(argv, message, capsys):
    assert run_command(main.main, [*argv, "--device", "cpu"]) == BAD_INPUT
    out, err = capsys.readouterr()
    assert out == "" and message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    (
        "ensemble", "data.prepare", "data.long_tail", "data.inspect", "data.convert",
        "tools.calibrate", "tools.compare", "tools.embed", "tools.export", "tools.report.__main__",
        "tools.weights", "tools.zoo", "benchmarks.__main__",
    ),
)  # fmt: skip
def test_unknown_flag_is_one_line_error_in_every_command(command, capsys):
    run = import_module(command).main
    for argv in (["--debgu"], ["a", "--debgu"], ["--no-such-flag", "b"]):
        assert run_command(run, argv) == BAD_INPUT
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("error: ") and err.count("\n") == 1


@pytest.mark.parametrize("command", ("data.prepare", "tools.weights", "benchmarks.__main__"))
def test_help_keeps_line_breaks_of_examples(command, capsys):
    module = import_module(command)
    with pytest.raises(SystemExit):
        module.main(["--help"])
    shown = capsys.readouterr().out.splitlines()
    examples = [line for line in module.__doc__.splitlines() if line.strip().startswith("python")]
    assert examples and set(examples) <= set(shown)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("a.yaml: no"), BAD_INPUT, "error: a.yaml: no\n"),
        (FileNotFoundError("b"), BAD_INPUT, "error: b\n"),
        (IsADirectoryError("b"), BAD_INPUT, "error: b\n"),
        (PermissionError("c"), 1, "error: c\n"),
        (
            KeyError("two\nlines"),
            1,
            "error: KeyError: 'two\\nlines' (--debug shows the traceback)\n",
        ),
        (
            RuntimeError("two\nlines"),
            1,
            "error: RuntimeError: two lines (--debug shows the traceback)\n",
        ),
        (Stopped("saved"), RESUMABLE, "stopped: saved\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_exit_code_and_message_of_each_error(error, code, message, capsys):
    assert (BAD_INPUT, RESUMABLE) == (2, 75)  # schedulers depend on these values

    def fail(argv):
        raise error

    assert run_command(fail, []) == code
    assert capsys.readouterr().err == message
    if code in (1, BAD_INPUT):
        with pytest.raises(type(error)):
            run_command(fail, ["--debug"])


def test_help_of_main_is_at_most_55_lines(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as end:
        main.main(["--help"])
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 55 and max(map(len, lines)) <= 100
