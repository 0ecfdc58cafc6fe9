"""The policy on which parts of a patched model can be sent to the worker; the rest is refused, never dropped.

The rules are those of docs/comfyui.md: data is sent; code that runs around the network stays here and works; code
that would run inside the network is refused by name before the first call, because the network is at the worker.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any

from ...errors import Obstacle, UnsupportedPatchError, UnsupportedValueError
from ...io.tree import pack
from ..wire import stock_patches
from . import network_reads, refusals
from .patches.patch_uploads import weight_obstacles
from .patches.weight_hooks import hook_obstacles

# Read only by code that runs here: the sampling's wrappers, EasyCache, context windows, multi-GPU sampling.
_LOCAL = frozenset(
    {"wrappers", "callbacks", "easycache", "context_window", "multigpu_thread_device", "multigpu_thread_pool"}
)
# Models keep results in these from call to call; the state would have to stay with one worker.
_STATE = frozenset({"ar_state", "animate2_cache"})
# ComfyUI keeps the wrapper that compiles under this key (comfy_api/torch_helpers/torch_compile.py).
_COMPILE_KEY = "torch.compile"
# Names and strings in the code of a function that patches a model's options itself.
_PATCHING = frozenset({"set_model_options_patch_replace", "patches_replace"})
_PATCHES = {"patches": "the block patch", "patches_replace": "the attention replacement"}
# Networks read these, so what is in them is sent or refused.
_READ_BY_NETWORKS = frozenset({*_PATCHES, *_STATE, *refusals.CODE})
# Sets of block numbers. Sets are no data here; the network only looks numbers up, so it may be given a tuple.
_NUMBERS = frozenset({"stg_self_attn_blocks"})


def refuse_unsupported(patcher: Any) -> None:
    """Refuse a remote model's patcher with patches that cannot be sent to the worker.

    Raises:
        UnsupportedPatchError: there are such patches; it lists all of them.
    """
    found = tuple(refused_patches(patcher))
    if found:
        raise UnsupportedPatchError(found)


def refused_patches(patcher: Any) -> Iterator[Obstacle]:
    """Yield each patch that the worker cannot have, whether it runs single calls or whole runs."""
    yield from _of_weights(patcher)
    yield from _of_objects(patcher)
    yield from of_network(patcher.model.diffusion_model)
    yield from _of_options(patcher.model_options)


def of_network(network: Any) -> Iterator[Obstacle]:
    """Yield a change that a node has made to a remote model's network itself, not by ComfyUI's patches."""
    found_change = getattr(network, "found_change_in_depth", None)
    # Without this method it is another network, which a node has put in the stand-in's place.
    found = refusals.of_network("whole", network) if found_change is None else found_change()
    if found is not None:
        yield found


def _of_weights(patcher: Any) -> Iterator[Obstacle]:
    yield from weight_obstacles(patcher)
    yield from hook_obstacles(patcher)
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
    """Yield guidance functions that patch the network while they sample.

    Nothing of that is in the model's options yet, and the first such call would come in the middle of a run. So
    their code is searched for the names by which ComfyUI's options are patched.
    """
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
    """Return whether the function patches with functions of its own closure that the worker knows by name.

    That is how ComfyUI's own guidance nodes are written: they define the replacement next to the function.
    """
    made = [
        value for value in inspect.getclosurevars(function).nonlocals.values() if isinstance(value, FunctionType)
    ]
    return bool(made) and _are_known(made)


def _values(patches: Any) -> list[Any]:
    return list(patches.values() if isinstance(patches, dict) else patches)


def _are_known(patches: Iterable[Any]) -> bool:
    return all(stock_patches.is_known(patch) for patch in patches)


def refused_options(options: Mapping[str, Any]) -> Iterator[Obstacle]:
    """Yield each entry of `transformer_options` that a network may read and that cannot be sent."""
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
        elif (found := _no_data(key, value)) is not None and network_reads.may_read(key, options):
            yield found


def objects_kept_here(options: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of the entries of `transformer_options` that cannot be sent and that no network reads.

    Code around the network, which runs here, may read them: some packs' samplers keep their settings so.
    """
    others = {key: value for key, value in options.items() if not (key in _LOCAL or key in _READ_BY_NETWORKS)}
    objects = [key for key, value in others.items() if not _is_empty(value) and _no_data(key, value) is not None]
    return frozenset(key for key in objects if not network_reads.may_read(key, options))


def _plain(key: str, value: Any) -> Any:
    return tuple(sorted(value)) if key in _NUMBERS and isinstance(value, set | frozenset) else value


def _no_data(key: str, value: Any) -> Obstacle | None:
    """Return why an entry of `transformer_options` cannot be sent as data; None if it can."""
    try:
        pack(_plain(key, value), f"transformer_options[{key!r}]")
    except UnsupportedValueError as error:
        return refusals.of_option(f"{error.path}: a {error.kind}, which is no plain data", value)
    return None


def _is_empty(value: Any) -> bool:
    return isinstance(value, dict | list | tuple) and not any(
        not _is_empty(item) for item in (value.values() if isinstance(value, dict) else value)
    )


def options_to_send(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of `transformer_options` that go to the worker, stock patches among them by name.

    Raises:
        UnsupportedPatchError: there are entries that cannot be sent.
    """
    refused = tuple(refused_options(options))
    if refused:
        raise UnsupportedPatchError(refused)
    here = _LOCAL | objects_kept_here(options)
    kept = {key: _plain(key, value) for key, value in options.items() if key not in here}
    data = stock_patches.pack_options(kept)
    return {key: value for key, value in data.items() if key not in _PATCHES or value}
