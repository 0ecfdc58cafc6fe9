"""The messages about a running prompt on ComfyUI's websocket, as a browser gets them."""

from __future__ import annotations

import asyncio
import io
import json
import struct
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from PIL import Image

from .api import Graph

_PREVIEW_IMAGE = 1  # of ComfyUI's BinaryEventTypes
_LINE = "comfy_gpu_offload.line"
_TIMEOUT_S = 120.0


@dataclass
class Shown:
    """The output shown on one node: pairs of steps done and in all, sizes of previews, lines of text."""

    progress: list[tuple[int, int]] = field(default_factory=list)
    previews: list[tuple[int, int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


def shown_while_running(
    url: str, graph: Graph, on_text: Callable[[str], None] = lambda _: None
) -> Mapping[str, Shown]:
    """Run a prompt as the frontend does; return what was shown, by node. `on_text` is given each line at once."""
    return asyncio.run(asyncio.wait_for(_run(url, graph, on_text), _TIMEOUT_S))


async def _run(url: str, graph: Graph, on_text: Callable[[str], None]) -> Mapping[str, Shown]:
    client, nodes, running = uuid.uuid4().hex, dict[str, Shown](), ""
    async with (
        aiohttp.ClientSession(url) as session,
        session.ws_connect("/ws", params={"clientId": client}, max_msg_size=0) as socket,
    ):
        prompt = {"prompt": graph, "client_id": client}
        async with session.post("/prompt", json=prompt) as reply:
            reply.raise_for_status()
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                nodes.setdefault(running, Shown()).previews += _preview(message.data)
                continue
            kind, data = _event(message.data)
            if kind == "executing":
                running = data["node"]
            elif kind == "progress":
                nodes.setdefault(data["node"], Shown()).progress.append((data["value"], data["max"]))
            elif kind == _LINE:
                nodes.setdefault(data["node"], Shown()).texts.append(data["text"])
                on_text(data["text"])
            elif kind in {"execution_success", "execution_error"}:
                assert kind == "execution_success", data
                break
    return nodes


def _event(text: str) -> tuple[str, dict[str, Any]]:
    event = json.loads(text)
    return event["type"], event["data"]


def _preview(message: bytes) -> list[tuple[int, int]]:
    kind, _ = struct.unpack(">II", message[:8])
    return [Image.open(io.BytesIO(message[8:])).size] if kind == _PREVIEW_IMAGE else []
