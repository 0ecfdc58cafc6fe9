"""The network volume that a rental keeps its models on: one that is there, or a new one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from ..errors import ConfigError, NothingFitsError
from ..runpod.rest.client import RestClient
from ..runpod.rest.creation_requests import VolumeRequest
from ..runpod.rest.schema import Volume
from .context import RentalContext
from .give_back import give_back
from .gpu_choice import Candidate
from .names import new_name
from .records import Rental

DOLLARS_A_GB_AND_MONTH = 0.07
_NEW = re.compile(r"new:(\d{1,4})")
_SMALLEST_GB, _LARGEST_GB = 10, 4096


@dataclass(frozen=True)
class VolumeWish:
    """A volume by its id or name, or the size of a new one in GB."""

    name: str | None = None
    new_gb: int | None = None

    @classmethod
    def parse(cls, text: str) -> VolumeWish:
        """Return the wish that ``ID``, ``NAME`` or ``new:GB`` is.

        Raises:
            ValueError: the size is not one that RunPod has.
        """
        size = _NEW.fullmatch(text)
        if size is None:
            return cls(name=text)
        if not _SMALLEST_GB <= int(size[1]) <= _LARGEST_GB:
            raise ValueError(f"a new volume has {_SMALLEST_GB} to {_LARGEST_GB} GB")
        return cls(new_gb=int(size[1]))

    @property
    def dollars_a_month(self) -> float:
        """The bill of a new one for a month; 0 for one that is there."""
        return (self.new_gb or 0) * DOLLARS_A_GB_AND_MONTH


@dataclass(frozen=True)
class Place:
    """A volume's id, and the data centre to which it ties what uses it."""

    id: str
    data_centre: str


def place_of(api: RestClient, name: str) -> Place:
    """Return where the volume of that id or name is.

    Raises:
        ConfigError: there is none, or there are several.
    """
    volumes = api.volumes()
    found = [each for each in volumes if name in {each.id, each.name}]
    if len(found) == 1:
        return Place(found[0].id, found[0].data_centre)
    if found:
        raise ConfigError(f"--volume {name}: several have that name; use the id: {_listed(found)}.")
    raise ConfigError(f"--volume {name}: there is no such volume; there is: {_listed(volumes) or 'none at all'}.")


def limited(candidates: Sequence[Candidate], data_centre: str) -> tuple[Candidate, ...]:
    """Return the candidates that are in stock in a data centre, asked for there alone.

    Raises:
        NothingFitsError: none is.
    """
    there = tuple(
        replace(each, data_centres=(data_centre,))
        for each in candidates
        if each.cloud != "COMMUNITY" and data_centre in each.stock_in
    )
    if not there:
        raise NothingFitsError(
            f"Nothing that fits is in stock in {data_centre}, where the volume is: try again later, or do without "
            "the volume."
        )
    return there


@contextmanager
def new_volume(context: RentalContext, size_gb: int, candidates: Sequence[Candidate]) -> Iterator[Place]:
    """Make a volume where the first candidate is in stock; delete it if the block fails: nothing is on it then.

    Raises:
        NothingFitsError: no candidate is in a data centre that takes volumes.
        RunPodError: it could not be made.
    """
    where = next((each.stock_in[0] for each in candidates if each.stock_in), None)
    if where is None:
        raise NothingFitsError("Nothing that fits is in a data centre that takes volumes: do without --volume.")
    rental = Rental(name=new_name(), kind="volume", machine=f"{size_gb} GB in {where}")
    try:
        try:
            context.records.save(rental)
            context.progress.stage(f"making a volume of {size_gb} GB in {where}")
            with context.interruptions.deferred():
                wanted = VolumeRequest.of(name=rental.name, size_gb=size_gb, data_centre=where)
                rental = rental.model_copy(update={"id": context.api.create_volume(wanted).id})
                context.records.save(rental)
            yield Place(str(rental.id), where)
        except BaseException:
            _delete(context, rental)
            raise
    except BaseException:
        _delete(context, rental)
        raise


def _delete(context: RentalContext, rental: Rental) -> None:
    with context.interruptions.deferred():
        if context.records.has(rental.name):
            give_back(context.api, rental, context.progress)
            context.records.forget(rental.name)


def _listed(volumes: Sequence[Volume]) -> str:
    return ", ".join(f"{each.name} ({each.id})" for each in volumes)
