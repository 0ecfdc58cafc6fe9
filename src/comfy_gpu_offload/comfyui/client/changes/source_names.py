"""The names in a module's own code: those that it defines or uses, that it assigns as it runs, and its strings."""

from __future__ import annotations

import dis
import importlib.util
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from types import CodeType, FunctionType, ModuleType


@lru_cache(maxsize=1024)
def names_in_source(module: str, kind: str | None) -> frozenset[str] | None:
    """Return the names in a module's source, or in that of one of its classes; None if it has no source.

    The module is compiled again for it, since its present entries say nothing of what its source defines.

    Args:
        module: its name.
        kind: the qualified name of a class, or None for the module's own level.
    """
    try:
        spec = importlib.util.find_spec(module)
        code = getattr(spec and spec.loader, "get_code", lambda _: None)(module)
    except (ImportError, ValueError, SyntaxError):  # the module is not of a file
        return None
    if code is None:
        return None
    bodies = [code] if kind is None else [body for body in _codes_in(code) if body.co_qualname == kind]
    return frozenset(chain.from_iterable(body.co_names for body in bodies)) if bodies else None


def _codes_in(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes_in(constant)


def strings_in(code: CodeType) -> Iterator[str]:
    """Yield the strings in the code of a function or module, and in code nested in it.

    Code that asks for something by a name has that name among them, also in a tuple over which it loops.
    """
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from strings_in(constant)
        elif isinstance(constant, str):
            yield constant
        elif isinstance(constant, tuple | frozenset):
            yield from (item for item in constant if isinstance(item, str))


def stored_names(module: ModuleType | type) -> frozenset[str]:
    """Return the global names that a module's own functions assign: its state, which changes as it runs."""
    codes = [value.__code__ for value in vars(module).values() if isinstance(value, FunctionType)]
    return frozenset(name for code in codes for name in _stores(code))


def _stores(code: CodeType) -> Iterator[str]:
    yield from (step.argval for step in dis.get_instructions(code) if step.opname == "STORE_GLOBAL")
