"""A scripted server in place of RunPod's API, and a clock that does not wait."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pydantic import SecretStr

from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.net.clock import Clock
from comfy_gpu_offload.runpod.client import RunPodClient
from comfy_gpu_offload.runpod.options import RunPodOptions

KEY = "rpa_0123456789SECRET"
ENDPOINT = "abc123def456gh"
JOB = "60902e6c-08a1-426e-9cb9-9eaec90f5e2b-u1"
WALL_S = 1_700_000_000.0


class FakeClock:
    """Time passes only while it is slept, and is counted."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slices: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slices.append(seconds)
        self.now += seconds

    @property
    def slept(self) -> float:
        return self.now - 1000.0

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now, lambda: WALL_S + self.slept, self.sleep)


def job_reply(status: str = "IN_QUEUE", **fields: Any) -> dict[str, Any]:
    return {"id": JOB, "status": status, **fields}


Answer = Callable[[BaseHTTPRequestHandler], None]


def says(status: int, value: Any, **headers: str) -> Answer:
    """Return an answer with JSON, and with headers whose names have `_` for `-`."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        body = b"" if status == 204 else json.dumps(value).encode()
        handler.send_response(status)
        for name, text in headers.items():
            handler.send_header(name.replace("_", "-"), text)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def breaks_off(handler: BaseHTTPRequestHandler) -> None:
    """Read the request, and close the connection without a reply."""
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


@dataclass
class LoopbackApi:
    """A scripted server: its address, and the requests that it got. Each answer serves once, the last for ever."""

    url: str
    answers: list[Answer]
    requests: list[tuple[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    connections: set[Any] = field(default_factory=set)
    asked: threading.Condition = field(default_factory=threading.Condition)

    def client(self, options: RunPodOptions | None = None, clock: Clock | None = None) -> RunPodClient:
        return RunPodClient(
            SecretStr(KEY), ENDPOINT, base_url=Address.parse(self.url), options=options, clock=clock
        )

    def wait_for(self, request: tuple[str, str]) -> bool:
        with self.asked:
            return self.asked.wait_for(lambda: request in self.requests, timeout=60)


@contextmanager
def loopback_api(*answers: Answer, tls: ssl.SSLContext | None = None, reads: bool = True) -> Iterator[LoopbackApi]:
    """Run a server on this machine. Without `reads`, the answer reads the request's body itself."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])) if reads else b""
            with api.asked:
                api.requests.append((self.command, self.path))
                api.headers.append(dict(self.headers))
                api.bodies.append(body)
                api.connections.add(self.client_address)
                answer = api.answers.pop(0) if len(api.answers) > 1 else api.answers[0]
                api.asked.notify_all()
            answer(self)

        def do_GET(self) -> None:
            if "Content-Length" not in self.headers:
                self.headers["Content-Length"] = "0"
            self.do_POST()

        def do_DELETE(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_: object) -> None:
            pass  # a client that went away

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    scheme = "http" if tls is None else "https"
    api = LoopbackApi(f"{scheme}://127.0.0.1:{server.server_address[1]}/v2", list(answers))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join(60)
