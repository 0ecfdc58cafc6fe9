"""Whose code asks for something that is not here: a node's, by its own module and name, for messages."""

from __future__ import annotations

import sys
from pathlib import Path
from types import CodeType, FrameType

import comfy
import torch

_COMFYUI = Path(comfy.__path__[0]).resolve().parent
_OWN = Path(__file__).resolve().parents[1]
# What is called on a node's behalf.
_LIBRARIES = (
    _COMFYUI / "comfy",
    Path(torch.__file__).resolve().parent,
    Path(sys.prefix),
    Path(sys.base_prefix),
)
_PACKS = "custom_nodes"


def calling_code() -> str:
    """Return the innermost function outside of ComfyUI's own library, torch and this package, and its module.

    As in ``nodes: DiffControlNetLoader.load_controlnet``; of a pack's module what follows its folder's name.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if _is_a_nodes(frame.f_code):
            module = str(frame.f_globals.get("__name__", ""))
            return f"{_readable(module)}: {frame.f_code.co_qualname.replace('.<locals>', '')}"
        frame = frame.f_back
    return "ComfyUI"


def _is_a_nodes(code: CodeType) -> bool:
    if code.co_filename.startswith("<"):
        return False
    file = Path(code.co_filename).resolve()
    if file.is_relative_to(_OWN):
        return False
    # A pack may lie inside of an interpreter's folder, and ComfyUI beside one.
    return _PACKS in file.parts or not any(file.is_relative_to(home) for home in _LIBRARIES)


def _readable(module: str) -> str:
    """Return a module's name without the path that ComfyUI puts before a pack's and its own extra nodes'."""
    for folder in (_PACKS, "comfy_extras", "comfy_api_nodes"):
        _, found, name = module.rpartition(folder)
        if found:
            return name.lstrip("/\\.") or folder
    return module
