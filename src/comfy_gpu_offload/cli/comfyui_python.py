"""ComfyUI's own Python interpreter: where it is found, and how the worker command goes on under it."""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError
from .exit_status import require, requirements

logger = logging.getLogger(__name__)

_ENTERED_VARIABLE = "COMFYUI_PYTHON_ENTERED"
NEEDED = (
    *("torch", "numpy", "safetensors", "msgpack", "zstandard", "xxhash", "requests", "urllib3", "certifi"),
    *("pydantic", "pydantic_settings", "dotenv", "h11", "websockets", "psutil"),
)
"""Import names of requirements.txt, and of psutil, which ComfyUI brings.

Two are imported when they are used: cryptography makes the certificate of a worker that is shared at first,
and python_socks is for clients.
"""
_REMEDY = "set COMFYUI_PYTHON to the interpreter that this ComfyUI runs under"
# Seconds, for a slow disk; usually an interpreter answers in a tenth of one.
_PROBE_S = 120.0
_PROBE = """
import importlib.util, sys
print("new" if sys.version_info >= (3, 11) else "old",
      *[name for name in sys.argv[1:] if importlib.util.find_spec(name) is None])
"""
# Loads this package by its folder, without putting its neighbours in site-packages on the path.
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


def enter_comfyui(root: Path | None, arguments: Sequence[str], named: Path | None = None, *, cpu: bool) -> None:
    """Go on under ComfyUI's interpreter, in this process's place, unless ComfyUI runs under this one.

    This one is kept where it can import ComfyUI, and none is `named` (COMFYUI_PYTHON); `cpu`: that uses no GPU.

    Raises:
        ConfigError: `root` is no ComfyUI, or no interpreter can run it.
    """
    if root is None or not (root / "comfyui_version.py").is_file():
        wrong = "--comfyui PATH is missing" if root is None else f"--comfyui {root}: this is not a ComfyUI folder"
        raise ConfigError(f"{wrong}; name the folder that holds main.py and comfyui_version.py")
    python = named or find_python(root)
    if python is None or _is_this(python) or os.environ.get(_ENTERED_VARIABLE):
        require(*NEEDED)
        return
    if named is None and _runs_here(root, cpu=cpu):
        logger.info("running under %s, which has all that ComfyUI needs", sys.executable)
        return
    _check(python)
    logger.info("running under ComfyUI's interpreter, %s", python)
    package = Path(__file__).resolve().parents[1]
    command = [str(python), "-c", _BOOT, str(package), *arguments]
    environment = {**os.environ, _ENTERED_VARIABLE: "1"}
    if sys.platform == "win32":  # exec there returns to the shell at once
        raise SystemExit(subprocess.call(command, env=environment))  # noqa: S603  # nosec B603
    os.execve(command[0], command, environment)  # noqa: S606  # nosec B606


def find_python(root: Path) -> Path | None:
    """Return the interpreter of the ComfyUI at `root`, by a venv in it or beside it; None where there is none."""
    inside = Path("Scripts", "python.exe") if sys.platform == "win32" else Path("bin", "python")
    for folder in (root / "venv", root / ".venv", root.parent / "venv", root.parent / ".venv"):
        if (folder / inside).is_file():
            return folder / inside
    embedded = root.parent / "python_embeded" / "python.exe"  # ComfyUI's portable build spells it so
    return embedded if embedded.is_file() else None


def _is_this(python: Path) -> bool:
    # Not resolved: a venv's interpreter is a link to the one it was made with.
    return Path(os.path.abspath(python)) == Path(os.path.abspath(sys.executable))


def _runs_here(root: Path, *, cpu: bool) -> bool:
    """Return whether ComfyUI and this package can be imported here. If so no time is lost: both will be."""
    try:
        require(*NEEDED)
        importlib.import_module("..comfyui.installation.import_comfyui", __package__).enter(root, cpu=cpu)
    except Exception as error:  # a package may fail in its own way where it does not fit the others
        logger.debug("ComfyUI cannot be imported under %s: %s", sys.executable, error)
        return False
    return True


def _check(python: Path) -> None:
    """Ask another interpreter whether this package runs under it.

    Raises:
        ConfigError: it does not; says what it lacks, and what to do.
    """
    command = [str(python), "-c", _PROBE, *NEEDED]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_PROBE_S)  # noqa: S603  # nosec B603
    except (OSError, subprocess.SubprocessError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise ConfigError(f"{python} does not run as a Python ({why}): {_REMEDY}") from error
    release, *missing = done.stdout.split() or [""]
    if release != "new":
        raise ConfigError(f"{python} is older than Python 3.11: {_REMEDY}")
    if missing:
        raise ConfigError(
            f"ComfyUI's interpreter {python} lacks {', '.join(missing)}: {python} -m pip install {requirements()} "
            f"(as ComfyUI-Manager does), or {_REMEDY}"
        )
