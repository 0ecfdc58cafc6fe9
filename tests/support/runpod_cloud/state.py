"""State of the stand-in: pods, endpoints, volumes, their logs, and what each of them has cost."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

from tests.support.runpod_edge import LoadBalancerEdge

from .containers import Running
from .plan import PodPlan

Kind = Literal["pod", "endpoint", "volume"]
_DISK_PER_GB_HOUR = 0.10 / 730


def new_id() -> str:
    """Return an id as RunPod's: 14 letters and digits."""
    return "p" + secrets.token_hex(7)[:13]


def rfc3339(seconds: float) -> str:
    """Return a time since 1970 as RunPod writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Bill:
    """Something that bills now. `per_hour` in dollars."""

    kind: Kind
    id: str
    name: str
    per_hour: float


class Log:
    """The lines of a pod. Thread-safe."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._lines: list[dict[str, str]] = []

    def add(self, line: str, source: str = "container") -> None:
        """Add a line."""
        with self._lock:
            self._lines.append({"source": source, "line": line, "ts": rfc3339(self._now())})

    def after(self, number: int) -> list[dict[str, str]]:
        """Return the lines from that number on."""
        with self._lock:
            return self._lines[number:]

    def text(self) -> str:
        """Return all of it."""
        return "\n".join(line["line"] for line in self.after(0))


@dataclass
class CloudPod:
    """A pod. `looks` counts how often somebody asked for it; `body` is what it was made of."""

    kind: ClassVar[Kind] = "pod"
    id: str
    body: dict[str, Any]
    plan: PodPlan
    gpu_price: float
    began: float
    key: str
    log: Log
    ended: float | None = None
    looks: int = 0
    requests: int = 0
    deletes: int = 0
    is_stopped: bool = False
    terminate_after: float | None = None
    container: Running | None = None

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.body["name"])

    @property
    def status(self) -> str:
        """Its state after so many looks."""
        plan = self.plan
        if self.ended is not None:
            return "TERMINATED"
        if self.is_stopped:
            return "EXITED"
        if plan.outcome == "stuck" or self.looks <= plan.provisioning:
            return "PROVISIONING"
        if self.looks <= plan.provisioning + plan.starting:
            return "STARTING"
        return {"error": "ERROR", "exited": "EXITED"}.get(plan.outcome, "RUNNING")

    @property
    def has_vanished(self) -> bool:
        """True for one that the plan lets vanish by now."""
        begun = self.plan.provisioning + self.plan.starting
        if self.plan.outcome == "vanishes":
            return self.looks > begun
        return self.plan.vanishes_after is not None and self.looks > begun + self.plan.vanishes_after

    @property
    def per_hour(self) -> float:
        """Dollars per hour at present: the disk of one that has stopped, too."""
        if self.ended is not None:
            return 0.0
        disk = float(self.body.get("disk", 20)) * _DISK_PER_GB_HOUR
        return disk + (0.0 if self.status in {"EXITED", "ERROR"} else self.gpu_price)

    def cost(self, now: float) -> float:
        """Return what it has cost, in dollars."""
        return ((self.ended if self.ended is not None else now) - self.began) / 3600 * self.gpu_price

    def as_json(self, now: float) -> dict[str, Any]:
        """Return it as ``GET /pods/{id}`` does."""
        body, status = self.body, self.status
        running = {"uptime": int(now - self.began), "ports": [], "gpus": []} if status == "RUNNING" else None
        ends = {"EXITED", "TERMINATED"}
        return {
            "id": self.id,
            "name": self.name,
            "status": status,
            "actions": ["stop", "restart", "terminate"] if status == "RUNNING" else ["start", "terminate"],
            "image": body["image"],
            "args": body.get("args", ""),
            "disk": body.get("disk", 20),
            "mounts": body.get("mounts", {}),
            "ports": body.get("ports", []),
            "env": body.get("env", {}),
            "registry": None,
            "gpu": {"id": body["gpu"]["id"], "count": body["gpu"]["count"]},
            "cloud": body.get("cloud", "SECURE"),
            "dataCenterId": (body.get("dataCenterIds") or ["EU-RO-1"])[0],
            "cudaVersion": "12.8",
            "ssh": {"proxy": None, "direct": None},
            "template": None,
            "cost": 0.0 if status in ends else self.gpu_price,
            "locked": False,
            "runtime": running,
            "createdAt": rfc3339(self.began),
            "startedAt": rfc3339(self.began) if status == "RUNNING" else None,
            "globalNetworking": {"enabled": False},
        }


@dataclass
class CloudEndpoint:
    """A serverless endpoint. `edge` is its address; its one worker runs from its beginning to its end."""

    kind: ClassVar[Kind] = "endpoint"
    id: str
    body: dict[str, Any]
    price: float
    began: float
    edge: LoadBalancerEdge
    log: Log
    container: Running | None = None
    worker_id: str = field(default_factory=new_id)
    ended: float | None = None

    @property
    def name(self) -> str:
        """Its name, to which RunPod adds something with FlashBoot."""
        return str(self.body["name"]) + (" -fb" if self.body.get("flashboot", "OFF") != "OFF" else "")

    @property
    def per_hour(self) -> float:
        """Dollars per hour."""
        return self.price

    def cost(self, now: float) -> float:
        """Return what it has cost, in dollars."""
        return ((self.ended if self.ended is not None else now) - self.began) / 3600 * self.price

    def as_json(self) -> dict[str, Any]:
        """Return it as ``GET /serverless/{id}`` does."""
        body = self.body
        gpu = {"count": 1, "allowedCudaVersions": [], "minCudaVersion": None, **body["gpu"]}
        return {
            "id": self.id,
            "name": self.name,
            "type": body["type"],
            "requestUrls": {"base": self.edge.url, "health": f"{self.edge.url}/ping"},
            "image": body["image"],
            "args": body.get("args", ""),
            "disk": body.get("disk", 20),
            "ports": body.get("ports", []),
            "env": body.get("env", {}),
            "registry": None,
            "gpu": gpu,
            "workers": {"min": 0, "max": 3, "idleTimeout": 10, **body.get("workers", {})},
            "scaling": body["scaling"],
            "dataCenterIds": body.get("dataCenterIds", []),
            "networkVolumes": body.get("networkVolumes", []),
            "timeout": body.get("timeout", 0),
            "flashboot": body.get("flashboot", "OFF"),
            "createdAt": rfc3339(self.began),
        }


@dataclass
class CloudVolume:
    """A network volume."""

    kind: ClassVar[Kind] = "volume"
    id: str
    body: dict[str, Any]
    began: float
    ended: float | None = None

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.body["name"])

    @property
    def per_hour(self) -> float:
        """Dollars per hour."""
        return float(self.body["size"]) * 0.07 / 730

    def cost(self, now: float) -> float:
        """Return what it has cost, in dollars."""
        return ((self.ended if self.ended is not None else now) - self.began) / 3600 * self.per_hour

    def as_json(self) -> dict[str, Any]:
        """Return it as ``GET /network-volumes/{id}`` does."""
        return {
            "id": self.id,
            "type": "STANDARD",
            **{name: self.body[name] for name in ("name", "size", "dataCenter")},
        }
