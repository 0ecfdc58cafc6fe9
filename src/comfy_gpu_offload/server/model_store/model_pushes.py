"""The files that clients push in parts: each is written in order, resumed, checked, and named at its end."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

from ...backends.base import ModelFolder
from ...errors import MessageError
from ...protocol.messages import Fault, FaultCode
from ...protocol.messages.model_push import PushModel, PushPart
from ..faults import RefusedError
from . import provenance
from .incoming_file import IncomingFile
from .placement import Place, place_of
from .refusals import RefusedFileError

SOURCE: Final = "push"
"""The source of a pushed file, in its record."""

_MOST_OPEN: Final = 16
# After this time without a part another file may be pushed under the same name.
_STALLED_S: Final = 60.0
# How long a part waits for those before it, which its client sent at the same time.
_PREDECESSOR_S: Final = 30.0
_LOOK_EVERY_S: Final = 0.5
_READ_BYTES: Final = 4 * 1024**2

_Key = tuple[str, str, bytes]


@dataclass(frozen=True)
class PushState:
    """The progress of a push.

    Attributes:
        received: bytes that the worker has, from the beginning of the file.
        sha256: of these.
        is_whole: whether the file has its name.
    """

    received: int
    sha256: bytes
    is_whole: bool = False


class ModelPushes:
    """The pushes of all clients, by folder, name and hash of the file. Thread-safe.

    Clients that push the same file at the same time share its push: whichever part comes first is written.

    Locking:
        One lock guards the table, for a few instructions. Each push has a condition of its own, under which its
        file is opened, written and finished, one part after another; a part whose predecessor is still on its way
        waits for it there. No thread waits for a second lock while it holds one.

    Args:
        folders: returns those of the backend.
    """

    def __init__(self, folders: Callable[[], Mapping[str, ModelFolder]]) -> None:
        self._folders = folders
        self._pushes: OrderedDict[_Key, _Push] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, asked: PushModel) -> PushState:
        """Open the push, or find it, and return how far it is. What an earlier attempt left is read and hashed.

        Raises:
            RefusedFileError: the folder or the name is none that the worker takes, another file has that name or is
                being pushed under it.
            DiskFullError: there is no room for it.
            FileInUseError: another worker that shares the folder receives it.
        """
        place = place_of(self._folders(), asked.folder, asked.name)
        if place.path.exists():
            return _existing(place, asked)
        key = (asked.folder, asked.name, asked.sha256)
        push, surplus = self._claimed(key, place, asked)
        for each in surplus:
            each.close()
        try:
            state = push.opened(restart=asked.restart)
        except BaseException:
            self._forget(key, push)
            raise
        if state.is_whole:
            self._forget(key, push)
        return state

    def add(self, part: PushPart, data: memoryview, is_gone: Callable[[], bool]) -> PushState:
        """Write a part, once those before it are written; finish the file with its last part.

        Args:
            is_gone: returns whether nobody waits for the reply any more.

        Raises:
            RefusedError: this worker does not have that push, or a part before this one has not come.
            MessageError: the part is beyond the end of the file.
            RefusedFileError, DiskFullError: as `IncomingFile`.
        """
        key = (part.folder, part.name, part.sha256)
        with self._lock:
            push = self._pushes.get(key)
            if push is None:
                raise unknown_push()
            self._pushes.move_to_end(key)
        try:
            state = push.add(part.begin, data, is_gone)
        except RefusedFileError:
            self._forget(key, push)
            raise
        if state.is_whole:
            self._forget(key, push)
        return state

    def close(self) -> None:
        """Leave all that has come where it is, to be continued by another start of the worker."""
        with self._lock:
            pushes, self._pushes = list(self._pushes.values()), OrderedDict()
        for push in pushes:
            push.close()

    def _claimed(self, key: _Key, place: Place, asked: PushModel) -> tuple[_Push, list[_Push]]:
        """Return the push of that key, and those that have to be closed because too many are open."""
        with self._lock:
            if any(
                other[:2] == key[:2] and other != key and not self._pushes[other].is_stalled
                for other in self._pushes
            ):
                raise RefusedFileError(
                    f"Another file is being pushed to {place.folder} as {place.name}: choose another name (--name)."
                )
            push = self._pushes.setdefault(key, _Push(place, asked))
            if push.size_bytes != asked.size_bytes:
                raise MessageError("two files of the same hash cannot have two sizes")
            self._pushes.move_to_end(key)
            count = max(0, len(self._pushes) - _MOST_OPEN)
            surplus = [self._pushes.popitem(last=False)[1] for _ in range(count)]
        return push, surplus

    def _forget(self, key: _Key, push: _Push) -> None:
        with self._lock:
            if self._pushes.get(key) is push:
                del self._pushes[key]
        push.close()


class _Push:
    """One file on its way in. Thread-safe: the condition's lock guards its file."""

    def __init__(self, place: Place, asked: PushModel) -> None:
        self.size_bytes = asked.size_bytes
        self._place = place
        self._sha256 = asked.sha256
        self._file: IncomingFile | None = None
        self._active_at = monotonic()
        # The reason why the file is not taken, for the parts that wait.
        self._refusal: str | None = None
        self._changed = threading.Condition()

    @property
    def is_stalled(self) -> bool:
        """Return whether nothing has come for a while."""
        return monotonic() - self._active_at > _STALLED_S

    def opened(self, *, restart: bool) -> PushState:
        """Open the file if it is not open, and return how far it is; finish it if nothing is missing."""
        with self._changed:
            self._active_at = monotonic()
            if self._file is None:
                self._file = IncomingFile(self._place, f"push {self._sha256.hex()}", self.size_bytes)
            if restart:
                self._file.restart()
            return self._state(self._file)

    def add(self, begin: int, data: memoryview, is_gone: Callable[[], bool]) -> PushState:
        """See `ModelPushes.add`."""
        end = begin + len(data)
        if end > self.size_bytes:
            raise MessageError("a part is beyond the end of the file that was announced")
        with self._changed:
            file = self._once_at(begin, is_gone)
            self._active_at = monotonic()
            try:
                if end > file.received:
                    file.write(data[file.received - begin :])
                return self._state(file)
            except RefusedFileError as error:
                self._file, self._refusal = None, str(error)
                raise
            finally:
                self._changed.notify_all()

    def close(self) -> None:
        """Close the file; parts that wait are refused, and their clients begin again."""
        with self._changed:
            if self._file is not None:
                self._file.close()
            self._file = None
            self._changed.notify_all()

    def _once_at(self, begin: int, is_gone: Callable[[], bool]) -> IncomingFile:
        """Wait until everything before `begin` is written; return the file."""
        deadline = monotonic() + _PREDECESSOR_S
        while self._file is not None and self._file.received < begin:
            if is_gone() or monotonic() > deadline:
                raise unknown_push("a part before this one has not come")
            self._changed.wait(_LOOK_EVERY_S)
        if self._refusal is not None:
            raise RefusedFileError(self._refusal)
        if self._file is None:
            raise unknown_push()
        return self._file

    def _state(self, file: IncomingFile) -> PushState:
        if file.received < self.size_bytes:
            return PushState(file.received, bytes.fromhex(file.sha256))
        origin = file.finish(self._sha256.hex(), SOURCE)
        self._file = None
        return PushState(origin.size_bytes, self._sha256, is_whole=True)


def unknown_push(why: str = "it was restarted, or is another one") -> RefusedError:
    """Return the refusal of a part whose push this worker does not have; the client begins it again."""
    text = f"This worker does not have the beginning of the file: {why}."
    return RefusedError(Fault(code=FaultCode.UNKNOWN_PUSH, message=text, retryable=True))


def _existing(place: Place, asked: PushModel) -> PushState:
    """Return that a file is there already; refuse to replace another one of its name.

    Raises:
        RefusedFileError: the file there has other contents.
    """
    size = place.path.stat().st_size
    if size != asked.size_bytes or _sha256_of(place.path) != asked.sha256:
        raise RefusedFileError(
            f"There is another {place.name} in {place.folder} at the worker, of {size / 1e9:.3f} GB: choose "
            "another name (--name), or remove that one first (comfy-gpu-offload models --remove)."
        )
    return PushState(size, asked.sha256, is_whole=True)


def _sha256_of(path: Path) -> bytes:
    """Return the file's hash: from its record if it has one, else from its bytes."""
    origin = provenance.origin_of(path)
    if origin is not None:
        return bytes.fromhex(origin.sha256)
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            sha.update(piece)
    return sha.digest()
