"""The tokens that a worker accepts, and the one function that says who is let in."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Collection

from pydantic import SecretStr

Issued = Callable[[], Collection[bytes]]


class Tokens:
    """The token of the settings, and those that were issued to others. Thread-safe.

    Tokens are known by their SHA-256 digests alone, which are compared in constant time. A digest that needs no
    work is enough, since a token is as long as a key and not a password.
    """

    def __init__(self, token: SecretStr | None = None, issued: Issued | None = None) -> None:
        """Accept these tokens; with neither, everybody.

        Args:
            token: that of the settings, or None.
            issued: returns the digests of the tokens that are issued and not revoked, asked at each request.
        """
        self._fixed = () if token is None else (token_digest(token.get_secret_value()),)
        self._issued = issued

    @property
    def are_required(self) -> bool:
        """True if nobody is let in without a token."""
        return bool(self._fixed) or self._issued is not None

    def allow(self, authorization: str | None) -> bool:
        """Return whether a request with this value of `Authorization` is let in at this moment.

        A token may be revoked at any time. What lets in a connection that carries many requests asks at each of
        them.
        """
        if not self.are_required:
            return True
        scheme, _, given = (authorization or "").partition(" ")
        digest = token_digest(given.strip())
        known = (*self._fixed, *(() if self._issued is None else self._issued()))
        matches = [hmac.compare_digest(digest, each) for each in known]  # all of them, so that time tells nothing
        return scheme.lower() == "bearer" and any(matches)


def token_digest(token: str) -> bytes:
    """Return the SHA-256 of a token."""
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
