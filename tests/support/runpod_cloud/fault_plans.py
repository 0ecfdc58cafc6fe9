"""Plans of what goes wrong at RunPod while something is rented or given back, as requests and replies show it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.support.faults import Fault

from comfy_gpu_offload.errors import (
    MachineError,
    NothingFitsError,
    OffloadError,
    RunPodAuthError,
    RunPodBalanceError,
    RunPodForbiddenError,
    RunPodReplyError,
    RunPodRuleError,
    RunPodServerError,
    StillBillingError,
)

from .cloud import RunpodCloud
from .plan import NO_CAPACITY, PodPlan

GOOD = PodPlan()
EVER = 10**6
_CREATE, _LOOK, _DELETE, _LIST, _LOG = (
    "POST /pods",
    "GET /pods/{id}",
    "DELETE /pods/{id}",
    "GET /pods",
    "GET /pods/{id}/logs",
)
_PAGE = "<html><head><title>502 Bad Gateway</title></head></html>"
_FAILS = PodPlan(0, 0, "error")


def problem(status: int, detail: str, **headers: str) -> Fault:
    """Return a refusal as RunPod writes it, with headers whose names have `_` for `-`."""
    body = {"title": "Refused", "status": status, "detail": detail}
    return Fault(status, body, {name.replace("_", "-"): text for name, text in headers.items()})


@dataclass(frozen=True)
class Fate:
    """A fault of the next `times` requests to a route, once `after` more have gone well."""

    route: str
    fault: Fault
    times: int = 1
    after: int = 0


@dataclass(frozen=True)
class FaultPlan:
    """A plan of what goes wrong, and of how it has to end.

    Attributes:
        plans: of the pods, in the order in which they are made; the last one serves for all that follow.
        fates: what happens to requests.
        empty: what is not in stock although the catalogue says so.
        cloud: further arguments of `RunpodCloud`.
        error: what it has to end in; None for success.
        pods: how many pods it takes.
        bills: what is allowed to bill after the error, because nothing could end it.
    """

    fates: tuple[Fate, ...] = ()
    plans: tuple[PodPlan, ...] = (GOOD,)
    empty: frozenset[str] = frozenset()
    cloud: dict[str, Any] = field(default_factory=dict)
    error: type[OffloadError] | None = None
    pods: int = 1
    bills: int = 0

    def apply(self, cloud: RunpodCloud) -> None:
        """Let it happen to `cloud`."""
        cloud.capacity.is_late = True
        cloud.capacity.empty = set(self.empty)
        for fate in self.fates:
            cloud.faults.add(fate.route, fate.fault, times=fate.times, after=fate.after)


def _at(route: str, fault: Fault, times: int = 1, after: int = 0) -> tuple[Fate, ...]:
    return (Fate(route, fault, times, after),)


UP: dict[str, FaultPlan] = {
    # The create.
    "the create is lost on its way": FaultPlan(_at(_CREATE, Fault(drop="request"))),
    "the create's reply is lost": FaultPlan(_at(_CREATE, Fault(drop="reply"))),
    "the create's reply breaks off": FaultPlan(_at(_CREATE, Fault(drop="reply", after_bytes=100))),
    "the create meets a gateway's page": FaultPlan(_at(_CREATE, Fault(502, _PAGE))),
    "the create fails twice": FaultPlan(_at(_CREATE, problem(500, "internal error"), times=2)),
    "the create is limited, with a time": FaultPlan(_at(_CREATE, problem(429, "slower", Retry_After="7"))),
    "the create is limited, without a time": FaultPlan(_at(_CREATE, problem(429, "slower"))),
    "the create is answered by a page": FaultPlan(_at(_CREATE, Fault(200, "<html>Welcome to this hotel</html>"))),
    "the create is answered in another form": FaultPlan(_at(_CREATE, Fault(201, {"pod": {"id": 7}}))),
    "one GPU is taken": FaultPlan(_at(_CREATE, problem(400, NO_CAPACITY))),
    "the cheaper cloud is empty": FaultPlan(empty=frozenset({"NVIDIA L4 COMMUNITY"})),
    "everything is taken": FaultPlan(_at(_CREATE, problem(400, NO_CAPACITY), EVER), error=NothingFitsError, pods=0),
    "the account is empty": FaultPlan(cloud={"balance": 0.01}, error=RunPodBalanceError, pods=0),
    "the key only reads": FaultPlan(cloud={"read_only": True}, error=RunPodForbiddenError, pods=0),
    "the key is withdrawn": FaultPlan(_at(_CREATE, problem(401, "invalid")), error=RunPodAuthError, pods=0),
    "one GPU is not for this account": FaultPlan(_at(_CREATE, problem(403, "no access to this pool"))),
    "one GPU is refused in other words": FaultPlan(_at(_CREATE, problem(400, "placement failed"))),
    "a rule is broken": FaultPlan(
        _at(_CREATE, problem(400, "image is not allowed"), EVER), error=RunPodRuleError, pods=0
    ),
    "the body is refused": FaultPlan(
        _at(_CREATE, problem(422, "validation failed")), error=RunPodRuleError, pods=0
    ),
    "a login page is in between": FaultPlan(
        _at(_CREATE, Fault(302, "", {"Location": "https://login.example/"})), error=RunPodReplyError, pods=0
    ),
    "RunPod fails for good": FaultPlan(_at(_CREATE, problem(500, "oh"), EVER), error=RunPodServerError, pods=0),
    # The pod.
    "the pod fails": FaultPlan(plans=(_FAILS, GOOD), pods=2),
    "the pod exits": FaultPlan(plans=(PodPlan(0, 1, "exited"), GOOD), pods=2),
    "the pod vanishes": FaultPlan(plans=(PodPlan(1, 1, "vanishes"), GOOD), pods=2),
    "no machine is ever found": FaultPlan(plans=(PodPlan(outcome="stuck"), GOOD), pods=2),
    "the image is never there": FaultPlan(plans=(PodPlan(0, EVER), GOOD), pods=2),
    "RUNNING is a lie": FaultPlan(plans=(PodPlan(0, 0, lies=True), GOOD), pods=2),
    "the worker is late": FaultPlan(plans=(PodPlan(0, 0, refusals=8),)),
    "every machine fails": FaultPlan(plans=(_FAILS,), error=MachineError, pods=3),
    "the address times out at first": FaultPlan(_at("proxy", Fault(524, "<title>524</title>"), 4)),
    # Looks at it.
    "looks are lost": FaultPlan(_at(_LOOK, Fault(drop="reply"), 4)),
    "looks fail": FaultPlan(_at(_LOOK, problem(503, "later"), 4)),
    "a look is limited": FaultPlan(_at(_LOOK, problem(429, "slower", Retry_After="20"))),
    "a look does not find the pod": FaultPlan(_at(_LOOK, problem(404, "pod not found")), pods=2),
    "a look tells of a state that is new": FaultPlan(_at(_LOOK, Fault(200, "{}"), 2)),
    "a minute's requests are used up": FaultPlan(cloud={"per_minute": 4}),
    "there is no log": FaultPlan(_at(_LOG, problem(500, "oh"), EVER)),
    "the log breaks off": FaultPlan(_at(_LOG, Fault(drop="request"), EVER)),
    # The end of one that failed.
    "a deletion is lost on its way": FaultPlan(_at(_DELETE, Fault(drop="request"), 2), (_FAILS, GOOD), pods=2),
    "a deletion's reply is lost": FaultPlan(_at(_DELETE, Fault(drop="reply")), (_FAILS, GOOD), pods=2),
    "a deletion fails": FaultPlan(_at(_DELETE, problem(500, "oh"), 3), (_FAILS, GOOD), pods=2),
    "a deletion is limited": FaultPlan(
        _at(_DELETE, problem(429, "slower", Retry_After="30"), 2), (_FAILS, GOOD), pods=2
    ),
    "a deletion has no effect": FaultPlan(plans=(PodPlan(0, 0, "error", undeletable=2), GOOD), pods=2),
    "the list fails when one is given back": FaultPlan(_at(_LIST, problem(500, "oh"), 3), (_FAILS, GOOD), pods=2),
    "deletions are refused for good": FaultPlan(
        _at(_DELETE, problem(403, "denied"), EVER), (_FAILS,), error=StillBillingError, bills=1
    ),
    "deletions are never answered": FaultPlan(
        _at(_DELETE, Fault(drop="request"), EVER), (_FAILS,), error=StillBillingError, bills=1
    ),
}

DOWN: dict[str, FaultPlan] = {
    "nothing": FaultPlan(),
    "the list is lost": FaultPlan(_at(_LIST, Fault(drop="reply"), 3)),
    "the list fails": FaultPlan(_at(_LIST, problem(503, "later"), 3)),
    "the list is limited": FaultPlan(_at(_LIST, problem(429, "slower", Retry_After="11"))),
    "the list is a page": FaultPlan(_at(_LIST, Fault(200, _PAGE), EVER), error=RunPodReplyError, bills=1),
    "the deletion is lost on its way": FaultPlan(_at(_DELETE, Fault(drop="request"), 3)),
    "the deletion's reply is lost": FaultPlan(_at(_DELETE, Fault(drop="reply"))),
    "the deletion meets a gateway's page": FaultPlan(_at(_DELETE, Fault(502, _PAGE), 2)),
    "the deletion is limited": FaultPlan(_at(_DELETE, problem(429, "slower", Retry_After="11"), 2)),
    "the deletion has no effect at first": FaultPlan(plans=(PodPlan(0, 0, undeletable=2),)),
    "the deletion never has an effect": FaultPlan(
        plans=(PodPlan(0, 0, undeletable=EVER),), error=StillBillingError, bills=1
    ),
    "the pod is gone already": FaultPlan(
        _at(_DELETE, problem(404, "pod not found"), EVER), (PodPlan(0, 0, "vanishes"),)
    ),
    "the bill cannot be read": FaultPlan(_at("GET /billing/pods", problem(500, "oh"), EVER)),
    "the key only reads": FaultPlan(_at(_DELETE, problem(403, "denied"), EVER), error=StillBillingError, bills=1),
    "the key is withdrawn": FaultPlan(_at("*", problem(401, "invalid"), EVER), error=RunPodAuthError, bills=1),
}
