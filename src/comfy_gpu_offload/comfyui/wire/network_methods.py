"""What ComfyUI asks of a network besides its forward pass; the same call carries it, with one more argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...backends.base import ModelRunError

# The keyword argument that names the method; the network's own forward never sees it.
METHOD = "network_method"
# `comfy.model_base` calls these while it makes conditioning ready, once for each condition of a run.
METHODS = frozenset({"preprocess_text_embeds"})


def called(network: Any, kwargs: dict[str, Any]) -> Callable[..., Any]:
    """What the call is for: the network, or one of its methods. Takes `METHOD` out of `kwargs`.

    Raises:
        ModelRunError: the method is none of `METHODS`, or this network has none.
    """
    if METHOD not in kwargs:
        forward: Callable[..., Any] = network
        return forward
    name = kwargs.pop(METHOD)
    method = getattr(network, name, None) if isinstance(name, str) and name in METHODS else None
    if not callable(method):
        raise ModelRunError(
            f"This model's network has no {name!r:.80}: use the same ComfyUI release on both sides."
        )
    found: Callable[..., Any] = method
    return found
