"""The node of a prompt that runs on this thread, and the LoRA file that it adds, for messages."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import folder_paths

_LORAS = "loras"


@dataclass(frozen=True)
class RunningNode:
    """A node as it stands in the prompt.

    Attributes:
        id: the node's id in the prompt.
        kind: the name of its class in ComfyUI.
        inputs: its inputs by name, values or links.
    """

    id: str
    kind: str
    inputs: Mapping[str, Any]

    @property
    def files(self) -> list[str]:
        """The LoRA files that its inputs name, also in dicts, as some packs' nodes have them."""
        known = frozenset(folder_paths.get_filename_list(_LORAS))
        return list(dict.fromkeys(text for text in _texts(self.inputs) if text in known))

    def __str__(self) -> str:
        return f"{self.kind} (node {self.id})"


def prompt_id() -> str | None:
    """Return the id of the prompt that runs on this thread; None if there is none."""
    context = _context()
    return None if context is None else str(context.prompt_id)


def running_node() -> RunningNode | None:
    """Return the node that runs on this thread; None if there is none, or no server with its prompt."""
    instance = getattr(importlib.import_module("server").PromptServer, "instance", None)
    queue, context = getattr(instance, "prompt_queue", None), _context()
    if queue is None or context is None:
        return None
    for _, running, prompt, *_ in list(queue.currently_running.values()):
        node = prompt.get(context.node_id) if running == context.prompt_id else None
        if node is not None:
            return RunningNode(context.node_id, str(node["class_type"]), node["inputs"])
    return None


def patch_source() -> str:
    """Return the source of the patches that the running node adds: its LoRA file, else the node; "" if unknown."""
    context = _context()
    return "" if context is None else _patch_source(context.prompt_id, context.node_id)


# Cached, because some nodes add their patches weight by weight.
@lru_cache(maxsize=16)
def _patch_source(_: str, __: str) -> str:
    node = running_node()
    return "" if node is None else " or ".join(node.files[:3]) or str(node)


def _context() -> Any:
    return importlib.import_module("comfy_execution.utils").get_executing_context()


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
