"""RunPod's client as rentals use it."""

from __future__ import annotations

from ..config.findings import told_with_errors
from ..config.settings import Settings
from ..runpod.rest.client import RestClient
from ..runpod.rest.options import RestOptions
from ..runpod.retry import RetryPolicy

# `give_back` tries again itself, and tells the user in between.
_OPTIONS = RestOptions(delete_retry=RetryPolicy(attempts=4, connect_attempts=4, total_s=15.0))


def runpod_client(settings: Settings) -> RestClient:
    """Return a client with the key and the addresses of `settings`.

    Raises:
        ConfigError: there is no key; says where one may have been meant to stand, as in a file `.env.txt`.
    """
    with told_with_errors():
        return RestClient.of(settings, options=_OPTIONS)
