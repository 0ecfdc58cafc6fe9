"""The cost of our rentals: by the hour at present, and so far by RunPod's bill."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ..runpod.rest.client import RestClient
from ..runpod.rest.schema import BillingRecord, WorkerStatus
from .found import Found, found
from .records import Kind, Rental
from .volumes import DOLLARS_A_GB_AND_MONTH

_HOURS_A_MONTH = 730
_NOT_BILLED = {WorkerStatus.THROTTLED}


@dataclass(frozen=True)
class Spending:
    """A rental with its bill. `so_far`: dollars of the last 30 days; None where the bill does not name it yet."""

    found: Found
    so_far: float | None


def spending(api: RestClient, records: Iterable[Rental]) -> tuple[Spending, ...]:
    """Return what is ours at RunPod, pods first, with what it costs.

    Raises:
        RunPodError: RunPod could not be asked.
    """
    known = {each.name: each for each in records}
    ours = [_priced(api, each, known.get(each.name)) for each in found(api)]
    bills = {kind: _bill(api, kind) for kind in dict.fromkeys(each.kind for each in ours)}
    return tuple(Spending(each, bills[each.kind].get(each.id)) for each in ours)


def cost_so_far(api: RestClient, kind: Kind, id_: str) -> float | None:
    """Return the dollars on the bill of one rental; None where it is not on it yet.

    Raises:
        RunPodError: RunPod could not be asked.
    """
    return _bill(api, kind, id_).get(id_)


def _bill(api: RestClient, kind: Kind, only: str | None = None) -> Mapping[str, float]:
    ask = {"pod": api.pod_billing, "endpoint": api.endpoint_billing, "volume": api.volume_billing}[kind]
    total: dict[str, float] = defaultdict(float)
    records: list[BillingRecord] = ask(only)
    for record in records:
        total[record.id] += record.total
    return total


def _priced(api: RestClient, each: Found, record: Rental | None) -> Found:
    """Return it with its price an hour, where RunPod does not list that."""
    if each.kind == "volume":
        return replace(each, dollars_an_hour=each.size_gb * DOLLARS_A_GB_AND_MONTH / _HOURS_A_MONTH)
    if each.kind == "pod":
        return each
    working = [worker for worker in api.endpoint_workers(each.id) if worker.status not in _NOT_BILLED]
    state = f"{len(working)} {'worker' if len(working) == 1 else 'workers'} now"
    price = None if record is None and working else len(working) * (record.dollars_an_hour if record else 0.0)
    return replace(each, state=state, dollars_an_hour=price)
