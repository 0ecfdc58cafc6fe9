"""The task files for SkyPilot and dstack: each is what its tool takes, and its command starts a worker.

`make clouds` installs the two tools, each in an environment of its own, and runs these tests.
"""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.comfyui.harness.checkouts import Checkout
from tests.support.platforms import needs_posix
from tests.support.process import environment
from tests.worker.processes import free_port

import comfy_gpu_offload
from comfy_gpu_offload.rental.images import IMAGE_COMFYUI, published_name
from comfy_gpu_offload.version import __version__

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "worker" / "clouds"
DSTACK, SKYPILOT = FOLDER / "dstack.yml", FOLDER / "skypilot.yaml"
_DSTACK_READS = """
import json, sys, yaml
from dstack._internal.core.models.configurations import parse_run_configuration
print(parse_run_configuration(yaml.safe_load(open(sys.argv[1]))).json())
"""
_SKYPILOT_READS = """
import json, sys, sky
print(json.dumps(sky.Task.from_yaml(sys.argv[1]).to_yaml_config()))  # its validate() reads prices online
"""


def read_by(tool: str, program: str, file: Path, home: Path) -> dict[str, Any]:
    """Return the task file as the tool itself reads it; skip where `make clouds` has not installed it."""
    python = ROOT / f".venv-{tool}" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{tool} is not installed: `make clouds` does it")
    own = {"HOME": str(home), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    done = subprocess.run(
        [python, "-W", "ignore", "-c", program, file],
        capture_output=True, text=True, timeout=300, check=False, env=environment() | own,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_dstack_takes_its_file(tmp_path: Path) -> None:
    task = read_by("dstack", _DSTACK_READS, DSTACK, tmp_path)
    assert task["type"] == "task"
    assert task["ports"] == [{"local_port": 8288, "container_port": 8288}]
    assert task["idle_duration"] == 0
    assert task["max_duration"] > 4 * 3600
    assert task["image"] == published_name()


def test_skypilot_takes_its_file(tmp_path: Path) -> None:
    task = read_by("skypilot", _SKYPILOT_READS, SKYPILOT, tmp_path)
    for choice in task["resources"]["any_of"]:
        assert choice["autostop"] == {"idle_minutes": 1, "down": True, "wait_for": "jobs"}
    assert {name for each in task["resources"]["any_of"] for name in each["accelerators"]} >= {"L4", "RTX4090"}
    assert "--idle-exit 20" in task["run"]


def test_the_releases_are_those_of_this_one() -> None:
    assert yaml.safe_load(DSTACK.read_text())["image"] == published_name()
    envs = yaml.safe_load(SKYPILOT.read_text())["envs"]
    assert envs["PACK"] == f"comfy-gpu-offload=={__version__}"
    assert envs["COMFYUI"] == IMAGE_COMFYUI


def test_setup_is_valid_shell() -> None:
    setup = yaml.safe_load(SKYPILOT.read_text())["setup"]
    assert subprocess.run(["bash", "-n"], input=setup, text=True, check=False).returncode == 0


def _command(tool: str) -> tuple[str, dict[str, str]]:
    """Return what the tool runs, and the variables that it sets."""
    if tool == "dstack":
        task = yaml.safe_load(DSTACK.read_text())
        return " && ".join(task["commands"]), dict(line.split("=", 1) for line in task["env"])
    task = yaml.safe_load(SKYPILOT.read_text())
    return task["run"], task["envs"]


@pytest.mark.comfyui
@needs_posix
@pytest.mark.parametrize("tool", ["dstack", "skypilot"])
def test_its_command_starts_a_worker_that_answers(
    checkout: Checkout, python: Path, tool: str, tmp_path: Path
) -> None:
    """In a folder that looks as after `setup`, and with the package where the image has it."""
    command, variables = _command(tool)
    programs = tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    program = programs / "comfy-gpu-offload"
    program.write_text(f'#!/bin/sh\nexec "{python}" -m comfy_gpu_offload "$@"\n')
    program.chmod(0o755)
    (tmp_path / "comfyui").symlink_to(checkout.root)
    port = free_port()
    own = {**variables, "PORT": str(port), "PATH": f"{programs}:{os.defpath}", "PYTHONPATH": str(ROOT / "src")}
    if tool == "dstack":
        own["COMFYUI"] = str(checkout.root)
    worker = subprocess.Popen(
        ["bash", "-c", command], cwd=tmp_path, env=environment(**own), stdout=subprocess.PIPE, text=True
    )
    try:
        assert worker.stdout is not None
        line = worker.stdout.readline()
        assert line.strip() == f"listening on http://127.0.0.1:{port}"
        with comfy_gpu_offload.connect(f"http://127.0.0.1:{port}") as session:
            assert session.welcome.comfyui == checkout.version
    finally:
        worker.terminate()
        with suppress(subprocess.TimeoutExpired):
            worker.wait(60)
        worker.kill()
        worker.wait(30)
    assert worker.returncode == 0
