"""A connection to a worker: made in time, interruptibly, and through the proxy that the environment names."""

from __future__ import annotations

import http.client
import select
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ..config.certificates import tls_context, untrusted
from ..config.proxies import Proxy, not_through, proxy_for
from ..config.settings import checked_url
from ..errors import ConfigError, ConnectError, ProxyError, TlsError
from ..net.interruptible import interruptibly
from .base import Check


@dataclass(frozen=True)
class Address:
    """Where a worker is.

    Attributes:
        url: whole, without a trailing slash.
        path: of it; what is asked for lies below.
        port: None for the scheme's own.
        tls: None where the scheme is http.
        proxy: what connections go through, as `config.proxies` has it.
    """

    url: str
    host: str
    port: int | None
    path: str
    tls: ssl.SSLContext | None
    proxy: Proxy | None = None

    def connect(self, timeout_s: float, check: Check | None = None) -> http.client.HTTPConnection:
        """A connection, with TLS and without Nagle's algorithm. What `check` raises ends the wait for it.

        Raises:
            ConnectError: nobody answers.
            ProxyError: the proxy does not, or lets nobody through.
            TlsError: who answers does not prove to be the worker, or does not speak TLS.
        """
        if check is None:
            return self._connected(timeout_s)
        # A name's look-up and a handshake cannot be sliced.
        return interruptibly(lambda: self._connected(timeout_s), check, http.client.HTTPConnection.close)

    def speaks_tls(self, timeout_s: float) -> bool:
        """Return whether a TLS server answers at this address of plain http. Nothing is sent but a handshake."""
        if self.tls is not None:
            return False
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            with socket.create_connection((self.host, self.port or 80), timeout=timeout_s) as plain:
                context.wrap_socket(plain, server_hostname=self.host).close()
        except OSError:
            return False
        return True

    def _connected(self, timeout_s: float) -> http.client.HTTPConnection:
        connection = self._connection(timeout_s)
        try:
            connection.connect()  # sets TCP_NODELAY
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._refused(error) from error
        return connection

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        if self.tls is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        if self.proxy is None:
            return http.client.HTTPSConnection(self.host, self.port, timeout=timeout_s, context=self.tls)
        near = self.proxy
        connection = http.client.HTTPSConnection(near.host, near.port, timeout=timeout_s, context=self.tls)
        password = near.authorization
        headers = {} if password is None else {"Proxy-Authorization": password.get_secret_value()}
        connection.set_tunnel(self.host, self.port or 443, headers)
        return connection

    def _refused(self, error: Exception) -> ConnectError | TlsError:
        if isinstance(error, ssl.SSLCertVerificationError):
            return TlsError(untrusted(error, self.url, self.host))
        # One that ends in the middle of a handshake is restarting, or has too many connections.
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return TlsError(
                f"{self.url} does not speak TLS as it should ({error.reason}). A worker without --tls-cert is "
                "reached by http://, on this machine or through a tunnel."
            )
        if self.proxy is not None and not isinstance(error, ssl.SSLError):
            text, is_passing = not_through(self.proxy, error, self.url)
            return ProxyError(text, retryable=is_passing)
        return ConnectError(
            f"No worker answers at {self.url} ({_why(error)}). Is it running, and is the address right?",
            unknown_host=isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME,
        )


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__


def address_of(url: str, ca_file: Path | None = None) -> Address:
    """Return the address that `url` is, with the proxy before it. `ca_file`: as `certificates.tls_context`.

    Raises:
        ConfigError: `url` is not one (see `config.settings.checked_url`), `ca_file` cannot be read, or what names a
            proxy is wrong.
    """
    try:
        url = checked_url(url)
    except ValueError as error:
        raise ConfigError(f"This is no worker's address: {error}") from None
    parts = urlsplit(url)
    tls = tls_context(ca_file) if parts.scheme == "https" else None
    return Address(url, parts.hostname or "", parts.port, parts.path, tls, proxy_for(url))


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
