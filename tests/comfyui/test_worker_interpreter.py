"""The choice of a comfyui worker's interpreter, where there are several."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from .harness.checkouts import Checkout
from .harness.process import Process
from .harness.site import REPOSITORY

pytestmark = pytest.mark.comfyui

_WRONG = "#!/bin/sh\necho the wrong interpreter\nexit 3\n"


@pytest.fixture
def root(checkout: Checkout, tmp_path: Path) -> Path:
    """Give the same ComfyUI without an interpreter of its own, beside an environment that is not its."""
    folder = tmp_path / "ComfyUI"
    folder.mkdir()
    for entry in checkout.root.iterdir():
        if entry.name not in {"venv", ".venv", "models"}:
            # Files are copied: ComfyUI follows its own links, and would find itself in the checkout.
            shutil.copy(entry, folder) if entry.is_file() else (folder / entry.name).symlink_to(entry)
    other = tmp_path / "venv" / "bin" / "python"
    other.parent.mkdir(parents=True)
    other.write_text(_WRONG)
    other.chmod(0o755)
    return folder


def worker(python: Path, root: Path, **settings: str) -> Process:
    command = [python, "-m", "comfy_gpu_offload", "worker", "--backend", "comfyui", "--comfyui", root]
    env = {"PYTHONPATH": str(REPOSITORY / "src"), **settings}
    return Process("worker", [*command, "--port", "0", "--cpu"], root.parent, env)


def test_the_one_it_was_started_by_is_kept_where_it_can_import_that_comfyui(python: Path, root: Path) -> None:
    process = worker(python, root)
    try:
        process.wait_for_line(r"^listening on http://127\.0\.0\.1:\d+$", 180)
    finally:
        process.stop()
    assert not any("wrong interpreter" in line for line in process.lines)
    (offered,) = [line for line in process.lines if "0 models: " in line]
    for kind in ("diffusion_models", "checkpoints"):
        assert str(root / "models" / kind) in offered


def test_one_that_is_named_is_used_all_the_same(python: Path, root: Path) -> None:
    process = worker(python, root, COMFYUI_PYTHON=str(root.parent / "venv" / "bin" / "python"))
    try:
        process.wait_for_line(r"does not run as a Python \(CalledProcessError\).*COMFYUI_PYTHON", 180)
    finally:
        process.stop()
