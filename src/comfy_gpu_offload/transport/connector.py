"""Connections to a worker: made in time, interruptibly, and through the proxy that the environment names."""

from __future__ import annotations

import hmac
import select
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from ..config.address import Address
from ..config.certificates import fingerprint_of, tls_context, unchecked_context, untrusted
from ..config.proxies import Proxy, proxy_for
from ..errors import ConnectError, TlsError
from ..net.interruptible import interruptibly
from ..net.proxy.connection import connect_through
from ..net.tcp_connection import connect_tcp
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

    def connect(self, timeout_s: float, check: Check | None = None) -> socket.socket:
        """Return a connection, with TLS and without Nagle's algorithm, within `timeout_s` and a name's look-up.

        What `check` raises ends the wait for it.

        Raises:
            ConnectError: nobody answers.
            ProxyError: the proxy does not answer, or lets nobody through.
            TlsError: the certificate was not accepted or is not the expected one, or the server does not speak TLS.
        """
        if check is None:
            return self._connected(timeout_s)
        # A name's look-up and a handshake cannot be sliced.
        return interruptibly(lambda: self._connected(timeout_s), check, socket.socket.close)

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

    def _connected(self, timeout_s: float) -> socket.socket:
        deadline = monotonic() + timeout_s
        sock = self._opened(timeout_s)
        if self.tls is None:
            return sock
        try:
            sock.settimeout(max(deadline - monotonic(), 0.001))
            return self._secured(sock, self.tls)
        except BaseException as error:
            sock.close()
            if isinstance(error, OSError):
                raise self._refused(error) from error
            raise

    def _opened(self, timeout_s: float) -> socket.socket:
        if self.proxy is not None:
            return connect_through(self.proxy, self.address, timeout_s)
        try:
            return connect_tcp(self.address.host, self.address.tcp_port, timeout_s)
        except OSError as error:
            raise self._refused(error) from error

    def _secured(self, sock: socket.socket, tls: ssl.SSLContext) -> ssl.SSLSocket:
        """Return the socket with TLS, once the other side has proved to be the worker. Nothing is sent before."""
        secured = tls.wrap_socket(sock, server_hostname=self.address.host)
        if self.fingerprint is not None:
            certificate = secured.getpeercert(binary_form=True) or b""
            if not hmac.compare_digest(fingerprint_of(certificate), self.fingerprint):
                secured.close()
                raise TlsError(_another_certificate(self.address))
        return secured

    def _refused(self, error: OSError) -> ConnectError | TlsError:
        if isinstance(error, ssl.SSLCertVerificationError):
            return TlsError(untrusted(error, str(self.address), self.address.host))
        # A server that hangs up in a handshake is restarting, or has too many connections.
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return TlsError(
                f"{self.address} does not speak TLS as it should ({error.reason}). Start the worker with --share "
                "and paste its line; one without --share and --tls-cert is reached by http:// alone, "
                "on this machine or through a tunnel."
            )
        through = "" if self.proxy is None else f", asked through {self.proxy}"
        return ConnectError(
            f"No worker answers at {self.address}{through} ({_why(error)}). Is it running, and is the address "
            "right?",
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
