"""The transports that the suite runs over. A transport joins by one entry of `CARRIERS`."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.nginx import needs_nginx, nginx
from tests.support.queue_loop import QueueLoop
from tests.support.runpod_edge import LoadBalancerEdge
from tests.support.runpod_gateway import ENDPOINT, KEY, RunPodGateway
from tests.support.worker import ThreadWorker
from tests.transport.conformance import unix_transport
from tests.transport.conformance.altering_handler import AlteringHandler
from worker.queue_jobs import QueueJobs

from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.config.endpoint import Direct
from comfy_gpu_offload.config.settings import Settings, given_settings
from comfy_gpu_offload.errors import ConnectionLostError, ForkedWorkerError
from comfy_gpu_offload.transport import configured
from comfy_gpu_offload.transport.base import Notify, Transport
from comfy_gpu_offload.transport.connector import connector_to
from comfy_gpu_offload.transport.http_transport import HttpTransport
from comfy_gpu_offload.transport.loopback import LoopbackTransport
from comfy_gpu_offload.transport.websocket_transport import WebSocketTransport

Serve = Callable[[AlteringHandler, Path], AbstractContextManager[int]]
Reach = Callable[[int, Path], AbstractContextManager[dict[str, Any]]]
MB = 1_000_000


@dataclass(frozen=True)
class Carrier:
    """A transport with the worker that it needs, and what it promises beyond `Transport`.

    Attributes:
        serve: runs a worker, with whatever stands before it, and gives the TCP port at which requests arrive.
        reach: gives the settings of a client whose requests arrive at a port of this machine; None where there is
            no connection that could be cut, and `Carrier.transport` hands requests to the handler.
        up_bytes, down_bytes: the largest frame that passes either way, a little less than its limit.
        refuses_more: whether a larger request is refused before it is sent.
        loses: the error for a connection that was cut.
        asks_again: whether it asks again by itself where that does no harm, so that a cut may go unnoticed.
        tells_waiting: whether it tells what a call waits for while another runs.
        connects: whether it opens a connection that `Timeouts.connect_s` bounds.
        answers_after_fork: whether a forked process can go on with it.
    """

    name: str
    serve: Serve
    reach: Reach | None
    up_bytes: int = 30 * MB
    down_bytes: int = 30 * MB
    refuses_more: bool = False
    loses: type[Exception] = ConnectionLostError
    asks_again: bool = False
    tells_waiting: bool = False
    connects: bool = True
    answers_after_fork: bool = True
    marks: tuple[pytest.MarkDecorator, ...] = ()

    @contextmanager
    def transport(
        self, handler: AlteringHandler, port: int, folder: Path, notify: Notify | None = None
    ) -> Iterator[Transport]:
        """Make the transport whose requests arrive at `port`, as a session would have it made."""
        if self.reach is None:
            yield LoopbackTransport(handler)
            return
        with self.reach(port, folder) as values:
            settings = given_settings(**{"wake_timeout_s": 1.0, **values})
            made = configured.transport_for(settings, notify or (lambda _: None))
            yield made
            made.close()


@contextmanager
def _no_server(handler: AlteringHandler, folder: Path) -> Iterator[int]:
    yield 0


@contextmanager
def _worker(handler: AlteringHandler, folder: Path) -> Iterator[int]:
    with ThreadWorker(handler.backend) as worker:
        handler.put_before(worker)
        yield worker.port


@contextmanager
def _behind_nginx(handler: AlteringHandler, folder: Path) -> Iterator[int]:
    with _worker(handler, folder) as port, nginx(port, folder) as front:
        yield front.port


@contextmanager
def _behind_nginx_for_websockets(handler: AlteringHandler, folder: Path) -> Iterator[int]:
    with _worker(handler, folder) as port, nginx(port, folder, upgrades=True) as front:
        yield front.port


@contextmanager
def _behind_edge(handler: AlteringHandler, folder: Path) -> Iterator[int]:
    with _worker(handler, folder) as port, LoadBalancerEdge(f"http://127.0.0.1:{port}") as edge:
        yield Address.parse(edge.url).tcp_port


@contextmanager
def _behind_edge_without_websockets(handler: AlteringHandler, folder: Path) -> Iterator[int]:
    with _worker(handler, folder) as port, LoadBalancerEdge(f"http://127.0.0.1:{port}") as edge:
        edge.passes_websockets = False
        yield Address.parse(edge.url).tcp_port


@contextmanager
def _queue(handler: AlteringHandler, folder: Path) -> Iterator[int]:
    with RunPodGateway() as gateway, QueueLoop(gateway, QueueJobs(handler)):  # type: ignore[arg-type]
        yield Address.parse(gateway.url).tcp_port


def _by_address(port: int, folder: Path) -> AbstractContextManager[dict[str, Any]]:
    return nullcontext({"url": f"http://127.0.0.1:{port}"})


def _by(make: Callable[[Settings, Direct, Notify | None], Transport]) -> Reach:
    @contextmanager
    def reach(port: int, folder: Path) -> Iterator[dict[str, Any]]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(configured.BY_SCHEME, "http", make)
            yield {"url": f"http://127.0.0.1:{port}"}

    return reach


def _websocket(settings: Settings, target: Direct, notify: Notify | None) -> Transport:
    """Make a transport that has nothing else where an upgrade is refused."""
    return WebSocketTransport(
        target.address, connector_to(target.address), max_frame_bytes=settings.frame_bytes, notify=notify
    )


def _http(settings: Settings, target: Direct, notify: Notify | None) -> Transport:
    """Make a transport as where an upgrade is refused, from the first exchange on."""
    return HttpTransport(target.address, max_frame_bytes=settings.frame_bytes)


def _by_runpod(kind: str) -> Reach:
    def reach(port: int, folder: Path) -> AbstractContextManager[dict[str, Any]]:
        values = {"endpoint": kind, "runpod_api_key": KEY, "runpod_endpoint_id": ENDPOINT}
        if kind == "load-balancer":
            values["url"] = f"http://127.0.0.1:{port}"
        return nullcontext({**values, "runpod_base_url": f"http://127.0.0.1:{port}/v2"})

    return reach


@contextmanager
def _by_unix_socket(port: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Make a socket that leads to the port. Register its transport meanwhile, by the one line that this takes."""
    file = folder / f"{port}.sock"
    with socket.socket(socket.AF_UNIX) as listener, pytest.MonkeyPatch.context() as patch:
        listener.bind(str(file))
        listener.listen()
        threading.Thread(target=_forward_all, args=(listener, port), daemon=True).start()
        patch.setitem(configured.BY_SCHEME, unix_transport.SCHEME, unix_transport.from_settings)
        yield {"url": f"unix://{file}"}
        listener.shutdown(socket.SHUT_RDWR)
    file.unlink()


def _forward_all(listener: socket.socket, port: int) -> None:
    with suppress(OSError):
        while True:
            near = listener.accept()[0]
            try:
                far = socket.create_connection(("127.0.0.1", port))
            except OSError:
                near.close()
                continue
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_forward, args=(source, sink), daemon=True).start()


def _forward(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(65536):
            sink.sendall(piece)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


CARRIERS = (
    Carrier("loopback", _no_server, None, loses=ForkedWorkerError, connects=False, answers_after_fork=False),
    Carrier("websocket", _worker, _by(_websocket), tells_waiting=True),
    Carrier(
        "websocket behind nginx",
        _behind_nginx_for_websockets,
        _by_address,
        tells_waiting=True,
        marks=(needs_nginx,),
    ),
    Carrier("http", _worker, _by(_http)),
    Carrier("http behind nginx", _behind_nginx, _by_address, marks=(needs_nginx,)),
    Carrier("load balancer", _behind_edge, _by_runpod("load-balancer"), tells_waiting=True, connects=False),
    Carrier(
        "load balancer without websockets",
        _behind_edge_without_websockets,
        _by_runpod("load-balancer"),
        up_bytes=27 * MB,
        down_bytes=27 * MB,
        refuses_more=True,
        connects=False,
    ),
    Carrier(
        "queue",
        _queue,
        _by_runpod("queue"),
        up_bytes=13 * MB,
        down_bytes=7 * MB,
        refuses_more=True,
        asks_again=True,
        tells_waiting=True,
        connects=False,
    ),
    Carrier("unix socket", _worker, _by_unix_socket, connects=False),
)
