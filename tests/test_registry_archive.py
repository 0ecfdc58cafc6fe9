"""The archive that the Comfy registry would distribute. tests/comfyui runs it in ComfyUI."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from .support.registry_archive import REPOSITORY, new_files, pack, packed_files

# All that is at the top of the archive. A new file or folder belongs here, or in `.comfyignore`.
AT_THE_TOP = {
    ".env.example",
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "__init__.py",
    "example_workflows",
    "locales",
    "pyproject.toml",
    "requirements.txt",
    "src",
    "web",
}
LARGEST_BYTES = 1_100_000


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("registry") / "node.zip"
    pack(file)
    return file


def test_it_holds_what_a_comfyui_needs_and_nothing_else(archive: Path) -> None:
    with zipfile.ZipFile(archive) as packed:
        names = packed.namelist()
    assert {name.split("/")[0] for name in names} == AT_THE_TOP
    assert not [name for name in names if "/digits/" in name]
    assert archive.stat().st_size < LARGEST_BYTES


def test_no_file_of_it_is_missing_from_git() -> None:
    assert new_files() == [], "these would not be distributed: add them to git"


def test_a_copy_without_git_is_packed_alike(tmp_path: Path) -> None:
    """Return the paths that git ignores, by top-level entry."""
    copy = tmp_path / "copy"
    ignored = shutil.ignore_patterns(
        ".git", ".venv*", ".prism", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"
    )
    shutil.copytree(REPOSITORY, copy, ignore=ignored)
    (copy / ".env").write_text("COMFY_GPU_OFFLOAD_TOKEN=secret\n")
    (copy / ".venv").mkdir()
    (copy / ".venv" / "pyvenv.cfg").touch()
    assert sorted(packed_files(copy)) == sorted(packed_files() + new_files())
