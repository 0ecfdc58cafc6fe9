"""A client's source looked up: the file at its origin, and the worker's folder that it belongs into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import unquote

from ...backends.base import ModelFolder
from ..model_store.refusals import RefusedFileError
from .civitai import Civitai
from .guarded_http import GuardedHttp
from .hugging_face import HuggingFace
from .remote_file import OriginTokens, RemoteFile, Sites
from .sources import CivitaiSource, HashSource, HuggingFaceSource, RepositorySource, Source

# Older names of folders, which repositories and addresses still use.
_ALIASES = {"unet": "diffusion_models", "clip": "text_encoders", "t2i_adapter": "controlnet"}


class Origins:
    """The sites that sources name. Thread-safe."""

    def __init__(self, http: GuardedHttp, sites: Sites) -> None:
        self._hugging_face = HuggingFace(http, sites.hugging_face)
        self._civitai = Civitai(http, sites.civitai)

    def look_up(self, source: Source, tokens: OriginTokens, sha256: str | None) -> RemoteFile:
        """Return the file that the source names.

        Args:
            sha256: of the file, if the client knows it.

        Raises:
            DownloadFailedError: there is no such file.
            BrokenTransferError: another attempt may succeed.
        """
        if isinstance(source, HuggingFaceSource):
            found = self._hugging_face.by_path(source)
        elif isinstance(source, RepositorySource):
            found = self._hugging_face.by_hash(source, sha256, tokens.hugging_face)
        elif isinstance(source, CivitaiSource):
            found = self._civitai.by_version(source.version, tokens.civitai, sha256)
        elif isinstance(source, HashSource):
            found = self._civitai.by_hash(source.sha256, tokens.civitai)
        else:
            path = unquote(source.address.path)
            folders = tuple(reversed(path.split("/")[:-1]))
            found = RemoteFile(source.address, path.rpartition("/")[2], str(source.address), folders)
        return found if sha256 is None else replace(found, sha256=sha256)


def folder_of(file: RemoteFile, chosen: str | None, folders: Mapping[str, ModelFolder]) -> str:
    """Return the worker's folder that a file belongs into: the client's choice, else what its origin tells.

    Raises:
        RefusedFileError: neither says it.
    """
    if chosen is not None:
        return chosen
    for hint in file.folder_hints:
        name = _ALIASES.get(hint.lower(), hint.lower())
        if name in folders:
            return name
    raise RefusedFileError(
        f"Say which folder {file.name:.200} belongs into (--folder): {', '.join(sorted(folders))}."
        if folders
        else "This worker's backend takes no single files."
    )
