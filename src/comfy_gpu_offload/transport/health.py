"""A worker's health, by its `GET /ping`: RunPod's contract, 200 ready and 204 warming."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import requests
from pydantic import SecretStr


class Health(StrEnum):
    """What `/ping` says."""

    READY = "ready"
    WARMING = "warming"
    UNREACHABLE = "unreachable"
    UNHEALTHY = "unhealthy"


def ping(
    url: str, *, bearer: SecretStr | None = None, ca_file: Path | None = None, timeout_s: float = 5.0
) -> Health:
    """How the worker at `url` is. A worker needs no token for this; what stands before it may want a `bearer`."""
    headers = {} if bearer is None else {"Authorization": f"Bearer {bearer.get_secret_value()}"}
    verify = str(ca_file) if ca_file else True
    try:
        reply = requests.get(
            f"{url}/ping", headers=headers, timeout=timeout_s, verify=verify, allow_redirects=False
        )
    except requests.RequestException:
        return Health.UNREACHABLE
    return {200: Health.READY, 204: Health.WARMING}.get(reply.status_code, Health.UNHEALTHY)
