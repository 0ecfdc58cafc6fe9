"""The modules of ComfyUI's own nodes, imported where a description names a class or function in them."""

from __future__ import annotations

import importlib
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...backends.base import ModelRunError

_FOLDER = "comfy_extras"


@lru_cache(maxsize=256)
def is_of(module: str, stem: str) -> bool:
    """Return whether the imported `module` is ComfyUI's ``comfy_extras/STEM.py``."""
    # ComfyUI imports its own nodes under the paths of their files.
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is not None and Path(file) == _root() / _FOLDER / f"{stem}.py"


def _root() -> Path:
    return Path(str(importlib.import_module("comfy.model_patcher").__file__)).parents[1]


def imported(stem: str) -> Any:
    """Return the module ``comfy_extras/STEM.py``; `stem` never comes from the other end.

    Raises:
        ModelRunError: this ComfyUI does not have it, or cannot import it.
    """
    path = list(sys.path)
    try:
        return importlib.import_module(f"{_FOLDER}.{stem}")
    except ImportError as error:
        raise ModelRunError(
            f"This worker's ComfyUI cannot import {_FOLDER}.{stem} ({error}): use the same release on both sides."
        ) from error
    finally:
        # Importing ComfyUI's nodes puts its inner folder first, which holds modules of the same names.
        sys.path[:] = path
