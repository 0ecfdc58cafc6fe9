"""The routes that the loaders' lists are filled from."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Callable
from typing import Any

from aiohttp import web

from ..comfyui import loader
from ..config.settings import load_settings
from ..errors import OffloadError

logger = logging.getLogger(__name__)

MODELS_ROUTE = "/comfy_gpu_offload/models"
CONTROL_NETS_ROUTE = "/comfy_gpu_offload/control_nets"


def listed_by(route: str) -> dict[str, Any]:
    """Of a combo's options: that ComfyUI's frontend fills it from there, and that a button does so again."""
    return {"route": route, "refresh_button": True, "timeout": 15_000, "max_retries": 2}


def register() -> None:
    """Adds the routes to ComfyUI's server, where there is one: ComfyUI can also be used as a library."""
    instance = getattr(importlib.import_module("server").PromptServer, "instance", None)
    if instance is not None:
        instance.routes.get(MODELS_ROUTE)(list_models)
        instance.routes.get(CONTROL_NETS_ROUTE)(list_control_nets)


async def list_models(_: web.Request) -> web.Response:
    """The models the loader offers: the worker's, or this machine's own where no worker is configured."""
    return await _listed(lambda: [entry.name for entry in loader.remote_models()], loader.local_models)


async def list_control_nets(_: web.Request) -> web.Response:
    """The same of control nets."""
    return await _listed(lambda: [entry.name for entry in loader.remote_control_nets()], loader.local_control_nets)


async def _listed(remote: Callable[[], list[str]], local: Callable[[], list[str]]) -> web.Response:
    try:
        names = await asyncio.to_thread(_names, remote, local)
    except OffloadError as error:
        logger.warning("The worker's models cannot be listed: %s", error)
        return web.json_response({"error": str(error)}, status=502)
    return web.json_response(names)


def _names(remote: Callable[[], list[str]], local: Callable[[], list[str]]) -> list[str]:
    settings = load_settings()
    if settings.url is None and settings.runpod_endpoint_id is None:
        return local()
    return remote()
