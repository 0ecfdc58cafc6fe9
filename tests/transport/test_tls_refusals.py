"""Messages about certificates that are not accepted and about the wrong scheme: the same for all clients."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import closing, suppress
from pathlib import Path

import pytest
from pydantic import SecretStr
from tests.support.backend import FunctionBackend
from tests.support.runpod_api import ENDPOINT, KEY, FakeClock, loopback_api, says
from tests.support.tls import FUTURE, PAST, self_signed, server_context
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import connect
from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.errors import HttpStatusError, TlsError, TransportError
from comfy_gpu_offload.runpod.client import RunPodClient

# By what is wrong with it: the certificate's name, its time, whether its signer is known, and what is said.
CASES = {
    "expired": ("IP:127.0.0.1", PAST, True, "has expired. Renew it"),
    "not yet valid": ("IP:127.0.0.1", FUTURE, True, "not valid yet. Set the clock"),
    "another name": ("DNS:other.example", None, True, "for another name than 127.0.0.1.*subjectAltName"),
    "unknown": ("IP:127.0.0.1", None, False, "who signed.*COMFY_GPU_OFFLOAD_CA_FILE"),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ssl.SSLContext, Path | None, str]:
    name, valid, is_known, said = CASES[request.param]
    certificate = self_signed(tmp_path, name) if valid is None else self_signed(tmp_path, name, valid)
    return server_context(certificate), certificate[0] if is_known else None, said


def test_a_workers_certificate(case: tuple[ssl.SSLContext, Path | None, str]) -> None:
    server, ca_file, said = case
    with ThreadWorker(FunctionBackend(), tls=server) as worker:
        with pytest.raises(TlsError, match=said) as caught:
            connect(worker.url, ca_file=ca_file)
        assert worker.url in str(caught.value)
    assert not caught.value.retryable
    assert sum(text.split(".")[0] in str(caught.value) for *_, text in CASES.values()) == 1


def test_the_certificate_of_runpods_api(case: tuple[ssl.SSLContext, Path | None, str]) -> None:
    server, ca_file, said = case
    with loopback_api(says(200, {}), tls=server) as api:
        url = api.url.replace("http://", "https://")
        client = RunPodClient(
            SecretStr(KEY), ENDPOINT, base_url=Address.parse(url), ca_file=ca_file, clock=FakeClock().clock
        )
        with client, pytest.raises(TlsError, match=said):
            client.health()


def test_certificates_named_to_requests_count_for_workers_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = self_signed(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    with (
        ThreadWorker(FunctionBackend(), tls=server_context(certificate)) as worker,
        connect(worker.url) as session,
    ):
        assert session.welcome.backend == "function"


def test_http_to_a_worker_that_speaks_tls(tmp_path: Path) -> None:
    with ThreadWorker(FunctionBackend(), tls=server_context(self_signed(tmp_path))) as worker:
        with pytest.raises(HttpStatusError, match="write https://") as caught:
            connect(worker.url.replace("https://", "http://"))
        assert not caught.value.retryable


def test_http_to_a_tls_server_that_hangs_up(tmp_path: Path) -> None:
    """Most do, stunnel for one: no bytes come back."""
    server = server_context(self_signed(tmp_path))

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            with suppress(OSError), closing(plain):
                server.wrap_socket(plain, server_side=True).close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        with pytest.raises(TlsError, match="write https://") as caught:
            connect(f"http://127.0.0.1:{listener.getsockname()[1]}")
        listener.shutdown(socket.SHUT_RDWR)
    assert not caught.value.retryable


def test_https_to_a_worker_that_does_not_speak_it() -> None:
    with ThreadWorker(FunctionBackend()) as worker, pytest.raises(TlsError, match="reached by http://"):
        connect(worker.url.replace("http://", "https://"))


def test_a_plain_worker_that_dies_is_not_taken_for_one_that_speaks_tls() -> None:
    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                listener.accept()[0].close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        with pytest.raises(TransportError) as caught:
            connect(f"http://127.0.0.1:{listener.getsockname()[1]}", retry_s=0.1)
        listener.shutdown(socket.SHUT_RDWR)
    assert not isinstance(caught.value, TlsError)
    assert caught.value.retryable
