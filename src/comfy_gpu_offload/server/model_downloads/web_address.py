"""The address of something to download, checked where it enters: of a source, and of each redirect."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

from ...config.address import Address
from .errors import RefusedSourceError

_PRINTABLE = re.compile(r"[!-~]+")
_LONGEST = 8192


@dataclass(frozen=True)
class WebAddress:
    """A URL. `str()` shows it without its query, which may hold a token or a signature.

    Attributes:
        place: scheme, host and port, without a path.
        path: from its first slash on.
        query: "" or what follows the question mark.
    """

    place: Address
    path: str
    query: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> WebAddress:
        """Return the address that `text` is.

        Raises:
            RefusedSourceError: it is none, or is plain http to another machine.
        """
        if len(text) > _LONGEST or not _PRINTABLE.fullmatch(text):
            raise RefusedSourceError("The address of a model is printable ASCII: write other characters as %XX.")
        try:
            parts = urlsplit(text)
            if "@" in parts.netloc:
                raise RefusedSourceError("The address of a model may hold no user and password.")
            place = Address.parse(f"{parts.scheme}://{parts.netloc}")
        except ValueError:
            raise RefusedSourceError(
                "A model is downloaded from https://HOST/PATH: this is no such address."
            ) from None
        return cls(place, parts.path or "/", parts.query)

    @property
    def origin(self) -> tuple[str, str, int]:
        """Return scheme, host and port, by which a browser would tell whose a secret is."""
        return self.place.scheme, self.place.host, self.place.tcp_port

    @property
    def target(self) -> str:
        """Return path and query, as a request has them."""
        return f"{self.path}?{self.query}" if self.query else self.path

    def joined(self, location: str) -> WebAddress:
        """Return where a redirect from here leads.

        Raises:
            RefusedSourceError: to no address.
        """
        try:
            return WebAddress.parse(urljoin(f"{self.place}{self.target}", location))
        except ValueError:
            raise RefusedSourceError(f"{self.place} redirects to something that is no address.") from None

    def __str__(self) -> str:
        return f"{self.place}{self.path}"
