"""The stand-in itself: what a test starts, asks and disturbs."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import aiohttp
from tests.support.aiohttp_server import AiohttpServer
from tests.support.faults import Faults
from tests.support.runpod_edge import LoadBalancerEdge

from .containers import Order, Running, Starter
from .graphql_routes import GraphqlRoutes
from .plan import Capacity, PodPlan
from .proxy_routes import ProxyRoutes
from .rest_routes import RestRoutes
from .state import Bill, CloudEndpoint, CloudPod, CloudVolume, Log, new_id

KEY = "rpa_CLOUD0123456789SECRET"


class RunpodCloud(AiohttpServer):
    """`with RunpodCloud(starter) as cloud:` is RunPod until the block ends; then no process of a pod is left.

    Args:
        starter: starts what runs in a pod or a serverless worker, as `containers.worker` and `start_script` do;
            None for nothing at all.
        plans: of the pods, in the order in which they are made; the last one serves for all that follow.
        balance: dollars of the account. A create needs an hour's price.
        per_minute: the limit of requests; None for none, and no word of one.
        read_only: whether the key may change nothing.
        pod_key_may: what the key in a pod's environment may do: "rest", "graphql".

    Attributes:
        capacity: what is in stock.
        faults: what will go wrong, by route, as ``"POST /pods"`` or ``"DELETE /pods/{id}"``; ``"*"`` for any.
        asked: every request to the API, as its method and path, in order.
        pods, endpoints, volumes: all that were ever made, by id.
    """

    def __init__(
        self,
        starter: Starter | None = None,
        plans: Sequence[PodPlan] = (PodPlan(),),
        *,
        key: str = KEY,
        balance: float = 25.0,
        per_minute: int | None = None,
        read_only: bool = False,
        pod_key_may: frozenset[str] = frozenset({"rest", "graphql"}),
    ) -> None:
        super().__init__()
        self.key, self.balance, self.per_minute, self.read_only = key, balance, per_minute, read_only
        self.pod_key_may = pod_key_may
        self.capacity = Capacity()
        self.faults = Faults()
        self.asked: list[tuple[str, str]] = []
        self.pods: dict[str, CloudPod] = {}
        self.endpoints: dict[str, CloudEndpoint] = {}
        self.volumes: dict[str, CloudVolume] = {}
        self._starter = starter
        self._plans = list(plans)
        self._ahead_s = 0.0
        self._session: aiohttp.ClientSession | None = None
        self._ticking: asyncio.Task[None] | None = None
        for routes in (RestRoutes(self), GraphqlRoutes(self), ProxyRoutes(self)):
            routes.add_to(self._app.router)

    # --- for tests ------------------------------------------------------------------------------------

    def settings(self) -> dict[str, str]:
        """Return the environment of a client of this cloud."""
        return {
            "RUNPOD_API_KEY": self.key,
            "RUNPOD_BASE_URL": f"{self.url}/queue/v2",
            "COMFY_GPU_OFFLOAD_RUNPOD_API": self.api,
            "COMFY_GPU_OFFLOAD_RUNPOD_POD_ADDRESS": self.pod_template,
        }

    @property
    def api(self) -> str:
        """The address in place of https://api.runpod.io/v2."""
        return f"{self.url}/v2"

    @property
    def graphql(self) -> str:
        """The address in place of https://api.runpod.io/graphql."""
        return f"{self.url}/graphql"

    @property
    def pod_template(self) -> str:
        """The template in place of ``https://{pod}-{port}.proxy.runpod.net``."""
        return f"{self.url}/proxy/{{pod}}/{{port}}"

    def billing_now(self) -> list[Bill]:
        """Return what bills now: pods that were not deleted, endpoints with their workers, volumes."""
        return list(self._bills())

    def billed(self) -> float:
        """Return what all that was ever made has cost, in dollars."""
        return sum(made.cost(self.now()) for made in self.made())

    def now(self) -> float:
        """Return the cloud's time, in seconds since 1970."""
        return time.time() + self._ahead_s

    def advance(self, seconds: float) -> None:
        """Let the cloud's time pass: what bills costs more, and what was to end ends."""

        def advance() -> None:
            self._ahead_s += seconds
            self.end_what_is_due()

        self._on_loop(advance)

    def pass_time(self, seconds: float) -> None:
        """Let the cloud's time pass, without a look at what is due."""
        self._ahead_s += seconds

    def set_starter(self, starter: Starter) -> None:
        """Start what runs in pods by that from now on, where it has to know the cloud's address."""
        self._starter = starter

    def drop_connections(self) -> None:
        """End every connection without a word."""
        self._on_loop(self._drop_connections)

    def vanish(self, pod_id: str) -> None:
        """Take a pod away without a word."""
        self._on_loop(lambda: self.end_pod(self.pods[pod_id]))

    def crash(self, pod_id: str) -> None:
        """Kill what runs in a pod; RunPod starts its container again."""
        container = self.pods[pod_id].container
        assert container is not None
        container.crash()

    def count(self, method: str, path: str) -> int:
        """Return how many such requests came to the API."""
        return self.asked.count((method, path))

    # --- for the routes, on the loop's thread ---------------------------------------------------------

    def made(self) -> Iterator[CloudPod | CloudEndpoint | CloudVolume]:
        """Yield all that was ever made."""
        yield from list(self.pods.values())
        yield from list(self.endpoints.values())
        yield from list(self.volumes.values())

    def make_pod(self, body: dict[str, Any], price: float, terminate_after: float | None = None) -> CloudPod:
        """Make a pod."""
        plan = self._plans.pop(0) if len(self._plans) > 1 else self._plans[0]
        key, log = f"rpa_POD{secrets.token_hex(8)}", Log(self.now)
        pod = CloudPod(new_id(), body, plan, price, self.now(), key, log, terminate_after=terminate_after)
        for line in plan.log:
            log.add(line, "system")
        if plan.outcome in {"running", "vanishes"} and not plan.lies:
            pod.container = self._start(pod.id, body, {"RUNPOD_POD_ID": pod.id, "RUNPOD_API_KEY": key}, log)
        self.pods[pod.id] = pod
        self._notify()
        return pod

    async def make_endpoint(self, body: dict[str, Any], price: float) -> CloudEndpoint:
        """Make an endpoint, whose worker starts at once."""
        endpoint_id = new_id()
        edge = LoadBalancerEdge(key=self.key, endpoint=endpoint_id)
        await asyncio.to_thread(edge.__enter__)
        endpoint = CloudEndpoint(endpoint_id, body, price, self.now(), edge, Log(self.now))
        endpoint.container = self._start(endpoint_id, body, {"RUNPOD_ENDPOINT_ID": endpoint_id}, endpoint.log)
        self.endpoints[endpoint_id] = endpoint
        return endpoint

    def make_volume(self, body: dict[str, Any]) -> CloudVolume:
        """Make a volume."""
        volume = CloudVolume(new_id(), body, self.now())
        self.volumes[volume.id] = volume
        return volume

    def look_at(self, pod: CloudPod) -> bool:
        """Count a look at a pod; return whether it is still there."""
        pod.looks += 1
        if pod.has_vanished:
            self.end_pod(pod)
        return pod.ended is None

    def end_pod(self, pod: CloudPod) -> None:
        """End a pod, and what runs in it."""
        if pod.ended is None:
            pod.ended = self.now()
            self._kill(pod.container)
            self._notify()

    def end_endpoint(self, endpoint: CloudEndpoint) -> None:
        """End an endpoint and its worker."""
        if endpoint.ended is None:
            endpoint.ended = self.now()
            self._kill(endpoint.container)

    def stop_pod(self, pod: CloudPod) -> None:
        """Stop a pod; its disk bills on."""
        pod.is_stopped = True
        self._kill(pod.container)

    def end_what_is_due(self) -> None:
        """End the pods whose `terminateAfter` is over."""
        for pod in self.pods.values():
            if pod.terminate_after is not None and self.now() >= pod.terminate_after:
                self.end_pod(pod)

    def pod_of(self, key: str) -> CloudPod | None:
        """Return the pod in whose environment that key is."""
        return next((pod for pod in self.pods.values() if pod.key == key), None)

    @property
    def session(self) -> aiohttp.ClientSession:
        """The HTTP client for requests to workers."""
        assert self._session is not None
        return self._session

    @property
    def is_closing(self) -> bool:
        """True once the block has ended."""
        return self._is_closing

    def changed(self) -> None:
        """Wake whoever waits for a change."""
        self._notify()

    def _start(self, made_id: str, body: dict[str, Any], ids: dict[str, str], log: Log) -> Running | None:
        if self._starter is None:
            return None
        env = {**body.get("env", {}), **ids}
        return self._starter(Order(made_id, body["image"], body.get("args", ""), env, log.add))

    def _kill(self, container: Running | None) -> None:
        if container is not None:
            asyncio.get_running_loop().run_in_executor(None, container.kill)

    def _bills(self) -> Iterator[Bill]:
        for made in self.made():
            if made.ended is None:
                yield Bill(made.kind, made.id, made.name, made.per_hour)

    async def _begun(self) -> None:
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=None)
        self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False, timeout=timeout)
        self._ticking = asyncio.create_task(self._tick())

    async def _tick(self) -> None:
        while True:
            self.end_what_is_due()
            for endpoint in self.endpoints.values():
                url = endpoint.container.url if endpoint.container is not None else None
                if url is not None and not endpoint.edge.workers:
                    await asyncio.to_thread(endpoint.edge.add_worker, url, endpoint.worker_id)
            self._notify()
            await asyncio.sleep(0.05)

    async def _ending(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
            with suppress(asyncio.CancelledError):
                await self._ticking
        for endpoint in self.endpoints.values():
            await asyncio.to_thread(endpoint.edge.__exit__, None, None, None)
        for made in (*self.pods.values(), *self.endpoints.values()):
            if made.container is not None:
                await asyncio.to_thread(made.container.kill)
        await self.session.close()
