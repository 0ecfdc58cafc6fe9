"""A pod as something to rent."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ..net.clock import Clock
from ..protocol.messages import Welcome
from . import client_settings
from .context import RentalContext
from .gpu_choice import Candidate
from .plan import PORT, Plan
from .readiness import settings_for, wait_for_pod
from .records import Kind, Rental


class PodRental:
    """A pod: see `renting.Rentable`."""

    kind: Final[Kind] = "pod"

    def __init__(
        self, context: RentalContext, plan: Plan, model: str | None = None, clock: Clock | None = None
    ) -> None:
        """`model`: loaded before the pod counts as ready, if its worker has it."""
        self._context = context
        self._plan = plan
        self._model = model
        self._clock = clock or Clock()

    def make(self, rental: Rental, candidate: Candidate) -> str:
        """See `Rentable`."""
        if rental.token is None:
            raise AssertionError
        return self._context.api.create_pod(self._plan.pod(rental.name, candidate, rental.token)).id

    def wait(self, rental: Rental) -> tuple[str, Welcome]:
        """See `Rentable`."""
        if rental.id is None:
            raise AssertionError
        url = self._context.api.pod_address(rental.id, PORT)
        context = replace(self._context, settings=settings_for(self._context.settings, url, rental.token))
        welcome = wait_for_pod(context, rental.id, self._model, self._clock)
        return str(url), welcome

    def client_settings(self, rental: Rental) -> dict[str, str | None]:
        """See `Rentable`."""
        if rental.url is None or rental.token is None:
            raise AssertionError
        return client_settings.for_pod(rental.url, rental.token, rental.dollars_an_hour)
