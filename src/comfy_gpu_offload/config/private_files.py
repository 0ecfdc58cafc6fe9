"""Folders that keep keys and tokens, and files in them that nobody else may read.

On Windows files have no such modes. There the folder lies in the user's profile, which others cannot read.
"""

from __future__ import annotations

import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path
from typing import Literal

from ..errors import ConfigError
from .settings import variable

_OTHERS = 0o077

Kind = Literal["pairing", "rental"]
"""The setting that names a folder, without `_folder`; also the folder's own name where none is set."""


def private_folder(path: Path | None, kind: Kind = "pairing") -> Path:
    """Return the folder at `path`, or this user's own for it. It is made if it is missing.

    Raises:
        ConfigError: it cannot be made, or others may look into it.
    """
    folder = path or _user_state(kind) / "comfy-gpu-offload" / kind
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{folder}, for keys and tokens, cannot be made ({error.strerror}): set {_variable(kind)} to another "
            "folder."
        ) from error
    require_private(folder, kind)
    return folder


def require_private(path: Path, kind: Kind = "pairing") -> None:
    """Check that nobody but this user may read or change a file or folder.

    Raises:
        ConfigError: others may.
    """
    if not hasattr(os, "geteuid"):  # Windows
        return
    found = path.stat()
    if os.geteuid() not in {0, found.st_uid}:
        raise ConfigError(
            f"{path} belongs to another user, who could read the keys and tokens in it: set {_variable(kind)} to a "
            "folder of this user's own."
        )
    if found.st_mode & _OTHERS:
        mode = "700" if path.is_dir() else "600"
        raise ConfigError(
            f"Others may use {path} (mode {found.st_mode & 0o777:o}), where keys and tokens are: chmod {mode} it. "
            "If others may have read it, delete what is in it: all is made anew."
        )


def create_once(file: Path, content: bytes) -> None:
    """Create a file that only this user may read, whole or not at all. If there is one already, that one stays."""
    unfinished = _unfinished(file, content)
    try:
        with suppress(FileExistsError):
            _name(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)


def replace_private(file: Path, content: bytes) -> None:
    """Write a file that only this user may read, whole or not at all, in place of the one there, if any."""
    unfinished = _unfinished(file, content)
    try:
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def _unfinished(file: Path, content: bytes) -> Path:
    """Return a new file beside `file` with this content, which is on the disk."""
    unfinished = file.with_name(f".{secrets.token_hex(8)}.unfinished")
    handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    return unfinished


def _variable(kind: Kind) -> str:
    return variable(f"{kind}_folder")


def _name(unfinished: Path, file: Path) -> None:
    """Give a file its name, unless that is taken: renaming would replace what another process made meanwhile."""
    try:
        os.link(unfinished, file)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if not file.exists():
            unfinished.rename(file)


def _user_state(kind: Kind) -> Path:
    try:
        if sys.platform == "win32":
            return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Application Support"
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    except RuntimeError:
        raise ConfigError(
            f"This user has no home folder to keep keys and tokens in: set {_variable(kind)} to a folder."
        ) from None
