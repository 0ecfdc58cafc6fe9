"""Self-signed certificates, good and bad ones."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

_CA = """
[ca]
default_ca = own
[own]
dir = .
database = index
new_certs_dir = .
serial = serial
default_md = sha256
policy = any
unique_subject = no
copy_extensions = copy
[any]
commonName = supplied
"""
# openssl's form of a time, of long ago and of a time to come.
PAST = ("20010101000000Z", "20020101000000Z")
FUTURE = ("20900101000000Z", "20910101000000Z")
_NOW = ("20200101000000Z", "20800101000000Z")


def self_signed(
    folder: Path, name: str = "IP:127.0.0.1", valid: tuple[str, str] = _NOW, *, stem: str = ""
) -> tuple[Path, Path]:
    """Make a self-signed certificate and its key. Skip the test if openssl is not installed.

    `name`: whose it is, as a subjectAltName, e.g. `DNS:worker.example`. `valid`: from when to when.
    """
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    cert, key, request = folder / f"{stem}cert.pem", folder / f"{stem}key.pem", folder / f"{stem}request.pem"
    (folder / "ca.cnf").write_text(_CA)
    (folder / "index").write_text("")

    def openssl(*arguments: str) -> None:
        subprocess.run([program, *arguments], check=True, capture_output=True, cwd=folder)

    openssl(
        *("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=worker", "-addext", f"subjectAltName={name}"),
        *("-keyout", str(key), "-out", str(request)),
    )
    openssl(
        *("ca", "-batch", "-config", "ca.cnf", "-selfsign", "-keyfile", str(key), "-in", str(request), "-notext"),
        *("-create_serial", "-startdate", valid[0], "-enddate", valid[1], "-out", str(cert)),
    )
    return cert, key


def server_context(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    """Return the TLS context of a worker that serves https with it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context
