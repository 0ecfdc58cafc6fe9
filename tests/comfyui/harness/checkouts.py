"""The ComfyUI checkouts on this machine, and the interpreters that they run under."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

NONE_FOUND = "no ComfyUI was found: no COMFYUI_PATH, no COMFYUI_PATHS, and nothing in ~/comfy/ComfyUI"
_VERSION = re.compile(r"""^__version__\s*=\s*["']([^"']+)["']""", re.MULTILINE)
_PYTHONS = ("bin/python", "Scripts/python.exe")
# What of requirements.txt a ComfyUI environment may lack, by the names it is imported by.
_MODULES = ("msgpack", "zstandard", "xxhash", "pydantic", "pydantic_settings", "requests", "safetensors")
_PROBE = """
import importlib.util, sys
print("missing", *[name for name in sys.argv[1:] if importlib.util.find_spec(name) is None])
from importlib.metadata import version
print("torch", version("torch"))
"""


class BrokenCheckoutError(Exception):
    """A checkout was found, or named, and cannot be used. Never a reason to skip."""


@dataclass(frozen=True)
class Checkout:
    """A ComfyUI checkout; `version` is None where its `comfyui_version.py` does not say."""

    root: Path
    version: str | None

    def __str__(self) -> str:
        return f"{self.version or 'unknown'} ({self.root})"

    def python(self) -> Path:
        """Return its interpreter: $COMFYUI_PYTHON, else a virtual environment in or beside the checkout.

        Raises:
            BrokenCheckoutError: it is no ComfyUI, or has no interpreter.
        """
        if self.version is None:
            raise BrokenCheckoutError(f"{self.root} is no ComfyUI checkout: it lacks comfyui_version.py")
        named = os.environ.get("COMFYUI_PYTHON")
        if named:
            return Path(named).expanduser()
        for folder in (self.root, self.root.parent):
            for environment in ("venv", ".venv"):
                for python in _PYTHONS:
                    if (folder / environment / python).exists():
                        return folder / environment / python
        raise BrokenCheckoutError(
            f"No interpreter for {self.root}: no venv or .venv in or beside it; set COMFYUI_PYTHON"
        )


def find_checkouts(environ: Mapping[str, str], home: Path) -> list[Checkout]:
    """Return every checkout named in the environment, or found where comfy-cli puts it.

    $COMFYUI_PATH, else ~/comfy/ComfyUI and its neighbours ComfyUI*; then those of $COMFYUI_PATHS. What is
    named is returned even where nothing is there, so that a wrong name fails and does not skip.
    """
    found: dict[Path, Checkout] = {}
    for root in _candidates(environ, home):
        found.setdefault(root.resolve(), Checkout(root, _version(root)))
    return list(found.values())


def _candidates(environ: Mapping[str, str], home: Path) -> Iterator[Path]:
    named = environ.get("COMFYUI_PATH")
    default = home / "comfy" / "ComfyUI"
    if named:
        yield Path(named).expanduser()
    else:
        around = sorted(default.parent.glob(f"{default.name}*"))
        yield from (root for root in around if (root / "comfyui_version.py").is_file())
    for root in environ.get("COMFYUI_PATHS", "").split(os.pathsep):
        if root:
            yield Path(root).expanduser()


def _version(root: Path) -> str | None:
    file = root / "comfyui_version.py"
    match = _VERSION.search(file.read_text()) if file.is_file() else None
    return match[1] if match else None


def install_requirements(python: Path, requirements: Path) -> None:
    """Install the pack's requirements as ComfyUI-Manager would, if one of them is missing.

    Raises:
        BrokenCheckoutError: the interpreter does not run, pip failed, or torch was replaced.
    """
    missing, torch = _probe(python)
    if not missing:
        return
    _output(python, "-m", "pip", "install", "--quiet", "-r", str(requirements))
    still_missing, torch_now = _probe(python)
    if still_missing:
        raise BrokenCheckoutError(f"{requirements} does not bring {', '.join(still_missing)}")
    if torch_now != torch:
        raise BrokenCheckoutError(f"{requirements} replaced torch {torch} with {torch_now}")


def _probe(python: Path) -> tuple[list[str], str]:
    lines = [line.split() for line in _output(python, "-c", _PROBE, *_MODULES).splitlines()]
    answers = {line[0]: line[1:] for line in lines}
    return answers["missing"], " ".join(answers["torch"])


def _output(python: Path, *arguments: str) -> str:
    try:
        done = subprocess.run([python, *arguments], capture_output=True, text=True, check=True, timeout=600)
    except OSError as error:
        raise BrokenCheckoutError(f"{python} does not run: {error}") from error
    except subprocess.CalledProcessError as error:
        raise BrokenCheckoutError(f"{python} {' '.join(arguments[:3])} failed:\n{error.stderr}") from error
    return done.stdout
