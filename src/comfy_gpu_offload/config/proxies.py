"""The proxy that a request goes through: one rule for RunPod's API, for its endpoints, and for workers.

https goes through the proxy that HTTPS_PROXY names, else ALL_PROXY (or the system's settings on Windows and macOS),
unless NO_PROXY exempts the host. This machine is never reached through a proxy, and plain http goes nowhere else.
"""

from __future__ import annotations

import base64
import os
import re
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies

from pydantic import SecretStr
from requests.utils import should_bypass_proxies

from ..errors import ConfigError
from .address import HTTP, HTTPS, Address

_KINDS = ("https", "all")
# A proxy's answers for a target that it cannot reach at present.
_PASSING = frozenset({500, 502, 503, 504})


class _UnusableError(Exception):
    """The reason why a variable names no proxy that can be used, without a word of its value."""


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy that is asked to CONNECT.

    Attributes:
        address: without user and password; its port is always given.
        source: the variable that names it, or the system.
        url: its whole address, for requests.
        authorization: value of the header Proxy-Authorization, where its address holds a user and a password.
    """

    address: Address
    source: str
    url: SecretStr
    authorization: SecretStr | None = None

    @property
    def place(self) -> str:
        """Host and port, for messages."""
        return self.address.authority


def proxy_for(address: Address) -> Proxy | None:
    """Return the proxy for requests to `address`, or None where none is used.

    Raises:
        ConfigError: the variable holds no HTTP proxy's address. It is not shown, since it may hold a password.
    """
    if address.scheme != HTTPS or address.is_loopback or should_bypass_proxies(str(address), no_proxy=None):
        return None
    named, host = getproxies(), address.host
    kind = next((kind for kind in _KINDS if named.get(kind)), None)
    if kind is None:
        return None
    source = _source(kind)
    try:
        return _proxy(named[kind], source)
    except _UnusableError as error:
        raise ConfigError(
            f"{source} names a proxy that cannot be used: {error}. Write http://HOST:PORT, or exempt {host} by "
            f"NO_PROXY={host}."
        ) from None


def not_through(proxy: Proxy, error: BaseException, target: Address) -> tuple[str, bool]:
    """Return why no connection to `target` came about through `proxy`, and whether that may pass.

    `error`: of http.client's or urllib3's, which have no class for what a proxy answers.
    """
    answer = re.search(r"Tunnel connection failed: (\d{3})", str(error))
    status = int(answer[1]) if answer else None
    may_pass = status is None or status in _PASSING
    exempt = f"NO_PROXY={target.host} goes past it"
    name = f"The proxy {proxy.place} ({proxy.source})"
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return (
            f"{name} wants a user and a password (407): write http://USER:PASSWORD@{proxy.place} there.",
            may_pass,
        )
    if status is None:
        why = getattr(error, "strerror", None) or type(error).__name__
        return f"{name} does not answer as one ({why}). Is it right, and is it running? {exempt}.", may_pass
    if may_pass:
        return f"{name} cannot reach {target} ({status}). Does anybody answer there? {exempt}.", may_pass
    return f"{name} lets nobody through to {target} ({status}). Ask whoever runs it; {exempt}.", may_pass


def _source(kind: str) -> str:
    name = f"{kind}_proxy"
    return next((each for each in (name.upper(), name) if os.environ.get(each)), "the system's settings")


def _proxy(text: str, source: str) -> Proxy:
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        port = parts.port or 80
    except ValueError:  # its text may hold a password's part: one with a / or # in it reads as a port
        raise _UnusableError("it is not an address; write a / or # in a password as %2F or %23") from None
    if parts.scheme != HTTP:
        raise _UnusableError("only HTTP proxies can be used, not https or SOCKS ones")
    if not parts.hostname:
        raise _UnusableError("it has no host")
    return Proxy(
        address=Address(HTTP, parts.hostname, port),
        source=source,
        url=SecretStr(url),
        authorization=_authorization(parts.username, parts.password),
    )


def _authorization(user: str | None, password: str | None) -> SecretStr | None:
    if user is None:
        return None
    pair = f"{unquote(user)}:{unquote(password or '')}".encode()
    return SecretStr(f"Basic {base64.b64encode(pair).decode('ascii')}")
