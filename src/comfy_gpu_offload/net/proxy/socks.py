"""The request to a SOCKS proxy to connect somewhere, by python-socks.

It is maintained, typed, and takes a connection that is made already, which PySocks (last released in 2019) does
not: so all of a proxy's addresses are tried, and one deadline holds for everything. requests alone would need
PySocks; it is given the same connections as workers get (`runpod/api_requests.py`).
"""

from __future__ import annotations

import socket
from typing import Any

from python_socks import ProxyError as SocksError
from python_socks import ProxyTimeoutError, ProxyType
from python_socks.sync import Proxy as SocksProxy

from ...config.address import Address
from ...config.proxies import Proxy, ProxyKind
from ..timed_socket import TimedSocket
from .refusal import NotAProxyError, Reason, TunnelRefusedError

_TYPES = {
    ProxyKind.SOCKS4: ProxyType.SOCKS4,
    ProxyKind.SOCKS4A: ProxyType.SOCKS4,
    ProxyKind.SOCKS5: ProxyType.SOCKS5,
    ProxyKind.SOCKS5H: ProxyType.SOCKS5,
}
# RFC 1928, 6, where 1 is any failure, and the protocol of version 4, where 91 is.
_REASONS = {
    1: Reason.UNREACHABLE,
    2: Reason.FORBIDDEN,
    3: Reason.UNREACHABLE,
    4: Reason.UNREACHABLE,
    5: Reason.UNREACHABLE,
    6: Reason.UNREACHABLE,
    7: Reason.FORBIDDEN,
    8: Reason.FORBIDDEN,
    91: Reason.UNREACHABLE,
    92: Reason.LOGIN,
    93: Reason.LOGIN,
}


def ask_to_connect(sock: TimedSocket, proxy: Proxy, target: Address) -> None:
    """Have the SOCKS proxy on `sock` connect it to `target`. What is sent afterwards goes there.

    Raises:
        TunnelRefusedError: it does not, or its kind needs an address of `target`, and there is none.
        NotAProxyError: its answer is not SOCKS.
        OSError: as sockets do.
    """
    client = SocksProxy(
        _TYPES[proxy.kind],
        proxy.host,
        proxy.port,
        username=None if proxy.user is None else proxy.user.get_secret_value(),
        password=None if proxy.password is None else proxy.password.get_secret_value(),
        rdns=True,
        forward=_Made(sock),
    )
    try:
        client.connect(target.host if proxy.kind.looks_names_up else _looked_up(proxy, target), target.tcp_port)
    except ProxyTimeoutError as error:
        if proxy.kind in {ProxyKind.SOCKS5, ProxyKind.SOCKS5H} and not sock.was_heard:
            raise NotAProxyError("it did not return a greeting") from error  # before it is told of any target
        raise TimeoutError("timed out") from error
    except SocksError as error:
        raise _ours(error) from error


class _Made(SocksProxy):
    """The connection to the proxy, in place of one that the library would make."""

    def __init__(self, sock: TimedSocket) -> None:
        self._sock = sock

    def connect(self, dest_host: str, dest_port: int, timeout: float | None = None, **kwargs: Any) -> socket.socket:
        return self._sock  # type: ignore[return-value]  # as much of one as the library uses


def _looked_up(proxy: Proxy, target: Address) -> str:
    """Return an address of `target`, of IPv4 if it has one: which of them the proxy can reach is not known here."""
    family = socket.AF_INET if proxy.kind is ProxyKind.SOCKS4 else socket.AF_UNSPEC
    try:
        found = socket.getaddrinfo(target.host, target.tcp_port, family, socket.SOCK_STREAM)
    except socket.gaierror as error:
        kind = "socks4a" if proxy.kind is ProxyKind.SOCKS4 else "socks5h"
        text = f"this machine knows no address of {target.host} to give it; {kind}:// gives it the name"
        raise TunnelRefusedError(Reason.UNREACHABLE, text) from error
    return str(min(found, key=lambda each: each[0] != socket.AF_INET)[4][0])


def _ours(error: SocksError) -> TunnelRefusedError | NotAProxyError:
    if error.error_code is not None:
        reason = _REASONS.get(int(error.error_code), Reason.FORBIDDEN)
        return TunnelRefusedError(reason, f"SOCKS {int(error.error_code)}")
    # The library has one class for the rest, and no text of the proxy's own in it.
    if "authentication" in str(error):
        return TunnelRefusedError(Reason.LOGIN, "SOCKS login")
    return NotAProxyError(str(error))
