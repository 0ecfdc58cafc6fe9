"""Files at Hugging Face: by their path in a repository, or by their hash among the repository's files."""

from __future__ import annotations

import json
from typing import Annotated
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, SecretStr, TypeAdapter, ValidationError

from ...config.address import Address
from .errors import DownloadFailedError
from .guarded_http import GuardedHttp, read_json_bytes
from .remote_file import RemoteFile
from .sources import HuggingFaceSource, RepositorySource
from .web_address import WebAddress

_MAX_BYTES = 4 * 1024**2


class _Lfs(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    oid: Annotated[str, Field(max_length=80)]


class _Entry(BaseModel):
    """An entry of a repository's listing; what is not used here is passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    path: Annotated[str, Field(max_length=1024)]
    lfs: _Lfs | None = None


_LISTING = TypeAdapter(Annotated[list[_Entry], Field(max_length=100_000)])


class HuggingFace:
    """Hugging Face, at `site`."""

    def __init__(self, http: GuardedHttp, site: Address) -> None:
        self._http = http
        self._site = site

    def by_path(self, source: HuggingFaceSource) -> RemoteFile:
        """Return the file of that path; whether it is there is seen when it is asked for."""
        revision, path = quote(source.revision, safe=""), quote(source.path)
        address = WebAddress.parse(f"{self._site}/{source.repository}/resolve/{revision}/{path}")
        *folders, name = source.path.split("/")
        text = f"hf:{source.repository}/{source.path}@{source.revision}"
        return RemoteFile(address, name, text, tuple(reversed(folders)))

    def by_hash(self, source: RepositorySource, sha256: str | None, token: SecretStr | None) -> RemoteFile:
        """Return the file of a repository that has that SHA-256. There is no search through all repositories.

        Only the first page of the listing is read, which has a thousand files.

        Raises:
            DownloadFailedError: it has none, or no hash is given.
            BrokenTransferError: another attempt may succeed.
        """
        if sha256 is None:
            raise DownloadFailedError(
                f"Name a file of hf:{source.repository}, as in hf:{source.repository}/model.safetensors, or the "
                "SHA-256 of one of its files."
            )
        revision = quote(source.revision, safe="")
        address = WebAddress.parse(f"{self._site}/api/models/{source.repository}/tree/{revision}?recursive=true")
        with self._http.get(address, token, {"Accept": "application/json"}) as answer:
            body = read_json_bytes(answer, _MAX_BYTES)
        try:
            entries = _LISTING.validate_python(json.loads(body))
        except (ValueError, ValidationError, RecursionError):
            raise DownloadFailedError(f"{address.place.host} answers with something else than a listing.") from None
        for entry in entries:
            if entry.lfs is not None and entry.lfs.oid.removeprefix("sha256:") == sha256:
                return self.by_path(HuggingFaceSource(source.repository, entry.path, source.revision))
        raise DownloadFailedError(f"hf:{source.repository} has no file with the SHA-256 {sha256}.")
