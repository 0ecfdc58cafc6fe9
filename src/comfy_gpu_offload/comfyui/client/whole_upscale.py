"""ComfyUI's own upscale node, for a remote model: the picture goes to the worker as a whole, and not tile by tile.

The node cuts a picture into tiles and calls the model with each, which would be a round trip a tile. Nothing that
it reads of a model lets the model see the whole picture, so the node's function is wrapped. With any other model it
is ComfyUI's own; where a pack has replaced it, tiles go to the worker one by one.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..installation import stock_nodes
from .remote_upscale_model import RemoteUpscaleModel

_NODE, _FILE = "ImageUpscaleWithModel", "nodes_upscale_model"
# Its function, and the name that it had in earlier releases, which packs call.
_FUNCTIONS = ("execute", "upscale")
_WRAPPED = "_sends_whole_pictures"


def send_whole_pictures() -> None:
    """Have ComfyUI's node send pictures whole; once for the process."""
    for node in _nodes():
        for name in _FUNCTIONS:
            own = vars(node).get(name)
            if not isinstance(own, classmethod) or hasattr(own.__func__, _WRAPPED):
                continue
            if own.__func__.__module__ == node.__module__:
                setattr(node, name, classmethod(_whole(own.__func__)))


def _nodes() -> Iterator[Any]:
    """Yield ComfyUI's node, and the copy of it that packs get when they import its module by name."""
    node = importlib.import_module("nodes").NODE_CLASS_MAPPINGS.get(_NODE)
    if node is not None and stock_nodes.is_of(node.__module__, _FILE):
        yield node
    copy = getattr(sys.modules.get(f"comfy_extras.{_FILE}"), _NODE, None)
    if copy is not None and copy is not node:
        yield copy


def _whole(stock: Any) -> Callable[..., Any]:
    @functools.wraps(stock)
    def execute(cls: Any, upscale_model: Any, image: torch.Tensor) -> Any:
        if isinstance(upscale_model, RemoteUpscaleModel):
            return stock.__globals__["io"].NodeOutput(upscale_model.upscale(image))
        return stock(cls, upscale_model, image)

    setattr(execute, _WRAPPED, True)
    return execute
