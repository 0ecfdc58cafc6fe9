"""The address of a worker or of RunPod's API: parsed and checked once, where it enters, and typed from there on."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import SplitResult, urlsplit

HTTP: Final = "http"
HTTPS: Final = "https"
# Schemes whose traffic the network cannot read. All others are for this machine only.
ENCRYPTED = frozenset({HTTPS})
_NEEDS_HOST = frozenset({HTTP, HTTPS})

_PRINTABLE = re.compile(r"[!-~]+")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_FORM = "an address looks like https://HOST or http://127.0.0.1:8288"
_LONGEST_HOST = 253
_BRACKETS = "an IPv6 address stands in brackets, as in http://[::1]:8288"


@dataclass(frozen=True)
class Address:
    """The place where a server listens. `str()` gives it as a URL, without a slash at its end.

    Attributes:
        scheme: lower case. Which schemes there are is for `transport.configured` to say.
        host: a name in lower case, or an IP address, IPv6 without brackets. Empty where the scheme needs none.
        port: None for the scheme's own.
        path: "" or what follows the port, from a slash on, without a slash at its end.
    """

    scheme: str
    host: str
    port: int | None = None
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Return the address that `text` is.

        Raises:
            ValueError: it has not the form, holds a user, a query or a fragment, has an impossible host or port, or
                would send to another machine without encryption. The text says what to write instead.
        """
        text = text.strip()
        if not _PRINTABLE.fullmatch(text):
            raise ValueError("an address is printable ASCII without spaces: write it anew, other letters as xn--…")
        scheme, separator, rest = text.partition("://")
        scheme = scheme.lower()
        if not separator or not _SCHEME.fullmatch(scheme):
            raise ValueError(_FORM)
        if "@" in rest.partition("/")[0] or "?" in text or "#" in text:
            raise ValueError("an address holds no user, password, query or fragment; the token goes elsewhere")
        parts = _split(f"//{rest}")
        host = parts.hostname or ""
        if not host and (scheme in _NEEDS_HOST or parts.netloc):
            raise ValueError(_FORM)
        _check_host(scheme, host)
        return cls(scheme, host, _port(parts), parts.path.rstrip("/"))

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def authority(self) -> str:
        """Host, in brackets where it is IPv6, and the port that is given, if any: as in a URL and in `Host`."""
        return host_and_port(self.host, self.port)

    @property
    def tcp_port(self) -> int:
        """The port to connect to: the one given, or the scheme's own."""
        return self.port if self.port is not None else 443 if self.is_encrypted else 80

    @property
    def is_encrypted(self) -> bool:
        """True if the network cannot read what is sent there."""
        return self.scheme in ENCRYPTED

    @property
    def is_loopback(self) -> bool:
        """True on this machine itself."""
        return not self.host or is_loopback(self.host)

    def below(self, path: str) -> Address:
        """Return the address of `path`, which begins without a slash, below this one."""
        return replace(self, path=f"{self.path}/{path}")


def host_and_port(host: str, port: int | None) -> str:
    """Return both as in a URL: an IPv6 address in brackets, and no colon without a port."""
    shown = f"[{host}]" if ":" in host else host
    return shown if port is None else f"{shown}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether `host`, a name or an IP address without brackets, is this machine itself."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    # Before Python 3.13 ::ffff:127.0.0.1 is none of IPv6's own loopback addresses.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _split(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
    except ValueError:  # of brackets that do not match, or hold no IPv6 address
        raise ValueError(_BRACKETS) from None
    if "[" not in parts.netloc and parts.netloc.count(":") > 1:
        raise ValueError(_BRACKETS)
    return parts


def _port(parts: SplitResult) -> int | None:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("a port is a number from 1 to 65535")
    return port


def _check_host(scheme: str, host: str) -> None:
    if ":" in host:  # only brackets can have let it through; Python before 3.11.4 takes anything in them
        if "%" in host:
            raise ValueError(
                "an IPv6 address with a zone (%…) means something on one machine alone: write the other machine's "
                "name, or an address of it that does not begin with fe80"
            )
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError(_BRACKETS) from None
    try:
        host.encode("idna")
    except UnicodeError:
        raise ValueError("the host's name has an empty part, or one of over 63 letters") from None
    if len(host) > _LONGEST_HOST:
        raise ValueError(f"the host's name has over {_LONGEST_HOST} letters")
    if scheme in ENCRYPTED or not host or is_loopback(host):
        return
    if scheme != HTTP:
        raise ValueError(_FORM)
    raise ValueError(
        "http is for this machine only, since it shows token and pictures to the network: start the worker with "
        "--share and put the line that it prints in place of the address. Or use a tunnel: "
        f"ssh -L 8288:127.0.0.1:8288 {host}, and then http://127.0.0.1:8288"
    )
