"""A search through folders of models, in which anything may lie; what cannot be offered is passed over."""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..protocol.messages import SkippedEntry

logger = logging.getLogger(__name__)

# The longest name of a file; on the wire a folder or a prefix may come before it.
MAX_NAME = 256 - len("diffusion_models/")
_SHOWN_NAME = 200
_DEEPEST = 16
_MAX_ENTRIES = 100_000
_REASONS = {
    errno.ELOOP: "a link that leads back to itself",
    errno.EACCES: "this worker's user may not read it",
    errno.EPERM: "this worker's user may not read it",
    errno.ENAMETOOLONG: "its path is longer than the system takes",
    errno.EIO: "the disk cannot read it",
    errno.ESTALE: "it lies on a network drive that has gone away",
    errno.ENOTCONN: "it lies on a network drive that has gone away",
}


class FoundFile(NamedTuple):
    """A readable file: `name` is its path below the folder that was looked through, with forward slashes."""

    name: str
    path: Path
    size_bytes: int


@dataclass
class Skips:
    """The entries that were passed over, each once."""

    entries: dict[str, SkippedEntry] = field(default_factory=dict)

    def add(self, name: str, reason: str) -> None:
        """Note that `name` is passed over for `reason`."""
        shown = _shown(name)
        self.entries.setdefault(shown, SkippedEntry(name=shown, reason=reason[:256]))


class SkipLog:
    """A log of entries that are passed over: each once, however often the folders are searched. Thread-safe."""

    def __init__(self) -> None:
        self._logged: set[SkippedEntry] = set()
        self._lock = threading.Lock()

    def log(self, skipped: tuple[SkippedEntry, ...]) -> None:
        """Log those that have not been logged yet, and forget those that are gone."""
        with self._lock:
            new = [entry for entry in skipped if entry not in self._logged]
            self._logged = set(skipped)
        for entry in new:
            logger.warning("%s is not offered: %s", entry.name, entry.reason)


def files_in(
    root: Path, wanted: Callable[[str], bool], skips: Skips, deepest: int = _DEEPEST
) -> Iterator[FoundFile]:
    """Return the files below `root` whose base name is `wanted`; links are followed.

    Args:
        skips: told of what is passed over.
        deepest: how many folders deep to look below `root`.
    """
    yield from _Walk(root, wanted, skips, deepest).files(root, (), 0)


def is_offerable(name: str, skips: Skips) -> bool:
    """Return whether `name` can be sent as a model's name; `skips` is told where it cannot."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        skips.add(name, "its name is not UTF-8: rename it")
        return False
    if len(name) > MAX_NAME:
        skips.add(name, f"its path has {len(name)} characters, and a name has {MAX_NAME} at most: shorten it")
        return False
    return True


class _Walk:
    def __init__(self, root: Path, wanted: Callable[[str], bool], skips: Skips, deepest: int) -> None:
        self._root = root
        self._wanted = wanted
        self._skips = skips
        self._deepest = deepest
        self._left = _MAX_ENTRIES

    def files(self, folder: Path, above: tuple[tuple[int, int], ...], depth: int) -> Iterator[FoundFile]:
        """Return the files in `folder` and below; `above` are device and inode of the folders that it lies in."""
        try:
            status = folder.stat()
            with os.scandir(folder) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except FileNotFoundError:
            return
        except OSError as error:
            self._skip(folder, _reason(error))
            return
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            self._skip(folder, "a folder that lies in itself, by a link")
            return
        for entry in entries:
            self._left -= 1
            if self._left < 0:
                self._skip(folder, f"over {_MAX_ENTRIES} entries: the rest is not looked at")
                return
            yield from self._entry(entry, (*above, identity), depth)

    def _entry(
        self, entry: os.DirEntry[str], above: tuple[tuple[int, int], ...], depth: int
    ) -> Iterator[FoundFile]:
        path = Path(entry.path)
        try:
            status = entry.stat()
        except OSError as error:
            # A link that leads nowhere may have been to a folder of models: those have no suffix, as a rule.
            if self._wanted(entry.name) or not path.suffix:
                self._skip(path, _reason(error, is_link=entry.is_symlink()))
            return
        if stat.S_ISDIR(status.st_mode):
            if depth < self._deepest and entry.name != ".git":
                yield from self.files(path, above, depth + 1)
        elif self._wanted(entry.name):
            yield from self._file(path, status)

    def _file(self, path: Path, status: os.stat_result) -> Iterator[FoundFile]:
        name = path.relative_to(self._root).as_posix()
        if not stat.S_ISREG(status.st_mode):
            self._skip(path, "it is no ordinary file")
        elif not os.access(path, os.R_OK):
            self._skip(path, _REASONS[errno.EACCES])
        elif is_offerable(name, self._skips):
            yield FoundFile(name, path, status.st_size)

    def _skip(self, path: Path, reason: str) -> None:
        inside = path.relative_to(self._root).as_posix()
        self._skips.add(str(path) if inside == "." else inside, reason)


def _reason(error: OSError, *, is_link: bool = False) -> str:
    if isinstance(error, FileNotFoundError):
        return "a link to a file that is not there" if is_link else "it was removed meanwhile"
    return _REASONS.get(error.errno or 0) or error.strerror or type(error).__name__


def _shown(name: str) -> str:
    """Return `name` as it can be shown and sent: bytes that are no UTF-8 escaped, a long one without its middle."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    if len(text) <= _SHOWN_NAME:
        return text
    return f"{text[: _SHOWN_NAME // 2 - 1]}…{text[-_SHOWN_NAME // 2 :]}"
