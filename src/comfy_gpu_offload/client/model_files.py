"""The model files at a worker, as a session changes them: one is fetched or pushed there, or removed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..transport.base import Check
from .exchanges import Exchanges
from .handshake import Handshake
from .local_file import LocalFile
from .model_downloads import FetchedModel, ModelDownloads, OnFetchProgress, WantedModel
from .model_push import FileToPush, ModelPush, refuse_without_pushes
from .model_removal import ModelRemoval
from .options import SessionOptions

OnWork = Callable[[str, int, int], None]
"""Takes what is being done, in words for users, and the bytes that are done, of so many."""


class ModelFiles:
    """The model files of one session's worker. Thread-safe."""

    def __init__(self, exchanges: Exchanges, options: SessionOptions, handshake: Handshake) -> None:
        self._exchanges = exchanges
        self._options = options
        self._handshake = handshake

    def fetch(self, wanted: WantedModel, on_progress: OnFetchProgress, check: Check | None) -> FetchedModel:
        """See `Session.fetch_model`."""
        return ModelDownloads(self._exchanges, self._options, self._handshake).fetch(wanted, on_progress, check)

    def push(self, path: Path, folder: str, name: str | None, on_work: OnWork, check: Check | None) -> None:
        """See `Session.push_model`."""
        refuse_without_pushes(self._handshake)
        name = path.name if name is None else name
        with LocalFile(path) as file:
            sha256 = file.sha256(check, lambda done, of: on_work(f"hashing {path.name}", done, of))
            push = ModelPush(
                self._exchanges,
                self._options,
                self._handshake,
                FileToPush(file, sha256, folder, name),
                lambda done, of: on_work(f"sending {path.name}", done, of),
            )
            push.run(check)

    def remove(self, folder: str, name: str, check: Check | None) -> None:
        """See `Session.remove_model`."""
        refuse_without_pushes(self._handshake)
        ModelRemoval(self._exchanges, self._options, self._handshake).run(folder, name, check)
