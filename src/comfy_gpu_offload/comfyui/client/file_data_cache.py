"""Large tensors of model files, as tokenizers have them, kept on this disk: each is fetched once for all times."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from ...errors import MessageError
from ...io.digests import digest
from ..wire.file_contents import LargeTensor

logger = logging.getLogger(__name__)

_MOST_FILES = 32
_MOST_BYTES = 256 * 1024**2


class FileDataCache:
    """A folder of files, each the bytes of one tensor, named by its digest. Thread-safe.

    Args:
        folder: need not exist. If it cannot be read or written, tensors are fetched again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, wanted: LargeTensor, fetch: Callable[[], object]) -> torch.Tensor:
        """Return a tensor, which is fetched if it is not here.

        Raises:
            MessageError: it is too large, or what was fetched is another.
        """
        if wanted.size_bytes > _MOST_BYTES:
            raise MessageError(f"a tensor of {wanted.size_bytes} bytes in the worker's file is no tokenizer")
        path = self._folder / wanted.digest.hex()
        kept = self._kept(path, wanted)
        if kept is not None:
            return kept
        fetched = fetch()
        if not isinstance(fetched, torch.Tensor) or digest(fetched) != wanted.digest:
            raise MessageError("the worker sent another tensor of its file than was asked for")
        self._keep(path, fetched)
        return fetched

    def _kept(self, path: Path, wanted: LargeTensor) -> torch.Tensor | None:
        try:
            if path.stat().st_size != wanted.size_bytes:
                return None
            found = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
        except OSError:
            return None
        return found if digest(found) == wanted.digest else None

    def _keep(self, path: Path, tensor: torch.Tensor) -> None:
        # Under another name first: a file that is written only in part could not be told from a whole one.
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(tensor.numpy().tobytes())
                os.replace(name, path)
            except BaseException:
                os.unlink(name)
                raise
            files = sorted(self._folder.iterdir(), key=lambda each: each.stat().st_mtime)
            for old in files[: max(0, len(files) - _MOST_FILES)]:
                old.unlink()
        except OSError as error:
            logger.warning("%s cannot be written (%s): tokenizers are not kept.", path, error.strerror)
