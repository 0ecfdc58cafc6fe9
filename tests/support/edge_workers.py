"""The workers behind a load-balancing endpoint: their states, and the choice of one for a request."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from dataclasses import dataclass, field
from time import monotonic
from typing import Literal

import aiohttp

from .edge_sockets import Spliced

WORKER_HEADER = "X-Runpod-Worker-Id"
State = Literal["initializing", "ready", "unhealthy"]


@dataclass(eq=False)
class EdgeRequest:
    """A request that arrived at the edge. `status` is None where the connection ended before a reply began.

    Of a WebSocket, bytes are counted when it has ended.
    """

    method: str
    path: str
    authorization: str | None
    affinity: str | None
    at: float
    status: int | None = None
    worker_id: str | None = None
    request_bytes: int = 0
    reply_bytes: int = 0


@dataclass(eq=False)
class EdgeWorker:
    """A worker, as its `/ping` shows it.

    Attributes:
        served: requests that it was given.
        requests: those that it has now. A WebSocket is one until it is open.
        asked_at: when the last of them came or was done.
        sockets: the WebSockets that are open to it.
    """

    id: str
    url: str
    state: State = "initializing"
    served: int = 0
    requests: set[EdgeRequest] = field(default_factory=set)
    asked_at: float = field(default_factory=monotonic)
    sockets: set[Spliced] = field(default_factory=set)
    pinged: Counter[int] = field(default_factory=Counter)

    @property
    def running(self) -> int:
        """The number of requests that it has now."""
        return len(self.requests)

    def begin(self, request: EdgeRequest) -> None:
        """Give it a request."""
        self.served += 1
        self.requests.add(request)
        self.asked_at = monotonic()

    def end(self, request: EdgeRequest) -> None:
        """Note that a request is done, or has become a WebSocket."""
        if request in self.requests:
            self.requests.remove(request)
            self.asked_at = monotonic()

    def cut(self) -> None:
        """End its WebSockets without a word."""
        for socket in self.sockets:
            socket.cut()


class EdgeWorkers:
    """The workers of an edge. Not thread-safe.

    Args:
        wake_s: how long after the first request there are workers; None for always.

    Attributes:
        stopped: ids of workers that had nothing to do, in order. The next request starts others in their places.
    """

    def __init__(self, wake_s: float | None) -> None:
        self.wake_s = wake_s
        self.by_id: dict[str, EdgeWorker] = {}
        self.stopped: list[str] = []
        self._places: list[str] = []
        self._asked_at: float | None = None

    def add(self, url: str, worker_id: str | None) -> EdgeWorker:
        """Add a worker, which is ready when its `/ping` says so."""
        worker = EdgeWorker(worker_id or uuid.uuid4().hex[:14], url.rstrip("/"))
        self.by_id[worker.id] = worker
        return worker

    def asked(self) -> None:
        """Note a request, for which workers are started."""
        self._asked_at = self._asked_at or monotonic()
        while self._places and not self.by_id:
            self.add(self._places.pop(0), None)

    def fall_asleep(self) -> None:
        """Stop all workers until a request comes."""
        self._asked_at = None
        for worker in self.by_id.values():
            worker.cut()

    def remove(self, worker_id: str) -> EdgeWorker:
        """Take that worker away, in the middle of whatever it does over WebSockets."""
        worker = self.by_id.pop(worker_id)
        worker.cut()
        return worker

    def stop_idle(self, idle_s: float) -> None:
        """Stop workers that had no request for so long. Their open WebSockets are none."""
        for worker in self.ready():
            if not worker.running and monotonic() - worker.asked_at >= idle_s:
                self._places.append(self.remove(worker.id).url)
                self.stopped.append(worker.id)

    @property
    def are_awake(self) -> bool:
        """True if workers run, ready or not."""
        if self.wake_s is None:
            return True
        return self._asked_at is not None and monotonic() - self._asked_at >= self.wake_s

    def ready(self) -> list[EdgeWorker]:
        """Return the workers that take requests."""
        return [worker for worker in self.by_id.values() if worker.state == "ready"] if self.are_awake else []

    def chosen(self, preferred: str | None, *, strict: bool) -> EdgeWorker | None:
        """Return the preferred worker, or without `strict` the one that has least to do."""
        ready = self.ready()
        for worker in ready:
            if worker.id == preferred:
                return worker
        return None if strict else min(ready, key=lambda worker: (worker.running, worker.served), default=None)

    def is_gone(self, worker_id: str) -> bool:
        """Return whether that worker will not come back."""
        worker = self.by_id.get(worker_id)
        return worker is None or worker.state == "unhealthy" or not self.are_awake

    def counts(self) -> Counter[str]:
        """Return how many are in which state, as /health has it."""
        if not self.are_awake:
            return Counter(initializing=len(self.by_id) if self._asked_at is not None else 0)
        states = Counter[str](worker.state for worker in self.by_id.values())
        states["running"] = sum(worker.running > 0 for worker in self.ready())
        states["idle"] = states["ready"] - states["running"]
        return states

    async def ping(self, session: aiohttp.ClientSession) -> None:
        """Ask each worker how it is: 200 ready, 204 warming, anything else is out."""
        await asyncio.gather(*(self._ping(session, worker) for worker in list(self.by_id.values())))

    async def _ping(self, session: aiohttp.ClientSession, worker: EdgeWorker) -> None:
        try:
            timeout = aiohttp.ClientTimeout(total=5)
            async with session.get(f"{worker.url}/ping", timeout=timeout, allow_redirects=False) as reply:
                status = reply.status
        except (aiohttp.ClientError, TimeoutError):
            # A container whose server does not listen yet is no reason to give it up.
            worker.state = "initializing" if not worker.pinged else "unhealthy"
            return
        worker.pinged[status] += 1
        states: dict[int, State] = {200: "ready", 204: "initializing"}
        worker.state = states.get(status, "unhealthy")
