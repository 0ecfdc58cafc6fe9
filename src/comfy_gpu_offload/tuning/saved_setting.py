"""The setting `compression` in the `.env` that the pack reads: where it belongs, and a new value in its line."""

from __future__ import annotations

import re
from pathlib import Path

from ..config.env_file import read_settings, write_settings
from ..config.settings import env_file_to_write, env_files, variable
from ..errors import ConfigError

VARIABLE = variable("compression")
"""The setting's name in the environment and in files."""

# What else tells that a file is the one in use.
_WORKER = (variable("url"), variable("runpod_endpoint_id"))
_COMMENT = re.compile(r"\s+#.*")


def file_of_setting() -> Path:
    """Return the file whose line counts: the one that sets it, else that names the worker, else a new one.

    Raises:
        ConfigError: a file cannot be read.
    """
    files = env_files()
    for names in ((VARIABLE,), _WORKER):
        setting = [file for file in files if any(value is not None for value in _read(file, names).values())]
        if setting:
            return setting[-1]
    return env_file_to_write()


def save(file: Path, value: str) -> bool:
    """Write the setting; every other line stays as it is, and a comment behind the value too.

    Return whether that changed the file.

    Raises:
        ConfigError: the file cannot be read or written.
    """
    before = _read(file, (VARIABLE,))[VARIABLE]
    comment = _COMMENT.search(before or "")
    line = value if comment is None else value + comment[0]
    if before == line:
        return False
    try:
        write_settings(file, {VARIABLE: line})
    except (OSError, UnicodeError) as error:
        raise _unusable(file, error) from error
    return True


def _read(file: Path, names: tuple[str, ...]) -> dict[str, str | None]:
    try:
        return read_settings(file, names)
    except (OSError, UnicodeError) as error:
        raise _unusable(file, error) from error


def _unusable(file: Path, error: Exception) -> ConfigError:
    why = getattr(error, "strerror", None) or "it is not UTF-8 text"
    return ConfigError(f"{file}, which {VARIABLE} belongs in, cannot be used ({why}): mend it first.")
