"""The health of a worker, by its `GET /ping`: RunPod's contract, 200 ready and 204 warming."""

from __future__ import annotations

import http.client
from contextlib import closing
from enum import StrEnum
from pathlib import Path

from pydantic import SecretStr

from ..config.address import Address
from ..errors import TransportError
from .connector import Connector, connector_to


class Health(StrEnum):
    """A worker's state, by its `/ping`."""

    READY = "ready"
    WARMING = "warming"
    UNREACHABLE = "unreachable"
    UNHEALTHY = "unhealthy"


def ping(
    address: Address, *, bearer: SecretStr | None = None, ca_file: Path | None = None, timeout_s: float = 5.0
) -> Health:
    """Return how the worker at `address` is. It needs no token for this; what stands before it may want a `bearer`.

    Asked the way that calls go: through the same proxy, if any, and with the same certificates.

    Raises:
        ConfigError: `ca_file` cannot be read, or what names a proxy is wrong.
    """
    return health_of(connector_to(address, ca_file), bearer=bearer, timeout_s=timeout_s)


def health_of(connector: Connector, *, bearer: SecretStr | None = None, timeout_s: float = 5.0) -> Health:
    """Return how the worker there is: see `ping`."""
    headers = {} if bearer is None else {"Authorization": f"Bearer {bearer.get_secret_value()}"}
    try:
        with closing(connector.connect(timeout_s)) as connection:
            connection.request("GET", f"{connector.address.path}/ping", headers=headers)
            status = connection.getresponse().status
    except (TransportError, OSError, http.client.HTTPException):
        return Health.UNREACHABLE
    return {200: Health.READY, 204: Health.WARMING}.get(status, Health.UNHEALTHY)
