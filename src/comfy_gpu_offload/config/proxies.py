"""The proxy that a request goes through: one rule for RunPod's API, for its endpoints, and for workers.

https goes through the proxy that HTTPS_PROXY names, else ALL_PROXY (or the system's settings on Windows and macOS),
unless NO_PROXY exempts the host. This machine is never reached through a proxy, and plain http goes nowhere else.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies

from pydantic import SecretStr

from ..errors import ConfigError
from .address import HTTPS, Address, host_and_port
from .proxy_exemptions import is_exempt

_SYSTEM = "the system's settings"
# macOS names its SOCKS proxy by this alone; in the environment nobody reads SOCKS_PROXY.
_SYSTEMS_SOCKS = "socks"
_LONGEST_SOCKS_LOGIN = 255  # bytes, by RFC 1929


class ProxyKind(StrEnum):
    """The protocol that a proxy is spoken to in, as its address has it."""

    HTTP = "http"
    SOCKS4 = "socks4"
    SOCKS4A = "socks4a"
    SOCKS5 = "socks5"
    SOCKS5H = "socks5h"

    @property
    def is_socks(self) -> bool:
        """True for any kind but HTTP's CONNECT."""
        return self is not ProxyKind.HTTP

    @property
    def looks_names_up(self) -> bool:
        """True if the proxy is given the host's name, False if this machine looks its address up."""
        return self in {ProxyKind.HTTP, ProxyKind.SOCKS4A, ProxyKind.SOCKS5H}

    @property
    def usual_port(self) -> int:
        """The port where none is given. requests and urllib3 have the same ones."""
        return 1080 if self.is_socks else 80


class _UnusableError(Exception):
    """The reason why a variable names no proxy that can be used, without a word of its value."""


@dataclass(frozen=True)
class Proxy:
    """A proxy that is asked to connect to a worker.

    Attributes:
        host: a name, or an IP address without brackets.
        source: the variable that names it, or the system.
        user, password: None where its address holds none.
    """

    kind: ProxyKind
    host: str
    port: int
    source: str
    user: SecretStr | None = None
    password: SecretStr | None = None

    @property
    def place(self) -> str:
        """Host and port, for messages."""
        return host_and_port(self.host, self.port)

    def __str__(self) -> str:
        return f"the {'SOCKS ' if self.kind.is_socks else ''}proxy {self.place} ({self.source})"


def proxy_for(address: Address) -> Proxy | None:
    """Return the proxy for requests to `address`, or None where none is used.

    Raises:
        ConfigError: the variable holds no address of a proxy. It is not shown, since it may hold a password.
    """
    if address.scheme != HTTPS or address.is_loopback or is_exempt(address):
        return None
    named = _named()
    if named is None:
        return None
    text, source = named
    try:
        return _proxy(text, source)
    except _UnusableError as error:
        raise ConfigError(
            f"{source} names a proxy that cannot be used: {error}. Write http://HOST:PORT or socks5h://HOST:PORT, "
            f"or exempt {address.host} by NO_PROXY={address.host}."
        ) from None


def _named() -> tuple[str, str] | None:
    """Return the address of the proxy for https, as it is written, and what names it."""
    named = getproxies()
    for kind in ("https", "all"):
        if named.get(kind):
            return named[kind], _source(kind)
    if named.get(_SYSTEMS_SOCKS) and _source(_SYSTEMS_SOCKS) == _SYSTEM:
        # Python reads it with http:// before it.
        return f"{ProxyKind.SOCKS5H}://{named[_SYSTEMS_SOCKS].rpartition('://')[2]}", _SYSTEM
    return None


def _source(kind: str) -> str:
    name = f"{kind}_proxy"
    return next((each for each in (name.upper(), name) if os.environ.get(each)), _SYSTEM)


def _proxy(text: str, source: str) -> Proxy:
    try:
        parts = urlsplit(text if "://" in text else f"{ProxyKind.HTTP}://{text}")
        port = parts.port
    except ValueError:  # its text may hold a password's part: one with a / or # in it reads as a port
        raise _UnusableError("it is not an address; write a / or # in a password as %2F or %23") from None
    kind = _kind(parts.scheme)
    if not parts.hostname:
        raise _UnusableError("it has no host")
    user, password = _login(parts, kind)
    return Proxy(kind, parts.hostname, port or kind.usual_port, source, user, password)


def _kind(scheme: str) -> ProxyKind:
    # curl takes socks:// for socks5://, GNOME's settings write it for socks5h://.
    if scheme == "socks":
        return ProxyKind.SOCKS5H
    try:
        return ProxyKind(scheme)
    except ValueError:
        what = (
            "a proxy that is itself reached by https"
            if scheme == HTTPS
            else "one of another kind than HTTP or SOCKS"
        )
        raise _UnusableError(f"it is {what}") from None


def _login(parts: SplitResult, kind: ProxyKind) -> tuple[SecretStr | None, SecretStr | None]:
    if not parts.username:
        return None, None
    user, password = unquote(parts.username), unquote(parts.password or "")
    if kind.is_socks:
        for part in (user, password):
            if not part.isascii() or "\0" in part or len(part) > _LONGEST_SOCKS_LOGIN:
                raise _UnusableError("a user and a password for SOCKS are ASCII, of at most 255 characters")
    return SecretStr(user), SecretStr(password)
