"""The sources that a client may name, as text: an address, a file at Hugging Face, a version at Civitai, a hash."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from ..model_store.provenance import is_sha256
from .errors import RefusedSourceError
from .web_address import WebAddress

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_HUGGING_FACE = re.compile(rf"({_NAME}/{_NAME})/([^@]+?)(?:@([A-Za-z0-9._/-]{{1,128}}))?")
_REPOSITORY = re.compile(rf"({_NAME}/{_NAME})(?:@([A-Za-z0-9._/-]{{1,128}}))?")
_HUGGING_FACE_PAGE = re.compile(rf"/({_NAME}/{_NAME})/(?:resolve|blob)/([^/]+)/(.+)")
_CIVITAI = re.compile(r"(?:(\d{1,12})@)?(\d{1,12})")
_CIVITAI_DOWNLOAD = re.compile(r"/api/download/models/(\d{1,12})")
_CIVITAI_PAGE = re.compile(r"(?:^|&)modelVersionId=(\d{1,12})(?:&|$)")
_FORMS = (
    "a source is https://HOST/PATH, hf:ORG/NAME/FILE, hf:ORG/NAME/FILE@REVISION, civitai:VERSION, or sha256:HASH "
    "(64 hexadecimal digits)"
)


@dataclass(frozen=True)
class WebSource:
    """A file at an address."""

    address: WebAddress


@dataclass(frozen=True)
class HuggingFaceSource:
    """A file of a repository ``org/name``, by its path there. `revision`: a branch, a tag or a commit."""

    repository: str
    path: str
    revision: str = "main"


@dataclass(frozen=True)
class RepositorySource:
    """The file of a repository ``org/name`` that has the SHA-256 which the client gives besides."""

    repository: str
    revision: str = "main"


@dataclass(frozen=True)
class CivitaiSource:
    """The file of a version of a model, by the version's number."""

    version: int


@dataclass(frozen=True)
class HashSource:
    """A file by its SHA-256, wherever it is found."""

    sha256: str


Source = WebSource | HuggingFaceSource | RepositorySource | CivitaiSource | HashSource


def parse_source(text: str) -> Source:
    """Return the source that `text` names. The address of a file's page at Hugging Face is one there.

    Raises:
        RefusedSourceError: it has none of the forms.
    """
    kind, separator, rest = text.strip().partition(":")
    kind = kind.lower()
    if separator and kind == "hf":
        return _hugging_face(rest)
    if separator and kind == "civitai" and (match := _CIVITAI.fullmatch(rest)):
        return CivitaiSource(int(match[2]))
    if separator and kind == "sha256" and is_sha256(rest.lower()):
        return HashSource(rest.lower())
    if kind not in {"http", "https"}:
        raise RefusedSourceError(f"This is no source of a model: {_FORMS}.")
    address = WebAddress.parse(text.strip())
    version = _civitai_version(address)
    if version is not None:
        return CivitaiSource(version)
    page = _HUGGING_FACE_PAGE.fullmatch(address.path)
    if page and address.place.host in {"huggingface.co", "hf.co"}:
        return _checked(page[1], unquote(page[3]), unquote(page[2]))
    return WebSource(address)


def _civitai_version(address: WebAddress) -> int | None:
    """Return the version that an address of Civitai is of: of its download, or of its page."""
    if address.place.host not in {"civitai.com", "civitai.red"}:
        return None
    match = _CIVITAI_DOWNLOAD.fullmatch(address.path) or _CIVITAI_PAGE.search(address.query)
    return int(match[1]) if match else None


def _hugging_face(text: str) -> HuggingFaceSource | RepositorySource:
    whole = _REPOSITORY.fullmatch(text)
    if whole is not None:
        return RepositorySource(whole[1], _checked(whole[1], "", whole[2] or "main").revision)
    match = _HUGGING_FACE.fullmatch(text)
    if match is None:
        raise RefusedSourceError(
            "A file at Hugging Face is hf:ORG/NAME/PATH/FILE.safetensors, with @REVISION or not."
        )
    return _checked(match[1], match[2], match[3] or "main")


def _checked(repository: str, path: str, revision: str) -> HuggingFaceSource:
    segments = [*(path.split("/") if path else ()), *revision.split("/")]
    if not path.isprintable() or any(segment in {"", ".", ".."} for segment in segments):
        raise RefusedSourceError("The path of a file at Hugging Face has no empty parts, no . and no .. in it.")
    return HuggingFaceSource(repository, path, revision)
