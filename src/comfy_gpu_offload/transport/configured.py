"""From settings to the transport that reaches the worker they name."""

from __future__ import annotations

import logging
from typing import Literal

from ..config.endpoint import Direct, Serverless, configured
from ..config.settings import Settings
from ..errors import RunPodNotFoundError, RunPodWrongKindError
from ..runpod.client import RunPodClient
from .base import Notify, Transport
from .health import Health, ping
from .http_transport import HttpTransport
from .load_balancer import LoadBalancerFront, LoadBalancerTransport
from .queue_transport import QueueTransport

logger = logging.getLogger(__name__)

# An answer that is neither of /ping's is the edge's own: a call's reply says which.
_ANSWERS = {Health.READY, Health.UNHEALTHY}


def transport_for(settings: Settings, notify: Notify | None = None) -> Transport:
    """How frames reach the worker that `settings` name. Asks RunPod which kind its endpoint is, where none is set.

    Raises:
        ConfigError: no worker is configured.
        RunPodError: RunPod could not be asked.
    """
    target = configured(settings)
    if isinstance(target, Direct):
        return _http(settings, target, notify)
    notify = notify or _log
    api = RunPodClient(target.key, target.endpoint_id, base_url=target.base_url, ca_file=settings.ca_file)
    kind = target.kind if target.kind != "auto" else kind_of(api)
    if kind == "queue":
        return QueueTransport(
            api, wake_s=settings.wake_timeout_s, max_frame_bytes=settings.frame_bytes, notify=notify
        )
    return _load_balancer(settings, target, api, notify)


def kind_of(api: RunPodClient) -> Literal["queue", "load-balancer"]:
    """`queue` or `load-balancer`: which kind the endpoint is, asked without starting anything.

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


def _http(settings: Settings, target: Direct, notify: Notify | None) -> HttpTransport:
    return HttpTransport(
        target.url,
        target.token,
        ca_file=settings.ca_file,
        max_frame_bytes=settings.frame_bytes,
        # With this machine's own address too, which may be a tunnel's.
        keep_warm=not target.is_pod,
        notify=notify,
    )


def _load_balancer(
    settings: Settings, target: Serverless, api: RunPodClient, notify: Notify
) -> LoadBalancerTransport:
    http = HttpTransport(
        target.url,
        target.key,
        ca_file=settings.ca_file,
        max_frame_bytes=settings.frame_bytes,
        front=LoadBalancerFront(),
    )
    return LoadBalancerTransport(
        http,
        api,
        answers=lambda: ping(target.url, bearer=target.key, ca_file=settings.ca_file) in _ANSWERS,
        wake_s=settings.wake_timeout_s,
        notify=notify,
    )


def _log(text: str) -> None:
    logger.info("%s", text)
