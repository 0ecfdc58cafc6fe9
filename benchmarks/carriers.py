"""The transports to a worker that benchmarks compare, by name."""

from __future__ import annotations

from collections.abc import Callable

from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.transport.base import Transport
from comfy_gpu_offload.transport.connector import connector_to
from comfy_gpu_offload.transport.http_transport import HttpTransport
from comfy_gpu_offload.transport.websocket_transport import WebSocketTransport

WEBSOCKET, HTTP = "WebSocket", "HTTP"


def websocket(url: str) -> WebSocketTransport:
    """Return the transport over one WebSocket, without the choice of HTTP where that is refused."""
    address = Address.parse(url)
    return WebSocketTransport(address, connector_to(address))


def http(url: str) -> HttpTransport:
    """Return the transport by HTTP exchanges, which is used where a WebSocket is refused."""
    return HttpTransport(Address.parse(url))


CARRIERS: dict[str, Callable[[str], Transport]] = {WEBSOCKET: websocket, HTTP: http}
