"""Settings written into a `.env` file, in which every other line stays as it is.

python-dotenv's `set_key` would do, but it turns CRLF into LF and leaves a repeated setting's other lines.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path


def with_setting(text: str, name: str, value: str | None) -> str:
    """Return `text` with ``name=value`` where it was set before, the last of several, or as a new last line.

    `value`: None to remove all lines that set it.
    """
    lines = text.splitlines(keepends=True)
    end = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    places = [index for index, each in enumerate(lines) if _line_of(name).match(each)]
    if value is None:
        return "".join(each for index, each in enumerate(lines) if index not in places)
    if not places:
        if lines and not lines[-1].endswith(("\n", "\r")):
            lines[-1] += end
        lines.append(f"{name}={value}{end}")
        return "".join(lines)
    lines[places[-1]] = _replaced(lines[places[-1]], name, value)
    return "".join(each for index, each in enumerate(lines) if index not in places[:-1])


def written_value(text: str, name: str) -> str | None:
    """Return what stands after the `=` of the last line that sets `name`, quotes and all; None where none does."""
    lines = [each for each in text.splitlines() if _line_of(name).match(each)]
    return lines[-1].partition("=")[2] if lines else None


def read_settings(path: Path, names: Iterable[str]) -> dict[str, str | None]:
    """Return each setting's `written_value` in a file; None for all if there is no such file.

    Raises:
        OSError: it cannot be read.
        UnicodeError: it is not UTF-8.
    """
    text = _read(path) if path.exists() else ""
    return {name: written_value(text, name) for name in names}


def write_settings(path: Path, values: Mapping[str, str | None]) -> None:
    """Write settings into a file, whole or not at all; also what `read_settings` returned before, to put it back.

    The file's mode is kept; a new one can be read by this user alone. `values`: None removes a setting.

    Raises:
        OSError: it cannot be read or written.
        UnicodeError: it is not UTF-8.
    """
    path = path.resolve()  # a link stays one
    text, mode = "", 0o600
    if path.exists():
        text = _read(path)
        mode = path.stat().st_mode & 0o7777
    for name, value in values.items():
        text = with_setting(text, name, value)
    _write(path, text, mode)


def _read(path: Path) -> str:
    with path.open(encoding="utf-8", newline="") as file:  # its line ends as they are
        return file.read()


def _write(path: Path, text: str, mode: int) -> None:
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as out:
            out.write(text)
        unfinished.chmod(mode)
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise


def _line_of(name: str) -> re.Pattern[str]:
    # An editor on Windows may begin the file with a mark.
    return re.compile(rf"\ufeff?\s*(export\s+)?{re.escape(name)}\s*=", re.IGNORECASE)


def _replaced(line: str, name: str, value: str) -> str:
    mark = "\ufeff" if line.startswith("\ufeff") else ""
    content = line.rstrip("\r\n")
    return f"{mark}{name}={value}{line[len(content) :]}"
