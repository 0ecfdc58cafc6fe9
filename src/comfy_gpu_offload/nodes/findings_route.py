"""The route that tells ComfyUI's pages what is found in the settings."""

from __future__ import annotations

import asyncio
import importlib

from aiohttp import web

from ..config.findings import found
from .same_site import same_site

FINDINGS_ROUTE = "/comfy_gpu_offload/findings"


def register() -> None:
    """Add the route to ComfyUI's server, where there is one: ComfyUI can also be used as a library."""
    instance = getattr(importlib.import_module("server").PromptServer, "instance", None)
    if instance is not None:
        instance.routes.post(FINDINGS_ROUTE)(findings)


@same_site
async def findings(_: web.Request) -> web.Response:
    """Answer with `findings`, each a `text` and whether it `is_error`. Asks no worker."""
    now = await asyncio.to_thread(found)
    return web.json_response({"findings": [{"text": each.text, "is_error": each.is_error} for each in now]})
