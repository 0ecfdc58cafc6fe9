"""Open a session from an address or from settings."""

from __future__ import annotations

from typing import Any, Final

from pydantic import SecretStr

from ..config.endpoint import Direct, configured
from ..config.pairing import Pairing
from ..config.settings import Settings, given_settings
from ..errors import ConfigError
from ..io.frame import FrameLimits
from ..protocol.messages import ModelRef, made
from ..transport.base import Check, Notify, Timeouts
from ..transport.configured import transport_for
from .capture import Capture
from .encoding.compression_setting import codec_of, first_kind
from .retry import RetryPolicy
from .session import Session, SessionOptions

SERVERLESS_REPLY_BYTES: Final = 6 * 1024**2
"""The most of a reply in one frame at an endpoint: as base64, within the 9.5 MB of a queue job's output."""


def connect(
    url: str, token: str | SecretStr | None = None, *, model: str | None = None, **settings: Any
) -> Session:
    """Return a session with the worker at `url`, e.g. ``http://127.0.0.1:8288``. The environment is not read.

    Args:
        url: the worker's address, or its pairing line.
        token: the worker's, if it has one and `url` is an address: a pairing line holds its own.
        model: the name of a model that `Session.model` will be asked for; the worker begins to load it at once.
        settings: any other field of `config.Settings`, e.g. ``compression="none"``.

    Raises:
        ConfigError: the address, the line or a setting is wrong.
        TransportError: the worker cannot be reached, or is not the one of the pairing line.
        WorkerFaultError: it refused.
    """
    given = given_settings(url=url, token=token, **settings)
    if token is not None and isinstance(given.url, Pairing):
        raise ConfigError("The pairing line holds a token of its own: leave `token` out.")
    return connect_from(given, loading=None if model is None else made(ModelRef, {"name": model}))


def connect_from(
    settings: Settings,
    comfyui: str | None = None,
    notify: Notify | None = None,
    check: Check | None = None,
    *,
    await_worker: bool = False,
    loading: ModelRef | None = None,
) -> Session:
    """Return a session with the worker that `settings` name.

    Args:
        settings: name the worker, and how the session behaves.
        comfyui: the release of the ComfyUI on this side, if any.
        notify: takes lines for the user while a worker starts, or is away in the middle of a run; by default they
            are logged.
        check: called several times a second while the worker starts; what it raises ends the wait.
        await_worker: whether to wait for a worker that is not there yet, for as long as calls are retried; by
            default the error is raised at once.
        loading: a model that the session will be asked for; a worker with an address is asked for it from the first
            message on.

    Raises:
        ConfigError: no worker is configured.
        TransportError: the worker cannot be reached.
        WorkerFaultError: it refused.
    """
    target = configured(settings)
    call = Timeouts(settings.connect_timeout_s, settings.call_timeout_s, settings.silence_s)
    options = SessionOptions(
        call=call,
        load_s=settings.load_timeout_s,
        retry=RetryPolicy(total_s=settings.retry_s),
        codec=codec_of(settings),
        begin_with=first_kind(settings, target),
        limits=FrameLimits(frame_bytes=settings.frame_bytes),
        comfyui=comfyui,
        # At an endpoint each upload could start a worker of its own, and be sent to another one.
        uploads_at_once=SessionOptions.uploads_at_once if isinstance(target, Direct) else 1,
        most_reply_bytes=(
            SessionOptions.most_reply_bytes if isinstance(target, Direct) else SERVERLESS_REPLY_BYTES
        ),
        capture=Capture(settings.capture_dir, settings.capture_bytes) if settings.capture_dir else None,
        await_worker=await_worker,
        notify=notify,
    )
    transport = transport_for(settings, notify)
    try:
        # At an endpoint each request could start a worker of its own.
        early = loading if isinstance(target, Direct) else None
        return Session(transport, options, check, loading=early)
    except BaseException:
        transport.close()
        raise
