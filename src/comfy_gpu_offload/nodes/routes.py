"""The one route that the loader's model list is filled from."""

from __future__ import annotations

import asyncio
import importlib
import logging

from aiohttp import web

from ..comfyui import loader
from ..config.settings import load_settings
from ..errors import OffloadError

logger = logging.getLogger(__name__)

MODELS_ROUTE = "/comfy_gpu_offload/models"


def register() -> None:
    """Adds the route to ComfyUI's server, where there is one: ComfyUI can also be used as a library."""
    instance = getattr(importlib.import_module("server").PromptServer, "instance", None)
    if instance is not None:
        instance.routes.get(MODELS_ROUTE)(list_models)


async def list_models(_: web.Request) -> web.Response:
    """The names the loader offers: the worker's, or this machine's own where no worker is configured."""
    try:
        names = await asyncio.to_thread(_names)
    except OffloadError as error:
        logger.warning("The worker's models cannot be listed: %s", error)
        return web.json_response({"error": str(error)}, status=502)
    return web.json_response(names)


def _names() -> list[str]:
    settings = load_settings()
    if settings.url is None and settings.runpod_endpoint_id is None:
        return loader.local_models()
    return [entry.name for entry in loader.remote_models()]
