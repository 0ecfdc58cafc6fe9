"""What a stand-in's network is made of, so that what a node puts into it is noticed.

Some nodes do not patch a model as ComfyUI offers to, but set attributes of its network: a block's forward, a list
of blocks, a hook. The network that computes is elsewhere, and has nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import FunctionType
from typing import Any

from torch import nn


class NetworkParts:
    """The modules of a network and the methods of their classes, as they were when this was made.

    Compared before each call, so what is compared is little: 0.2 ms for the 900 modules of Wan 14B.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._methods = list(_methods(network))
        self._parts = [(part, vars(part), _state(vars(part))) for part in network.modules()]

    def changed(self) -> str | None:
        """What of the network is another now, by its name; None where nothing is."""
        for part, attributes, state in self._parts:
            if _state(attributes) != state and (found := _difference(part, state)) is not None:
                return self._name_of(part, found)
        replaced = (_named(kind, name) for kind, name, was in self._methods if vars(kind).get(name) is not was)
        return next(replaced, None)

    def foreign(self) -> Iterator[tuple[str, str]]:
        """Methods that were a node pack's own when this was made, and which pack's module they are of."""
        for kind, name, method in self._methods:
            if _package(method) != _package(kind):
                yield _named(kind, name), method.__module__

    def _name_of(self, part: nn.Module, what: str) -> str:
        name = next((name for name, each in self._network.named_modules() if each is part), "")
        return f"{name}.{what}".removeprefix(".")


def _methods(network: nn.Module) -> Iterator[tuple[type, str, FunctionType]]:
    kinds = dict.fromkeys(kind for part in network.modules() for kind in type(part).__mro__)
    for kind in kinds:
        if _package(kind) not in {"torch", "builtins"}:
            methods = ((name, value) for name, value in vars(kind).items() if isinstance(value, FunctionType))
            yield from ((kind, *method) for method in methods)


def _package(defined: type | FunctionType) -> str:
    return defined.__module__.split(".", maxsplit=1)[0]


def _named(kind: type, method: str) -> str:
    return f"{kind.__name__}.{method}"


def _state(attributes: dict[str, Any]) -> tuple[Any, ...]:
    """Of a module's attributes what is compared: its parts, how many hooks it has, and how many attributes."""
    hooks = (len(attributes["_forward_pre_hooks"]), len(attributes["_forward_hooks"]))
    return list(attributes["_modules"].values()), *hooks, len(attributes)


def _difference(part: nn.Module, state: tuple[Any, ...]) -> str | None:
    now = _state(vars(part))
    if now[0] != state[0]:
        return "modules"
    if now[1:3] != state[1:3]:
        return "hooks"
    # An attribute that the network's code does not know is nothing to it.
    return next((name for name in vars(part) if callable(getattr(type(part), name, None))), None)
