"""The TLS of a worker's server."""

from __future__ import annotations

import ssl
from pathlib import Path


def server_context(certificate: Path, key: Path | None = None) -> ssl.SSLContext:
    """Return the context that serves with a certificate (PEM) and its key, by default in the same file.

    Raises:
        OSError: they cannot be read or do not belong together, or the key has a password.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Without a password it would ask for one at the terminal, where there may be nobody.
    context.load_cert_chain(certificate, key, password="")  # nosec B106
    return context
