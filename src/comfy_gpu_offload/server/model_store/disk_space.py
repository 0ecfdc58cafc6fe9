"""The room on the disk that a file needs, and the words for a disk that is full."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from .refusals import DiskFullError, RefusedFileError

MARGIN_BYTES: Final = 512 * 1024**2
"""Left free: a disk that is full to the last byte makes other programs fail, and this worker's log too."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_GB = 1000**3


def require_room(directory: Path, needed_bytes: int) -> None:
    """Check that the disk has room for so many bytes, and a margin.

    Raises:
        DiskFullError: it has not; says how much there is.
    """
    free = shutil.disk_usage(directory).free
    if free < needed_bytes + MARGIN_BYTES:
        raise DiskFullError(
            f"There is no room for the model in {directory} on the worker: {needed_bytes / _GB:.2f} GB are to "
            f"come, {free / _GB:.2f} GB are free, and {MARGIN_BYTES / _GB:.2f} GB of them have to stay so. Remove "
            "models there, or use a larger disk or volume."
        )


@contextmanager
def disk_errors(directory: Path) -> Iterator[None]:
    """Turn the system's errors of writing into those of this room.

    Raises:
        DiskFullError: the disk or the user's quota is full.
        RefusedFileError: the folder cannot be written to, or the disk fails.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFullError(
                f"The worker's disk is full, at {directory} ({error.strerror}). What has come is kept, and is "
                "continued once there is room: remove models there, or use a larger disk or volume."
            ) from error
        raise RefusedFileError(
            f"The worker cannot write to {directory} ({error.strerror or type(error).__name__}): look at its "
            "permissions and its disk."
        ) from error
