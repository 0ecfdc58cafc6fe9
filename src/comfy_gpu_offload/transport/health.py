"""A worker's health, by its `GET /ping`: RunPod's contract, 200 ready and 204 warming."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import requests


class Health(StrEnum):
    """What `/ping` says."""

    READY = "ready"
    WARMING = "warming"
    UNREACHABLE = "unreachable"
    UNHEALTHY = "unhealthy"


def ping(url: str, *, ca_file: Path | None = None, timeout_s: float = 5.0) -> Health:
    """How the worker at `url` is. Needs no token."""
    try:
        reply = requests.get(f"{url}/ping", timeout=timeout_s, verify=str(ca_file) if ca_file else True)
    except requests.RequestException:
        return Health.UNREACHABLE
    return {200: Health.READY, 204: Health.WARMING}.get(reply.status_code, Health.UNHEALTHY)
