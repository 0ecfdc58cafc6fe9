"""Errors for requests over RunPod's limits, with advice by what kind of request it is."""

from __future__ import annotations

from ..errors import RunPodPayloadTooLargeError
from .base import Route

_ADVICE: dict[Route, str] = {
    "forward": "This is one step's call: use a smaller batch or picture, let the whole loop run on the worker "
    "(Remote Sampler, offload: whole loop), or use {elsewhere}.",
    "sample": "This is a whole loop already: use a smaller batch or picture, or {elsewhere}.",
    "hello": "This is an upload for weight patches: use fewer of them at a time (LoRA), or {elsewhere}.",
    "cancel": "Use {elsewhere}.",
}


def too_large(
    route: Route, what: str, elsewhere: str, *, size_bytes: int | None, limit_bytes: int | None
) -> RunPodPayloadTooLargeError:
    """Return the error for a request on `route`. `what`: a sentence on its size; `elsewhere`: what takes more."""
    advice = _ADVICE[route].format(elsewhere=elsewhere)
    return RunPodPayloadTooLargeError(f"{what} {advice}", size_bytes=size_bytes, limit_bytes=limit_bytes)
