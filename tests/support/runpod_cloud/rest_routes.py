"""The stand-in's REST API: the routes that the client uses, with the key, the limit of requests and the faults."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from aiohttp import hdrs, web
from tests.support.faults import drop_reply, drop_request

from .body_rules import problem, wrong_endpoint, wrong_pod, wrong_volume
from .plan import DATA_CENTRES, NO_CAPACITY, Gpu
from .request_limit import RequestLimit
from .state import CloudEndpoint, CloudPod, CloudVolume, Log, rfc3339

if TYPE_CHECKING:
    from .cloud import RunpodCloud

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_GONE = web.HTTPNoContent.status_code


class RestRoutes:
    """Answers below /v2."""

    def __init__(self, cloud: RunpodCloud) -> None:
        self._cloud = cloud
        self._limit = RequestLimit(cloud.now)

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        routes: dict[str, Handler] = {
            "GET /account/ssh-keys": self._ssh_keys,
            "GET /catalog/gpus": self._gpus,
            "GET /pods": self._list_pods,
            "POST /pods": self._create_pod,
            "GET /pods/{id}": self._get_pod,
            "DELETE /pods/{id}": self._delete_pod,
            "POST /pods/{id}/action": self._act,
            "GET /pods/{id}/logs": self._pod_logs,
            "GET /serverless": self._list_endpoints,
            "POST /serverless": self._create_endpoint,
            "GET /serverless/{id}": self._get_endpoint,
            "DELETE /serverless/{id}": self._delete_endpoint,
            "GET /serverless/{id}/workers": self._workers,
            "GET /serverless/{id}/workers/{worker}/logs": self._worker_logs,
            "GET /network-volumes": self._list_volumes,
            "POST /network-volumes": self._create_volume,
            "DELETE /network-volumes/{id}": self._delete_volume,
            "GET /billing/pods": self._pod_bills,
            "GET /billing/serverless": self._endpoint_bills,
            "GET /billing/network-volumes": self._volume_bills,
        }
        for route, handler in routes.items():
            method, path = route.split(" ")
            router.add_route(method, f"/v2{path}", self._guarded(route, handler))
        router.add_route("*", "/v2/{rest:.*}", self._guarded("unknown", self._unknown))

    def _guarded(self, route: str, handler: Handler) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            cloud = self._cloud
            cloud.asked.append((request.method, request.path.removeprefix("/v2")))
            fault = cloud.faults.take(route) or cloud.faults.take("*")
            await asyncio.sleep(fault.delay_s if fault is not None else 0)
            if fault is not None and fault.drop == "request":
                return await drop_request(request, fault.after_bytes)
            if fault is not None and fault.status is not None:
                return fault.answer()
            limits, refusal = self._limit.count(cloud.per_minute)
            reply = refusal or self._refusal(request) or await handler(request)
            cloud.changed()
            if fault is not None:
                await asyncio.sleep(fault.reply_delay_s)
                if fault.drop == "reply" and isinstance(reply, web.Response):
                    return await drop_reply(request, reply, fault.after_bytes)
            if not reply.prepared:
                reply.headers.update(limits)
            return reply

        return answer

    def _refusal(self, request: web.Request) -> web.Response | None:
        cloud = self._cloud
        scheme, _, key = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if scheme != "Bearer" or not key:
            return problem(401, "missing bearer token")
        if key != cloud.key:
            pod = cloud.pod_of(key)
            if pod is None:
                return problem(401, "invalid bearer token")
            if "rest" not in cloud.pod_key_may or request.path != f"/v2/pods/{pod.id}":
                return problem(403, "access denied")
        if cloud.read_only and request.method != "GET":
            return problem(403, "access denied")
        return None

    async def _unknown(self, _: web.Request) -> web.Response:
        return problem(404, "resource not found")

    async def _ssh_keys(self, _: web.Request) -> web.Response:
        return web.json_response({"keys": []})

    async def _gpus(self, request: web.Request) -> web.Response:
        query = request.query
        if query.get("include") == "AVAILABILITY" and "product" not in query:
            return problem(400, "product is required with include=AVAILABILITY")
        cloud = query.get("cloud", "SECURE")
        return web.json_response({"gpus": [self._offer(gpu, cloud) for gpu in self._cloud.capacity.gpus]})

    def _offer(self, gpu: Gpu, cloud: str) -> dict[str, Any]:
        capacity = self._cloud.capacity

        def level(*places: str) -> str:
            return "HIGH" if capacity.is_late or capacity.has(gpu.id, *places) else "NONE"

        centres = [{"id": name, "name": name, "availability": level(cloud, name)} for name in DATA_CENTRES]
        return {
            "id": gpu.id,
            "name": gpu.name,
            "pool": gpu.pool,
            "manufacturer": "NVIDIA",
            "memory": gpu.memory,
            "secure": True,
            "community": True,
            "price": {"secure": gpu.secure, "community": gpu.community, "serverless": gpu.serverless},
            "maxCount": {"secure": 8, "community": 4},
            "availability": level(cloud),
            "dataCenters": centres,
            "cudaVersions": [{"version": "12.8", "available": level(cloud) != "NONE"}],
        }

    # --- pods -----------------------------------------------------------------------------------------

    async def _create_pod(self, request: web.Request) -> web.Response:
        body = await _json(request)
        refusal = wrong_pod(body)
        if refusal is not None:
            return refusal
        cloud, kind = self._cloud, body.get("cloud", "SECURE")
        gpu = cloud.capacity.gpu(body["gpu"]["id"])
        if gpu is None:
            return problem(400, f"unknown gpu type {body['gpu']['id']}")
        volumes = [mount["volumeId"] for mount in body.get("mounts", {}).get("network", [])]
        if any(volume not in cloud.volumes or cloud.volumes[volume].ended is not None for volume in volumes):
            return problem(404, "network volume not found")
        homes = {cloud.volumes[volume].body["dataCenter"] for volume in volumes}
        centres = set(body.get("dataCenterIds") or DATA_CENTRES) & (homes or set(DATA_CENTRES))
        if "count" not in body["gpu"] or not any(cloud.capacity.has(gpu.id, kind, centre) for centre in centres):
            return problem(400, NO_CAPACITY)
        price = (gpu.secure if kind == "SECURE" else gpu.community) * body["gpu"]["count"]
        if cloud.balance < price:
            return problem(402, "Insufficient balance: at least one hour of credit is required to deploy.")
        pod = cloud.make_pod({**body, "dataCenterIds": sorted(centres)}, price)
        return web.json_response(pod.as_json(cloud.now()), status=201)

    def _pod(self, request: web.Request) -> CloudPod | None:
        pod = self._cloud.pods.get(request.match_info["id"])
        return pod if pod is not None and pod.ended is None else None

    async def _list_pods(self, _: web.Request) -> web.Response:
        cloud = self._cloud
        listed = [pod for pod in cloud.pods.values() if pod.ended is None and cloud.look_at(pod)]
        return web.json_response({"pods": [pod.as_json(cloud.now()) for pod in listed]})

    async def _get_pod(self, request: web.Request) -> web.Response:
        pod = self._pod(request)
        if pod is None or not self._cloud.look_at(pod):
            return problem(404, "pod not found")
        return web.json_response(pod.as_json(self._cloud.now()))

    async def _delete_pod(self, request: web.Request) -> web.Response:
        pod = self._pod(request)
        if pod is None:
            return problem(404, "pod not found")
        pod.deletes += 1
        if pod.deletes > pod.plan.undeletable:
            self._cloud.end_pod(pod)
        return web.Response(status=_GONE)

    async def _act(self, request: web.Request) -> web.Response:
        pod, body = self._pod(request), await _json(request)
        if pod is None:
            return problem(404, "pod not found")
        if not isinstance(body, dict) or body.get("action") != "stop":
            return problem(422, "Request validation failed.", ["$.action: the stand-in knows stop alone"])
        self._cloud.stop_pod(pod)
        return web.json_response(pod.as_json(self._cloud.now()))

    async def _pod_logs(self, request: web.Request) -> web.StreamResponse:
        pod = self._pod(request)
        if pod is None:
            return problem(404, "pod not found")
        return await self._stream(request, pod.log, lambda: pod.ended is not None)

    async def _stream(self, request: web.Request, log: Log, is_over: Callable[[], bool]) -> web.StreamResponse:
        """Send a log as server-sent events, until what it is of has ended. Ids are the numbers of lines."""
        source, last = request.query.get("source"), request.headers.get("Last-Event-ID")
        total, tail = len(log.after(0)), int(request.query.get("tail", 100))
        number = int(last.rpartition("/")[2]) if last else max(0, total - tail)
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await reply.prepare(request)
        while True:
            over = is_over() or self._cloud.is_closing
            for line in log.after(number):
                number += 1
                if source in {None, line["source"]}:
                    event = f"id: {line['ts']}/{number:012d}\ndata: {json.dumps(line)}\n\n"
                    await reply.write(event.encode())
            if over:
                break
            await asyncio.sleep(0.02)
        await reply.write_eof()
        return reply

    # --- endpoints ------------------------------------------------------------------------------------

    async def _create_endpoint(self, request: web.Request) -> web.Response:
        body = await _json(request)
        refusal = wrong_endpoint(body)
        if refusal is not None:
            return refusal
        cloud = self._cloud
        gpus = [gpu for gpu in cloud.capacity.gpus if gpu.pool in body["gpu"]["pools"]]
        if not gpus:
            return problem(400, "unknown gpu pool")
        price = max(gpu.serverless for gpu in gpus)
        if cloud.balance < price:
            return problem(402, "Insufficient balance: at least one hour of credit is required to deploy.")
        endpoint = await cloud.make_endpoint(body, price)
        return web.json_response(endpoint.as_json(), status=201)

    def _endpoint(self, request: web.Request) -> CloudEndpoint | None:
        endpoint = self._cloud.endpoints.get(request.match_info["id"])
        return endpoint if endpoint is not None and endpoint.ended is None else None

    async def _list_endpoints(self, _: web.Request) -> web.Response:
        listed = [endpoint.as_json() for endpoint in self._cloud.endpoints.values() if endpoint.ended is None]
        return web.json_response({"endpoints": listed})

    async def _get_endpoint(self, request: web.Request) -> web.Response:
        endpoint = self._endpoint(request)
        return problem(404, "endpoint not found") if endpoint is None else web.json_response(endpoint.as_json())

    async def _delete_endpoint(self, request: web.Request) -> web.Response:
        endpoint = self._endpoint(request)
        if endpoint is None:
            return problem(404, "endpoint not found")
        self._cloud.end_endpoint(endpoint)
        return web.Response(status=_GONE)

    async def _workers(self, request: web.Request) -> web.Response:
        endpoint = self._endpoint(request)
        if endpoint is None:
            return problem(404, "endpoint not found")
        is_up = endpoint.container is not None and endpoint.container.url is not None
        worker = {
            "id": endpoint.worker_id,
            "status": "IDLE" if is_up else "INITIALIZING",
            "isStale": False,
            "version": 1,
            "gpuCount": 1,
            "gpuTypeId": "NVIDIA L4",
            "dataCenterId": "EU-RO-1",
        }
        counts = {"running": 0, "throttled": 0, "unhealthy": 0, "total": 1}
        summary = {**counts, "idle": int(is_up), "initializing": int(not is_up)}
        return web.json_response({"workers": [worker], "summary": summary, "endpointVersion": 1})

    async def _worker_logs(self, request: web.Request) -> web.StreamResponse:
        endpoint = self._endpoint(request)
        if endpoint is None or request.match_info["worker"] != endpoint.worker_id:
            return problem(404, "worker not found")
        return await self._stream(request, endpoint.log, lambda: endpoint.ended is not None)

    # --- volumes and bills ----------------------------------------------------------------------------

    async def _list_volumes(self, _: web.Request) -> web.Response:
        listed = [volume.as_json() for volume in self._cloud.volumes.values() if volume.ended is None]
        return web.json_response({"networkVolumes": listed})

    async def _create_volume(self, request: web.Request) -> web.Response:
        body = await _json(request)
        refusal = wrong_volume(body)
        if refusal is not None:
            return refusal
        if body["dataCenter"] not in DATA_CENTRES:
            return problem(400, f"unknown data center {body['dataCenter']}")
        return web.json_response(self._cloud.make_volume(body).as_json(), status=201)

    async def _delete_volume(self, request: web.Request) -> web.Response:
        volume = self._cloud.volumes.get(request.match_info["id"])
        if volume is None or volume.ended is not None:
            return problem(404, "network volume not found")
        volume.ended = self._cloud.now()
        return web.Response(status=_GONE)

    async def _pod_bills(self, request: web.Request) -> web.Response:
        amounts = {"gpuAmount": 1.0, "cpuAmount": 0.0, "diskAmount": 0.0}
        return self._bills(request, self._cloud.pods.values(), "podId", "uniquePodCount", amounts)

    async def _endpoint_bills(self, request: web.Request) -> web.Response:
        amounts = {"gpuAmount": 1.0, "cpuAmount": 0.0, "diskAmount": 0.0, "feeAmount": 0.0}
        return self._bills(
            request, self._cloud.endpoints.values(), "serverlessId", "uniqueServerlessCount", amounts
        )

    async def _volume_bills(self, request: web.Request) -> web.Response:
        amounts = {"standardAmount": 1.0, "highPerformanceAmount": 0.0}
        return self._bills(
            request, self._cloud.volumes.values(), "networkVolumeId", "uniqueNetworkVolumeCount", amounts
        )

    def _bills(
        self,
        request: web.Request,
        made: Iterable[CloudPod | CloudEndpoint | CloudVolume],
        id_name: str,
        count_name: str,
        amounts: dict[str, float],
    ) -> web.Response:
        """Return a bill whose one bucket is all the time. `amounts`: the share of each part of the total."""
        now, only = self._cloud.now(), request.query.get(id_name)
        of = [(item, item.cost(now)) for item in made if only in {None, item.id}]

        def parts(total: float) -> dict[str, float]:
            return {"totalAmount": total, **{name: total * share for name, share in amounts.items()}}

        records = [
            {"startTime": rfc3339(item.began), "endTime": rfc3339(now), id_name: item.id, **parts(cost)}
            for item, cost in of
        ]
        metadata = {
            "query": {"startTime": rfc3339(now - 86400), "endTime": rfc3339(now), "bucketSize": "day"},
            "recordCount": len(records),
            count_name: len(records),
            "totals": parts(sum(cost for _, cost in of)),
        }
        return web.json_response({"records": records, "metadata": metadata})


async def _json(request: web.Request) -> Any:
    try:
        return json.loads(await request.read())
    except ValueError:
        return None
