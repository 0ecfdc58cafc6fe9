"""The route that the loaders' combos are filled from."""

from __future__ import annotations

import asyncio
import importlib

from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError

from ..comfyui.client import loader
from ..comfyui.client.model_lists import Reason
from .same_site import same_site

LISTS_ROUTE = "/comfy_gpu_offload/lists"


class Asked(BaseModel):
    """The body of a request for the lists."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: Reason


def register() -> None:
    """Add the route to ComfyUI's server, where there is one: ComfyUI can also be used as a library."""
    instance = getattr(importlib.import_module("server").PromptServer, "instance", None)
    if instance is not None:
        instance.routes.post(LISTS_ROUTE)(lists)


@same_site
async def lists(request: web.Request) -> web.Response:
    """Answer with `lists` of names by kind, `state`, `text` and `takes_models` (see `model_lists.Answer`)."""
    try:
        asked = Asked.model_validate_json(await request.read())
    except ValidationError:
        return web.json_response({"error": 'The body must be like {"reason": "open"}.'}, status=400)
    answer = await asyncio.to_thread(loader.lists.answer, asked.reason)
    return web.json_response(
        {
            "lists": dict(answer.lists),
            "state": answer.state,
            "text": answer.text,
            "takes_models": answer.takes_models,
        }
    )
