"""Connections to a worker: made in time, interruptibly, and through the proxy that the environment names."""

from __future__ import annotations

import hmac
import http.client
import select
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from ..config.address import Address, host_and_port
from ..config.certificates import fingerprint_of, tls_context, unchecked_context, untrusted
from ..config.proxies import Proxy, not_through, proxy_for
from ..errors import ConnectError, ProxyError, TlsError
from ..net.interruptible import interruptibly
from .base import Check


@dataclass(frozen=True)
class Connector:
    """The one place that opens connections to a worker.

    Attributes:
        tls: None where the address is one of plain http.
        proxy: the proxy that connections go through; None for none.
        fingerprint: the SHA-256 of the one certificate that is accepted, whoever signed it and whatever name it is
            for; None if `tls` decides.
    """

    address: Address
    tls: ssl.SSLContext | None
    proxy: Proxy | None = None
    fingerprint: bytes | None = None

    def connect(self, timeout_s: float, check: Check | None = None) -> http.client.HTTPConnection:
        """Return a connection, with TLS and without Nagle's algorithm. What `check` raises ends the wait for it.

        Raises:
            ConnectError: nobody answers.
            ProxyError: the proxy does not answer, or lets nobody through.
            TlsError: the certificate was not accepted or is not the expected one, or the server does not speak TLS.
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
            with socket.create_connection((self.address.host, self.address.tcp_port), timeout=timeout_s) as plain:
                context.wrap_socket(plain, server_hostname=self.address.host).close()
        except OSError:
            return False
        return True

    def _connected(self, timeout_s: float) -> http.client.HTTPConnection:
        connection = self._connection(timeout_s)
        try:
            connection.connect()  # sets TCP_NODELAY
            if self.tls is not None:
                connection.sock = self._secured(connection.sock, self.tls)
        except TlsError:
            connection.close()
            raise
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._refused(error) from error
        return connection

    def _secured(self, sock: socket.socket, tls: ssl.SSLContext) -> ssl.SSLSocket:
        """Return the socket with TLS, once the other side has proved to be the worker. Nothing is sent before."""
        secured = tls.wrap_socket(sock, server_hostname=self.address.host)
        if self.fingerprint is not None:
            certificate = secured.getpeercert(binary_form=True) or b""
            if not hmac.compare_digest(fingerprint_of(certificate), self.fingerprint):
                secured.close()
                raise TlsError(_another_certificate(self.address))
        return secured

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        # Without a port http.client would look for one in the host, and find the last part of an IPv6 address.
        host, port = self.address.host, self.address.tcp_port
        near = self.address if self.proxy is None else self.proxy.address
        connection = http.client.HTTPConnection(near.host, near.tcp_port, timeout=timeout_s)
        connection.auto_open = 0  # which would connect without TLS
        if self.address.is_encrypted:
            connection.default_port = http.client.HTTPSConnection.default_port
        if self.proxy is not None:
            password = self.proxy.authorization
            headers = {} if password is None else {"Proxy-Authorization": password.get_secret_value()}
            # TLS is made here and not by HTTPSConnection, which has no brackets for the proxy before Python 3.11.9
            # and would look for them in the certificate if it were given some.
            connection.set_tunnel(host_and_port(host, None), port, headers)
        return connection

    def _refused(self, error: Exception) -> ConnectError | TlsError:
        if isinstance(error, ssl.SSLCertVerificationError):
            return TlsError(untrusted(error, str(self.address), self.address.host))
        # A server that hangs up in a handshake is restarting, or has too many connections.
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return TlsError(
                f"{self.address} does not speak TLS as it should ({error.reason}). Start the worker with --share "
                "and paste its line; one without --share and --tls-cert is reached by http:// alone, "
                "on this machine or through a tunnel."
            )
        if self.proxy is not None and not isinstance(error, ssl.SSLError):
            text, is_passing = not_through(self.proxy, error, self.address)
            return ProxyError(text, retryable=is_passing)
        return ConnectError(
            f"No worker answers at {self.address} ({_why(error)}). Is it running, and is the address right?",
            unknown_host=isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME,
        )


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__


def _another_certificate(address: Address) -> str:
    return (
        f"{address} is not the worker that made the pairing line: its certificate is another one. Nothing was sent "
        "to it. If another machine has this address now, put the worker's new address into the line; if the worker "
        "was set up anew, paste the new line that it prints with --share. If neither is so, something in between "
        f"reads the connection, a proxy perhaps: NO_PROXY={address.host} goes past it."
    )


def connector_to(address: Address, ca_file: Path | None = None, fingerprint: bytes | None = None) -> Connector:
    """Return what connects to `address`, through the proxy before it.

    Args:
        ca_file: as `certificates.tls_context`. Not read with a `fingerprint`.
        fingerprint: see `Connector`.

    Raises:
        ConfigError: `ca_file` cannot be read, or what names a proxy is wrong.
    """
    if fingerprint is not None:
        return Connector(address, unchecked_context(), proxy_for(address), fingerprint)
    return Connector(address, tls_context(ca_file) if address.is_encrypted else None, proxy_for(address))


def has_ended(sock: socket.socket) -> bool:
    """Return whether an idle connection was closed by the other side, or has bytes that nobody asked for."""
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
