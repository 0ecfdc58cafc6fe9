"""The pack's requirements leave a ComfyUI environment as it is."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from .harness.checkouts import Checkout
from .harness.site import REPOSITORY

pytestmark = [pytest.mark.comfyui, pytest.mark.each_release]

_VERSIONS = """
import json, sys
from importlib.metadata import version
print(json.dumps({name: version(name) for name in sys.argv[1:]}))
"""


def lines() -> list[Requirement]:
    text = (REPOSITORY / "requirements.txt").read_text()
    return [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]


def of_comfyui(checkout: Checkout) -> set[str]:
    """Return ComfyUI's own requirements, by name."""
    text = (checkout.root / "requirements.txt").read_text()
    wanted = [line.split("#")[0].strip() for line in text.splitlines()]
    return {Requirement(line).name.lower() for line in wanted if line}


def test_what_is_installed_satisfies_them(checkout: Checkout, python: Path) -> None:
    names = [requirement.name for requirement in lines()]
    done = subprocess.run([python, "-c", _VERSIONS, *names], capture_output=True, text=True, check=True)
    versions: dict[str, str] = json.loads(done.stdout)
    for requirement in lines():
        assert requirement.specifier.contains(versions[requirement.name], prereleases=True), requirement
    assert {"torch", "numpy", "safetensors"} <= of_comfyui(checkout)


def test_pip_has_nothing_to_install_or_replace(python: Path) -> None:
    command = [python, "-m", "pip", "install", "--dry-run", "--no-index", "--quiet", "--report", "-"]
    done = subprocess.run(
        [*command, "--requirement", REPOSITORY / "requirements.txt"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["install"] == []
