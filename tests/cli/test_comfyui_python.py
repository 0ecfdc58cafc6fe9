from __future__ import annotations

import sys
from pathlib import Path

import pytest

from comfy_gpu_offload.cli.comfyui_python import NEEDED, enter_comfyui, find_python
from comfy_gpu_offload.errors import ConfigError

ROOT = Path(__file__).parents[2]


def test_what_is_looked_for_is_what_the_requirements_list() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    listed = {line.split(">")[0].replace("-", "_") for line in lines if line and not line.startswith("#")}
    names = {"dotenv" if name == "python_dotenv" else name for name in listed}
    assert set(NEEDED) == names - {"cryptography", "python_socks"} | {"psutil"}


@pytest.mark.parametrize("place", ["venv", ".venv", "../venv", "../.venv"])
def test_a_venv_in_or_beside_the_folder_is_found(tmp_path: Path, place: str) -> None:
    root = tmp_path / "ComfyUI"
    root.mkdir()
    assert find_python(root) is None
    inside = Path("Scripts", "python.exe") if sys.platform == "win32" else Path("bin", "python")
    python = (root / place).resolve() / inside
    python.parent.mkdir(parents=True)
    python.touch()
    found = find_python(root)
    assert found is not None
    assert found.samefile(python)


def test_what_is_no_comfyui_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a ComfyUI folder"):
        enter_comfyui(tmp_path, [], cpu=True)
