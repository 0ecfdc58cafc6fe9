"""The refusal of requests that a web page has a browser send to a worker on its reader's own machine.

A page of any site can post to a worker without asking (`no-cors`), and a page whose host name is made to point to
this machine (DNS rebinding) can read the replies as well. Browsers mark both kinds of request: with `Origin` and
`Sec-Fetch-Site`, which no page can leave out, with the page's own name as `Host`, and with a content type that
needs no permission of the server.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

from ...config.address import is_loopback

MEDIA_TYPE = "application/octet-stream"
_SENT_BY_BROWSERS = ("origin", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[^\[\]:,\s]{1,253})(?::\d{1,5})?")


@dataclass(frozen=True)
class Refusal:
    """The status and the text that refuse a request."""

    status: HTTPStatus
    text: str


class BrowserGuard:
    """The rules by which requests are refused for their headers.

    Args:
        any_host: whether any host name is allowed. Where a token is required or TLS proves the name, a rebound name
            gains nothing, and proxies have names of their own.
        hosts: host names that are allowed besides those of the machine itself.
    """

    def __init__(self, *, any_host: bool = False, hosts: Iterable[str] = ()) -> None:
        self._any_host = any_host
        self._hosts = frozenset(map(_name, hosts))
        self._known: set[str] = set()

    def refusal(self, headers: Mapping[str, str], *, has_frame: bool = True) -> Refusal | None:
        """Return why a request with these headers is refused, or None.

        Args:
            has_frame: whether it has a frame as its body, which has to be said in its content type.
        """
        for name in _SENT_BY_BROWSERS:
            if name in headers:
                return Refusal(HTTPStatus.FORBIDDEN, "A worker takes no requests from web pages.")
        if not self._any_host and not self._takes(headers.get("host", "")):
            return Refusal(HTTPStatus.MISDIRECTED_REQUEST, _FOREIGN_HOST)
        if has_frame and headers.get("content-type", "").partition(";")[0].strip().lower() != MEDIA_TYPE:
            return Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"A frame is sent as {MEDIA_TYPE}.")
        return None

    def _takes(self, host: str) -> bool:
        if host in self._known:  # all calls of a run have the same one
            return True
        match = _HOST.fullmatch(host)
        name = "" if match is None else _name(match[1])
        taken = name in self._hosts or is_loopback(name)
        if taken and len(self._known) < 64:
            self._known.add(host)
        return taken


def _name(host: str) -> str:
    """Return a host in the one form that compares: IPv6 without brackets, as short as it can be written."""
    name = host.strip("[]").rstrip(".").lower()
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name


_FOREIGN_HOST = (
    "This worker requires no token, so it answers only under this machine's own names (127.0.0.1, localhost). To "
    "reach it by another name, start it with a token (COMFY_GPU_OFFLOAD_TOKEN), or with --allow-host NAME."
)
