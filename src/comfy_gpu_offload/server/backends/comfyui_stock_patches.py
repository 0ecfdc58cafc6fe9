"""Patches that ComfyUI's own nodes put into a network, as data and back, at either end of the wire.

Such a patch is a function that a node makes when it runs (FreeU's `output_block_patch`), and what of the node's
inputs it reads. Both ends have ComfyUI's nodes: so its name and those values are all there is to it. The functions
that travel are listed here, and nothing else is found by its name; none keeps anything from call to call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from types import CellType, CodeType, FunctionType
from typing import Any

from . import comfyui_nodes
from .base import ModelRunError

Patch = Callable[..., Any]

# Class and function, and the module of nodes that they are in. Left out are those that draw random numbers (ToMe,
# HyperTile), that hand something back (SAG), or keep it (Flux KV cache).
_MODULES: Mapping[str, str] = {
    "FreeU.output_block_patch": "nodes_freelunch",
    "FreeU_V2.output_block_patch": "nodes_freelunch",
    "PatchModelAddDownscale.input_block_patch": "nodes_model_downscale",
    "PatchModelAddDownscale.output_block_patch": "nodes_model_downscale",
    "PerturbedAttentionGuidance.perturbed_attention": "nodes_pag",
    "SkipLayerGuidanceDiT.skip": "nodes_slg",
    "SkipLayerGuidanceDiTSimple.skip": "nodes_slg",
    "NAGuidance.nag_attention_output_patch": "nodes_nag",
}
_FORM = {"function", "values", "defaults"}
_MAX_DEPTH = 4
_MAX_ITEMS = 64
_MAX_TEXT = 256
_MAX_PATCHES = 4096


def to_data(patch: Any) -> dict[str, Any] | None:
    """What the other end needs to make the same; None where it is none of the functions known here."""
    name = _name_of(patch)
    if name is None:
        return None
    values = dict(zip(patch.__code__.co_freevars, map(_content, patch.__closure__ or ()), strict=True))
    defaults = list(patch.__defaults__ or ())
    if patch.__kwdefaults__ or not all(map(_is_plain, (*values.values(), *defaults))):
        return None
    return {"function": name, "values": values, "defaults": defaults}


def from_data(data: Any) -> Patch:
    """The function that `to_data` took apart, of this ComfyUI's nodes.

    Raises:
        ModelRunError: it is not of that form, or names what this ComfyUI does not have.
    """
    if not isinstance(data, dict) or set(data) != _FORM:
        raise ModelRunError("A patch of the network is not of a form known here.")
    name, values, defaults = data["function"], data["values"], data["defaults"]
    if not isinstance(name, str) or name not in _MODULES:
        raise ModelRunError(f"This worker knows no patch {name!r:.80}: update its comfy-gpu-offload.")
    code = _code_of(name)
    fits = isinstance(values, dict) and set(values) == set(code.co_freevars)
    fits = fits and isinstance(defaults, list) and len(defaults) <= code.co_argcount
    if not fits or not all(map(_is_plain, (*values.values(), *defaults))):
        raise ModelRunError(
            f"The patch {name} reads something else here: use the same ComfyUI release on both sides."
        )
    cells = tuple(CellType(values[each]) for each in code.co_freevars)
    module = comfyui_nodes.imported(_MODULES[name])
    return FunctionType(code, vars(module), code.co_name, tuple(defaults), cells)


def options_to_data(options: Mapping[str, Any]) -> dict[str, Any]:
    """`transformer_options` with every patch as data; call it where all of them are known here."""
    found = dict(options)
    for key, patches in _patches_in(options):
        found[key] = {name: _mapped(each, to_data) for name, each in patches.items() if each}
    return found


def options_from_data(options: Mapping[str, Any]) -> dict[str, Any]:
    """Takes `options_to_data` back.

    Raises:
        ModelRunError: a patch is not of its form, or not known here.
    """
    found, count = dict(options), 0
    for key, patches in _patches_in(options):
        if not isinstance(patches, dict):
            raise ModelRunError(f"The {key} of a call are not of a form known here.")
        count += sum(len(each) for each in patches.values() if isinstance(each, dict | list))
        if count > _MAX_PATCHES:
            raise ModelRunError(f"A call patches the network at over {_MAX_PATCHES} places.")
        if not all(isinstance(each, list if key == "patches" else dict) for each in patches.values()):
            raise ModelRunError(f"The {key} of a call are not of a form known here.")
        found[key] = {name: _mapped(each, from_data) for name, each in patches.items()}
    return found


def _patches_in(options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Where ComfyUI keeps patches: lists of them by name; or, of those that replace, one for each place."""
    return ((key, options[key]) for key in ("patches", "patches_replace") if key in options)


def _mapped(patches: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(patches, dict):
        return {place: function(patch) for place, patch in patches.items()}
    return [function(patch) for patch in patches]


def _name_of(patch: Any) -> str | None:
    """The name that the other end will find it by."""
    if type(patch) is not FunctionType:
        return None
    name = f"{patch.__qualname__.partition('.')[0]}.{patch.__name__}"
    stem = _MODULES.get(name)
    return name if stem is not None and comfyui_nodes.is_of(patch.__module__, stem) else None


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty
        return cell


@lru_cache(maxsize=len(_MODULES))
def _code_of(name: str) -> CodeType:
    """The code of the function of that name, inside one of its class's methods."""
    kind, _, function = name.partition(".")
    methods = vars(getattr(comfyui_nodes.imported(_MODULES[name]), kind, object)).values()
    outer = {getattr(getattr(method, "__func__", method), "__code__", None) for method in methods}
    found = [
        const
        for code in outer
        if code is not None
        for const in code.co_consts
        if isinstance(const, CodeType) and const.co_name == function
    ]
    if len(found) != 1:
        raise ModelRunError(f"This worker's ComfyUI has no patch {name}: use the same release on both sides.")
    return found[0]


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Whether it is what a node's inputs are made of: numbers, short texts, and a few of them together."""
    if value is None or type(value) in {bool, int, float}:
        return True
    if type(value) is str:
        return len(value) <= _MAX_TEXT
    if type(value) not in {list, tuple, dict} or depth >= _MAX_DEPTH or len(value) > _MAX_ITEMS:
        return False
    items = (*value, *value.values()) if isinstance(value, dict) else value
    return all(_is_plain(item, depth + 1) for item in items)
