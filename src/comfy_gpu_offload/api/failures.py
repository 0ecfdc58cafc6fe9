"""What requests and urllib3 raise, as our errors. The one place that knows theirs."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import requests
import urllib3

from ..errors import RunPodNetworkError, TlsError, TransportError

DOUBT = (
    " RunPod may have taken the job all the same. It is not sent again, because that could bill it twice: look "
    "at the endpoint's requests on https://console.runpod.io/serverless, or run it anew."
)

# Each is raised before the first byte of a request is sent.
_UNSENT = (
    requests.ConnectTimeout,
    requests.exceptions.ProxyError,
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ConnectTimeoutError,
    urllib3.exceptions.ClosedPoolError,
    urllib3.exceptions.EmptyPoolError,
)
_MISCONFIGURED = (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)


def network_error(error: Exception, path: str, *, submits: bool) -> TransportError:
    """Ours for what a request to `path` raised. `submits`: whether a job begins with it."""
    causes = tuple(_causes(error))
    reason = type(causes[-1]).__name__
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return TlsError(
            "RunPod's address did not prove to be RunPod's: its certificate was not accepted. Check the clock, "
            "RUNPOD_BASE_URL, and any proxy in between (REQUESTS_CA_BUNDLE names certificates to trust besides)."
        )
    if isinstance(error, _MISCONFIGURED) or not isinstance(
        error, (requests.RequestException, urllib3.exceptions.HTTPError)
    ):
        return RunPodNetworkError(
            f"No request to RunPod can be made here ({reason}): check HTTPS_PROXY, REQUESTS_CA_BUNDLE and "
            "RUNPOD_BASE_URL.",
            connected=False,
            retryable=False,
        )
    if any(isinstance(cause, _UNSENT) for cause in causes):
        return RunPodNetworkError(
            f"RunPod cannot be reached ({reason}). Check the network, a proxy (HTTPS_PROXY) and RUNPOD_BASE_URL.",
            connected=False,
        )
    return RunPodNetworkError(
        f"The connection to RunPod ended before its reply to {path} was complete ({reason})."
        f"{DOUBT if submits else ''}",
        connected=True,
        maybe_submitted=submits,
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and those it wraps, outermost first: urllib3 keeps them in `reason` or in the arguments."""
    current: BaseException | None = error
    while current is not None:
        yield current
        inner = [getattr(current, "reason", None), *current.args, current.__cause__]
        current = next((item for item in inner if isinstance(item, BaseException)), None)
