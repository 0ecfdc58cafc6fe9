"""A record of where the files of a model folder came from, which stays with them on a volume.

Each file has a record of its own, a small JSON file in a hidden folder beside it: workers that share a volume never
write to the same one. It holds no secret: of an address, only what is in front of its query.
"""

from __future__ import annotations

import json
import logging
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)

FOLDER: Final = ".comfy-gpu-offload"
_MAX_BYTES = 16 * 1024
_SHA256 = frozenset("0123456789abcdef")
_MAX_SOURCE = 1024


@dataclass(frozen=True)
class Origin:
    """The origin of a file.

    Attributes:
        sha256: of its content, as 64 hexadecimal digits.
        size_bytes: of the file.
        source: an address without query and login, ``hf:org/name/file@revision``, ``civitai:ID``, or ``push``.
    """

    sha256: str
    size_bytes: int
    source: str


def record(path: Path, origin: Origin) -> None:
    """Note where the file at `path` came from. Where that cannot be written, the log says so and the file stays."""
    try:
        status = path.stat()
        fields = {
            "sha256": origin.sha256,
            "size_bytes": origin.size_bytes,
            "mtime_ns": status.st_mtime_ns,
            "source": public_source(origin.source),
        }
        file = _file(path)
        file.parent.mkdir(exist_ok=True)
        unfinished = file.with_name(f"{secrets.token_hex(8)}.part")
        unfinished.write_text(json.dumps(fields), "utf-8")
        unfinished.replace(file)
    except OSError as error:
        logger.warning("the origin of %s is not recorded: %s", path, error.strerror or type(error).__name__)


def origin_of(path: Path) -> Origin | None:
    """Return where the file at `path` came from; None if that is unknown, or the file was changed since."""
    try:
        status = path.stat()
        with _file(path).open("rb") as file:
            fields = json.loads(file.read(_MAX_BYTES))
        if (fields["size_bytes"], fields["mtime_ns"]) != (status.st_size, status.st_mtime_ns):
            return None
        sha256, source = fields["sha256"], fields["source"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    if not isinstance(source, str) or not is_sha256(sha256):
        return None
    return Origin(sha256, status.st_size, source[:_MAX_SOURCE])


def origins_in(directory: Path) -> dict[str, Origin]:
    """Return by name the origins of the files in a folder, of those that have one."""
    try:
        records = sorted((directory / FOLDER).glob("*.json"))
    except OSError:
        return {}
    found = {record.stem: origin_of(directory / record.stem) for record in records}
    return {name: origin for name, origin in found.items() if origin is not None}


def forget(path: Path) -> None:
    """Remove the record of a file that is gone, if there is one."""
    with suppress(OSError):
        _file(path).unlink()


def public_source(source: str) -> str:
    """Return a source as it may be written down and shown: an address without query, fragment and login."""
    if "://" not in source:
        return source[:_MAX_SOURCE]
    parts = urlsplit(source)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"[:_MAX_SOURCE]


def is_sha256(text: object) -> bool:
    """Return whether `text` is a SHA-256 as 64 hexadecimal digits in lower case."""
    return isinstance(text, str) and len(text) == 64 and set(text) <= _SHA256


def _file(path: Path) -> Path:
    return path.with_name(FOLDER) / f"{path.name}.json"
