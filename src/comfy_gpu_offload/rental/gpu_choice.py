"""The choice of a GPU: the offers that fit a wish, the cheapest first, and the reason where there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from ..errors import NothingFitsError
from ..runpod.rest.schema import Availability, GpuOffer

Cloud = Literal["SECURE", "COMMUNITY"]
CLOUDS: tuple[Cloud, ...] = ("SECURE", "COMMUNITY")
_IN_STOCK = (Availability.UNKNOWN, Availability.LOW, Availability.MEDIUM, Availability.HIGH)
_MAKER = "NVIDIA"


@dataclass(frozen=True)
class GpuWish:
    """Properties that a GPU must have.

    Attributes:
        memory_gb: at least.
        gpu: words of its name or id, in any case: ``4090``, ``rtx a5000``. It then counts more than the memory.
        max_price: dollars an hour at most.
        region: the beginning of a data centre's id: ``EU``, ``US-KS``; it leaves the secure cloud alone.
    """

    memory_gb: float
    gpu: str | None = None
    max_price: float | None = None
    region: str | None = None


@dataclass(frozen=True)
class Candidate:
    """A GPU type in one cloud, which can be asked for.

    Attributes:
        gpu: RunPod's id; for an endpoint, of its pool.
        cloud: None for an endpoint.
        dollars_an_hour: its price.
        data_centres: where it may be; none for anywhere.
        stock_in: the data centres that have it in stock, those with the most first.
    """

    gpu: str
    name: str
    memory_gb: int
    cloud: Cloud | None
    dollars_an_hour: float
    availability: Availability
    data_centres: tuple[str, ...] = ()
    stock_in: tuple[str, ...] = ()

    def __str__(self) -> str:
        cloud = "serverless" if self.cloud is None else f"{self.cloud.lower()} cloud"
        return f"{self.name}, {self.memory_gb} GB, {cloud}, ${self.dollars_an_hour:.2f} an hour"


def candidates(offers: Mapping[Cloud | None, Iterable[GpuOffer]], wish: GpuWish) -> tuple[Candidate, ...]:
    """Return what can be asked for, the cheapest first; of the same price, what has the most stock.

    `offers`: by the cloud whose stock they tell; None for endpoints.

    Raises:
        NothingFitsError: nothing can; says which part of the wish is in the way.
    """
    known = [each for each in _all(offers, wish) if _is_meant(each, wish)]
    if not known:
        wanted = "GPU" if wish.gpu is None else f"GPU {wish.gpu!r}"
        raise NothingFitsError(f"RunPod lists no {wanted} there: leave --gpu and --region out to see what it has.")
    large = [each for each in known if wish.gpu is not None or each.memory_gb >= wish.memory_gb]
    if not large:
        largest = max(known, key=lambda each: each.memory_gb)
        raise NothingFitsError(
            f"No GPU there has {wish.memory_gb:.0f} GB; the largest is {largest}. Choose a smaller form of the "
            "model (fp8, GGUF)."
        )
    found = [each for each in large if each.availability in _IN_STOCK]
    if not found:
        names = ", ".join(dict.fromkeys(each.name for each in large))
        raise NothingFitsError(
            f"Nothing that fits is in stock at present ({names:.300}): try again later, or allow more with "
            "--cloud, --region or --gpu."
        )
    affordable = [each for each in found if wish.max_price is None or each.dollars_an_hour <= wish.max_price]
    if not affordable:
        cheapest = min(found, key=lambda each: each.dollars_an_hour)
        raise NothingFitsError(
            f"Nothing that fits is in stock for ${wish.max_price:.2f} an hour; the cheapest is {cheapest}. Raise "
            "--max-price."
        )
    return tuple(sorted(affordable, key=lambda each: (each.dollars_an_hour, -_IN_STOCK.index(each.availability))))


def _all(offers: Mapping[Cloud | None, Iterable[GpuOffer]], wish: GpuWish) -> list[Candidate]:
    found: list[Candidate] = []
    for cloud, of_cloud in offers.items():
        for offer in of_cloud:
            if offer.manufacturer.upper() not in {"", _MAKER}:
                continue  # torch's builds in the images are for CUDA
            found += _for_endpoint(offer, wish.region) if cloud is None else _in_cloud(offer, cloud, wish.region)
    return found


def _in_cloud(offer: GpuOffer, cloud: Cloud, region: str | None) -> list[Candidate]:
    if cloud == "SECURE":
        has_it, price = offer.secure, offer.price.secure
    else:
        has_it, price = offer.community, offer.price.community
    if not has_it or not price or (region is not None and cloud != "SECURE"):  # data centres are RunPod's own
        return []
    return _candidates(offer, offer.id, cloud, price, region)


def _for_endpoint(offer: GpuOffer, region: str | None) -> list[Candidate]:
    if not offer.pool or not offer.price.serverless:
        return []
    return _candidates(offer, offer.pool, None, offer.price.serverless, region)


def _candidates(
    offer: GpuOffer, gpu: str, cloud: Cloud | None, price: float, region: str | None
) -> list[Candidate]:
    """Return the candidate that an offer is; none if it is not in the region at all."""
    there = [each for each in offer.data_centres if region is None or each.id.upper().startswith(region.upper())]
    if region is not None and not there:
        return []
    stocked = sorted(
        (each for each in there if each.availability in _IN_STOCK),
        key=lambda each: -_IN_STOCK.index(each.availability),
    )
    stock_in = tuple(each.id for each in stocked)
    availability = offer.availability
    if region is not None:
        availability = stocked[0].availability if stocked else Availability.NONE
    name, within = offer.name or offer.id, () if region is None else stock_in
    return [Candidate(gpu, name, offer.memory_gb, cloud, price, availability, within, stock_in)]


def _is_meant(candidate: Candidate, wish: GpuWish) -> bool:
    if wish.gpu is None:
        return True
    said = f"{candidate.name} {candidate.gpu}".lower()
    return all(word in said for word in wish.gpu.lower().split())
