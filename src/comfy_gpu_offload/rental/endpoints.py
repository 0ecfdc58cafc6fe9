"""A serverless load-balancing endpoint as something to rent."""

from __future__ import annotations

from typing import Final

from ..config.address import Address
from ..errors import MachineError, NoWorkerError, TransportError
from ..protocol.messages import Welcome
from . import client_settings
from .context import RentalContext
from .gpu_choice import Candidate
from .plan import Plan
from .readiness import call_works, settings_for_endpoint
from .records import Kind, Rental


class EndpointRental:
    """An endpoint: see `renting.Rentable`. A call starts its first worker."""

    kind: Final[Kind] = "endpoint"

    def __init__(self, context: RentalContext, plan: Plan, model: str | None = None) -> None:
        """`model`: loaded before the endpoint counts as ready, if its worker has it."""
        self._context = context
        self._plan = plan
        self._model = model
        self._base: str | None = None

    def make(self, rental: Rental, candidate: Candidate) -> str:
        """See `Rentable`."""
        endpoint = self._context.api.create_endpoint(self._plan.endpoint(rental.name, candidate))
        self._base = endpoint.request_urls.base
        return endpoint.id

    def wait(self, rental: Rental) -> tuple[str, Welcome]:
        """See `Rentable`."""
        if rental.id is None:
            raise AssertionError
        base = client_settings.endpoint_url(rental.id) if self._base is None else self._base.rstrip("/")
        settings = settings_for_endpoint(self._context.settings, Address.parse(base), rental.id)
        self._context.progress.stage("a first call starts a worker")
        try:
            welcome = call_works(settings, self._model)
        except NoWorkerError as error:
            raise MachineError(f"no worker of it answered in time: {error}") from error
        except TransportError as error:
            raise MachineError(f"a call of it failed: {error}") from error
        return base, welcome

    def client_settings(self, rental: Rental) -> dict[str, str | None]:
        """See `Rentable`."""
        if rental.id is None or rental.url is None:
            raise AssertionError
        return client_settings.for_endpoint(rental.id, rental.url, rental.dollars_an_hour)
