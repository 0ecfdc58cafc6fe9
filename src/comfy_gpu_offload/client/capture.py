"""Files of forward calls to measure codecs on: `COMFY_GPU_OFFLOAD_CAPTURE_DIR`. They hold the user's data."""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile

import torch
from safetensors.torch import save

from ..errors import ConfigError
from ..io.tree import Tree, pack

logger = logging.getLogger(__name__)

SUFFIX = ".safetensors"
MARK = "comfy-gpu-offload"
"""A key of each file's metadata."""


class Capture:
    """A writer of one safetensors file per call, with the call's tensors as they are sent. Thread-safe.

    Tensors are named by their paths: ``args[0]`` for an input, ``result`` for an output. A file's metadata mark it
    as such a file and number the session's calls. Files sort in the order of the calls. Nothing here fails a call:
    after the first failure, or when the limit is reached, a warning is logged and no more is written.

    Args:
        folder: created at once; only this user may read it and its files.
        limit_bytes: of all such files in the folder together, those of earlier sessions included.

    Raises:
        ConfigError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._begin()
        self._make_folder()

    def _begin(self) -> None:
        self._session = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
        self._calls = 0
        self._used_bytes: int | None = None
        self._ended = False
        self._lock = threading.Lock()

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with TemporaryFile(dir=self._folder):
                pass
        except OSError as error:
            raise ConfigError(
                f"COMFY_GPU_OFFLOAD_CAPTURE_DIR is {self._folder}, and nothing can be written there "
                f"({error.strerror or type(error).__name__}): name another folder, or take the setting out."
            ) from error

    def forked(self) -> None:
        """Begin a series of files of its own, in a process that was forked from the one that made this."""
        self._begin()

    def call(self, paths: Iterable[str], inputs: Iterable[torch.Tensor], result: Tree) -> None:
        """Write one call, in which `inputs` were found at `paths`."""
        with self._lock:
            if self._ended:
                return
            try:
                self._write(dict(zip(paths, inputs, strict=True)), result)
            except Exception as error:  # the call is done; its record is worth less
                self._end(f"it failed: {getattr(error, 'strerror', None) or type(error).__name__}")

    def _write(self, named: dict[str, torch.Tensor], result: Tree) -> None:
        packed = pack(result, "result")
        named |= dict(zip(packed.paths, packed.tensors, strict=True))
        size = sum(tensor.nbytes for tensor in named.values())
        if self._used_bytes is None:
            self._used_bytes = sum(file.stat().st_size for file in self._folder.glob(f"*{SUFFIX}"))
            logger.warning("The tensors of every call are left in %s: they hold your pictures' data.", self._folder)
        if self._used_bytes + size > self._limit_bytes:
            self._end(f"it holds the {self._limit_bytes} bytes that COMFY_GPU_OFFLOAD_CAPTURE_BYTES allows")
            return
        self._calls += 1
        # A copy of each: safetensors refuses tensors that share memory.
        copies = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in named.items()
        }
        data = save(copies, {MARK: str(self._calls)})
        path = self._folder / f"{self._session}-{self._calls:06}{SUFFIX}"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
        self._used_bytes += len(data)

    def _end(self, why: str) -> None:
        self._ended = True
        logger.warning("No more calls are left in %s: %s.", self._folder, why)
