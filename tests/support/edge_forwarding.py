"""One request through the test edge, to a worker and back; a WebSocket, if it asks for one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Protocol

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict

from .edge_sockets import Spliced, UpgradedResponse
from .edge_workers import WORKER_HEADER, EdgeRequest, EdgeWorker
from .faults import Fault

if TYPE_CHECKING:
    from .runpod_edge import EdgeLimits

_PIECE_BYTES = 65536
# RFC 9110, 7.6.1; aiohttp sets its own.
_HOP_BY_HOP = {
    "connection",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}


class _BrokenOffError(Exception):
    """The connection was closed on demand."""


class _TooLargeError(Exception):
    """The request turned out larger than allowed."""


class Edge(Protocol):
    """The reverse proxy that a request goes through."""

    @property
    def limits(self) -> EdgeLimits:
        """The limits in force."""

    @property
    def passes_websockets(self) -> bool:
        """True unless an upgrade reaches the worker as an ordinary request."""

    @property
    def session(self) -> aiohttp.ClientSession:
        """The HTTP client for requests to workers."""

    def changed(self) -> None:
        """Wake whoever waits for a change."""

    def too_large(self, what: str, limit: int) -> web.Response:
        """Return the reply to a body over the limit."""


class Forwarding:
    """One request on its way to a worker, and the reply on its way back. `path`: at the worker, if another."""

    def __init__(
        self,
        edge: Edge,
        request: web.Request,
        worker: EdgeWorker,
        seen: EdgeRequest,
        fault: Fault,
        path: str | None = None,
    ) -> None:
        self._path = request.path_qs if path is None else path
        self._edge = edge
        self._request = request
        self._worker = worker
        self._seen = seen
        self._fault = fault

    async def run(self) -> web.StreamResponse:
        """Forward the request; return the reply that reached the client."""
        has_body = self._request.can_read_body
        try:
            async with asyncio.timeout(self._edge.limits.processing_s) as begins:
                async with self._edge.session.request(
                    self._request.method,
                    self._worker.url + self._path,
                    headers=self._headers(),
                    data=self._upload() if has_body else None,
                    allow_redirects=False,
                    skip_auto_headers=(hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE, hdrs.USER_AGENT),
                ) as upstream:
                    begins.reschedule(None)
                    if upstream.status == 101:
                        return await self._splice(upstream)
                    return await self._pass_back(upstream)
        except TimeoutError:
            return web.Response(status=524, text="<html><title>524: A timeout occurred</title></html>")
        except _BrokenOffError:
            return self._cut(abort=True)
        except (aiohttp.ClientError, ConnectionError) as error:
            return self._failed(error)

    def _failed(self, error: Exception) -> web.StreamResponse:
        causes = (error, error.__cause__, error.__context__)
        if any(isinstance(cause, _BrokenOffError) for cause in causes):
            return self._cut(abort=True)
        if any(isinstance(cause, _TooLargeError) for cause in causes):
            return self._edge.too_large("body", self._edge.limits.request_bytes)
        if self._seen.status is not None:  # the reply has begun: it can only be cut
            return self._cut(abort=True)
        return web.Response(status=502, text="<html><title>502 Bad Gateway</title></html>")

    async def _upload(self) -> AsyncIterator[bytes]:
        """Yield the request's body as it comes."""
        cut = self._fault.after_bytes or 0 if self._fault.drop == "request" else None
        async for piece in self._request.content.iter_chunked(_PIECE_BYTES):
            if cut is not None and self._seen.request_bytes + len(piece) > cut:
                yield piece[: cut - self._seen.request_bytes]
                raise _BrokenOffError
            self._seen.request_bytes += len(piece)
            if self._seen.request_bytes > self._edge.limits.request_bytes:
                raise _TooLargeError
            yield piece

    def _headers(self) -> CIMultiDict[str]:
        """Return the request's headers; of those for one hop only the wish for a WebSocket."""
        headers = _end_to_end(self._request.headers)
        is_upgrade = self._request.headers.get(hdrs.UPGRADE, "").lower() == "websocket"
        if is_upgrade and self._edge.passes_websockets:
            headers.update({hdrs.CONNECTION: "Upgrade", hdrs.UPGRADE: "websocket"})
        return headers

    async def _splice(self, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
        limits, cut_after = self._edge.limits, self._fault.after_bytes or 0
        spliced = Spliced(
            limits.message_bytes,
            limits.connection_s,
            cut_up=cut_after if self._fault.drop == "request" else None,
            cut_down=cut_after if self._fault.drop == "reply" else None,
        )
        reply = UpgradedResponse(upstream)
        reply.headers[WORKER_HEADER] = self._worker.id
        self._seen.status = 101
        self._worker.end(self._seen)
        self._worker.sockets.add(spliced)
        self._edge.changed()
        try:
            await spliced.run(self._request, upstream, reply)
        finally:
            self._worker.sockets.remove(spliced)
            self._seen.request_bytes, self._seen.reply_bytes = spliced.up.passed, spliced.down.passed
        return reply

    async def _pass_back(self, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
        limit = self._edge.limits.reply_bytes
        if (upstream.content_length or 0) > limit:
            return self._edge.too_large("response", limit)
        await asyncio.sleep(self._fault.reply_delay_s)
        cut = self._fault.after_bytes if self._fault.drop == "reply" else limit
        if cut is None:
            await upstream.read()
            return self._cut(abort=False)
        reply = web.StreamResponse(status=upstream.status, headers=_end_to_end(upstream.headers))
        reply.headers[WORKER_HEADER] = self._worker.id
        if upstream.content_length is None and upstream.status not in {204, 304}:
            reply.enable_chunked_encoding()
        await reply.prepare(self._request)
        self._seen.status = upstream.status
        async for piece in upstream.content.iter_chunked(_PIECE_BYTES):
            self._seen.reply_bytes += len(piece)
            if self._seen.reply_bytes > cut:
                await reply.write(piece[: len(piece) - (self._seen.reply_bytes - cut)])
                return self._cut(abort=False)
            await reply.write(piece)
        await reply.write_eof()
        return reply

    def _cut(self, *, abort: bool) -> web.StreamResponse:
        """End the client's connection without more of a reply."""
        transport = self._request.transport
        if transport is not None:
            transport.abort() if abort else transport.close()
        return web.Response(status=499)


def _end_to_end(headers: Mapping[str, str]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in _HOP_BY_HOP)


async def drain(request: web.Request) -> int:
    """Read the body and drop it, so that a client that still sends sees the reply; return its size in bytes."""
    size = 0
    async for piece in request.content.iter_chunked(_PIECE_BYTES):
        size += len(piece)
    return size
