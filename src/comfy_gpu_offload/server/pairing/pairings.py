"""The pairings of a worker: names, each with a token of its own, that are issued and revoked one by one.

Each is a file in the private folder. Making and revoking one are then single steps of the file system: no process
waits for another, and a running worker sees both.
"""

from __future__ import annotations

import logging
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from ...config.pairing import TOKEN_BYTES
from ...config.private_files import create_once
from ...errors import ConfigError
from ..http.tokens import token_digest

logger = logging.getLogger(__name__)

DEFAULT_NAME = "default"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")
# The prefix keeps names such as `con` from being devices on Windows.
_PREFIX, _SUFFIX = "pairing-", ".json"
# After which the files are read again even if the folder looks as before: a file system may tell changes late.
_TRUST_S = 2.0


@dataclass(frozen=True)
class IssuedPairing:
    """A pairing: its name, its token, and the time at which it was made."""

    name: str
    token: SecretStr
    made: datetime


class _File(BaseModel):
    model_config = ConfigDict(frozen=True)

    token: Annotated[str, Field(pattern=rf"^[A-Za-z0-9_-]{{{TOKEN_BYTES * 4 // 3}}}$")]
    made: datetime


@dataclass(frozen=True)
class _Read:
    """The tokens' digests, the state of the folder just before they were read, and when that was."""

    digests: frozenset[bytes]
    stamp: tuple[int, int] | None
    at: float


class Pairings:
    """The pairings in a private folder, of all workers that are shared from it. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        """`folder`: exists, and nobody else may read it."""
        self._folder = folder
        self._read: _Read | None = None
        self._unreadable: set[str] = set()

    def issue(self, name: str = DEFAULT_NAME) -> IssuedPairing:
        """Return the pairing of that name; make it if there is none.

        Raises:
            ConfigError: there can be none of that name, or its file is damaged.
        """
        name = checked_name(name)
        file = self._file(name)
        if not file.exists():
            made = _File(token=secrets.token_urlsafe(TOKEN_BYTES), made=datetime.now(UTC).replace(microsecond=0))
            create_once(file, made.model_dump_json().encode())
        issued = self._issued(file)
        if issued is None:
            raise ConfigError(f"{file} cannot be read as a pairing: revoke {name!r} to have a new one made.")
        return issued

    def all(self) -> tuple[IssuedPairing, ...]:
        """Return the pairings by their names."""
        files = sorted(self._folder.glob(f"{_PREFIX}*{_SUFFIX}"))
        return tuple(issued for issued in map(self._issued, files) if issued is not None)

    def revoke(self, name: str) -> None:
        """Forget a pairing: nobody is let in by its line any more, also by workers that run.

        Raises:
            ConfigError: there is none of that name.
        """
        name = checked_name(name)
        try:
            self._file(name).unlink()
        except FileNotFoundError:
            names = ", ".join(each.name for each in self.all()) or "none at all"
            raise ConfigError(f"There is no pairing {name!r}; there is: {names}") from None

    def digests(self) -> frozenset[bytes]:
        """Return the digests of all tokens at this moment. They are read again once the folder has changed."""
        stamp, read = self._stamp(), self._read
        if read is None or read.stamp != stamp or monotonic() - read.at > _TRUST_S:
            tokens = (issued.token.get_secret_value() for issued in self.all())
            read = self._read = _Read(frozenset(map(token_digest, tokens)), stamp, monotonic())
        return read.digests

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = self._folder.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino

    def _file(self, name: str) -> Path:
        return self._folder / f"{_PREFIX}{name}{_SUFFIX}"

    def _issued(self, file: Path) -> IssuedPairing | None:
        """Return the pairing in a file, or None if it holds none: it lets nobody in then, and the log names it."""
        try:
            content = _File.model_validate_json(file.read_bytes())
        except FileNotFoundError:  # revoked a moment ago
            return None
        except (OSError, ValidationError) as error:
            if file.name not in self._unreadable:
                self._unreadable.add(file.name)
                logger.warning(
                    "%s is no pairing that can be read (%s): nobody is let in by it", file, type(error).__name__
                )
            return None
        name = file.name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
        return IssuedPairing(name, SecretStr(content.token), content.made)


def checked_name(name: str) -> str:
    """Return a pairing's name, in lower case.

    Raises:
        ConfigError: it cannot be one.
    """
    name = name.strip().lower()
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be a pairing's name: use up to 40 of a to z, digits, dots, dashes and underscores. "
            "The name of the machine that the line is for is a good one."
        )
    return name
