"""A connection to a worker: made in time, interruptibly, and past any proxy that the environment names."""

from __future__ import annotations

import http.client
import select
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ..api.interruptible import interruptibly
from ..config.settings import checked_url
from ..errors import ConfigError, ConnectError, TlsError
from .base import Check


@dataclass(frozen=True)
class Address:
    """Where a worker is.

    Attributes:
        url: whole, without a trailing slash.
        path: of it; what is asked for lies below.
        port: None for the scheme's own.
        tls: None where the scheme is http.
    """

    url: str
    host: str
    port: int | None
    path: str
    tls: ssl.SSLContext | None

    def connect(self, timeout_s: float, check: Check | None = None) -> http.client.HTTPConnection:
        """A connection, with TLS and without Nagle's algorithm. What `check` raises ends the wait for it.

        Raises:
            ConnectError: nobody answers.
            TlsError: who answers does not prove to be the worker, or does not speak TLS.
        """
        if check is None:
            return self._connected(timeout_s)
        # A name's look-up and a handshake cannot be sliced.
        return interruptibly(lambda: self._connected(timeout_s), check, http.client.HTTPConnection.close)

    def _connected(self, timeout_s: float) -> http.client.HTTPConnection:
        connection = (
            http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
            if self.tls is None
            else http.client.HTTPSConnection(self.host, self.port, timeout=timeout_s, context=self.tls)
        )
        try:
            connection.connect()  # sets TCP_NODELAY
        except OSError as error:
            connection.close()
            raise self._refused(error) from error
        return connection

    def _refused(self, error: OSError) -> ConnectError | TlsError:
        if isinstance(error, ssl.SSLCertVerificationError):
            return TlsError(
                f"{self.url} did not prove to be who it says ({error.reason}). Its certificate must be valid "
                "for this name; for one of your own, name it in COMFY_GPU_OFFLOAD_CA_FILE."
            )
        # One that ends in the middle of a handshake is restarting, or has too many connections.
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return TlsError(
                f"{self.url} does not speak TLS as it should ({error.reason}). A worker without --tls-cert is "
                "reached by http://, on this machine or through a tunnel."
            )
        return ConnectError(
            f"No worker answers at {self.url} ({error.strerror or type(error).__name__}). "
            "Is it running, and is the address right?",
            unknown_host=isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME,
        )


def address_of(url: str, ca_file: Path | None = None) -> Address:
    """The address that `url` is. `ca_file`: certificates to trust besides the system's.

    Raises:
        ConfigError: `url` is not one (see `config.settings.checked_url`), or `ca_file` cannot be read.
    """
    try:
        url = checked_url(url)
    except ValueError as error:
        raise ConfigError(f"This is no worker's address: {error}") from None
    parts = urlsplit(url)
    tls = _tls_context(ca_file) if parts.scheme == "https" else None
    return Address(url, parts.hostname or "", parts.port, parts.path, tls)


def _tls_context(ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=ca_file)
        except OSError as error:
            raise ConfigError(f"COMFY_GPU_OFFLOAD_CA_FILE: no certificates in {ca_file}") from error
    return context


def has_ended(sock: socket.socket) -> bool:
    """Whether an idle connection was closed by the other side, or has bytes that nobody asked for."""
    if hasattr(select, "poll"):  # not on Windows
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        if not poll.poll(0):
            return False  # the usual case, with one system call
    sock.settimeout(0)
    try:
        sock.recv(1, 0 if isinstance(sock, ssl.SSLSocket) else socket.MSG_PEEK)
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True
    return True
