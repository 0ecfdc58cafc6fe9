"""Inputs that ComfyUI computes before a run and that the network can recompute: they are not sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# An object of MiniMax-H3's own class, computed from the payload's other items and from sizes
# (`MiniMaxH3Model._forward`).
_RECOMPUTABLE: Mapping[str, frozenset[str]] = {"minimax_payload": frozenset({"layout"})}


def without_recomputable(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return a call's keyword arguments without the items that the network recomputes to the same result."""
    found = {name: kwargs[name] for name in _RECOMPUTABLE if isinstance(kwargs.get(name), dict)}
    if not found:
        return kwargs
    return kwargs | {
        name: {key: item for key, item in value.items() if key not in _RECOMPUTABLE[name]}
        for name, value in found.items()
    }
