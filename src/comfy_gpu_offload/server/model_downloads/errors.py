"""The reasons why a model is not downloaded. Messages are for the user, and hold no token and no query."""

from __future__ import annotations

from ..model_store.refusals import ModelStoreError


class RefusedSourceError(ModelStoreError):
    """The source, or an address that it leads to, is none that this worker downloads from."""


class DownloadFailedError(ModelStoreError):
    """The other side refused, has no such file, or could not be reached for long enough."""


class DownloadStoppedError(ModelStoreError):
    """The download was stopped by whoever asked for it."""


class BrokenTransferError(Exception):
    """An attempt that failed and may succeed when it is made again.

    Attributes:
        after_s: the time that the other side asks to wait, in seconds, or None.
    """

    def __init__(self, message: str, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s
