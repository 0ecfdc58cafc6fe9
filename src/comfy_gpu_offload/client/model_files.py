"""The model files at a worker, as a session changes them: one is fetched or pushed there, or removed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

from pydantic import SecretStr

from ..errors import WorkerFaultError
from ..protocol.messages import FaultCode
from ..protocol.messages.model_downloads import MODEL_DOWNLOADS
from ..transport.base import Check
from .exchanges import Exchanges
from .handshake import Handshake
from .local_file import LocalFile
from .model_downloads import FetchedModel, FetchProgress, ModelDownloads, OnFetchProgress, WantedModel
from .model_push import FileToPush, ModelPush, refuse_without_pushes
from .model_removal import ModelRemoval
from .options import SessionOptions

logger = logging.getLogger(__name__)

OnWork = Callable[[str, int, int], None]
"""Takes what is being done, in words for users, and the bytes that are done, of so many."""


PUSHED: Final = "push"
"""The source of a file that was sent."""


_LOOK_UP_S: Final = 15.0


class _UnreachableError(Exception):
    """The worker does not learn soon where a file comes from."""


@dataclass(frozen=True)
class PushPlace:
    """The place of a pushed file at the worker, and the ways by which it may get there.

    Attributes:
        folder: ComfyUI's name of the folder that it is for.
        name: that it gets there; None for its own.
        uploads: whether it is sent even where the worker could fetch it from its origin.
        civitai_token: for that.
    """

    folder: str
    name: str | None = None
    uploads: bool = False
    civitai_token: SecretStr | None = None


class ModelFiles:
    """The model files of one session's worker. Thread-safe."""

    def __init__(self, exchanges: Exchanges, options: SessionOptions, handshake: Handshake) -> None:
        self._exchanges = exchanges
        self._options = options
        self._handshake = handshake

    def fetch(self, wanted: WantedModel, on_progress: OnFetchProgress, check: Check | None) -> FetchedModel:
        """See `Session.fetch_model`."""
        return ModelDownloads(self._exchanges, self._options, self._handshake).fetch(wanted, on_progress, check)

    def push(self, path: Path, place: PushPlace, on_work: OnWork, check: Check | None) -> FetchedModel:
        """See `Session.push_model`."""
        refuse_without_pushes(self._handshake)
        name = path.name if place.name is None else place.name
        with LocalFile(path) as file:
            sha256 = file.sha256(check, lambda done, of: on_work(f"hashing {path.name}", done, of))
            if not place.uploads:
                found = self._fetched_from_origin(sha256, name, place, on_work, check)
                if found is not None:
                    return found
            push = ModelPush(
                self._exchanges,
                self._options,
                self._handshake,
                FileToPush(file, sha256, place.folder, name),
                lambda done, of: on_work(f"sending {path.name}", done, of),
            )
            push.run(check)
            return FetchedModel(place.folder, name, file.size_bytes, sha256.hex(), PUSHED)

    def _fetched_from_origin(
        self, sha256: bytes, name: str, place: PushPlace, on_work: OnWork, check: Check | None
    ) -> FetchedModel | None:
        """Return the file once the worker has it from where it is published; None if it is not, or not for us."""
        if MODEL_DOWNLOADS not in self._handshake.capabilities:
            return None

        deadline = monotonic() + _LOOK_UP_S

        def show(progress: FetchProgress) -> None:
            if not progress.size_bytes and (progress.waits_for is not None or monotonic() > deadline):
                raise _UnreachableError  # a worker without a way to the Internet, say
            if progress.size_bytes:
                what = f"the worker fetches {name} from its origin"
                on_work(what, progress.received, progress.size_bytes)

        wanted = WantedModel(
            f"sha256:{sha256.hex()}", place.folder, name, sha256.hex(), civitai_token=place.civitai_token
        )
        try:
            return self.fetch(wanted, show, check)
        except _UnreachableError:
            logger.info("%s is sent, since the worker cannot look for its origin", name)
            return None
        except WorkerFaultError as error:
            if error.code == FaultCode.DISK_FULL.value:
                raise
            logger.info("%s is sent, since the worker cannot fetch it: %s", name, error)
            return None

    def remove(self, folder: str, name: str, check: Check | None) -> None:
        """See `Session.remove_model`."""
        refuse_without_pushes(self._handshake)
        ModelRemoval(self._exchanges, self._options, self._handshake).run(folder, name, check)
