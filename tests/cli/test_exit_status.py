"""No command ends in a traceback, whatever is raised and whatever interpreter it runs under."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from tests.support.platforms import needs_posix
from tests.support.process import environment

from comfy_gpu_offload.cli.exit_status import exit_status
from comfy_gpu_offload.errors import ConfigError, OffloadError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an interpreter into which nothing was installed."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    venv.create(folder, symlinks=os.name != "nt")
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (OffloadError("what failed"), 1, "what failed"),
        (ConfigError("what is wrong"), 2, "what is wrong"),
        (FileNotFoundError(2, "No such file or directory", "there"), 1, "there: No such file"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (
            ModuleNotFoundError("No module named 'PIL'", name="PIL.Image"),
            2,
            "pip install 'comfy-gpu-offload[demo]'",
        ),
        (ModuleNotFoundError("No module named 'msgpack'", name="msgpack"), 2, "requirements.txt"),
        (ModuleNotFoundError("No module named 'msgpack'", name="msgpack"), 2, sys.executable),
        (KeyError("a prompt nobody else may read"), 1, "KeyError at test_exit_status.py:"),
    ],
)
def test_what_is_raised_is_said_in_words(
    error: Exception, status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise error

    assert exit_status(fail) == status
    said = capsys.readouterr().err
    assert says in said
    assert "Traceback" not in said
    assert "nobody else may read" not in said


def test_what_returns_keeps_its_status_and_an_interrupt_has_its_own() -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert exit_status(lambda: 3) == 3
    assert exit_status(interrupted) == 130


@pytest.mark.parametrize("command", ["demo", "doctor", "models", "worker --backend diffusers", "worker --help"])
def test_an_interpreter_without_the_requirements_is_told_what_to_install(
    bare_python: Path, tmp_path: Path, command: str
) -> None:
    done = subprocess.run(
        [bare_python, "-m", "comfy_gpu_offload", *command.split()],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=environment(),
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"{bare_python} -m pip install -r {ROOT / 'requirements.txt'}" in done.stderr


def test_a_comfyui_interpreter_without_the_requirements_is_told_of(bare_python: Path, tmp_path: Path) -> None:
    (tmp_path / "comfyui_version.py").write_text('__version__ = "0.33.0"\n')
    done = worker_under(bare_python, tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "lacks torch" in done.stderr
    assert "pydantic" in done.stderr
    assert f"{bare_python} -m pip install" in done.stderr


@needs_posix
@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "No such file"), ("not a program", "Exec format error"), ("#!/bin/sh\nexit 3\n", "CalledProcessError")],
)
def test_a_comfyui_interpreter_that_is_none_is_told_of(tmp_path: Path, content: str | None, says: str) -> None:
    (tmp_path / "comfyui_version.py").write_text('__version__ = "0.33.0"\n')
    python = tmp_path / "python"
    if content is not None:
        python.write_text(content)
        python.chmod(0o755)
    done = worker_under(python, tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"{python} does not run as a Python ({says}" in done.stderr
    assert "COMFYUI_PYTHON" in done.stderr


def worker_under(python: Path, root: Path) -> subprocess.CompletedProcess[str]:
    """Run a comfyui worker, with the interpreter named in a .env."""
    (root / ".env").write_text(f"COMFYUI_PYTHON={python}\n")
    kept = {name: value for name, value in environment().items() if name != "COMFYUI_PYTHON"}
    return subprocess.run(
        [sys.executable, "-m", "comfy_gpu_offload", "worker", "--backend", "comfyui", "--comfyui", root],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=kept,
        cwd=root,
    )
