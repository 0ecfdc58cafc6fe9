from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from tests.support.backend import FunctionBackend
from tests.support.tls import self_signed, server_context
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import connect
from comfy_gpu_offload.errors import TlsError


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
