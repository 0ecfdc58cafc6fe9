"""The last known lists of each worker's models, kept in a file so that no endpoint has to be started for them."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

logger = logging.getLogger(__name__)

_TARGETS = 8
_FILE_BYTES = 8 * 1024**2

_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
_Kind = Annotated[str, Field(max_length=64)]
_Name = Annotated[str, Field(min_length=1, max_length=1024)]
_Lists = dict[_Kind, tuple[_Name, ...]]


class _File(BaseModel):
    model_config = ConfigDict(frozen=True)

    workers: Annotated[dict[_Digest, _Lists], Field(max_length=_TARGETS)]


class KeptLists:
    """The lists of the last few workers, by their address or endpoint. Thread-safe."""

    def __init__(self, file: Path) -> None:
        """`file`: need not exist. If it cannot be read or written, the user has to ask the worker once more."""
        self._file = file
        self._lock = threading.Lock()
        self._lists: dict[str, _Lists] | None = None

    def get(self, target: str) -> Mapping[str, tuple[str, ...]] | None:
        """Return the lists last kept for an address or endpoint, by their kind; None if there are none."""
        with self._lock:
            return self._read().get(_digest(target))

    def put(self, target: str, lists: Mapping[str, tuple[str, ...]]) -> None:
        """Keep the lists of an address or endpoint, and drop the oldest if there are too many."""
        with self._lock:
            known = self._read()
            if known.get(_digest(target)) == lists:
                return
            known.pop(_digest(target), None)
            known[_digest(target)] = dict(lists)
            while len(known) > _TARGETS:
                del known[next(iter(known))]
            self._write(_File(workers=known))

    def _read(self) -> dict[str, _Lists]:
        if self._lists is None:
            self._lists = self._from_file()
        return self._lists

    def _from_file(self) -> dict[str, _Lists]:
        try:
            with self._file.open("rb") as file:
                text = file.read(_FILE_BYTES + 1)
            return dict(_File.model_validate_json(text).workers) if len(text) <= _FILE_BYTES else {}
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            logger.warning(
                "%s cannot be read (%s): the worker's lists are asked for again.", self._file, _why(error)
            )
            return {}

    def _write(self, content: _File) -> None:
        # Under another name first: a file that is written only in part could not be read.
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._file.parent, prefix=f"{self._file.name}.")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    file.write(content.model_dump_json())
                os.replace(name, self._file)
            except BaseException:
                os.unlink(name)
                raise
        except OSError as error:
            logger.warning("%s cannot be written (%s): the worker's lists are not kept.", self._file, _why(error))


def _why(error: Exception) -> str:
    """Return an error's cause without its message, which may quote the file."""
    return getattr(error, "strerror", None) or type(error).__name__


def _digest(target: str) -> str:
    """Return a name for an address: the file does not show it."""
    return hashlib.sha256(target.encode()).hexdigest()[:32]
