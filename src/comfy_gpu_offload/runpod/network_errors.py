"""Errors of requests and urllib3, translated into ours. No other module knows theirs."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import requests
import urllib3

from ..config.address import Address
from ..config.certificates import untrusted
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


def network_error(
    error: Exception, base: Address, path: str, *, setting: str, doubt: str, submits: bool
) -> TransportError:
    """Return our error for what a request to `path` below `base` raised.

    Args:
        setting: where `base` comes from.
        doubt: said of a request that may have arrived, if `submits`: if something that is billed begins with it.
    """
    causes = tuple(_causes(error))
    reason = type(causes[-1]).__name__
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return TlsError(untrusted(cause, f"RunPod's address {base.host}", base.host))
    if isinstance(error, _MISCONFIGURED) or not isinstance(
        error, (requests.RequestException, urllib3.exceptions.HTTPError)
    ):
        return RunPodNetworkError(
            f"No request to RunPod can be made here ({reason}): check {setting}.",
            connected=False,
            retryable=False,
        )
    if any(isinstance(cause, _UNSENT) for cause in causes):
        return RunPodNetworkError(
            f"RunPod cannot be reached ({reason}). Check the network and {setting}; behind a proxy, "
            "set HTTPS_PROXY.",
            connected=False,
        )
    return RunPodNetworkError(
        f"The connection to RunPod ended before its reply to {path} was complete ({reason})."
        f"{doubt if submits else ''}",
        connected=True,
        maybe_submitted=submits,
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and those it wraps, outermost first: urllib3 keeps them in `reason` or in the arguments."""
    current: BaseException | None = error
    while current is not None:
        yield current
        inner = [getattr(current, "reason", None), *current.args, current.__cause__]
        current = next((item for item in inner if isinstance(item, BaseException)), None)
