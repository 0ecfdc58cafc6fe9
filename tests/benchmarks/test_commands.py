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
