"""Answers `download_model`, `follow_download` and `stop_download`: models that the worker downloads itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import SecretStr

from ...io.frame import EncodedFrame
from ...protocol.envelope import seal
from ...protocol.messages.model_downloads import DownloadModel, FollowDownload, ModelProgress, StopDownload
from ..model_downloads.downloads import Download, Downloads, Wanted
from ..model_downloads.remote_file import OriginTokens
from ..model_store.permission import refuse_unless_allowed
from ..replies import Finish
from .table import Asked, answers

if TYPE_CHECKING:
    from ..worker_parts import WorkerParts

# Shorter than the time after which a proxy, or a client by single requests, gives a silent exchange up.
_WAIT_S = 1.0


@answers(DownloadModel)
def begin_download(worker: WorkerParts, message: DownloadModel, _: Asked) -> Finish:
    """Begin the download, or find the one that is under way; answer with its state.

    Raises:
        RefusedError: the operator does not allow downloads, or too many are under way.
        RefusedSourceError: the source is none.
    """
    wanted = Wanted(message.source, message.folder, message.name, message.sha256)
    job = _allowed(worker).begin(wanted, OriginTokens(_secret(message.hf_token), _secret(message.civitai_token)))
    return lambda: _progress(job, message.client, message.request, 0.0)


@answers(FollowDownload)
def begin_follow(worker: WorkerParts, message: FollowDownload, _: Asked) -> Finish:
    """Find the download; its state is the answer, a little later or when it has ended.

    Raises:
        RefusedError: the worker does not have it.
    """
    job = _allowed(worker).get(message.job)
    return lambda: _progress(job, message.client, message.request, _WAIT_S)


@answers(StopDownload)
def begin_stop(worker: WorkerParts, message: StopDownload, _: Asked) -> Finish:
    """Stop the download unless somebody else follows it; nothing has to be waited for.

    Raises:
        RefusedError: the worker does not have it.
    """
    job = _allowed(worker).get(message.job)

    def finish() -> EncodedFrame:
        if job.leave(message.client):
            return seal(ModelProgress(request=message.request, job=job.name, state="stopped"))
        return _progress(job, "", message.request, 0.0)

    return finish


def _allowed(worker: WorkerParts) -> Downloads:
    refuse_unless_allowed(worker.takes_models)
    return worker.downloads


def _progress(job: Download, client: str, request: str, wait_s: float) -> EncodedFrame:
    state = job.state(client, wait_s)
    place, origin = state.place, state.origin
    return seal(
        ModelProgress(
            request=request,
            job=job.name,
            state="done" if origin is not None else "receiving" if place is not None else "looking up",
            received=state.received,
            size_bytes=state.size_bytes,
            folder=None if place is None else place.folder,
            name=None if place is None else place.name,
            waits_for=state.waits_for,
            sha256=None if origin is None else origin.sha256,
            source=None if origin is None else origin.source,
        )
    )


def _secret(text: str | None) -> SecretStr | None:
    return None if text is None else SecretStr(text)
