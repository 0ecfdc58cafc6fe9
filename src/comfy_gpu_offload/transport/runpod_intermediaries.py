"""Intermediaries at RunPod: the edge of load-balancing endpoints, and the proxy before pods."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import (
    HttpStatusError,
    NoWorkerError,
    RunPodAuthError,
    RunPodRateLimitError,
    RunPodWrongKindError,
    TransportError,
)
from .base import Route
from .intermediary import Intermediary
from .oversized_requests import too_large

_WORKER_HEADER = "X-Runpod-Worker-Id"
_WAKING = {502, 503, 524}
_NO_WORKER = ("no workers available", "timed out waiting for worker")
_WRONG_KIND = "not allowed for qb api"


class RunPodEdge(Intermediary):
    """The edge: it prefers the worker that a request names, and it speaks for workers that are not there.

    It ends an exchange of its own accord, and may hold a ping back as long as its one worker computes.
    """

    passes_pings = False
    starts_workers = True
    # The edge's limit is 30 MB either way; the margin is for headers and for how it counts. The pieces of a frame
    # on a WebSocket are small, and whether it has a limit at all is not documented.
    request_bytes = 28_000_000
    # The edge ends a request after 5.5 minutes.
    exchange_s = 330.0
    # An upgrade too, perhaps. It is replaced between two calls before that.
    connection_s = 300.0
    # The edge answers by itself when it has had no worker for 2 minutes.
    open_s = 125.0

    def __init__(self) -> None:
        self._worker: str | None = None

    def request_headers(self) -> Mapping[str, str]:
        """Ask for the worker that answered last: it holds this run's tensors."""
        return {} if self._worker is None else {_WORKER_HEADER: self._worker}

    def replied(self, headers: Mapping[str, str]) -> None:
        """Remember which worker answered."""
        worker = headers.get(_WORKER_HEADER.lower())
        if worker is not None and worker.isascii() and worker.replace("-", "").replace("_", "").isalnum():
            self._worker = worker

    def too_large(self, route: Route, size_bytes: int) -> TransportError:
        """See `Intermediary`."""
        return too_large(
            route,
            f"This request takes {size_bytes / 1e6:.1f} MB, and a load-balancing endpoint takes "
            f"{self.request_bytes / 1e6:.0f} MB without a WebSocket.",
            "a pod, which has no limit",
            size_bytes=size_bytes,
            limit_bytes=self.request_bytes,
        )

    def refusal(self, url: str, status: int, text: str) -> TransportError:
        """See `Intermediary`. A 400 is read before it is believed."""
        said = text.lower()
        if _WRONG_KIND in said:
            return RunPodWrongKindError(
                f"{url} is no load-balancing endpoint: set COMFY_GPU_OFFLOAD_ENDPOINT=queue, or leave it out.",
                status=status,
            )
        if status in _WAKING or (status == 400 and any(words in said for words in _NO_WORKER)):
            self._worker = None
            return NoWorkerError(f"{url} has no worker that answers yet ({status}).", status)
        if "affinity_worker_gone" in said:
            self._worker = None
            return NoWorkerError(f"{url}: the worker that was used before is gone.", status)
        return _refusal(url, status, text) or super().refusal(url, status, text)


def _refusal(url: str, status: int, text: str) -> TransportError | None:
    """Return the error for a status that the edge gives whether or not a worker runs; None for any other."""
    if status in {401, 403}:
        return RunPodAuthError(
            f"RunPod does not accept RUNPOD_API_KEY for {url} ({status}): make a key that may use this endpoint "
            "at https://console.runpod.io/user/settings.",
            status=status,
        )
    if status == 429:
        return RunPodRateLimitError(f"{url} takes no more requests at this moment (429).", status=status)
    if status == 413 or "exceeded max body size" in text.lower():
        return HttpStatusError(f"{url} refuses a request of this size ({status}).", status, retryable=False)
    return None


class PodProxy(Intermediary):
    """RunPod's proxy before a pod. It ends a request after 100 s; a WebSocket on which bytes move is not ended."""

    exchange_s = 95.0
