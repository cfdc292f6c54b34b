"""The command line: which command runs, what it prints and with which exit code."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import serverless_session
from serverless_session import SharedState
from serverless_session.cli import COMMANDS, keygen, main

# The package that this process tests, installed or not.
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(serverless_session.__file__).parent.parent)}


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-P", *arguments], capture_output=True, text=True, env=ENVIRONMENT)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return python("-m", "serverless_session", *arguments)


def test_keygen_prints_a_key_and_nothing_else() -> None:
    done = run("keygen")
    assert done.returncode == 0
    assert done.stderr == ""
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{42}\n", done.stdout)


def test_keys_differ_and_are_accepted_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    keys = {keygen.new_secret() for _ in range(500)}
    assert len(keys) == 500
    assert not [key for key in keys if key.startswith("-")]
    SharedState("memory://", secret_key=keys.pop()).check()
    assert not caplog.records


def test_the_version() -> None:
    done = run("--version")
    assert done.returncode == 0
    assert re.fullmatch(r"serverless-session \S.*\n", done.stdout)


def test_without_a_command_it_tells_which_there_are() -> None:
    done = run()
    assert done.returncode == 2
    assert done.stdout == ""
    for name in COMMANDS:
        assert name in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    assert f"usage: serverless-session {command}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["nonsense"], ["keygen", "more"], ["demo", "--json", "--plain"]])
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_an_error_of_ours_is_three_lines_and_no_traceback() -> None:
    done = run("demo", "--store", "gopher://localhost")
    assert done.returncode == 2
    assert done.stdout == ""
    first, second, third = done.stderr.splitlines()
    assert first.startswith("[unknown-store] ")
    assert second.startswith("  looked at: ")
    assert third.startswith("  write:     ")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for module in [name for name in sys.modules if name.startswith(("mangum", "serverless_session.demo"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delattr(serverless_session, "demo", raising=False)
    monkeypatch.delitem(sys.modules, "serverless_session.aws.handler", raising=False)
    monkeypatch.setitem(sys.modules, "mangum", None)
    assert main(["demo"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("[missing-extra] ")
    assert 'pip install "serverless-session[demo]"' in err


def test_only_the_chosen_command_is_imported() -> None:
    done = python("-c", "import sys; from serverless_session.cli import main; main(['keygen']); print(*sys.modules)")
    imported = done.stdout.splitlines()[1].split()
    assert "serverless_session.cli.keygen" in imported
    assert not [name for name in imported if name.startswith(("starlette", "cryptography", "serverless_session.demo"))]
    assert "serverless_session.cli.demo" not in imported


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -P -m serverless_session demo --json | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.stdout == "{"
    assert done.stderr == ""
