"""The stand-in's GraphQL: the mutations that end a pod, and the one that makes a pod which ends by itself."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

from aiohttp import hdrs, web

from .plan import NO_CAPACITY

if TYPE_CHECKING:
    from .cloud import RunpodCloud

_POD_ID = re.compile(r'podId:\s*"([^"]+)"')
_FIELD = re.compile(r'(\w+):\s*(?:"([^"]*)"|(\d+))')


class GraphqlRoutes:
    """Answers at /graphql."""

    def __init__(self, cloud: RunpodCloud) -> None:
        self._cloud = cloud

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the route."""
        router.add_post("/graphql", self._answer)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        cloud = self._cloud
        fault = cloud.faults.take("graphql")
        if fault is not None and fault.status is not None:
            return fault.answer()
        key = request.headers.get(hdrs.AUTHORIZATION, "").removeprefix("Bearer ") or request.query.get(
            "api_key", ""
        )
        pod = cloud.pod_of(key)
        if key != cloud.key and (pod is None or "graphql" not in cloud.pod_key_may):
            return web.json_response(
                {"errors": [{"message": "Not authorized"}]}, status=401 if pod is None else 200
            )
        body = json.loads(await request.read())
        query, variables = str(body.get("query", "")), body.get("variables") or {}
        if "podFindAndDeployOnDemand" in query:
            return self._deploy(query, variables)
        return self._end(query, variables)

    def _end(self, query: str, variables: dict[str, Any]) -> web.Response:
        named = _POD_ID.search(query)
        pod_id = named[1] if named else (variables.get("input") or variables).get("podId", "")
        pod = self._cloud.pods.get(str(pod_id))
        name = "podStop" if "podStop" in query else "podTerminate"
        if pod is None or pod.ended is not None:
            return web.json_response({"errors": [{"message": "pod not found"}], "data": {name: None}})
        if name == "podStop":
            self._cloud.stop_pod(pod)
            return web.json_response({"data": {name: {"id": pod.id, "desiredStatus": "EXITED"}}})
        self._cloud.end_pod(pod)
        return web.json_response({"data": {name: None}})

    def _deploy(self, query: str, variables: dict[str, Any]) -> web.Response:
        given = variables.get("input") or {
            name: text or int(number) for name, text, number in _FIELD.findall(query)
        }
        gpu = self._cloud.capacity.gpu(str(given.get("gpuTypeId")))
        if gpu is None or not self._cloud.capacity.has(gpu.id):
            return web.json_response({"errors": [{"message": NO_CAPACITY}], "data": None})
        body = {
            "name": given["name"],
            "image": given["imageName"],
            "gpu": {"id": gpu.id, "count": given.get("gpuCount", 1)},
            "args": given.get("dockerArgs", ""),
            "env": {item["key"]: item["value"] for item in given.get("env", [])},
        }
        until = given.get("terminateAfter")
        ends = None if until is None else datetime.fromisoformat(until.replace("Z", "+00:00")).timestamp()
        pod = self._cloud.make_pod(body, gpu.secure, ends)
        return web.json_response({"data": {"podFindAndDeployOnDemand": {"id": pod.id, "costPerHr": gpu.secure}}})
