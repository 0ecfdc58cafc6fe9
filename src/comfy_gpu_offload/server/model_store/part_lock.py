"""The lock on a file's part, so that of all who receive the same file only one writes it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from .refusals import FileInUseError

try:
    import fcntl
except ImportError:  # Windows: the lock holds within this process
    fcntl = None  # type: ignore[assignment]

_held: set[Path] = set()
_lock = threading.Lock()


class PartLock:
    """The lock on a part that is open, until it is released. Of no use to whoever does not ask for it.

    Raises:
        FileInUseError: somebody else has it.
    """

    def __init__(self, part: Path, handle: int) -> None:
        self._part = part
        with _lock:
            if part in _held:
                raise _in_use(part)
            _held.add(part)
        try:
            _lock_file(part, handle)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let others have it. The file's own lock ends with its handle."""
        with _lock:
            _held.discard(self._part)


def _lock_file(part: Path, handle: int) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use(part) from None
    except OSError:  # a network drive without locks
        return
    # Whoever had it before may have removed the file between its opening and this lock.
    if not part.exists() or not os.path.samestat(os.fstat(handle), part.stat()):
        raise _in_use(part)


def _in_use(part: Path) -> FileInUseError:
    return FileInUseError(f"{part.name} is being received already, by this worker or by another one on its volume.")
