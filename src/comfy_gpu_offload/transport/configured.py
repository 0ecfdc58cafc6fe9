"""The transport that reaches the worker which the settings name. A new transport is one line here.

Each transport's module makes it from settings: `from_settings`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

from ..config.address import HTTP, HTTPS
from ..config.endpoint import Direct, Serverless, configured
from ..config.settings import PREFIX, Settings
from ..errors import ConfigError, RunPodNotFoundError, RunPodWrongKindError
from ..runpod.client import RunPodClient
from . import direct_transport, load_balancer, queue_transport
from .base import Notify, Transport

logger = logging.getLogger(__name__)

EndpointKind = Literal["queue", "load-balancer"]

# Workers with an address of their own, by its scheme.
BY_SCHEME: dict[str, Callable[[Settings, Direct, Notify | None], Transport]] = {
    HTTP: direct_transport.from_settings,
    HTTPS: direct_transport.from_settings,
}
# RunPod's endpoints, by their kind.
BY_KIND: dict[EndpointKind, Callable[[Settings, Serverless, RunPodClient, Notify], Transport]] = {
    "load-balancer": load_balancer.from_settings,
    "queue": queue_transport.from_settings,
}


def transport_for(settings: Settings, notify: Notify | None = None) -> Transport:
    """Return what carries frames to the worker that `settings` name. Ask RunPod for a kind that they leave open.

    Raises:
        ConfigError: no worker is configured, or its address has a scheme that no transport is for.
        RunPodError: RunPod could not be asked.
    """
    target = configured(settings)
    if isinstance(target, Direct):
        make = BY_SCHEME.get(target.address.scheme)
        if make is None:
            raise ConfigError(f"{PREFIX}URL: an address looks like https://HOST or http://127.0.0.1:8288")
        return make(settings, target, notify)
    api = RunPodClient(target.key, target.endpoint_id, base_url=target.api, ca_file=settings.ca_file)
    kind = target.kind if target.kind != "auto" else kind_of(api)
    return BY_KIND[kind](settings, target, api, notify or _log)


def kind_of(api: RunPodClient) -> EndpointKind:
    """Return which kind the endpoint is, asked without starting anything.

    Raises:
        RunPodError: RunPod could not be asked, or there is no such endpoint.
    """
    api.health()  # both kinds answer this one, so a wrong id or key is told from a wrong kind
    try:
        api.get_job_status("comfy-gpu-offload-probe")
    except RunPodWrongKindError:
        return "load-balancer"
    except RunPodNotFoundError:
        pass  # there is a queue, and no such job in it
    return "queue"


def _log(text: str) -> None:
    logger.info("%s", text)
