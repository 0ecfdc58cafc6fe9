"""HTTP over a Unix socket: a transport that nothing but the suite knows. It shows what a new one takes."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from comfy_gpu_offload.config.address import HTTP, Address
from comfy_gpu_offload.config.endpoint import Direct
from comfy_gpu_offload.config.settings import Settings
from comfy_gpu_offload.errors import ConnectError
from comfy_gpu_offload.transport.base import Notify
from comfy_gpu_offload.transport.connector import Connector
from comfy_gpu_offload.transport.http_transport import HttpTransport

SCHEME = "unix"


@dataclass(frozen=True)
class UnixConnector(Connector):
    """Connects to the socket that is the file `file`."""

    file: str = ""

    def speaks_tls(self, timeout_s: float) -> bool:
        return False  # or the base class would ask TCP

    def _connected(self, timeout_s: float) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(timeout_s)
        try:
            sock.connect(self.file)
        except OSError as error:
            sock.close()
            raise ConnectError(f"No worker listens at {self.file} ({error.strerror}): start it.") from error
        return sock


def from_settings(settings: Settings, target: Direct, notify: Notify | None) -> HttpTransport:
    """Return the transport to a worker at `unix:///a/file`."""
    local = Address(HTTP, "localhost")
    connector = UnixConnector(local, None, file=target.address.path)
    return HttpTransport(
        local,
        target.token,
        max_frame_bytes=settings.frame_bytes,
        connector=connector,
    )
