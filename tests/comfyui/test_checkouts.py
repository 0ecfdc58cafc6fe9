"""The search for ComfyUI checkouts, tested without one."""

import os
from pathlib import Path

import pytest

from .harness.checkouts import BrokenCheckoutError, Checkout, find_checkouts


def make(root: Path, version: str = "0.3.64") -> Path:
    root.mkdir(parents=True)
    (root / "comfyui_version.py").write_text(f'# generated\n__version__ = "{version}"\n')
    return root


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    assert find_checkouts({}, tmp_path) == []


def test_comfy_clis_default_and_its_neighbours(tmp_path: Path) -> None:
    default = make(tmp_path / "comfy" / "ComfyUI")
    neighbour = make(tmp_path / "comfy" / "ComfyUI-0.33", "0.33.0")
    (tmp_path / "comfy" / "ComfyUI-backup").mkdir()
    assert find_checkouts({}, tmp_path) == [Checkout(default, "0.3.64"), Checkout(neighbour, "0.33.0")]


def test_a_named_one_replaces_the_default_and_further_ones_add_to_it(tmp_path: Path) -> None:
    make(tmp_path / "comfy" / "ComfyUI")
    named, further = make(tmp_path / "a", "1.0"), make(tmp_path / "b", "2.0")
    environ = {"COMFYUI_PATH": str(named), "COMFYUI_PATHS": os.pathsep.join([str(further), str(named)])}
    assert [found.version for found in find_checkouts(environ, tmp_path)] == ["1.0", "2.0"]


def test_a_wrong_name_is_an_error_and_no_reason_to_skip(tmp_path: Path) -> None:
    (found,) = find_checkouts({"COMFYUI_PATH": str(tmp_path / "nowhere")}, tmp_path)
    with pytest.raises(BrokenCheckoutError, match="no ComfyUI checkout"):
        found.python()


def test_an_interpreter_in_or_beside_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMFYUI_PYTHON", raising=False)
    found = Checkout(make(tmp_path / "ComfyUI"), "0.3.64")
    with pytest.raises(BrokenCheckoutError, match="COMFYUI_PYTHON"):
        found.python()
    beside = tmp_path / ".venv" / "bin" / "python"
    beside.parent.mkdir(parents=True)
    beside.touch()
    assert found.python() == beside
    monkeypatch.setenv("COMFYUI_PYTHON", str(tmp_path / "other"))
    assert found.python() == tmp_path / "other"
