"""The stand-in's proxy before pods: public, 100 s a request, 502 where nothing listens."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import hdrs, web
from tests.support.edge_forwarding import Forwarding, drain
from tests.support.edge_workers import EdgeRequest, EdgeWorker
from tests.support.faults import Fault
from tests.support.runpod_edge import EdgeLimits

from .state import CloudPod

if TYPE_CHECKING:
    from .cloud import RunpodCloud

_BAD_GATEWAY = "<html><head><title>502 Bad Gateway</title></head></html>"


class ProxyRoutes:
    """Passes on what comes below /proxy, and the health of serverless endpoints below /queue."""

    passes_websockets = True
    limits = EdgeLimits(processing_s=100.0)

    def __init__(self, cloud: RunpodCloud) -> None:
        self._cloud = cloud

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_route("*", "/proxy/{pod}/{port}/{rest:.*}", self._pod)
        router.add_route("*", "/queue/v2/{endpoint}/{rest:.*}", self._queue)

    async def _pod(self, request: web.Request) -> web.StreamResponse:
        pod = self._cloud.pods.get(request.match_info["pod"])
        fault = self._cloud.faults.take("proxy") or Fault()
        if fault.status is not None:
            await drain(request)
            return fault.answer()
        url = None if pod is None else self._listens(pod, request.match_info["port"])
        if pod is None or url is None:
            await drain(request)
            return web.Response(status=502 if pod is not None else 404, text=_BAD_GATEWAY, content_type="text/html")
        worker = EdgeWorker(pod.id, url)
        seen = EdgeRequest(request.method, request.path, request.headers.get(hdrs.AUTHORIZATION), None, monotonic())
        prefix = f"/proxy/{request.match_info['pod']}/{request.match_info['port']}"
        return await Forwarding(self, request, worker, seen, fault, request.path_qs.removeprefix(prefix)).run()

    def _listens(self, pod: CloudPod, port: str) -> str | None:
        """Return where what listens at a pod's port is, or None."""
        pod.requests += 1
        is_open = f"{port}/http" in pod.body.get("ports", ()) and pod.status == "RUNNING"
        if not is_open or pod.container is None or pod.requests <= pod.plan.refusals:
            return None
        return pod.container.url

    async def _queue(self, request: web.Request) -> web.StreamResponse:
        """Answer as the API of queue endpoints does."""
        endpoint = self._cloud.endpoints.get(request.match_info["endpoint"])
        if endpoint is None or endpoint.ended is not None:
            return web.json_response({"error": "endpoint not found"}, status=404)
        path = request.path_qs.removeprefix("/queue")
        async with self.session.request(
            request.method,
            endpoint.edge.url + path,
            headers={hdrs.AUTHORIZATION: request.headers.get(hdrs.AUTHORIZATION, "")},
        ) as upstream:
            return web.Response(
                status=upstream.status, body=await upstream.read(), content_type=upstream.content_type
            )

    @property
    def session(self) -> aiohttp.ClientSession:
        """The HTTP client for requests to workers."""
        return self._cloud.session

    def changed(self) -> None:
        """Wake whoever waits for a change."""
        self._cloud.changed()

    def too_large(self, what: str, limit: int) -> web.Response:
        """Return the reply to a body over the limit."""
        return web.Response(status=413, text=f"{what} over {limit}")
