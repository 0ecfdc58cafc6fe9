"""Workflows as the frontend saves them."""

from __future__ import annotations

from typing import Any


def saved_node(kind: str, values: list[Any], number: int = 1) -> dict[str, Any]:
    """Return a node as it is saved, with these `widgets_values`."""
    return {
        "id": number,
        "type": kind,
        # In columns of three, or a page of many nodes is too small for texts to be drawn.
        "pos": [300 + 420 * ((number - 1) // 3), 60 + 320 * ((number - 1) % 3)],
        "size": [380, 200],
        "flags": {},
        "order": number - 1,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "properties": {"Node name for S&R": kind},
        "widgets_values": values,
    }


def saved_workflow(*nodes: dict[str, Any]) -> dict[str, Any]:
    """Return a workflow of these nodes."""
    last = max((node["id"] for node in nodes), default=0)
    return {"last_node_id": last, "last_link_id": 0, "nodes": list(nodes), "links": [], "version": 0.4}
