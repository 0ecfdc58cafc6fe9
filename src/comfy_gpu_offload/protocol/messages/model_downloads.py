"""The messages by which a client has the worker download a model, follows that and stops it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from .base import ClientMessage, Identifier, ShortText, WorkerMessage

MODEL_DOWNLOADS: Final = "model_downloads"
"""The worker downloads models for clients, by its operator's leave (docs/protocol.md, "Models that arrive")."""

MAX_SOURCE: Final = 4096
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Bytes = Annotated[int, Field(ge=0, lt=2**62)]
_Token = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[!-~]+$")]
_NOT_SHOWN = Field(repr=False)  # a message's repr may end in a log


class DownloadModel(ClientMessage):
    """A request to download a model. Asked again for the same file, the worker goes on with the download it makes.

    Attributes:
        source: an address, ``hf:org/name/file@revision``, ``civitai:VERSION`` or ``sha256:HASH``.
        folder: ComfyUI's name of the folder that it belongs into; None if the source tells.
        name: of the file; None for its name at the source.
        sha256: of the file, if the client knows it.
        hf_token, civitai_token: for their sites alone. The worker keeps them in memory, for this download.
    """

    capability: ClassVar[str | None] = MODEL_DOWNLOADS

    type: Literal["download_model"] = "download_model"
    request: Identifier
    client: Identifier
    source: Annotated[str, Field(min_length=1, max_length=MAX_SOURCE, repr=False)]
    folder: ShortText | None = None
    name: ShortText | None = None
    sha256: Sha256 | None = None
    hf_token: Annotated[_Token | None, _NOT_SHOWN] = None
    civitai_token: Annotated[_Token | None, _NOT_SHOWN] = None


class FollowDownload(ClientMessage):
    """A request for the state of a download, which is answered within a second or when it has ended.

    Attributes:
        job: names the download, as the worker has named it.
    """

    capability: ClassVar[str | None] = MODEL_DOWNLOADS

    type: Literal["follow_download"] = "follow_download"
    request: Identifier
    client: Identifier
    job: Identifier


class StopDownload(ClientMessage):
    """A request to stop a download, unless another client follows it too. Its part is kept."""

    capability: ClassVar[str | None] = MODEL_DOWNLOADS

    type: Literal["stop_download"] = "stop_download"
    request: Identifier
    client: Identifier
    job: Identifier


class ModelProgress(WorkerMessage):
    """The state of a download. One that has failed is told by a fault.

    Attributes:
        request: that is answered.
        job: names the download.
        state: `stopped` is the answer to a `StopDownload` that stopped it.
        received, size_bytes: of the file; the size is None while nobody knows it.
        folder, name: of the file, once they are known.
        waits_for: a sentence on what the download waits for, while it does.
        sha256, source: of the file, once it is there.
    """

    type: Literal["model_progress"] = "model_progress"
    request: Identifier
    job: Identifier
    state: Literal["looking up", "receiving", "done", "stopped"]
    received: _Bytes = 0
    size_bytes: _Bytes | None = None
    folder: ShortText | None = None
    name: ShortText | None = None
    waits_for: Annotated[str, Field(max_length=1024)] | None = None
    sha256: Sha256 | None = None
    source: Annotated[str, Field(max_length=1024)] | None = None
