"""The uploaded tensors on disk, by digest, within a budget of bytes: they survive a restart of the worker."""

from __future__ import annotations

import logging
import os
import secrets
import sys
import threading
from pathlib import Path
from time import time

import torch

from ..errors import FrameError
from ..io.digests import digest as digest_of
from ..io.frame import Part, decode, encode

logger = logging.getLogger(__name__)

_SUFFIX, _UNFINISHED = ".frame", ".part"
# A file that has its unfinished name for so long was left by a crash or a full disk.
_ABANDONED_S = 3600.0
_NAME = "tensor"


class BlobFolder:
    """A folder with a file for each tensor, a frame that only this user can read. Thread-safe.

    Nothing here makes a call fail: a folder that cannot be written to keeps nothing, and the log says so. Several
    workers may share one folder.

    Args:
        path: the folder, which is made for this user alone when the first tensor comes.
        budget_bytes: size of all files together; the least recently used are removed first.
    """

    def __init__(self, path: Path, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._path = path
        self._used_bytes: int | None = None
        self._lock = threading.Lock()

    def put(self, digest: bytes, tensor: torch.Tensor) -> None:
        """Keep the tensor, whose digest the caller has checked."""
        frame = encode({}, None, [Part(_NAME, tensor)])
        if frame.size_bytes > self.budget_bytes:
            return
        file = self._file(digest)
        with self._lock:
            try:
                if file.exists():
                    os.utime(file)
                    return
                self._make_room(frame.size_bytes)
                _write(file, frame.buffers)
                self._used_bytes = (self._used_bytes or 0) + frame.size_bytes
            except OSError as error:
                logger.warning(
                    "An upload is kept in memory only, because %s cannot be written to: %s",
                    self._path,
                    error.strerror,
                )

    def get(self, digest: bytes) -> torch.Tensor | None:
        """Return the tensor, or None. A file that does not match its name is removed."""
        file = self._file(digest)
        try:
            data = bytearray(file.read_bytes())
            os.utime(file)
        except OSError:
            return None
        try:
            (received,) = decode(data).tensors
        except (FrameError, ValueError):
            received = None
        if received is None or received.tensor is None or digest_of(received.tensor) != digest:
            logger.warning("%s is damaged and is removed; its client sends it again", file)
            self.drop(digest)
            return None
        return received.tensor

    def drop(self, digest: bytes) -> None:
        """Remove the tensor, if it is there."""
        file = self._file(digest)
        with self._lock:
            try:
                size = file.stat().st_size
                file.unlink()
            except OSError:
                return
            if self._used_bytes is not None:
                self._used_bytes -= size

    def _file(self, digest: bytes) -> Path:
        return self._path / f"{digest.hex()}{_SUFFIX}"

    def _make_room(self, size: int) -> None:
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._used_bytes is not None and self._used_bytes + size <= self.budget_bytes:
            return
        self._remove_abandoned()
        # Read from the disk each time, because other workers may write here too.
        files = sorted((_age(file) for file in self._path.glob(f"*{_SUFFIX}")), key=lambda entry: entry[0])
        used = sum(length for _, length, _ in files)
        for _, length, file in files:
            if used + size <= self.budget_bytes:
                break
            file.unlink(missing_ok=True)
            used -= length
        self._used_bytes = used

    def _remove_abandoned(self) -> None:
        for file in self._path.glob(f"*{_UNFINISHED}"):
            written_at, _, _ = _age(file)
            if time() - written_at > _ABANDONED_S:
                file.unlink(missing_ok=True)


def upload_folder(path: Path | None, budget_bytes: int) -> BlobFolder | None:
    """Return the folder for uploads at `path`, or in the user's cache; None if it has no budget or no place."""
    if not budget_bytes:
        return None
    if path is None:
        try:
            path = _user_cache() / "comfy-gpu-offload" / "uploads"
        except RuntimeError:
            logger.warning(
                "This user has no home folder, so uploads do not survive a restart of the worker: "
                "set COMFY_GPU_OFFLOAD_UPLOAD_FOLDER"
            )
            return None
    return BlobFolder(path, budget_bytes)


def _user_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _age(file: Path) -> tuple[float, int, Path]:
    try:
        found = file.stat()
    except OSError:  # another worker removed it
        return 0.0, 0, file
    return found.st_mtime, found.st_size, file


def _write(file: Path, buffers: tuple[bytes | bytearray | memoryview, ...]) -> None:
    """Write the file whole or not at all: first under another name."""
    unfinished = file.with_name(f"{secrets.token_hex(8)}{_UNFINISHED}")
    try:
        handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as out:
            for buffer in buffers:
                out.write(buffer)
        unfinished.replace(file)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
