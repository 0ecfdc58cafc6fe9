"""What of a patched model can travel. What cannot is refused by name, before the first call; nothing is dropped.

The rules are docs/comfyui.md's: data travels, code that runs round the network stays here and works, and code
that would run inside the network cannot be had, because the network is elsewhere.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any

from ...errors import Obstacle, UnsupportedPatchError, UnsupportedValueError
from ...io.tree import pack
from ..wire import stock_patches
from . import refusals
from .patches.patch_uploads import refused_weights
from .patches.weight_hooks import refused_hooks

# Read only by code that runs here: sampling's own wrappers, EasyCache, context windows, multi-GPU sampling.
_LOCAL = frozenset(
    {"wrappers", "callbacks", "easycache", "context_window", "multigpu_thread_device", "multigpu_thread_pool"}
)
# Models keep what they computed in these, from call to call; it would have to stay with one worker.
_STATE = frozenset({"ar_state", "animate2_cache"})
# Under this key ComfyUI keeps the wrapper that compiles (comfy_api/torch_helpers/torch_compile.py).
_COMPILE_KEY = "torch.compile"
# What a function's code names when it patches a model's options itself.
_PATCHING = frozenset({"set_model_options_patch_replace", "patches_replace"})
_PATCHES = {"patches": "the block patch", "patches_replace": "the attention replacement"}
# Sets of numbers, in which the network only looks them up: a tuple does as well.
_NUMBERS = frozenset({"stg_self_attn_blocks"})


def refuse_unless_it_travels(patcher: Any) -> None:
    """Reads a remote model's patcher whole.

    Raises:
        UnsupportedPatchError: lists everything that cannot travel.
    """
    found = tuple(refused_patches(patcher))
    if found:
        raise UnsupportedPatchError(found)


def refused_patches(patcher: Any) -> Iterator[Obstacle]:
    """Everything of a patcher that no way of offloading takes to the worker."""
    yield from _of_weights(patcher)
    yield from _of_objects(patcher)
    yield from of_network(patcher.model.diffusion_model)
    yield from _of_options(patcher.model_options)


def of_network(network: Any) -> Iterator[Obstacle]:
    """Yield what a node has changed of a remote model's network by itself."""
    found_change = getattr(network, "found_change_in_depth", None)
    # Without this method it is another network, which a node has put there.
    found = refusals.of_network("whole", network) if found_change is None else found_change()
    if found is not None:
        yield found


def _of_weights(patcher: Any) -> Iterator[Obstacle]:
    yield from refused_weights(patcher)
    yield from refused_hooks(patcher)
    if getattr(patcher, "weight_wrapper_patches", None):
        yield refusals.of_weight_wrappers(patcher.weight_wrapper_patches)
    if any(_COMPILE_KEY in wrappers for wrappers in getattr(patcher, "wrappers", {}).values()):
        yield refusals.COMPILED
    for name, injections in getattr(patcher, "injections", {}).items():
        yield refusals.of_injection(name, injections)


def _of_objects(patcher: Any) -> Iterator[Obstacle]:
    for name, value in patcher.object_patches.items():
        if name.split(".")[0] in {"diffusion_model", "manual_cast_dtype"}:
            yield refusals.of_object(name, value)


def _of_options(model_options: Mapping[str, Any]) -> Iterator[Obstacle]:
    yield from refused_options(model_options.get("transformer_options", {}))
    yield from _of_guidance(model_options)


def _of_guidance(model_options: Mapping[str, Any]) -> Iterator[Obstacle]:
    """Guidance functions that patch the network only while they sample: after the first call, unless read here."""
    for value in model_options.values():
        for function in value if isinstance(value, list) else [value]:
            code = getattr(function, "__code__", None)
            if isinstance(code, CodeType) and _patches_inside(code) and not _patches_as_known(function):
                yield refusals.of_guidance(function)


def _patches_inside(code: CodeType) -> bool:
    named = {*code.co_names, *(const for const in code.co_consts if isinstance(const, str))}
    nested = (const for const in code.co_consts if isinstance(const, CodeType))
    return not named.isdisjoint(_PATCHING) or any(_patches_inside(inner) for inner in nested)


def _patches_as_known(function: FunctionType) -> bool:
    """Whether what it patches with is made beside it, by ComfyUI's own node, and travels."""
    made = [
        value for value in inspect.getclosurevars(function).nonlocals.values() if isinstance(value, FunctionType)
    ]
    return bool(made) and _are_known(made)


def _values(patches: Any) -> list[Any]:
    return list(patches.values() if isinstance(patches, dict) else patches)


def _are_known(patches: Iterable[Any]) -> bool:
    return all(stock_patches.is_known(patch) for patch in patches)


def refused_options(options: Mapping[str, Any]) -> Iterator[Obstacle]:
    """Each entry of `transformer_options` that cannot travel."""
    for key, value in options.items():
        if key in _LOCAL or _is_empty(value):
            continue
        if key in _PATCHES:
            for name, patches in value.items():
                unknown = [patch for patch in _values(patches) if not stock_patches.is_known(patch)]
                if unknown:
                    yield refusals.of_patch(_PATCHES[key], name, unknown)
        elif key in _STATE:
            yield refusals.of_state(key)
        elif refusals.is_code(key):
            yield refusals.of_patch("the option", key, [value])
        else:
            yield from _unless_data(key, _plain(key, value))


def _plain(key: str, value: Any) -> Any:
    return tuple(sorted(value)) if key in _NUMBERS and isinstance(value, set | frozenset) else value


def _unless_data(key: str, value: Any) -> Iterator[Obstacle]:
    try:
        pack(value, f"transformer_options[{key!r}]")
    except UnsupportedValueError as error:
        yield refusals.of_option(f"{error.path}: a {error.kind}, which is no plain data", value)


def _is_empty(value: Any) -> bool:
    return isinstance(value, dict | list | tuple) and not any(
        not _is_empty(item) for item in (value.values() if isinstance(value, dict) else value)
    )


def travelling_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `transformer_options` that go to the worker.

    Raises:
        UnsupportedPatchError: some would be lost.
    """
    refused = tuple(refused_options(options))
    if refused:
        raise UnsupportedPatchError(refused)
    kept = {key: _plain(key, value) for key, value in options.items() if key not in _LOCAL}
    data = stock_patches.options_to_data(kept)
    return {key: value for key, value in data.items() if key not in _PATCHES or value}
