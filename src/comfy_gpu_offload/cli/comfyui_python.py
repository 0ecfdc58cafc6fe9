"""The comfyui backend runs under ComfyUI's own interpreter: finds it, and goes there."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError

logger = logging.getLogger(__name__)

PYTHON_VARIABLE = "COMFYUI_PYTHON"
_ENTERED_VARIABLE = "COMFY_GPU_OFFLOAD_ENTERED"
# Loads this very package by its folder, without putting its neighbours in site-packages on the path.
_BOOT = """
import importlib.util, sys
from pathlib import Path
folder = Path(sys.argv[1])
spec = importlib.util.spec_from_file_location(
    "comfy_gpu_offload", folder / "__init__.py", submodule_search_locations=[str(folder)])
package = importlib.util.module_from_spec(spec)
sys.modules["comfy_gpu_offload"] = package
sys.argv[:2] = ["comfy-gpu-offload"]
spec.loader.exec_module(package)
from comfy_gpu_offload.cli.main import main
sys.exit(main())
"""


def enter_comfyui(root: Path | None, arguments: Sequence[str]) -> None:
    """Goes on under ComfyUI's interpreter, in this process's place, unless this already is it.

    Raises:
        ConfigError: `root` is no ComfyUI, or its interpreter cannot be found.
    """
    if root is None or not (root / "comfyui_version.py").is_file():
        raise ConfigError(
            f"--comfyui {root or 'PATH'}: this is no ComfyUI folder; name the one that holds main.py and "
            "comfyui_version.py"
        )
    python = find_python(root)
    if python is None or _is_this(python) or os.environ.get(_ENTERED_VARIABLE):
        _require_dependencies()
        return
    logger.info("running under ComfyUI's interpreter, %s", python)
    package = Path(__file__).resolve().parents[1]
    command = [str(python), "-c", _BOOT, str(package), *arguments]
    environment = {**os.environ, _ENTERED_VARIABLE: "1"}
    if sys.platform == "win32":  # exec there returns to the shell at once
        raise SystemExit(subprocess.call(command, env=environment))  # noqa: S603  # nosec B603
    os.execve(command[0], command, environment)  # noqa: S606  # nosec B606


def find_python(root: Path) -> Path | None:
    """The interpreter of the ComfyUI at `root`: `$COMFYUI_PYTHON`, else a venv in it or beside it, else None.

    Raises:
        ConfigError: `$COMFYUI_PYTHON` names no file.
    """
    named = os.environ.get(PYTHON_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise ConfigError(f"{PYTHON_VARIABLE}: there is no interpreter {named}")
        return Path(named)
    inside = Path("Scripts", "python.exe") if sys.platform == "win32" else Path("bin", "python")
    for folder in (root / "venv", root / ".venv", root.parent / "venv", root.parent / ".venv"):
        if (folder / inside).is_file():
            return folder / inside
    embedded = root.parent / "python_embeded" / "python.exe"  # ComfyUI's portable build spells it so
    return embedded if embedded.is_file() else None


def _is_this(python: Path) -> bool:
    # Not resolved: a venv's interpreter is a link to the one it was made with.
    return Path(os.path.abspath(python)) == Path(os.path.abspath(sys.executable))


def _require_dependencies() -> None:
    needed = ("msgpack", "psutil", "pydantic_settings", "safetensors", "xxhash", "zstandard")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"ComfyUI's interpreter {sys.executable} lacks {', '.join(missing)}: install this package's "
            "requirements.txt there, as ComfyUI-Manager does."
        )
