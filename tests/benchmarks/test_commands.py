"""Every benchmark is a command that says what it does, and takes what all take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = sorted(
    path
    for path in (Path(__file__).parents[2] / "benchmarks").glob("*.py")
    if "def main(" in path.read_text() and path.name != "train_digits.py"  # it measures nothing
)


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.name)
def test_every_command_answers_help(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, path, "--help"], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
    from report_commands import COMMANDS

    used = next((command.arguments for command in COMMANDS if command.path == path), ())
    options = ["--seed", "--json", *(argument for argument in used if argument.startswith("--"))]
    if "arguments.parser(" in path.read_text():
        options.append("--output")
    for option in options:
        assert option in done.stdout


_LINKS = ("40/0/100", "40/20", "40/20/100/1", "nan/20/100", "40/inf/100", "-1/20/100", "40/x/100", "")
_WRONG: dict[str, list[tuple[str, str]]] = {
    "tune.py": [
        ("--call", "-3"),
        ("--call", "nan"),
        ("--link", "40/0/100"),
        ("--model", "none"),
        ("--steps", "1.5"),
    ],
    "transfer_vs_compute.py": [
        *(("--link", link) for link in _LINKS),
        ("--compute", "flux=abc"),
        ("--compute", "flux"),
        ("--compute", "other=1"),
        ("--compute", "flux=-1"),
        ("--steps", "4"),
        ("--naive", "none"),
    ],
    "warm_connections.py": [
        ("--case", "40/20/100"),
        ("--case", "40/20/100:0/1"),
        ("--case", "40/20/100:2/3"),
        ("--compute", "inf"),
    ],
    "whole_loop.py": [("--link", "40/0/100"), ("--compute-ms", "-1")],
    "model_transfer.py": [("--gb", "0"), ("--rounds", "0"), ("--what", "pull")],
    "upload.py": [("--size-mb", "0"), ("--link", "a/b/c")],
    "first_step.py": [("--rate", "0"), ("--round-trip", "1e9")],
    "faults_run.py": [("--kill", "-1"), ("--silence-s", "0")],
    "prediction.py": [("--guidance", "nan")],
    "quality.py": [("--guidance", "x")],
}


@pytest.mark.parametrize("script", _WRONG)
def test_a_wrong_argument_is_one_line_that_says_what_is_wrong(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main = __import__(script.removesuffix(".py")).main
    for option, value in _WRONG[script]:
        monkeypatch.setattr(sys, "argv", [script, f"{option}={value}"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2, (option, value)
        *usage, said = capsys.readouterr().err.splitlines()
        assert usage[0].startswith("usage:")
        assert f"argument {option}: " in said, said


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--json", __file__ + "/rows.json", "there is no folder"),
        ("--output", __file__, "there is no folder"),
        ("--calls", "0", "0 is not from 1"),
        ("--seed", "-1", "-1 is not from 0"),
    ],
)
def test_what_cannot_be_written_or_measured_is_said_before_the_work(option: str, value: str, says: str) -> None:
    (command,) = [path for path in COMMANDS if path.name == "call_overhead.py"]
    done = subprocess.run(
        [sys.executable, command, f"{option}={value}"], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stdout == ""
