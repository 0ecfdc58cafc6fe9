"""The origin of a piece of code: a node pack, ComfyUI, or a library.

A function's `__module__` does not tell it, because `functools.wraps` copies that from another function. Its code
object, with the name of its file, and its globals are always those of the module that defines it.
"""

from __future__ import annotations

import functools
import sys
import sysconfig
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from types import FrameType, FunctionType, MethodType
from typing import Any

import comfy
import folder_paths
import torch

_OWN = Path(__file__).resolve().parents[3]
_COMFYUI = Path(comfy.__path__[0]).resolve().parent
_TORCH = Path(torch.__file__).resolve().parent
# The innermost first.
_LIBRARIES = tuple(
    sorted(
        {Path(sysconfig.get_paths()[name]).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")},
        key=lambda folder: -len(folder.parts),
    )
)
# Folders by these names hold libraries too: a user's own, and the system's below a virtual environment.
_INSTALLED = frozenset({"dist-packages", "site-packages"})
_STOCK = "ComfyUI"
# ComfyUI's functions and classes whose names do not contain their node's, with that node.
_STOCK_NODES = {
    "load_hypernetwork_patch": "HypernetworkLoader",
    "KV_Attn_Input": "FluxKVCache",
    "Gligen": "GLIGENTextBoxApply",
    "DiffSynthCnetPatch": "QwenImageDiffsynthControlnet",
    "ZImageControlPatch": "QwenImageDiffsynthControlnet, ZImageFunControlnet",
    "UsoStyleProjectorPatch": "USOStyleReference",
    "AnimaLLLitePatch": "AnimaLLLiteApply",
    "AnimaLLLiteAttentionPatch": "AnimaLLLiteApply",
    "AnimaLLLiteMLPPatch": "AnimaLLLiteApply",
    "MultiTalkCrossAttnPatch": "WanInfiniteTalkToVideo",
    "MultiTalkGetAttnMapPatch": "WanInfiniteTalkToVideo",
}
# The most wrappers that are looked through: one may wrap another, and a chain may be a circle.
_MAX_WRAPPERS = 16


def name_of(value: Any) -> str | None:
    """Return the name of the code behind `value`: "comfyui-kjnodes: WanVideoNAG.patch", or ComfyUI's own node.

    A wrapper of a node pack counts more than the function that it wraps.

    Args:
        value: a function, a class, or an object of one.

    Returns:
        None if there is no such code, as for a number, a list or a tensor.
    """
    layers = [(code, file) for code in _layers(value) if (file := _file_of(code)) is not None]
    found = next((layer for layer in layers if is_packs(layer[1])), next(iter(layers), None))
    if found is None:
        return None
    code, file = found
    pack = _pack_of(file)
    if code is type(value) and _library_of(file.resolve()) is not None and not is_packs(file):
        return None  # a tensor, say
    return _stock_name(code) if pack == _STOCK else f"{pack}: {_qualname(code)}"


def packs_name_of(value: Any) -> str | None:
    """Return the name of the code behind `value`, or of what it wraps, if a node pack's is among it; else None."""
    is_a_packs = any(is_packs(file) for file in map(_file_of, _layers(value)) if file is not None)
    return name_of(value) if is_a_packs else None


def caller() -> str | None:
    """Return the name of the innermost node pack's code on the stack; None if there is none."""
    return next(_running(is_packs), None)


def calling_node() -> str:
    """Return the name of the innermost code of a pack or of ComfyUI's nodes on the stack, else "ComfyUI".

    It is like "nodes: KSampler.sample".
    """
    return next(_running(lambda file: is_packs(file) or _is_stock_nodes(file)), _STOCK)


def _running(is_wanted: Callable[[Path], bool]) -> Iterator[str]:
    """Yield the names of the code on the stack whose file is wanted, the innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if is_wanted(file):
            home = file.stem if _is_stock_nodes(file) else _pack_of(file)
            yield f"{home}: {_readable(frame.f_code.co_qualname)}"
        frame = frame.f_back


@functools.lru_cache(maxsize=4096)
def _is_stock_nodes(file: Path) -> bool:
    resolved = file.resolve()
    return resolved == _COMFYUI / "nodes.py" or any(
        resolved.is_relative_to(_COMFYUI / folder) for folder in ("comfy_extras", "comfy_api_nodes")
    )


@functools.lru_cache(maxsize=4096)
def is_packs(file: Path) -> bool:
    """Return whether a source file is a node pack's: not this package's, ComfyUI's, torch's or a library's."""
    if str(file).startswith("<"):
        return False
    resolved = file.resolve()
    if resolved.is_relative_to(_OWN) or file.is_relative_to(_OWN):
        return False
    if _in_custom_nodes(file) is not None:
        return True
    return _library_of(resolved) is None and not any(map(resolved.is_relative_to, (_COMFYUI, _TORCH)))


def _library_of(file: Path) -> Path | None:
    """Return the folder of libraries that a file lies in; None if it is in none."""
    homes = chain((folder for folder in file.parents if folder.name in _INSTALLED), _LIBRARIES)
    return next((home for home in homes if file.is_relative_to(home)), None)


def replaces_torchs(value: Any) -> str | None:
    """Return the name of the function in the place of one of torch's; None if it is torch's own or Python's."""
    layers = [layer for layer in _layers(value) if isinstance(layer, FunctionType)]
    if all(_is_torchs_or_pythons(layer.__code__.co_filename) for layer in layers):
        return None
    return name_of(value)


@functools.lru_cache(maxsize=4096)
def _is_torchs_or_pythons(file_name: str) -> bool:
    if file_name.startswith("<"):
        return True
    file = Path(file_name).resolve()
    if file.is_relative_to(_TORCH):
        return True
    is_installed = _INSTALLED & set(file.parts)
    return not is_installed and any(file.is_relative_to(home) for home in _LIBRARIES)


def module_of(value: Any) -> str:
    """Return the name of the module that defines the innermost code of `value`; empty if there is none."""
    *_, code = (None, *_layers(value))
    if isinstance(code, FunctionType):
        return str(code.__globals__.get("__name__", ""))
    return str(getattr(code, "__module__", None) or "")


def _layers(value: Any) -> Iterator[FunctionType | type]:
    """Yield the functions and classes behind `value`, from the outermost wrapper inwards."""
    for _ in range(_MAX_WRAPPERS):
        while isinstance(value, functools.partial):
            value = value.func
        if isinstance(value, property):
            value = value.fget
        if isinstance(value, MethodType | classmethod | staticmethod):
            value = value.__func__
        if isinstance(value, FunctionType | type):
            yield value
        elif type(value).__module__ != "builtins":
            yield type(value)
        attributes: Any = getattr(value, "__dict__", {})
        value = attributes.get("__wrapped__")
        if value is None:
            return


def _file_of(code: FunctionType | type) -> Path | None:
    """Return the source file of a function or a class; None if there is none."""
    if isinstance(code, FunctionType):
        file = code.__code__.co_filename
        # Code that was compiled from a string (a dataclass's `__init__`) is its module's.
        return Path(str(code.__globals__.get("__file__") or file) if file.startswith("<") else file)
    module = sys.modules.get(code.__module__)
    found = getattr(module, "__file__", None)
    return None if found is None else Path(found)


def _in_custom_nodes(file: Path) -> str | None:
    """Return the name of the pack's folder in `custom_nodes`, or of its single file; None for other files."""
    for folder in map(Path, folder_paths.get_folder_paths("custom_nodes")):
        for candidate, home in ((file, folder), (file.resolve(), folder.resolve())):
            if candidate.is_relative_to(home):
                return candidate.relative_to(home).parts[0].removesuffix(".py")
    return None


def _pack_of(file: Path | None) -> str:
    """Return the name of the pack, of the library, or "ComfyUI", that a source file belongs to."""
    if file is None:
        return "a node pack"
    pack = _in_custom_nodes(file)
    if pack is not None:
        return pack
    resolved = file.resolve()
    home = _library_of(resolved)
    if home is not None:
        return resolved.relative_to(home).parts[0].removesuffix(".py")
    return _STOCK if resolved.is_relative_to(_COMFYUI) else file.stem


def _stock_name(code: FunctionType | type) -> str:
    """Return the node that code of ComfyUI's belongs to, or "ComfyUI: " and its qualified name."""
    name = _qualname(code)
    first = name.partition(".")[0]
    is_in_node = _stem_of(code).startswith("nodes") and first != name
    return _STOCK_NODES.get(first, first if is_in_node else f"{_STOCK}: {name}")


def _stem_of(code: FunctionType | type) -> str:
    file = _file_of(code)
    return "" if file is None else file.stem


def _qualname(code: FunctionType | type) -> str:
    # A wrapper copies its function's name, but its code object keeps its own.
    name = code.__code__.co_qualname if isinstance(code, FunctionType) else code.__qualname__
    return _readable(name)


def _readable(qualname: str) -> str:
    return qualname.replace(".<locals>", "")
