"""The route by which a page has the worker download a model that its workflow names."""

from __future__ import annotations

import asyncio
import importlib
from dataclasses import asdict
from typing import Annotated, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..comfyui.client.model_fetches import WantedFile, fetches
from .same_site import same_site

FETCH_ROUTE = "/comfy_gpu_offload/fetch"
_MAX_BODY = 16 * 1024


class Asked(BaseModel):
    """The body of a request. What the worker takes of it is the worker's to say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Literal["begin", "state", "stop"]
    # What a link in a workflow is; other forms of a source are for the command line.
    url: Annotated[str, Field(max_length=2048, pattern=r"^https?://[!-~]+$", repr=False)]
    folder: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
    name: Annotated[str, Field(min_length=1, max_length=220, pattern=r"^[^/\\\x00-\x1f\x7f]+$")]
    sha256: Annotated[str | None, Field(pattern=r"^[0-9a-f]{64}$")] = None


def register() -> None:
    """Add the route to ComfyUI's server, where there is one: ComfyUI can also be used as a library."""
    instance = getattr(importlib.import_module("server").PromptServer, "instance", None)
    if instance is not None:
        instance.routes.post(FETCH_ROUTE)(fetch)


@same_site
async def fetch(request: web.Request) -> web.Response:
    """Begin, look at or stop a download; answer with its `FetchState`."""
    body = await request.content.read(_MAX_BODY + 1)
    try:
        if len(body) > _MAX_BODY:
            raise ValueError
        asked = Asked.model_validate_json(body)
    except (ValidationError, ValueError):
        return web.json_response(
            {"error": "The body must hold action, url, folder and name, as the pack's own page sends them."},
            status=400,
        )
    wanted = WantedFile(asked.url, asked.folder, asked.name, asked.sha256)
    act = {"begin": fetches.begin, "state": fetches.state, "stop": fetches.stop}[asked.action]
    return web.json_response(asdict(await asyncio.to_thread(act, wanted)))
