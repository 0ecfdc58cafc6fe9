"""One line of text on a node that runs."""

from __future__ import annotations

import importlib
import logging

logger = logging.getLogger(__name__)


def show(text: str, node_id: str | None = None) -> None:
    """Shows `text` on the node, or on the one that runs, where there is a server and an interface that does."""
    instance = getattr(importlib.import_module("server").PromptServer, "instance", None)
    if instance is None or not hasattr(instance, "send_progress_text"):
        return
    node_id = node_id or getattr(instance, "last_node_id", None)
    if node_id is not None:
        instance.send_progress_text(text, node_id)


def announce(text: str) -> None:
    """Tells the user what is waited for: in the log, and on the node that runs."""
    logger.info("%s", text)
    show(text)
