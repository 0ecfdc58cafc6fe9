"""The certificate of a worker that others are paired with: made once, and known by its fingerprint."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ...config.certificates import fingerprint_of
from ...config.private_files import create_once, require_private
from ...errors import ConfigError
from ..http.tls import server_context

_FILE = "worker.pem"
_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_NAME = "comfy-gpu-offload worker"
# Clients look at the fingerprint and at nothing else. These are the dates of a certificate that does not expire
# (RFC 5280, 4.1.2.5).
_FROM = datetime(2020, 1, 1, tzinfo=UTC)
_UNTIL = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key.

    Attributes:
        tls: serves with it.
        fingerprint: the SHA-256 of its DER.
    """

    tls: ssl.SSLContext
    fingerprint: bytes


def certificate_in(folder: Path) -> Certificate:
    """Return the certificate in a private folder. The first time it is made, with its key.

    Raises:
        ConfigError: its file is damaged, or others may read it.
        ModuleNotFoundError: it is to be made, and the package that makes it is not installed.
    """
    file = folder / _FILE
    if not file.exists():
        create_once(file, _made())
    require_private(file)
    try:
        pem = _CERTIFICATE.search(file.read_text("ascii"))
        if pem is not None:
            return Certificate(server_context(file), fingerprint_of(ssl.PEM_cert_to_DER_cert(pem[0])))
    except (OSError, ValueError):  # of which ssl's and binascii's errors are
        pass
    raise ConfigError(
        f"{file} cannot be used as a key and its certificate: delete it to have new ones made, and paste the new "
        "line on every paired machine."
    )


def _made() -> bytes:
    """Return a new key and a certificate that it signed itself, as PEM."""
    # Only here, where a worker is shared for the first time.
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, _NAME)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM) + private
