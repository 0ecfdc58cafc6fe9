"""A file of this machine that is read in parts, hashed, and watched for changes."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import torch

from ..errors import ModelPushError
from ..io.buffers import allocate, tensor_from
from ..io.dtypes import DTYPES
from ..transport.base import Check

_PIECE_BYTES = 4 * 1024**2


class LocalFile:
    """An open file, which must stay as it is until it is closed. Thread-safe. Use it in a `with` block.

    Attributes:
        path: of the file.
        size_bytes: of the file when it was opened.

    Raises:
        ModelPushError: it cannot be read, is no ordinary file, or is empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # One thread at a time moves to a place and reads there.
        self._reading = threading.Lock()
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise ModelPushError(f"{path} cannot be read: {error.strerror or type(error).__name__}.") from None
        status = os.fstat(self._file.fileno())
        self.size_bytes = status.st_size
        self._written_at = status.st_mtime_ns
        if not path.is_file() or not self.size_bytes:
            self._file.close()
            raise ModelPushError(f"{path} is no file of weights: it is empty, or no ordinary file.")

    def part(self, begin: int, size_bytes: int) -> torch.Tensor:
        """Return bytes from the place `begin` on, as a uint8 tensor of shape (size_bytes,).

        Raises:
            ModelPushError: the file is shorter than it was, or cannot be read.
        """
        into = allocate(size_bytes)
        filled = 0
        with self._reading:
            try:
                self._file.seek(begin)
                while filled < size_bytes and (count := self._file.readinto(into[filled:])):
                    filled += count
            except OSError as error:
                raise ModelPushError(f"{self.path} cannot be read: {error.strerror}.") from None
        if filled < size_bytes:
            raise self.changed()
        return tensor_from(into, DTYPES["U8"], (size_bytes,))

    def sha256(
        self,
        check: Check | None = None,
        on_progress: Callable[[int, int], None] = lambda *_: None,
        size_bytes: int | None = None,
    ) -> bytes:
        """Return the SHA-256 of the first `size_bytes` bytes, or of the whole file.

        Args:
            check: called after every few megabytes; what it raises ends the reading.
            on_progress: takes the bytes that were read, and those to be read in all.

        Raises:
            ModelPushError: as `part`.
        """
        end = self.size_bytes if size_bytes is None else size_bytes
        sha = hashlib.sha256()
        for begin in range(0, end, _PIECE_BYTES):
            on_progress(begin, end)
            if check is not None:
                check()
            piece = self.part(begin, min(_PIECE_BYTES, end - begin))
            sha.update(memoryview(piece.numpy()))  # type: ignore[arg-type]  # an ndarray is a buffer
        on_progress(end, end)
        return sha.digest()

    @property
    def is_as_it_was(self) -> bool:
        """Return whether the file has not been written to since it was opened, as far as its system says."""
        status = os.fstat(self._file.fileno())
        return (status.st_size, status.st_mtime_ns) == (self.size_bytes, self._written_at)

    def changed(self) -> ModelPushError:
        """Return the error of a file that was written to while it was read."""
        return ModelPushError(f"{self.path} was changed while it was being sent: push it again.")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> LocalFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
