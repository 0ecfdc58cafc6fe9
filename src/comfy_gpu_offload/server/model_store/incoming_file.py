"""A model file on its way in: a part beside its place, which gets the file's name once it is whole and checked."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import time
from types import TracebackType
from typing import Final

from . import provenance
from .disk_space import disk_errors, require_room
from .file_formats import BEGINNING, wrong_beginning, wrong_file
from .part_lock import PartLock
from .placement import Place
from .provenance import Origin
from .refusals import RefusedFileError

logger = logging.getLogger(__name__)

PART: Final = ".part"
_READ_BYTES = 1024**2
# Between two looks at what is free on the disk, which other programs use too.
_LOOK_BYTES = 64 * 1024**2
_ABANDONED_S = 7 * 24 * 3600.0
_KEY_CHARACTERS = 16
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


class IncomingFile:
    """A file that a client brings. Not thread-safe; one at a time for each place and key, in all processes.

    Args:
        place: where the file belongs (`placement.place_of`).
        key: names the content, by its hash or by its version at its source: a part is only continued under the key
            that it was begun with.
        size_bytes: of the whole file, if that is known.
        check: called now and then while an earlier part is read; what it raises ends that.

    Attributes:
        received: bytes that are there, those of earlier attempts included.

    Raises:
        RefusedFileError: another file has that name, or the folder cannot be written to.
        DiskFullError: there is no room for it.
        FileInUseError: it is being received already.
    """

    def __init__(
        self,
        place: Place,
        key: str,
        size_bytes: int | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.place = place
        self.size_bytes = size_bytes
        self.received = 0
        digest = hashlib.sha256(f"{place.name}\n{key}".encode()).hexdigest()[:_KEY_CHARACTERS]
        self.part = place.directory / f"{place.name}.{digest}{PART}"
        self._hash = hashlib.sha256()
        self._looked_at = 0
        self._is_checked = False
        with disk_errors(place.directory):
            place.directory.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(place.directory, besides=self.part)
        refuse_taken(place)
        with disk_errors(place.directory):
            self._handle = _opened(self.part)
        self._lock: PartLock | None = None
        try:
            self._lock = PartLock(self.part, self._handle)
            with disk_errors(place.directory):
                self._read_again(check)
            require_room(place.directory, (size_bytes or 0) - self.received)
        except BaseException:
            self.close()
            raise

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of what has been received, as 64 hexadecimal digits."""
        return self._hash.hexdigest()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append `data`, at best some MiB at once.

        Raises:
            DiskFullError: the disk is full; what has come is kept.
            RefusedFileError: the file is none that a worker takes, or is longer than was said. The part is removed.
        """
        if self.size_bytes is not None and self.received + len(data) > self.size_bytes:
            self.discard()
            raise RefusedFileError(f"{self.place.name} is longer than the {self.size_bytes} bytes that were said.")
        if self.received - self._looked_at >= _LOOK_BYTES:
            require_room(self.place.directory, len(data))
            self._looked_at = self.received
        view = memoryview(data).cast("B")
        with disk_errors(self.place.directory):
            while view:
                written = os.write(self._handle, view)
                self._hash.update(view[:written])
                self.received += written
                view = view[written:]
        self._check_beginning()

    def restart(self) -> None:
        """Begin anew: the source has another content than the one that the part is of."""
        with disk_errors(self.place.directory):
            os.ftruncate(self._handle, 0)
            os.lseek(self._handle, 0, os.SEEK_SET)
        self._hash = hashlib.sha256()
        self.received = self._looked_at = 0
        self._is_checked = False

    def finish(self, expected_sha256: str | None, source: str) -> Origin:
        """Check the whole file, and give it its name; it was never there before under that name.

        Args:
            expected_sha256: 64 hexadecimal digits in lower case, or None if nobody knows it.
            source: for the record; of an address only what is in front of its query is kept.

        Raises:
            RefusedFileError: it is not whole, has another hash, is no model, or another file has its name now. In
                all cases but the first the part is removed.
        """
        if self.size_bytes is not None and self.received != self.size_bytes:
            raise RefusedFileError(
                f"{self.place.name} is not whole: {self.received} of its {self.size_bytes} bytes are there."
            )
        try:
            found = self._hash.hexdigest()
            if expected_sha256 is not None and found != expected_sha256:
                raise RefusedFileError(
                    f"{self.place.name} has the SHA-256 {found} and not {expected_sha256}: it was damaged on its "
                    "way, or is another file. It was removed. Try again, or check the hash."
                )
            self._check_whole()
            with disk_errors(self.place.directory):
                os.fsync(self._handle)
                if os.name == "nt":  # where an open file keeps its name
                    self.close()
                _give_name(self.part, self.place)
        except RefusedFileError:
            self.discard()
            raise
        self.close()
        origin = Origin(found, self.received, provenance.public_source(source))
        provenance.record(self.place.path, origin)
        logger.info("%s has come to %s: %d bytes", self.place.name, self.place.folder, self.received)
        return origin

    def discard(self) -> None:
        """Remove the part."""
        if os.name == "nt":
            self.close()
        with suppress(OSError):  # first, while it is locked: nobody else is to continue it
            self.part.unlink()
        self.close()

    def close(self) -> None:
        """Leave the part as it is, to be continued later, unless it is empty. Further calls do nothing."""
        if self._handle >= 0:
            is_empty = self._lock is not None and not self.received
            if is_empty and os.name != "nt":  # where an open file cannot be removed
                with suppress(OSError):
                    self.part.unlink()
            os.close(self._handle)
            self._handle = -1
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> IncomingFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_again(self, check: Callable[[], None]) -> None:
        """Take up what an earlier attempt has left, whose hash is computed again."""
        if self.size_bytes is not None and os.fstat(self._handle).st_size > self.size_bytes:
            os.ftruncate(self._handle, 0)
        while block := os.read(self._handle, _READ_BYTES):
            self._hash.update(block)
            self.received += len(block)
            check()

    def _check_beginning(self) -> None:
        """Refuse a file by its first bytes, before the rest of it has come.

        Raises:
            RefusedFileError: it is none that a worker takes; the part is removed.
        """
        if self._is_checked or (self.received < BEGINNING and self.received != self.size_bytes):
            return
        with disk_errors(self.place.directory), self.part.open("rb") as file:
            beginning = file.read(BEGINNING)
        self._is_checked = True
        wrong = wrong_beginning(beginning, self.place.suffix, self.size_bytes)
        if wrong is not None:
            self.discard()
            raise self._refusal(wrong)

    def _check_whole(self) -> None:
        with disk_errors(self.place.directory):
            wrong = wrong_file(self.part, self.place.suffix)
        if wrong is not None:
            raise self._refusal(wrong)

    def _refusal(self, wrong: str) -> RefusedFileError:
        return RefusedFileError(f"{self.place.name} is not taken: it {wrong}")


def refuse_taken(place: Place) -> None:
    """Refuse a place that is taken by another file, or by a link, wherever that leads.

    Raises:
        RefusedFileError: it is taken.
    """
    if os.path.lexists(place.path):
        raise RefusedFileError(
            f"There is another {place.name} in {place.folder} on the worker: give this one another name, or remove "
            "that one."
        )


def _opened(part: Path) -> int:
    handle = os.open(part, _FLAGS, 0o666)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise RefusedFileError(f"{part} on the worker is no ordinary file: remove it.")
    return handle


def _give_name(part: Path, place: Place) -> None:
    """Give the part its name, unless that was taken meanwhile, since renaming replaces what is there."""
    try:
        os.link(part, place.path)
    except FileExistsError:
        refuse_taken(place)
    except OSError:  # a file system without links
        refuse_taken(place)
        part.rename(place.path)
    else:
        part.unlink()


def _remove_abandoned(directory: Path, besides: Path) -> None:
    for part in directory.glob(f"*.{'[0-9a-f]' * _KEY_CHARACTERS}{PART}"):
        with suppress(OSError):
            if part != besides and time() - part.stat().st_mtime > _ABANDONED_S:
                part.unlink()
