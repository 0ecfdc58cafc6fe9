"""Set one setting in a .env file and keep every other line as it is."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path


def with_setting(text: str, name: str, value: str) -> str:
    """`text` with ``name=value`` where it was set before, the last of several, or as a new last line."""
    line = re.compile(rf"\s*(export\s+)?{re.escape(name)}\s*=", re.IGNORECASE)
    lines = text.splitlines(keepends=True)
    end = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    places = [index for index, each in enumerate(lines) if line.match(each)]
    if not places:
        if lines and not lines[-1].endswith(("\n", "\r")):
            lines[-1] += end
        lines.append(f"{name}={value}{end}")
        return "".join(lines)
    lines[places[-1]] = _replaced(lines[places[-1]], name, value)
    return "".join(each for index, each in enumerate(lines) if index not in places[:-1])


def _replaced(line: str, name: str, value: str) -> str:
    content = line.rstrip("\r\n")
    return f"{name}={value}{line[len(content) :]}"


def write_setting(path: Path, name: str, value: str) -> None:
    """Whole or not at all. The file's mode is kept; a new one can be read by this user alone.

    Raises:
        OSError: it cannot be read or written.
    """
    path = path.resolve()  # a link stays one
    text, mode = "", 0o600
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:  # its line ends as they are
            text = file.read()
        mode = path.stat().st_mode & 0o7777
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as out:
            out.write(with_setting(text, name, value))
        unfinished.chmod(mode)
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
