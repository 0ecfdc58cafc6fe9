"""The wire form of functions that ComfyUI's own nodes make as they run: a description, and its reader.

Such a function (FreeU's `output_block_patch`, RescaleCFG's `rescale_cfg`) consists of code in the node's module and
of the inputs of the node that it reads. Both ends have ComfyUI's nodes, so its name and those values are enough. A
table lists the functions that can be sent; no other is found by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import CellType, CodeType, FunctionType
from typing import Any

from ...backends.base import ModelRunError
from ..installation import stock_nodes

Function = Callable[..., Any]
Table = Mapping[str, str]
"""By class and name, as ``FreeU.output_block_patch``: the module of ComfyUI's nodes that the function is in."""

# Read by such functions too, and not sent: the sampling of the model that the function is for, the node's class.
_SAMPLING, _CLASS = "model_sampling", "cls"
_FORM = {"function", "values", "functions", "defaults"}
_MAX_DEPTH = 4
_MAX_ITEMS = 64
_MAX_TEXT = 256


def describe_function(function: Any, table: Table) -> dict[str, Any] | None:
    """Return the description from which the other end rebuilds a function; None where it is none of `table`."""
    name = _name_of(function, table)
    if name is None:
        return None
    read = dict(zip(function.__code__.co_freevars, map(_content, function.__closure__ or ()), strict=True))
    read.pop(_SAMPLING, None)
    if _CLASS in read and not _is_class_of(name, table[name], read.pop(_CLASS)):
        return None
    functions = {
        key: describe_function(value, table) for key, value in read.items() if isinstance(value, FunctionType)
    }
    values = {key: _without_set(value) for key, value in read.items() if key not in functions}
    defaults = list(function.__defaults__ or ())
    if function.__kwdefaults__ or None in functions.values() or not _are_plain(values, defaults):
        return None
    return {"function": name, "values": values, "functions": functions, "defaults": defaults}


def rebuild_function(data: Any, table: Table, sampling: Any = None) -> Function:
    """Rebuild a function from the form of `describe_function`, with the code of this ComfyUI's nodes.

    Args:
        sampling: the `model_sampling` of the model that the function is for.

    Raises:
        ModelRunError: it is not of that form, or names what this ComfyUI does not have.
    """
    if not isinstance(data, dict) or set(data) != _FORM:
        raise ModelRunError("A function of a node is not of a form known here: use the same release on both sides.")
    name, values, functions, defaults = (data[key] for key in ("function", "values", "functions", "defaults"))
    if not isinstance(name, str) or name not in table:
        raise ModelRunError(f"This worker knows no function {name!r:.80} of a node: update its comfy-gpu-offload.")
    code = _code_of(name, table[name])
    fits = isinstance(values, dict) and isinstance(functions, dict) and values.keys().isdisjoint(functions)
    fits = fits and {*values, *functions} == set(code.co_freevars) - {_SAMPLING, _CLASS}
    fits = fits and isinstance(defaults, list) and len(defaults) <= code.co_argcount
    if not fits or not _are_plain(values, defaults):
        raise ModelRunError(
            f"The node function {name} reads something else here: use the same ComfyUI release on both sides."
        )
    if any(isinstance(each, dict) and each.get("functions") for each in functions.values()):
        raise ModelRunError(
            f"The node function {name} nests functions too deep: use the same release on both sides."
        )
    module = stock_nodes.imported(table[name])
    read = {**values, **{key: rebuild_function(each, table) for key, each in functions.items()}}
    read |= {_SAMPLING: sampling, _CLASS: getattr(module, name.partition(".")[0])}
    cells = tuple(CellType(read[each]) for each in code.co_freevars)
    return FunctionType(code, vars(module), code.co_name, tuple(defaults), cells)


def _name_of(function: Any, table: Table) -> str | None:
    """Return the name by which the other end finds the function; None where it is none of `table`."""
    if type(function) is not FunctionType:
        return None
    # By its code, since `functools.wraps` gives another function the names of the one that it wraps.
    code, module = function.__code__, function.__globals__.get("__name__")
    name = f"{code.co_qualname.partition('.')[0]}.{code.co_name}"
    stem = table.get(name)
    is_nodes = stem is not None and isinstance(module, str) and stock_nodes.is_of(module, stem)
    return name if is_nodes else None


def _is_class_of(name: str, stem: str, value: Any) -> bool:
    """Return whether a value is the node's class, or one that ComfyUI derives from it to run it."""
    kinds = value.__mro__ if isinstance(value, type) else ()
    return any(
        kind.__name__ == name.partition(".")[0] and stock_nodes.is_of(kind.__module__, stem) for kind in kinds
    )


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty
        return cell


def _without_set(value: Any) -> Any:
    """Return a set of numbers as a tuple, which can be sent and serves the functions as well."""
    return (
        tuple(sorted(value)) if isinstance(value, frozenset) and all(type(each) is int for each in value) else value
    )


@lru_cache(maxsize=64)
def _code_of(name: str, stem: str) -> CodeType:
    """Return the code of the function of that name, inside one of its class's methods."""
    kind, _, function = name.partition(".")
    methods = vars(getattr(stock_nodes.imported(stem), kind, object)).values()
    outer = {getattr(getattr(method, "__func__", method), "__code__", None) for method in methods}
    found = [
        const
        for code in outer
        if code is not None
        for const in code.co_consts
        if isinstance(const, CodeType) and const.co_name == function
    ]
    if len(found) != 1:
        raise ModelRunError(f"This worker's ComfyUI has no {name}: use the same release on both sides.")
    return found[0]


def _are_plain(values: Mapping[str, Any], defaults: list[Any]) -> bool:
    return all(map(_is_plain, (*values.values(), *defaults)))


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Return whether a value is made as a node's inputs are: of numbers and short texts, and of few of them."""
    if value is None or type(value) in {bool, int, float}:
        return True
    if type(value) is str:
        return len(value) <= _MAX_TEXT
    if type(value) not in {list, tuple, dict} or depth >= _MAX_DEPTH or len(value) > _MAX_ITEMS:
        return False
    items = (*value, *value.values()) if isinstance(value, dict) else value
    return all(_is_plain(item, depth + 1) for item in items)
