"""The names of entries of `transformer_options` that the code of a network may read.

Packs also leave objects there for their own samplers and wrappers, which run here. Such an object can stay here if
no code at the worker asks for it: neither ComfyUI's networks nor a patch that travels. A name that is asked for
stands in the code as a string, so the strings of that code are searched. A string of another meaning makes a name
count as read; then the object is refused, and nothing goes wrong in silence.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import chain
from types import CodeType, FunctionType
from typing import Any

from .changes.source_names import strings_in

# Modules whose code runs within a network's forward pass.
_OF_NETWORKS = ("comfy.ldm.", "comfy.ops", "comfy.patcher_extension", "comfy.weight_adapter", "comfy.quant_ops")


def may_read(key: Any, options: Mapping[str, Any]) -> bool:
    """Return whether a network, or a patch in `options` that travels, may read the entry `key`.

    Args:
        key: of an entry of `transformer_options`.
        options: all of its entries.
    """
    if not isinstance(key, str):
        return True
    return key in _strings_of_networks(_modules_of_networks()) or key in _strings_of_patches(options)


def _modules_of_networks() -> frozenset[str]:
    return frozenset(name for name in tuple(sys.modules) if f"{name}.".startswith(_OF_NETWORKS))


# One entry, since ComfyUI imports its networks all at once. Some are imported later, which makes another key.
@lru_cache(maxsize=1)
def _strings_of_networks(modules: frozenset[str]) -> frozenset[str]:
    """Return the strings in the sources of modules: from their files, since packs replace functions in memory."""
    return frozenset(chain.from_iterable(map(_strings_in_file, modules)))


@lru_cache(maxsize=1024)
def _strings_in_file(module: str) -> frozenset[str]:
    spec = importlib.util.find_spec(module)
    code = getattr(spec and spec.loader, "get_code", lambda _: None)(module)
    return frozenset(strings_in(code)) if isinstance(code, CodeType) else frozenset()


def _strings_of_patches(options: Mapping[str, Any]) -> set[str]:
    """Return the strings in the code of the patches in `options`, and of their modules' functions."""
    patches = [each for key in ("patches", "patches_replace") for each in _functions(options.get(key), depth=4)]
    beside = chain.from_iterable(
        (value for value in vars(sys.modules[name]).values() if isinstance(value, FunctionType))
        for name in {patch.__module__ for patch in patches}
        if name in sys.modules
    )
    return set(chain.from_iterable(strings_in(each.__code__) for each in (*patches, *beside)))


def _functions(value: Any, depth: int) -> Iterator[FunctionType]:
    if isinstance(value, FunctionType):
        yield value
    elif depth and isinstance(value, dict | list | tuple):
        items: Iterable[Any] = value.values() if isinstance(value, dict) else value
        for item in items:
            yield from _functions(item, depth - 1)
