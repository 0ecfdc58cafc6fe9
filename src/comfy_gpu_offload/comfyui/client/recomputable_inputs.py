"""What ComfyUI makes ahead of a run for a network to find, and the network makes itself where it finds none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# An object of MiniMax-H3's own, made of what else is in the payload and of sizes (`MiniMaxH3Model._forward`).
_REMADE: Mapping[str, frozenset[str]] = {"minimax_payload": frozenset({"layout"})}


def without_remade(kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call's keyword arguments without what the network will make anew, to the same result."""
    found = {name: kwargs[name] for name in _REMADE if isinstance(kwargs.get(name), dict)}
    if not found:
        return kwargs
    return kwargs | {
        name: {key: item for key, item in value.items() if key not in _REMADE[name]}
        for name, value in found.items()
    }
