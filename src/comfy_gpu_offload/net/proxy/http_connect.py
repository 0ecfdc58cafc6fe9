"""The request to an HTTP proxy to connect somewhere (RFC 9110, 9.3.6)."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus

from ...config.address import Address, host_and_port
from ...config.proxies import Proxy
from ...errors import ConnectionLostError
from ..http_reader import HttpReader
from ..timed_socket import TimedSocket
from .refusal import NotAProxyError, Reason, TunnelRefusedError

# tinyproxy answers a wrong password by the status for servers.
_WANTS_LOGIN = frozenset({HTTPStatus.PROXY_AUTHENTICATION_REQUIRED, HTTPStatus.UNAUTHORIZED})
# For a target that the proxy cannot reach at present.
_UNREACHABLE = frozenset({500, 502, 503, 504})
_LOGIN_KIND = re.compile(r"(?:^|,)\s*([A-Za-z][A-Za-z0-9-]{0,31})(?=\s|,|$)")


def ask_to_connect(sock: TimedSocket, proxy: Proxy, target: Address) -> None:
    """Have the HTTP proxy on `sock` connect it to `target`. What is sent afterwards goes there.

    Raises:
        TunnelRefusedError: it does not.
        NotAProxyError: its answer is no HTTP, or something follows that answer before anything was sent.
        OSError: as sockets do.
    """
    sock.sendall("".join(f"{line}\r\n" for line in [*_head(proxy, target), ""]).encode("ascii"))
    reader = HttpReader(sock.recv_into)
    try:
        while (answer := reader.response_head()).status < HTTPStatus.OK:
            pass
    except ConnectionLostError as error:
        raise NotAProxyError(str(error)) from error
    if answer.status >= HTTPStatus.MULTIPLE_CHOICES:
        raise TunnelRefusedError(_reason(answer.status, answer.headers), _shown(answer.status, answer.headers))
    # A worker speaks second, so whatever it is, it is not the worker's.
    if reader.leftover():
        raise NotAProxyError("it sends something of its own after its answer")


def _head(proxy: Proxy, target: Address) -> Iterator[str]:
    place = host_and_port(target.host, target.tcp_port)
    yield f"CONNECT {place} HTTP/1.1"
    yield f"Host: {place}"
    if proxy.user is not None:
        password = "" if proxy.password is None else proxy.password.get_secret_value()
        login = f"{proxy.user.get_secret_value()}:{password}".encode()
        yield f"Proxy-Authorization: Basic {base64.b64encode(login).decode('ascii')}"


def _reason(status: int, headers: Mapping[str, str]) -> Reason:
    if status in _WANTS_LOGIN:
        kinds = _login_kinds(headers)
        return Reason.LOGIN_KIND if kinds and "basic" not in map(str.lower, kinds) else Reason.LOGIN
    return Reason.UNREACHABLE if status in _UNREACHABLE else Reason.FORBIDDEN


def _shown(status: int, headers: Mapping[str, str]) -> str:
    kinds = _login_kinds(headers) if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED else []
    return " ".join([str(status), *kinds])


def _login_kinds(headers: Mapping[str, str]) -> list[str]:
    """Return the kinds of logins that a proxy offers: "Basic", "Negotiate"."""
    return list(dict.fromkeys(_LOGIN_KIND.findall(headers.get("proxy-authenticate", ""))))[:4]
