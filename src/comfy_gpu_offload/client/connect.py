"""From an address, or from settings, to a session."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from ..config.settings import Settings, given_settings, is_loopback, require_url
from ..io import codecs
from ..io.frame import FrameLimits
from ..transport.base import Timeouts
from ..transport.http import HttpTransport
from .retry import RetryPolicy
from .session import Session, SessionOptions


def connect(url: str, token: str | SecretStr | None = None, **settings: Any) -> Session:
    """A session with the worker at `url`, e.g. ``http://127.0.0.1:8288``.

    `token`: the worker's, where it has one. `settings`: any other field of `config.Settings`, e.g.
    ``compression="none"``. The environment and .env are not read.

    Raises:
        ConfigError: the address or a setting is wrong.
        TransportError: the worker cannot be reached.
        WorkerFaultError: it refused.
    """
    return connect_from(given_settings(url=url, token=token, **settings))


def connect_from(settings: Settings, comfyui: str | None = None) -> Session:
    """A session with the worker that `settings` name. `comfyui`: this side's version of it, if any.

    Raises:
        ConfigError: no worker is configured.
        TransportError: the worker cannot be reached.
        WorkerFaultError: it refused.
    """
    url = require_url(settings)
    transport = HttpTransport(url, settings.token, ca_file=settings.ca_file, max_frame_bytes=settings.frame_bytes)
    call = Timeouts(settings.connect_timeout_s, settings.call_timeout_s)
    options = SessionOptions(
        call=call,
        load=replace(call, exchange_s=settings.load_timeout_s),
        retry=RetryPolicy(total_s=settings.retry_s),
        codec=_codec(settings, url),
        limits=FrameLimits(frame_bytes=settings.frame_bytes),
        comfyui=comfyui,
    )
    return Session(transport, options)


def _codec(settings: Settings, url: str) -> codecs.Codec:
    """Compression costs more than it saves where no network lies in between."""
    on_this_machine = is_loopback(urlsplit(url).hostname or "")
    if settings.compression == "none" or (settings.compression == "auto" and on_this_machine):
        return codecs.RAW
    return codecs.ZSTD
