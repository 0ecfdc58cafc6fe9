"""Rentals that run already: found at RunPod, with their records, to be used in place of another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..config.address import Address
from ..config.settings import Settings
from ..protocol.messages import Welcome
from ..runpod.rest.client import RestClient
from . import client_settings
from .found import Found, found
from .readiness import call_works, settings_for, settings_for_endpoint
from .records import Records, Rental


@dataclass(frozen=True)
class Running:
    """A pod or an endpoint of ours, and its record; None where that is lost, or was left by an unfinished `up`."""

    found: Found
    rental: Rental | None


def running(api: RestClient, records: Records) -> tuple[Running, ...]:
    """Return the pods and endpoints of ours that have not ended.

    Raises:
        RunPodError: RunPod could not be asked.
    """
    known = {each.name: each for each in records.all() if each.url is not None}
    at_runpod = [each for each in found(api, ("pod", "endpoint")) if not each.has_ended]
    return tuple(Running(each, known.get(each.name)) for each in at_runpod)


def use(rental: Rental, records: Records, settings: Settings, model: str | None) -> tuple[Rental, Welcome]:
    """Have the client use a rental that runs, once a call of it works.

    Raises:
        OffloadError: no call of it works.
    """
    file = client_settings.env_file_for_client()
    if rental.url is None:
        raise AssertionError
    url = Address.parse(rental.url)
    welcome = call_works(_settings_of(rental, url, settings), model)
    values = _values(rental)
    others = [each for each in records.all() if each.kind != "volume"]
    rental = rental.model_copy(
        update={"env_file": file, "replaced": client_settings.standing(file, values, others)}
    )
    records.save(rental)
    client_settings.write(file, values)
    return rental, welcome


def _settings_of(rental: Rental, url: Address, settings: Settings) -> Settings:
    if rental.kind == "pod":
        return settings_for(settings, url, rental.token)
    return settings_for_endpoint(settings, url, str(rental.id))


def _values(rental: Rental) -> Mapping[str, str | None]:
    if rental.kind == "pod" and rental.url and rental.token:
        return client_settings.for_pod(rental.url, rental.token, rental.dollars_an_hour)
    if rental.id and rental.url:
        return client_settings.for_endpoint(rental.id, rental.url, rental.dollars_an_hour)
    raise AssertionError
