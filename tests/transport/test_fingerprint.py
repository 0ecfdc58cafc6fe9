"""A worker that is known by its certificate's fingerprint: nothing is sent to any other one."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from pydantic import SecretStr
from tests.support.backend import FunctionBackend
from tests.support.connect_proxy import ConnectProxy
from tests.support.socks_proxy import SocksProxy
from tests.support.tls import PAST, self_signed, server_context
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import connect
from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.config.certificates import fingerprint_of
from comfy_gpu_offload.config.pairing import Pairing
from comfy_gpu_offload.errors import ConfigError, TlsError
from comfy_gpu_offload.transport.connector import connector_to
from comfy_gpu_offload.transport.health import Health, ping

TOKEN = "t" * 32
X = torch.arange(6.0)
EVERY_PROXY = pytest.mark.parametrize("kind", [ConnectProxy, SocksProxy])
Certificate = tuple[Path, Path]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Make one that nobody else would accept: nobody vouches for it, it has expired, and its name is another."""
    return self_signed(tmp_path_factory.mktemp("tls"), "DNS:nobody.example", PAST)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return self_signed(tmp_path_factory.mktemp("other"))


def line_to(port: int, certificate: Certificate, host: str = "127.0.0.1") -> str:
    der = ssl.PEM_cert_to_DER_cert(certificate[0].read_text())
    return Pairing(Address("https", host, port), SecretStr(TOKEN), fingerprint_of(der)).line()


@contextmanager
def recording(certificate: Certificate, received: list[bytes]) -> Iterator[int]:
    """Give the port of a TLS server that answers nothing and records what each connection sends, decrypted."""
    context = server_context(certificate)

    def record(plain: socket.socket) -> None:
        plain.settimeout(60)
        received.append(b"")
        with suppress(OSError), context.wrap_socket(plain, server_side=True) as secured:
            while piece := secured.recv(4096):
                received[-1] += piece

    def serve() -> None:
        with suppress(OSError):
            while True:
                plain, _ = listener.accept()
                threads.append(threading.Thread(target=record, args=(plain,)))
                threads[-1].start()

    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=serve)
        serving.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        serving.join(60)
    for thread in threads:
        thread.join(60)


def test_the_worker_of_the_line_is_used_whatever_its_certificate_says(certificate: Certificate) -> None:
    with ThreadWorker(FunctionBackend(), token=TOKEN, tls=server_context(certificate)) as worker:
        line = line_to(worker.port, certificate)
        for moved in (line, line.replace("127.0.0.1", "localhost")):
            with connect(moved) as session:
                assert torch.equal(session.model("double")(X), X * 2)
        fingerprint = Pairing.parse(line).fingerprint
        assert ping(worker.address, fingerprint=fingerprint) is Health.READY


def test_a_server_with_another_certificate_gets_no_byte(certificate: Certificate, other: Certificate) -> None:
    received: list[bytes] = []
    with recording(other, received) as port:
        line = line_to(port, certificate)
        with pytest.raises(TlsError, match="Nothing was sent to it") as caught:
            connect(line)
        pairing = Pairing.parse(line)
        assert ping(pairing.address, fingerprint=pairing.fingerprint, timeout_s=30) is Health.UNREACHABLE
    assert not caught.value.retryable
    assert TOKEN not in str(caught.value)
    assert received == [b"", b""]


def test_the_recording_server_sees_what_is_sent_to_the_right_one(certificate: Certificate) -> None:
    received: list[bytes] = []
    with recording(certificate, received) as port:
        connection = connector_to(
            Address("https", "127.0.0.1", port), fingerprint=Pairing.parse(line_to(port, certificate)).fingerprint
        ).connect(30)
        connection.sendall(b"a request")
        connection.close()
    assert received == [b"a request"]


@EVERY_PROXY
def test_a_proxy_that_reads_the_connection_gets_no_token(
    kind: type[ConnectProxy], certificate: Certificate, other: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[bytes] = []
    routes: dict[str, int] = {}
    for name in ("NO_PROXY", "no_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    with kind(routes) as proxy, recording(other, received) as routes["gpu-box:8288"]:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url())
        with pytest.raises(TlsError, match="NO_PROXY=gpu-box"):
            connect(line_to(8288, certificate, "gpu-box"))
        assert proxy.asked == ["gpu-box:8288"]
    assert received == [b""]


@EVERY_PROXY
def test_the_worker_is_reached_through_a_proxy(
    kind: type[ConnectProxy], certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    with (
        ThreadWorker(FunctionBackend(), token=TOKEN, tls=server_context(certificate)) as worker,
        kind({"gpu-box:8288": worker.port}) as proxy,
    ):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url())
        with connect(line_to(8288, certificate, "gpu-box")) as session:
            assert torch.equal(session.model("double")(X), X * 2)
        assert set(proxy.asked) == {"gpu-box:8288"}


def test_a_token_besides_the_line_is_refused(certificate: Certificate) -> None:
    with pytest.raises(ConfigError, match="leave `token` out"):
        connect(line_to(1, certificate), "another")
