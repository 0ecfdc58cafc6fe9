"""Lines of text under nodes: a wait, the end of a run, notes for the user.

web/node_lines.js draws them, and removes a line whose node ends without a last message. The frontend's own line
(`send_progress_text`) goes to every open tab, shows nothing in a subgraph, and breaks words.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import comfy.model_management

from ...errors import CallCancelledError, OffloadError

logger = logging.getLogger(__name__)

EVENT = "comfy_gpu_offload.line"
Kind = Literal["state", "result", "note"]
"""A state is shown while the node runs, a result replaces it, and a note stays until the node runs again."""

# A node is a few hundred pixels wide, and ComfyUI shows the complete error elsewhere.
_ERROR_LETTERS = 160


def show(text: str, node_id: str | None = None) -> None:
    """Show a note on the running node, or on `node_id` if none is known, until it runs again."""
    _send("note", text, node_id)


def announce(text: str) -> None:
    """Show a state, such as a wait, in the log and on the running node."""
    logger.info("%s", text)
    _send("state", text, None)


def listed(names: Sequence[str], most: int | None = None) -> str:
    """Return names as a text, with a count of those beyond the first `most`; None for all of them."""
    shown = names[:most]
    further = len(names) - len(shown)
    return ", ".join(shown) + (f" and {further} more" if further else "")


class Line:
    """The line of a running node.

    Attributes:
        result: its text after the node has ended without an error.
    """

    def __init__(self) -> None:
        self.result = ""


@contextmanager
def line(begins: str, node_id: str | None, so_far: Callable[[], str] = lambda: "") -> Iterator[Line]:
    """Show a line on the running node during a block, and then how the block ended.

    Args:
        begins: its first text.
        node_id: the node's id, for ComfyUI releases that do not say which node runs.
        so_far: returns how far the block has come, e.g. ``after 7 calls``, for the line after an error.
    """
    _send("state", begins, node_id)
    held = Line()
    try:
        yield held
    except BaseException as error:
        _send("result", " ".join(filter(None, (_ended_by(error), so_far()))) + _reason(error), node_id)
        raise
    _send("result", held.result, node_id)


def _ended_by(error: BaseException) -> str:
    stopped = (comfy.model_management.InterruptProcessingException, CallCancelledError, KeyboardInterrupt)
    return "cancelled" if isinstance(error, stopped) else "failed"


def _reason(error: BaseException) -> str:
    if _ended_by(error) == "cancelled":
        return ""
    if not isinstance(error, OffloadError):  # the text of other errors may hold anything
        return f" ({type(error).__name__})"
    text = " ".join(str(error).split())  # all lines: the first may be a mere heading, as "Wrong settings:"
    return ": " + (text if len(text) <= _ERROR_LETTERS else text[: _ERROR_LETTERS - 1].rstrip() + "…")


def _send(kind: Kind, text: str, node_id: str | None) -> None:
    """Send a line to the page that queued the prompt, if there is one. Never raise: a run is worth more."""
    try:
        instance: Any = getattr(importlib.import_module("server").PromptServer, "instance", None)
        page = getattr(instance, "client_id", None)
        # If a node expands into others, the page knows only the node itself.
        node = getattr(instance, "last_node_id", None) or node_id
        if page is None or node is None:
            return
        prompt = getattr(instance, "last_prompt_id", None)
        instance.send_sync(EVENT, {"prompt": prompt, "node": str(node), "kind": kind, "text": text}, page)
    except Exception as error:
        logger.debug("Showing a line on node %s failed: %s", node_id, type(error).__name__)
