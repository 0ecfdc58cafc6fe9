"""The check for tokens that are too easy to guess, for a worker that others can reach."""

from __future__ import annotations

from pydantic import SecretStr

from .settings import PREFIX

MAKE_ONE = 'python -c "import secrets; print(secrets.token_urlsafe(32))"'
_SHORTEST = 16
_FEWEST_DIFFERENT = 8


def weakness(token: SecretStr) -> str | None:
    """Return why the token is easy to guess, without showing it, or None."""
    text = token.get_secret_value()
    if len(text) < _SHORTEST:
        return f"it has {len(text)} characters, and takes {_SHORTEST} at least"
    if len(set(text)) < _FEWEST_DIFFERENT:
        return f"it is made of {len(set(text))} different characters, and takes {_FEWEST_DIFFERENT} at least"
    return None


def advice() -> str:
    """Return how to make a token, and where to put it."""
    return f"Make one with {MAKE_ONE} and set {PREFIX}TOKEN to it, here and at the client."
