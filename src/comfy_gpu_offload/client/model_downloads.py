"""Models that the worker downloads itself: a client asks for one, follows it to its end, and may stop it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import sleep
from typing import Any

from pydantic import SecretStr

from ..errors import ModelDownloadsOffError, OffloadError, WorkerFaultError
from ..protocol.envelope import seal
from ..protocol.messages import ClientMessage, FaultCode, made
from ..protocol.messages.model_downloads import (
    MODEL_DOWNLOADS,
    DownloadModel,
    FollowDownload,
    ModelProgress,
    StopDownload,
)
from ..transport.base import Check, Timeouts
from .exchanges import Exchanges, new_request
from .handshake import Handshake
from .options import SessionOptions
from .retry import Retries, RetryPolicy, after_any
from .worker_faults import expect_answer

_STOP_TIMEOUTS = Timeouts(connect_s=5.0, exchange_s=10.0)
_STOP_RETRY = RetryPolicy(total_s=10.0)
_PAUSE_S = 0.2


@dataclass(frozen=True)
class WantedModel:
    """A model that the worker is to download.

    Attributes:
        source: ``https://…``, ``hf:org/name/file``, ``hf:org/name/file@revision``, ``civitai:VERSION``, or
            ``sha256:HASH``.
        folder: ComfyUI's name of the folder that it belongs into; None if the source tells.
        name: of the file at the worker; None for its name at the source.
        sha256: of the file, 64 hexadecimal digits, if it is known.
        hf_token, civitai_token: for gated models; the worker sends each to its own site alone.
    """

    source: str = field(repr=False)
    folder: str | None = None
    name: str | None = None
    sha256: str | None = None
    hf_token: SecretStr | None = None
    civitai_token: SecretStr | None = None


@dataclass(frozen=True)
class FetchedModel:
    """A model that has come to the worker.

    Attributes:
        folder, name: where it is.
        size_bytes: of the file.
        sha256: of the file.
        source: where it came from, without any token.
    """

    folder: str
    name: str
    size_bytes: int
    sha256: str
    source: str


@dataclass(frozen=True)
class FetchProgress:
    """The progress of a download.

    Attributes:
        received, size_bytes: of the file; the size is None while nobody knows it.
        name: of the file, once it is known.
        waits_for: a sentence on what the download waits for, while it does.
    """

    received: int
    size_bytes: int | None
    name: str | None
    waits_for: str | None


OnFetchProgress = Callable[[FetchProgress], None]


class ModelDownloads:
    """The downloads that one session asks for. Thread-safe."""

    def __init__(self, exchanges: Exchanges, options: SessionOptions, handshake: Handshake) -> None:
        self._exchanges = exchanges
        self._options = options
        self._handshake = handshake

    def fetch(self, wanted: WantedModel, on_progress: OnFetchProgress, check: Check | None) -> FetchedModel:
        """Return the model once the worker has it.

        A lost connection is made again, and a worker that was restarted begins again where its part ends. When the
        wait is ended from this side, the worker is told to stop; its part stays.

        Raises:
            ModelDownloadsOffError: the worker takes no models.
            MessageError: a field is none that a worker takes.
            WorkerFaultError: the worker refuses, or the download failed.
            TransportError: the worker cannot be reached.
        """
        if MODEL_DOWNLOADS not in self._handshake.capabilities:
            raise ModelDownloadsOffError
        job: str | None = None
        retries = Retries(self._options.retry, after_any, check)
        try:
            while True:
                try:
                    progress = self._ask(self._message(wanted, job), check)
                except OffloadError as error:
                    if isinstance(error, WorkerFaultError) and error.code == FaultCode.UNKNOWN_RUN.value:
                        job = None
                    retries.after(error)
                    continue
                retries.begin_anew()
                job = progress.job
                if (done := _fetched(progress)) is not None:
                    return done
                on_progress(
                    FetchProgress(progress.received, progress.size_bytes, progress.name, progress.waits_for)
                )
                if check is not None:
                    check()
                sleep(_PAUSE_S)
        except BaseException as error:
            if job is not None and not isinstance(error, OffloadError):
                self._stop(job)
            raise

    def _message(self, wanted: WantedModel, job: str | None) -> ClientMessage:
        fields: dict[str, Any] = {"request": new_request(), "client": self._handshake.client}
        if job is not None:
            return FollowDownload(**fields, job=job)
        asked: dict[str, Any] = {
            "source": wanted.source,
            "folder": wanted.folder,
            "name": wanted.name,
            "sha256": None if wanted.sha256 is None else wanted.sha256.lower(),
            "hf_token": None if wanted.hf_token is None else wanted.hf_token.get_secret_value(),
            "civitai_token": None if wanted.civitai_token is None else wanted.civitai_token.get_secret_value(),
        }
        return made(DownloadModel, {**fields, **asked})

    def _ask(self, message: Any, check: Check | None, timeouts: Timeouts | None = None) -> ModelProgress:
        timeouts = timeouts or replace(self._options.call, prompt=True)
        envelope, _ = self._exchanges.ask("hello", message.request, seal(message), timeouts, check)
        return expect_answer(envelope.message, ModelProgress)

    def _stop(self, job: str) -> None:
        """Tell the worker that nobody here waits any more. Where that fails, the download goes on to its end."""
        message = StopDownload(request=new_request(), client=self._handshake.client, job=job)
        try:
            Retries(_STOP_RETRY, after_any, None).run(lambda: self._ask(message, None, _STOP_TIMEOUTS))
        except OffloadError:
            return


def _fetched(progress: ModelProgress) -> FetchedModel | None:
    if progress.state != "done" or progress.folder is None or progress.name is None or progress.sha256 is None:
        return None
    return FetchedModel(progress.folder, progress.name, progress.received, progress.sha256, progress.source or "")
