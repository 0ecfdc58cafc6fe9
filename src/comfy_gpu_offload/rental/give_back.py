"""The end of what was rented: deleted by its id and by its name, tried again while RunPod cannot be asked."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from time import sleep

from ..errors import OffloadError, RentalError, RunPodAuthError, StillBillingError
from ..runpod.rest.client import RestClient
from .found import deleter, found_named
from .progress import Progress
from .records import Rental

_CONSOLE = {
    "pod": "https://console.runpod.io/pods",
    "endpoint": "https://console.runpod.io/serverless",
    "volume": "https://console.runpod.io/user/storage",
}
# Between attempts, in seconds: a short outage passes, and nobody waits longer than a minute to be told.
_WAITS_S = (1.0, 2.0, 4.0, 8.0, 15.0)
# A request that was cut off may still make something. It is looked for that often, in seconds apart; so is what a
# deletion should have ended.
_LOOKS, _LOOK_S = 5, 2.0
# After which nothing comes of such a request any more.
_UNDECIDED_S = 180.0

Sleep = Callable[[float], None]


def give_back(api: RestClient, rental: Rental, progress: Progress, wait: Sleep = sleep) -> int:
    """Delete what was rented, and all else of its name; return how many deletions that took.

    Raises:
        StillBillingError: it cannot be deleted, or RunPod cannot be asked; says what bills and what to do.
    """
    for pause in (*_WAITS_S, None):
        try:
            return _delete(api, rental, wait)
        except RunPodAuthError as error:
            raise still_billing(rental, error) from error
        except OffloadError as error:
            if pause is None:
                raise still_billing(rental, error) from error
            progress.detail(f"it cannot be given back yet ({error}); again in {pause:.0f} s")
            wait(pause)
    raise AssertionError


def still_billing(rental: Rental, error: OffloadError) -> StillBillingError:
    """Return the error that names what bills, and the command that ends it."""
    known = f" ({rental.id})" if rental.id else ""
    price = f" ${rental.dollars_an_hour:.2f} an hour" if rental.dollars_an_hour else ""
    return StillBillingError(
        f"The {rental.kind} {rental.name}{known} could not be deleted: {error}\n"
        f"It may still bill{price}. As soon as RunPod can be reached, run\n"
        f"  comfy-gpu-offload down {rental.name}\n"
        f"or delete it at {_CONSOLE[rental.kind]}."
    )


def _delete(api: RestClient, rental: Rental, wait: Sleep) -> int:
    """Delete until nothing of that name is listed any more: RunPod may accept a deletion that has no effect.

    Raises:
        RunPodError: RunPod could not be asked.
        RentalError: it lists it still.
    """
    delete = deleter(api, rental.kind)
    gone: set[str] = set()
    if rental.id is not None:
        delete(rental.id)
        gone.add(rental.id)
    is_awaited = rental.id is None and _is_undecided(rental)
    for _ in range(_LOOKS):
        there = found_named(api, rental.kind, rental.name)
        if not there and (gone or not is_awaited):
            return len(gone)
        for each in there:
            delete(each.id)
            gone.add(each.id)
        wait(_LOOK_S)
    if gone:
        raise RentalError("RunPod has accepted its deletion, and lists it still")
    return 0


def _is_undecided(rental: Rental) -> bool:
    return (datetime.now(UTC) - rental.made).total_seconds() < _UNDECIDED_S
