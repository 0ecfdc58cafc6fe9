from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from tests.support.backend import FunctionBackend
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import connect
from comfy_gpu_offload.errors import TlsError


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=worker"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


@pytest.fixture
def server(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


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
