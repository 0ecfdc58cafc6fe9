"""The hosts that are reached past every proxy: NO_PROXY, or the system's exceptions on Windows and macOS."""

from __future__ import annotations

import ipaddress
import os
import re
from urllib.request import proxy_bypass

from .address import Address

# Host and port of an entry; an IPv6 address with a port has brackets.
_ENTRY = re.compile(r"(?:\[(?P<ipv6>[^\]]*)\]|(?P<host>[^:]*))(?::(?P<port>\d{1,5}))?")


def is_exempt(address: Address) -> bool:
    """Return whether `address` is reached past every proxy.

    NO_PROXY lists hosts, each with all names below it, IP addresses and networks (CIDR), separated by commas or
    spaces. With a port, an entry is for that port alone. `*` exempts all hosts.
    """
    # Lower case wins, as for curl, requests and Python itself.
    entries = re.split(r"[\s,]+", os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "")
    return any(_covers(entry.lower(), address) for entry in entries) or _is_systems_exception(address.host)


def _is_systems_exception(host: str) -> bool:
    try:
        return bool(proxy_bypass(host))
    except (OSError, TypeError):  # which requests expects of it too: some systems look the host up
        return False


def _covers(entry: str, address: Address) -> bool:
    if entry == "*":
        return True
    ip = _ip(address.host)
    if ip is not None and "/" in entry:
        return _is_in(ip, entry.replace("[", "").replace("]", ""))
    if ip is not None and _ip(entry) == ip:  # IPv6 without brackets, and so without a port
        return True
    match = _ENTRY.fullmatch(entry)
    if match is None or (match["port"] and int(match["port"]) != address.tcp_port):
        return False
    host = (match["ipv6"] or match["host"] or "").removeprefix("*").strip(".")
    if not host:
        return False
    return _ip(host) == ip if ip is not None else f".{address.host.strip('.')}".endswith(f".{host}")


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_in(ip: ipaddress.IPv4Address | ipaddress.IPv6Address, network: str) -> bool:
    try:
        return ip in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
