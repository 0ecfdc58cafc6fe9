"""The folder that keeps a worker's key and tokens, and files in it that nobody else may read.

On Windows files have no such modes. There the folder lies in the user's profile, which others cannot read.
"""

from __future__ import annotations

import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path

from ...config.settings import variable
from ...errors import ConfigError

_VARIABLE = variable("pairing_folder")
_OTHERS = 0o077


def private_folder(path: Path | None) -> Path:
    """Return the folder at `path`, or this user's own for it. It is made if it is missing.

    Raises:
        ConfigError: it cannot be made, or others may look into it.
    """
    folder = path or _user_state() / "comfy-gpu-offload" / "pairing"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{folder}, for the worker's key, cannot be made ({error.strerror}): set {_VARIABLE} to another folder."
        ) from error
    require_private(folder)
    return folder


def require_private(path: Path) -> None:
    """Check that nobody but this user may read or change a file or folder.

    Raises:
        ConfigError: others may.
    """
    if not hasattr(os, "geteuid"):  # Windows
        return
    found = path.stat()
    if os.geteuid() not in {0, found.st_uid}:
        raise ConfigError(
            f"{path} belongs to another user, who could read the worker's key: set {_VARIABLE} to a folder of this "
            "user's own."
        )
    if found.st_mode & _OTHERS:
        mode = "700" if path.is_dir() else "600"
        raise ConfigError(
            f"Others may use {path} (mode {found.st_mode & 0o777:o}), where the worker's key and tokens are: "
            f"chmod {mode} it. If others may have read it, delete what is in it: the worker makes all anew."
        )


def create_once(file: Path, content: bytes) -> None:
    """Create a file that only this user may read, whole or not at all. If there is one already, that one stays."""
    unfinished = file.with_name(f".{secrets.token_hex(8)}.unfinished")
    handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        with suppress(FileExistsError):
            _name(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)


def _name(unfinished: Path, file: Path) -> None:
    """Give a file its name, unless that is taken: renaming would replace what another process made meanwhile."""
    try:
        os.link(unfinished, file)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if not file.exists():
            unfinished.rename(file)


def _user_state() -> Path:
    try:
        if sys.platform == "win32":
            return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Application Support"
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    except RuntimeError:
        raise ConfigError(
            f"This user has no home folder to keep the worker's key in: set {_VARIABLE} to a folder."
        ) from None
