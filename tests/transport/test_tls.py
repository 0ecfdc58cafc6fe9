from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest
from tests.support.backend import FunctionBackend
from tests.support.tls import self_signed, server_context
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import connect
from comfy_gpu_offload.errors import TlsError
from comfy_gpu_offload.server.http.reply import Reply
from comfy_gpu_offload.server.http.request import Request
from comfy_gpu_offload.server.http.server import HttpServer, listen


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def server(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    return server_context(certificate)


def test_a_certificate_of_ones_own_is_taken_once_it_is_named(
    certificate: tuple[Path, Path], server: ssl.SSLContext
) -> None:
    with ThreadWorker(FunctionBackend(), tls=server) as worker:
        assert worker.url.startswith("https://")
        with connect(worker.url, ca_file=certificate[0]) as session:
            assert session.welcome.backend == "function"


def test_a_certificate_nobody_vouches_for_is_refused(server: ssl.SSLContext) -> None:
    with ThreadWorker(FunctionBackend(), tls=server) as worker, pytest.raises(TlsError, match="CA_FILE"):
        connect(worker.url)


def test_a_certificate_for_another_name_is_refused(certificate: tuple[Path, Path], server: ssl.SSLContext) -> None:
    with ThreadWorker(FunctionBackend(), tls=server) as worker, pytest.raises(TlsError):
        connect(worker.url.replace("127.0.0.1", "localhost"), ca_file=certificate[0])


def test_nothing_is_sent_on_a_connection_while_a_request_is_read_from_it(
    certificate: tuple[Path, Path], server: ssl.SSLContext
) -> None:
    """A TLS connection is not for two threads at a time."""

    def slow(request: Request) -> Reply:
        request.body.read_into(memoryview(bytearray(2)))
        threading.Event().wait(0.35)
        return Reply(200, (b"done",))

    worker = HttpServer(slow, listen("127.0.0.1", 0), server)
    trusting = ssl.create_default_context(cafile=str(certificate[0]))
    with (
        socket.create_connection(worker.address, timeout=60) as plain,
        trusting.wrap_socket(plain, server_hostname="127.0.0.1") as sock,
    ):
        sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nKeep-Warm: 102\r\nContent-Length: 2\r\n\r\na")
        sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            sock.recv(1000)
        sock.settimeout(10)
        sock.sendall(b"b")
        assert sock.recv(1000).startswith(b"HTTP/1.1 102 ")
    worker.close()
