"""Lines of text on nodes: what is waited for, how a run ended, what a user should know of it.

web/node_lines.js shows them, and ends those whose node ends without a word. The frontend's own line
(`send_progress_text`) goes to every open tab, shows nothing in a subgraph, and breaks words.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import comfy.model_management

from ...errors import CallCancelledError, OffloadError

logger = logging.getLogger(__name__)

EVENT = "comfy_gpu_offload.line"
Kind = Literal["state", "result", "note"]
"""A state holds as long as the node runs, and a result replaces it; a note stays until the node runs again."""

# A node is a few hundred pixels wide; ComfyUI shows the whole of an error elsewhere.
_ERROR_LETTERS = 160


def show(text: str, node_id: str | None = None) -> None:
    """Show a note on the node that runs, else on `node_id`, until it runs again."""
    _send("note", text, node_id)


def announce(text: str) -> None:
    """Tell the user what is waited for: in the log, and on the node that runs."""
    logger.info("%s", text)
    _send("state", text, None)


class Line:
    """The line of a node that runs.

    Attributes:
        result: what it says when the node has ended well.
    """

    def __init__(self) -> None:
        self.result = ""


@contextmanager
def line(begins: str, node_id: str | None, so_far: Callable[[], str] = lambda: "") -> Iterator[Line]:
    """Hold a line on the node that runs, and end it with how the block ended.

    Args:
        begins: what it says first.
        node_id: the node's where ComfyUI does not say which one runs.
        so_far: how far a block came that did not end well, e.g. ``after 7 calls``.
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
    if not isinstance(error, OffloadError):  # its text may hold anything
        return f" ({type(error).__name__})"
    text = " ".join(str(error).split())  # a first line may only lead to what follows, as "Wrong settings:"
    return ": " + (text if len(text) <= _ERROR_LETTERS else text[: _ERROR_LETTERS - 1].rstrip() + "…")


def _send(kind: Kind, text: str, node_id: str | None) -> None:
    """Send a line to the page that queued the prompt, where there is one. Never raise: a run is worth more."""
    try:
        instance: Any = getattr(importlib.import_module("server").PromptServer, "instance", None)
        page = getattr(instance, "client_id", None)
        # Of a node that another one expanded into, the page knows the latter alone.
        node = getattr(instance, "last_node_id", None) or node_id
        if page is None or node is None:
            return
        prompt = getattr(instance, "last_prompt_id", None)
        instance.send_sync(EVENT, {"prompt": prompt, "node": str(node), "kind": kind, "text": text}, page)
    except Exception as error:
        logger.debug("a line could not be shown: %s", type(error).__name__)
