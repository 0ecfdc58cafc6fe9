"""The addresses under which other machines may reach this one."""

from __future__ import annotations

import importlib
import ipaddress
import re
import socket
from contextlib import closing, suppress
from typing import Any

# Of ranges that are for documents (RFC 5737, RFC 3849). Nothing is sent there: the system chooses an interface.
_ELSEWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
_MOST = 6


def own_addresses() -> tuple[str, ...]:
    """Return this machine's addresses, the likeliest to be reached first: as a rule its IPv4 address in the LAN.

    Then come further IPv4 addresses, one of IPv6, and this machine's name. 127.0.0.1 alone if there is none at all.
    """
    chosen = {family: _towards(family, elsewhere) for family, elsewhere in _ELSEWHERE}
    fourth, sixth = chosen[socket.AF_INET], chosen[socket.AF_INET6]
    found = [*([fourth] if fourth else []), *_of_interfaces(), *([sixth] if sixth else []), *_name()]
    return tuple(dict.fromkeys(found))[:_MOST] or ("127.0.0.1",)


def _towards(family: socket.AddressFamily, elsewhere: str) -> str | None:
    """Return the address that this machine would use towards others, by the system's routes."""
    with suppress(OSError), closing(socket.socket(family, socket.SOCK_DGRAM)) as sock:
        sock.connect((elsewhere, 9))
        address = str(sock.getsockname()[0])
        return address if _is_reachable(address) else None
    return None


def _of_interfaces() -> list[str]:
    """Return the IPv4 addresses of all interfaces that are up; none without psutil, which workers have."""
    try:
        psutil: Any = importlib.import_module("psutil")
        states, interfaces = psutil.net_if_stats(), psutil.net_if_addrs()
    except (ImportError, OSError):  # some containers may not ask
        return []
    return [
        str(each.address)
        for name, addresses in interfaces.items()
        if name in states and states[name].isup
        for each in addresses
        if each.family == socket.AF_INET and _is_reachable(each.address)
    ]


def _name() -> list[str]:
    name = socket.gethostname().lower()
    is_name = re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,252}", name) and name.partition(".")[0] != "localhost"
    return [name] if is_name else []


def _is_reachable(address: str) -> bool:
    """Return whether another machine can reach an address by itself, without the name of an interface."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return not (parsed.is_loopback or parsed.is_link_local or parsed.is_unspecified or parsed.is_multicast)
