"""The health of a worker, by its `GET /ping`: RunPod's contract, 200 ready and 204 warming."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from time import monotonic
from types import MappingProxyType

from pydantic import SecretStr

from ..config.address import Address
from ..errors import TransportError
from .connector import Connector, connector_to
from .http_response import Response
from .interruptible_socket import PolledSocket


class Health(StrEnum):
    """A worker's state, by its `/ping`."""

    READY = "ready"
    WARMING = "warming"
    UNREACHABLE = "unreachable"
    UNHEALTHY = "unhealthy"


def ping(
    address: Address,
    *,
    bearer: SecretStr | None = None,
    ca_file: Path | None = None,
    fingerprint: bytes | None = None,
    timeout_s: float = 5.0,
) -> Health:
    """Return how the worker at `address` is. It needs no token for this; what stands before it may want a `bearer`.

    Asked the way that calls go: through the same proxy, if any, and to the same certificate.

    Raises:
        ConfigError: `ca_file` cannot be read, or what names a proxy is wrong.
    """
    return health_of(connector_to(address, ca_file, fingerprint), bearer=bearer, timeout_s=timeout_s)


def health_of(
    connector: Connector,
    *,
    bearer: SecretStr | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
    timeout_s: float = 5.0,
) -> Health:
    """Return how the worker there is: see `ping`. `headers`: further fields of the request."""
    address = connector.address
    lines = [f"GET {address.path}/ping HTTP/1.1", f"Host: {address.authority}", "Connection: close"]
    if bearer is not None:
        lines.append(f"Authorization: Bearer {bearer.get_secret_value()}")
    lines += [f"{name}: {value}" for name, value in headers.items()]
    try:
        with closing(connector.connect(timeout_s)) as sock:
            polled = PolledSocket(sock, monotonic() + timeout_s, check=None)
            polled.send(["".join(f"{line}\r\n" for line in [*lines, ""]).encode("ascii")])
            status = Response(polled).status
    except (TransportError, OSError):
        return Health.UNREACHABLE
    return {200: Health.READY, 204: Health.WARMING}.get(status, Health.UNHEALTHY)
