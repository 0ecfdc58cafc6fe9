"""Our pods, endpoints and volumes at RunPod, found by their names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from ..runpod.rest.client import RestClient
from ..runpod.rest.schema import PodStatus
from .names import our_name
from .records import Kind

KINDS: tuple[Kind, ...] = ("pod", "endpoint", "volume")


@dataclass(frozen=True)
class Found:
    """Something of ours at RunPod.

    Attributes:
        name: as `names.new_name` gave it.
        state: in words: a pod's status, an endpoint's workers, a volume's size.
        dollars_an_hour: what it bills at present; None where RunPod does not say.
        since: when it was made; None where RunPod does not say.
        size_gb: of a volume.
        has_ended: whether nothing will come of it any more, though its disk may bill.
    """

    kind: Kind
    id: str
    name: str
    state: str
    dollars_an_hour: float | None = None
    since: datetime | None = None
    machine: str = ""
    size_gb: int = 0
    has_ended: bool = False


def found(api: RestClient, kinds: tuple[Kind, ...] = KINDS) -> tuple[Found, ...]:
    """Return what is ours, also what no record remembers.

    Raises:
        RunPodError: RunPod could not be asked.
    """
    listers = {"pod": _pods, "endpoint": _endpoints, "volume": _volumes}
    return tuple(each for kind in kinds for each in listers[kind](api))


def found_named(api: RestClient, kind: Kind, name: str) -> tuple[Found, ...]:
    """Return all of one kind that have that name: one as a rule, two if RunPod took a repeated request twice.

    Raises:
        RunPodError: RunPod could not be asked.
    """
    return tuple(each for each in found(api, (kind,)) if each.name == name)


def deleter(api: RestClient, kind: Kind) -> Callable[[str], None]:
    """Return what deletes one of that kind by its id."""
    return {"pod": api.delete_pod, "endpoint": api.delete_endpoint, "volume": api.delete_volume}[kind]


def _pods(api: RestClient) -> Iterator[Found]:
    for pod in api.pods():
        name = our_name(pod.name)
        if name is None or pod.status is PodStatus.TERMINATED:
            continue
        machine = " ".join(filter(None, [pod.gpu.id if pod.gpu else "", pod.data_centre or ""]))
        yield Found(
            *("pod", pod.id, name, pod.status.value.lower()),
            dollars_an_hour=pod.cost,
            since=pod.created_at,
            machine=machine,
            has_ended=pod.status.has_ended,
        )


def _endpoints(api: RestClient) -> Iterator[Found]:
    for endpoint in api.endpoints():
        name = our_name(endpoint.name)
        if name is not None:
            state = f"{endpoint.workers.min} to {endpoint.workers.max} workers"
            yield Found("endpoint", endpoint.id, name, state, since=endpoint.created_at)


def _volumes(api: RestClient) -> Iterator[Found]:
    for volume in api.volumes():
        name = our_name(volume.name)
        if name is not None:
            state = f"{volume.size_gb} GB"
            yield Found("volume", volume.id, name, state, machine=volume.data_centre, size_gb=volume.size_gb)
