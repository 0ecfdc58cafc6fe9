"""What has to agree between files of this repository."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from comfy_gpu_offload.version import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def lines_of(name: str) -> list[str]:
    text = (ROOT / name).read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_requirements_are_the_metadatas_dependencies() -> None:
    assert lines_of("requirements.txt") == PROJECT["dependencies"]


def test_every_dependency_has_a_lower_and_an_upper_bound() -> None:
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    for line in PROJECT["dependencies"] + extras:
        if not line.startswith(PROJECT["name"]):
            assert re.fullmatch(r"[a-z0-9-]+>=[\d.]+,<\d+", line), line


def test_torch_is_pinned_for_development_and_a_range_for_users() -> None:
    assert lines_of("constraints.txt") == ["torch==2.13.0"]
    assert any(line.startswith("torch>=") for line in PROJECT["dependencies"])


def test_versions_agree() -> None:
    assert PROJECT["version"] == __version__
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_pack_loads_as_comfyui_loads_it_and_as_anything_else_does(tmp_path: Path) -> None:
    """From a folder with a hyphen in its name, under a module name that is a path."""
    folder = tmp_path / "comfy-gpu-offload"
    folder.symlink_to(ROOT, target_is_directory=True)
    spec = importlib.util.spec_from_file_location(
        str(folder), folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.__all__ == []  # no ComfyUI here, so no nodes, and no error


def test_importing_the_package_needs_no_extra() -> None:
    code = (
        "import sys, comfy_gpu_offload\n"
        "print([m for m in ('aiohttp', 'diffusers', 'psutil', 'PIL', 'comfy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT / "src")},
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["README.md", "LICENSE", "CHANGELOG.md", ".env.example", "Makefile", ".ci/run"])
def test_it_is_there(name: str) -> None:
    assert (ROOT / name).stat().st_size > 100
