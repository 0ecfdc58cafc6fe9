"""A check that requests come from ComfyUI's own pages: pages of other sites must not use the pack's routes."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from urllib.parse import urlsplit

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.Response]]

_ANOTHER_SITE = "A page of another site asks."
_JSON = "application/json"
# Names that nobody can register, so that no page on the internet can be served under one.
_LOCAL_ENDINGS = (".localhost", ".local", ".lan", ".home", ".internal", ".home.arpa", ".localdomain")


def same_site(handler: Handler) -> Handler:
    """Refuse requests that are not JSON, or that a page of another site makes."""

    @wraps(handler)
    async def guarded(request: web.Request) -> web.Response:
        refusal = refused(request.headers, request.content_type)
        if refusal is not None:
            return web.json_response({"error": refusal}, status=403)
        return await handler(request)

    return guarded


def refused(headers: Mapping[str, str], content_type: str) -> str | None:
    """Return why a POST with these headers is refused, or None.

    A browser says with `Sec-Fetch-Site` where a request comes from, over https and to this machine; elsewhere with
    `Origin`, which a POST always has. A page that has its own name resolve to this machine (DNS rebinding) is
    same-origin to the browser; it is known by a public name without https, under which no certificate fits.
    """
    if content_type != _JSON:
        return f"The body must be {_JSON}."
    site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
    if site is not None:
        return None if site == "same-origin" else _ANOTHER_SITE
    # Where neither is said, no browser asks.
    return None if origin is None else _of_origin(origin, headers.get("Host", ""))


def _of_origin(origin: str, host: str) -> str | None:
    try:
        asking, asked = urlsplit(origin), urlsplit(f"//{host}").hostname or ""
    except ValueError:  # no address at all
        return _ANOTHER_SITE
    if asking.netloc.lower() != host.lower():
        return _ANOTHER_SITE
    if asking.scheme != "https" and _is_public(asked):
        return f"ComfyUI was opened as {host} over http: use https, or the machine's IP address."
    return None


def _is_public(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return "." in host and not host.endswith(_LOCAL_ENDINGS)
    return False
