"""The giving back of rentals by name: those that a record remembers, and those that are only found at RunPod."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ConfigError, OffloadError, StillBillingError
from ..runpod.rest.client import RestClient
from . import client_settings
from .context import RentalContext
from .found import found
from .give_back import give_back
from .records import Kind, Records, Rental
from .spending import cost_so_far


@dataclass(frozen=True)
class Ended:
    """A rental that is given back.

    Attributes:
        was_there: False if nothing of that name was left at RunPod.
        so_far: dollars on the bill; None where it is not on it yet.
        settings_put_back: whether its address was still in the `.env`, and what stood there before is back.
    """

    rental: Rental
    was_there: bool
    so_far: float | None
    settings_put_back: bool


@dataclass(frozen=True)
class Ending:
    """A rental to give back, and whether RunPod lists it."""

    rental: Rental
    is_there: bool


def chosen(
    api: RestClient, records: Records, names: Sequence[str], *, everything: bool, volumes: bool
) -> list[Ending]:
    """Return what is to be given back.

    Args:
        names: or RunPod's ids; none for the only one there is.
        everything: all pods and endpoints of ours, if no names are given.
        volumes: also the volumes of ours, whose files are then lost.

    Raises:
        ConfigError: nothing has such a name, or there are several and none is named.
        RunPodError: RunPod could not be asked.
    """
    ours = _ours(api, records)
    if names:
        return [_named(name, ours) for name in names]
    kinds: set[Kind] = {"pod", "endpoint", "volume"} if volumes else {"pod", "endpoint"}
    meant = [each for each in ours if each.rental.kind in kinds]
    if len(meant) > 1 and not everything and not volumes:
        listed = "\n".join(f"  {each.rental.name}  {each.rental.kind}  {each.rental.machine}" for each in meant)
        raise ConfigError(f"There are several: name those to give back, or add --all.\n{listed}")
    return meant


def end_all(context: RentalContext, endings: Sequence[Ending]) -> tuple[list[Ended], list[StillBillingError]]:
    """Give back each; return what is, and an error for each that is not."""
    ended: list[Ended] = []
    errors: list[StillBillingError] = []
    for ending in endings:
        try:
            with context.interruptions.deferred():
                ended.append(_end(context, ending))
        except StillBillingError as error:
            errors.append(error)
    return ended, errors


def _end(context: RentalContext, ending: Ending) -> Ended:
    rental = ending.rental
    context.progress.stage(f"giving back {rental.name}")
    count = give_back(context.api, rental, context.progress)
    put_back = client_settings.put_back(rental)
    context.records.forget(rental.name)
    return Ended(
        rental, ending.is_there or (count > 0 and rental.id is None), _so_far(context.api, rental), put_back
    )


def _so_far(api: RestClient, rental: Rental) -> float | None:
    if rental.id is None:
        return None
    try:
        return cost_so_far(api, rental.kind, rental.id)
    except OffloadError:  # it is given back all the same
        return None


def _ours(api: RestClient, records: Records) -> list[Ending]:
    """Return all rentals: records, with the id that RunPod has, and what no record remembers."""
    by_name = {each.name: each for each in records.all()}
    there = set[str]()
    for each in found(api):
        record = by_name.get(each.name) or Rental(name=each.name, kind=each.kind, machine=each.machine)
        if record.id is None:
            price = each.dollars_an_hour or record.dollars_an_hour
            record = record.model_copy(update={"id": each.id, "dollars_an_hour": price})
        by_name[each.name] = record
        there.add(each.name)
    return [Ending(each, each.name in there) for each in by_name.values()]


def _named(name: str, ours: Sequence[Ending]) -> Ending:
    for each in ours:
        if name in {each.rental.name, each.rental.id}:
            return each
    raise ConfigError(
        f"There is nothing of yours named {name:.80}; `comfy-gpu-offload status` lists what there is."
    )


def raised_together(errors: Sequence[StillBillingError]) -> None:
    """Raise what could not be given back, if anything, as one error."""
    if errors:
        raise StillBillingError("\n".join(map(str, errors)))
