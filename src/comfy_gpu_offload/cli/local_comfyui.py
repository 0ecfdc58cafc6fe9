"""The ComfyUI on this machine as far as commands need it: its folder, its release, its folders of models."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import ConfigError

# The file is read and not run, since it may be anything.
_RELEASE = re.compile(r"""^__version__\s*=\s*["']([\w.+-]{1,40})["']""", re.MULTILINE)


def comfyui_folder(named: Path | None) -> Path | None:
    """Return the ComfyUI that this pack lies in, or that is `named`; None where none is found.

    Raises:
        ConfigError: no ComfyUI is at `named`.
    """
    around = [folder.parent for folder in Path(__file__).absolute().parents if folder.name == "custom_nodes"]
    for root in around if named is None else [named]:
        if _release_in(root) is not None:
            return root
    if named is not None:
        raise ConfigError(f"--comfyui {named}: this is not a ComfyUI folder; name the one that holds main.py.")
    return None


def comfyui_release(named: Path | None) -> str | None:
    """Return the release of that ComfyUI; None where none is found.

    Raises:
        ConfigError: no ComfyUI is at `named`.
    """
    root = comfyui_folder(named)
    return None if root is None else _release_in(root)


def _release_in(root: Path) -> str | None:
    file = root / "comfyui_version.py"
    match = _RELEASE.search(file.read_text("utf-8", "replace")) if file.is_file() else None
    return match[1] if match is not None else None
