"""Containers and objects in the attributes of a network's modules, which can change and stay the same object."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

# How deep lists, dicts and objects in a module's attributes are followed.
_MAX_DEPTH = 4
# The attributes of every nn.Module, which hold its parts, its hooks and its settings for saving and training.
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
# The value of an attribute that is not there.
_ABSENT = object()


@dataclass(frozen=True)
class HeldValue:
    """A list, dict, set or object in a module's attributes, as it was.

    Attributes:
        name: the dotted name of the attribute.
        content: returns its present items.
        was: its items.
    """

    name: str
    content: Callable[[], list[Any]]
    was: list[Any]


def held_values(network: nn.Module) -> Iterator[HeldValue]:
    """Yield the containers and objects in the attributes of a network's modules, as they are now."""
    packages = frozenset(_package(type(module)) for module in network.modules()) - {"torch"}
    for name, module in network.named_modules():
        for key, value in vars(module).items():
            if key not in _OF_EVERY_MODULE:
                yield from _held_in(value, f"{name}.{key}".removeprefix("."), packages, _MAX_DEPTH)


def _held_in(value: Any, name: str, packages: frozenset[str], depth: int) -> Iterator[HeldValue]:
    content = _content_of(value, packages)
    if content is None or not depth:
        return
    was = content()
    yield HeldValue(name, content, was)
    for item in was:
        yield from _held_in(item, name, packages, depth - 1)


def _content_of(value: Any, packages: frozenset[str]) -> Callable[[], list[Any]] | None:
    """Return a function that lists a value's items; None for values that are not looked into.

    Args:
        packages: the packages of the network's own classes. Objects of others may change as they like.
    """
    if isinstance(value, list | set):
        return lambda: list(value)
    if isinstance(value, dict):
        return lambda: [*value, *value.values()]
    if (
        isinstance(value, nn.Module | type)
        or _package(type(value)) not in packages
        or not hasattr(value, "__dict__")
    ):
        return None
    # An object's new attributes are not compared: they may be caches that it fills as it is used.
    attributes: dict[str, Any] = vars(value)
    names = list(attributes)
    return lambda: [attributes.get(name, _ABSENT) for name in names]


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]
