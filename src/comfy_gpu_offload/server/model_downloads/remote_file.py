"""A file at its origin, as far as it is known before its bytes come; tokens, and whose they are."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import SecretStr

from ...config.address import Address
from ...config.settings import CIVITAI, HUGGING_FACE
from .web_address import WebAddress


@dataclass(frozen=True)
class RemoteFile:
    """A file to download.

    Attributes:
        address: to ask for it.
        name: of the file there.
        source: of the record, without secrets.
        folder_hints: names that may tell which of the worker's folders it belongs into, the best first.
        sha256, size_bytes: None where they are not known yet.
    """

    address: WebAddress
    name: str
    source: str
    folder_hints: tuple[str, ...] = ()
    sha256: str | None = None
    size_bytes: int | None = None


@dataclass(frozen=True)
class OriginTokens:
    """The tokens of one client's request. They are in memory only, and each is sent to its own site alone."""

    hugging_face: SecretStr | None = field(default=None, repr=False)
    civitai: SecretStr | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Sites:
    """The two sites that sources name, by address; an operator may name mirrors in their place."""

    hugging_face: Address = HUGGING_FACE
    civitai: Address = CIVITAI

    def token_for(self, address: WebAddress, tokens: OriginTokens) -> SecretStr | None:
        """Return the token that belongs to the site of `address`, if it is one of these."""
        host = address.place
        if _same_origin(host, self.hugging_face):
            return tokens.hugging_face
        return tokens.civitai if _same_origin(host, self.civitai) else None


def _same_origin(one: Address, other: Address) -> bool:
    return (one.scheme, one.host, one.tcp_port) == (other.scheme, other.host, other.tcp_port)
