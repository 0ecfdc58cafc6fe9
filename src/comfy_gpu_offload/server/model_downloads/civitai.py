"""Files at Civitai: by a version's number, or by a hash."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from ...config.address import Address
from ..model_store.file_formats import SUFFIXES
from .errors import DownloadFailedError
from .guarded_http import GuardedHttp, read_json_bytes
from .remote_file import RemoteFile
from .web_address import WebAddress

_MAX_BYTES = 4 * 1024**2
# Civitai's names of types, and the folders that belong to them. LoRA stay at the client.
_FOLDERS = {
    "Checkpoint": ("checkpoints",),
    "VAE": ("vae",),
    "Controlnet": ("controlnet",),
    "UNet": ("diffusion_models",),
    "TextEncoder": ("text_encoders",),
}


class _Described(BaseModel):
    """A part of Civitai's answer; what is not used here is passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class _Hashes(_Described):
    sha256: Annotated[str | None, Field(alias="SHA256", pattern=r"^[0-9A-Fa-f]{64}$")] = None


class _File(_Described):
    name: Annotated[str, Field(max_length=256)]
    download_url: Annotated[str, Field(alias="downloadUrl", max_length=2048)]
    type: Annotated[str, Field(max_length=64)] = "Model"
    primary: bool = False
    hashes: _Hashes = _Hashes()

    @property
    def sha256(self) -> str | None:
        """Return the hash in lower case, if Civitai gives it."""
        return None if self.hashes.sha256 is None else self.hashes.sha256.lower()

    @property
    def can_be_taken(self) -> bool:
        """Return whether it is of a kind that a worker takes."""
        return self.name.lower().endswith(tuple(SUFFIXES))


class _Model(_Described):
    type: Annotated[str, Field(max_length=64)] = ""


class _Version(_Described):
    id: int
    files: Annotated[tuple[_File, ...], Field(max_length=1000)] = ()
    model: _Model = _Model()


class Civitai:
    """Civitai's API, at `site`."""

    def __init__(self, http: GuardedHttp, site: Address) -> None:
        self._http = http
        self._site = site

    def by_version(self, version: int, token: SecretStr | None, sha256: str | None = None) -> RemoteFile:
        """Return the file of a version: the one with that hash, else its primary one that a worker takes.

        Raises:
            DownloadFailedError: there is none.
            BrokenTransferError: another attempt may succeed.
        """
        found = self._version(f"/api/v1/model-versions/{version}", token)
        usable = [file for file in found.files if file.can_be_taken]
        if sha256 is not None:
            usable = [file for file in usable if file.sha256 == sha256]
        usable.sort(key=lambda file: (not file.primary, file.type != "Model"))
        if not usable:
            raise DownloadFailedError(
                f"Version {version} at Civitai has no {'such ' if sha256 else ''}file that a worker takes "
                f"({', '.join(sorted(SUFFIXES))}): choose another version."
            )
        return _remote(found, usable[0])

    def by_hash(self, sha256: str, token: SecretStr | None) -> RemoteFile:
        """Return the file that has that SHA-256.

        Raises:
            DownloadFailedError: Civitai does not know it.
            BrokenTransferError: another attempt may succeed.
        """
        try:
            found = self._version(f"/api/v1/model-versions/by-hash/{sha256.upper()}", token)
        except DownloadFailedError as error:
            raise DownloadFailedError(
                f"Nobody who is asked knows a file with the SHA-256 {sha256}: {error}"
            ) from error
        for file in found.files:
            if file.sha256 == sha256 and file.can_be_taken:
                return _remote(found, file)
        raise DownloadFailedError(
            f"Civitai knows the SHA-256 {sha256} as a file of version {found.id} that a worker does not take."
        )

    def _version(self, path: str, token: SecretStr | None) -> _Version:
        address = WebAddress.parse(f"{self._site}{path}")
        with self._http.get(address, token, {"Accept": "application/json"}) as answer:
            body = read_json_bytes(answer, _MAX_BYTES)
        try:
            return _Version.model_validate(json.loads(body))
        except (ValueError, ValidationError, RecursionError):
            raise DownloadFailedError(f"{address.place.host} answers with something else than a version.") from None


def _remote(version: _Version, file: _File) -> RemoteFile:
    return RemoteFile(
        address=WebAddress.parse(file.download_url),
        name=file.name,
        source=f"civitai:{version.id}",
        folder_hints=_FOLDERS.get("VAE" if file.type == "VAE" else version.model.type, ()),
        sha256=file.sha256,
    )
