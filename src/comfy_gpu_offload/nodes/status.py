"""One line of text on a node that runs."""

from __future__ import annotations

import importlib


def show(text: str, node_id: str | None) -> None:
    """Shows `text` on the node, where there is a server and an interface that does."""
    instance = getattr(importlib.import_module("server").PromptServer, "instance", None)
    if instance is not None and node_id is not None and hasattr(instance, "send_progress_text"):
        instance.send_progress_text(text, node_id)
