"""The parts of a rented container: a Python with PyTorch, the pack as a wheel, ComfyUI as a repository."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from tests.support.process import environment

ROOT = Path(__file__).resolve().parents[2]
_GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "init.defaultBranch=master")
_PACK = ("pyproject.toml", "README.md", "LICENSE", "src")
_LEFT_OUT = shutil.ignore_patterns(
    *("venv", ".venv", "__pycache__", ".git", "output", "temp", "user", "*.safetensors", "*.gguf", "*.log")
)


def python_with_torch(folder: Path, vision_from: Path) -> Path:
    """Make an interpreter whose own packages are PyTorch, with all that it needs, and pip; return its `bin`.

    It is this one, in a prefix of its own: a venv's environments would not see the packages of that venv.

    Args:
        vision_from: an environment whose torchvision and torchaudio fit PyTorch's build; the index has others.
    """
    library = Path("lib", f"python{sys.version_info.major}.{sys.version_info.minor}")
    packages = folder / library / "site-packages"
    packages.mkdir(parents=True)
    for entry in (Path(sys.base_prefix) / library).iterdir():
        if entry.name != "site-packages":
            (folder / library / entry.name).symlink_to(entry)
    for name in _installed(["torch", "pip"]):
        found = distribution(name)
        for entry in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (packages / entry).exists():
                (packages / entry).symlink_to(Path(str(found.locate_file(entry))))
    for entry in (vision_from / library / "site-packages").glob("torch[va]*"):
        (packages / entry.name).symlink_to(entry)
    programs = folder / "bin"
    programs.mkdir()
    shutil.copy(Path(sys.base_prefix) / "bin" / "python3", programs / "python3")
    return programs


def pack_wheel(folder: Path) -> Path:
    """Build the pack's wheel from this checkout, in a copy of it, and return its path."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name in _PACK:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", folder, source], check=True, timeout=300, env=environment())
    (wheel,) = folder.glob("*.whl")
    return wheel


def comfyui_repository(checkout: Path, version: str, folder: Path) -> Path:
    """Return a repository of that ComfyUI, without its environment and models, with the tag of its release."""
    shutil.copytree(checkout, folder, ignore=_LEFT_OUT, symlinks=True)
    for command in (
        ["init", "--quiet"],
        ["add", "."],
        ["commit", "--quiet", "-m", version],
        ["tag", f"v{version}"],
    ):
        subprocess.run([*_GIT, *command], cwd=folder, check=True, timeout=300)
    return folder


def _installed(names: list[str]) -> dict[str, Distribution]:
    """Return these packages and what they require, as far as it is installed here."""
    found: dict[str, Distribution] = {}
    while names:
        name = names.pop()
        if name in found:
            continue
        found[name] = distribution(name)
        wanted = map(Requirement, found[name].requires or ())
        names += [each.name for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found
