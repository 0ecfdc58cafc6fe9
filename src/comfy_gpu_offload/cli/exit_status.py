"""A command's exit status, and the text for its user where it failed. No command ends in a traceback."""

from __future__ import annotations

import importlib.util
import io
import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from ..errors import ConfigError, OffloadError

logger = logging.getLogger(__name__)

_PACKAGE = Path(__file__).resolve().parents[1]
# The extra of ours to install, by the package that is missing.
_EXTRAS = {"psutil": "worker", "diffusers": "worker", "PIL": "demo", "tqdm": "demo"}
# What ComfyUI's registry leaves out of the pack.
_DEMO = f"{_PACKAGE.name}.digits"
FAILURE, _WRONG, INTERRUPTED = 1, 2, 130


def exit_status(run: Callable[[], int]) -> int:
    """Return what `run` returns; 1 for a failure, 2 for a wrong setting or call, 130 after Ctrl-C.

    What went wrong is one text on stderr; where it did stands in the log at DEBUG.
    """
    _print_any_character()
    try:
        return run()
    except BrokenPipeError:
        # The reader of our output has ended. Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        logger.debug("the command failed", exc_info=error)
        print(f"comfy-gpu-offload: {explained(error)}", file=sys.stderr, flush=True)
        return _WRONG if isinstance(error, ConfigError | ModuleNotFoundError) else FAILURE


def explained(error: Exception) -> str:
    """Return what failed and what to do about it."""
    if isinstance(error, OffloadError):
        return str(error)
    if isinstance(error, ImportError) and (error.name or "").startswith(_DEMO):
        return "The demo is not part of this installation: pip install 'comfy-gpu-offload[demo]'"
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith(_PACKAGE.name):
        return _missing((error.name or "a module").split(".")[0])
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    # Without its text, which may hold a user's data.
    return (
        f"This should not have happened: {type(error).__name__} at {_place(error)}. With --log-level DEBUG before "
        "the command's name the log says more; please report it."
    )


def require(*packages: str) -> None:
    """Look for packages that are imported only later, when a command's work is done.

    Raises:
        ModuleNotFoundError: one is not installed.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)


def requirements() -> str:
    """Return what pip installs the package's requirements by: the file beside a checkout, or the package's name."""
    file = _PACKAGE.parents[1] / "requirements.txt"
    return f"-r {file}" if file.is_file() else "comfy-gpu-offload"


def _missing(package: str) -> str:
    if package in _EXTRAS:
        return f"this needs {package}: pip install 'comfy-gpu-offload[{_EXTRAS[package]}]'"
    return (
        f"this needs {package}, which is not installed for {sys.executable}: "
        f"{sys.executable} -m pip install {requirements()}"
    )


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "an unknown place"
    files = [Path(frame.filename) for frame in frames]
    ours = [
        frame
        for frame, file in zip(frames, files, strict=True)
        if file.is_relative_to(_PACKAGE) and file.name != Path(__file__).name
    ]
    last = (ours or frames)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"


def _print_any_character() -> None:
    """Make output that cannot show a character, as a redirected one on Windows, write its number instead."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
