"""A check of what a file holds before it gets its name: safetensors and GGUF, and nothing that could run code."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from safetensors import SafetensorError, safe_open

from ...backends.weight_files import SAFETENSORS, another_kind

GGUF: Final = ".gguf"
SUFFIXES: Final = frozenset({*SAFETENSORS, GGUF})
"""The suffixes of files that a worker takes from clients, in lower case."""

BEGINNING: Final = 1024
"""Bytes by which `wrong_beginning` tells what a file is."""

_LENGTH_BYTES = 8
# Those of the largest models in use have 2 MB. The library allows 100 MB, and takes several times that to read it.
_MAX_HEADER_BYTES = 32 * 1024**2
_GGUF_MAGIC = b"GGUF"
_GGUF_BYTES = 24
_GGUF_VERSIONS = (2, 3)
_MAX_GGUF_ENTRIES = 2**24
# Protocols 2 to 5; a zip archive is what torch.save writes, with a pickle in it.
_PICKLES = (b"PK\x03\x04", *(bytes([0x80, protocol]) for protocol in range(2, 6)))


def wrong_beginning(beginning: bytes, suffix: str, size: int | None) -> str | None:
    """Return what is wrong with a file that begins so, as the rest of a sentence; None if nothing is yet.

    Args:
        beginning: its first `BEGINNING` bytes, or all if it has fewer.
        suffix: of its name, in lower case.
        size: of the whole file, in bytes, if that is known.
    """
    if suffix == GGUF:
        return _wrong_gguf(beginning) if not _is_text(beginning) else another_kind(beginning, is_safetensors=False)
    length = int.from_bytes(beginning[:_LENGTH_BYTES], "little")
    if beginning.startswith(_PICKLES) and length > _MAX_HEADER_BYTES:
        return "is a pickle under the name of a safetensors file, and could run code: take a safetensors file."
    if length > _MAX_HEADER_BYTES or length < 2 or len(beginning) < _LENGTH_BYTES:
        other = another_kind(beginning, is_safetensors=True) if beginning else None
        return other or "is no safetensors file: it does not begin with the length of a header."
    if size is not None and length > size - _LENGTH_BYTES:
        return f"is no whole safetensors file: its header takes {length} bytes, and the file has {size} in all."
    if beginning[_LENGTH_BYTES : _LENGTH_BYTES + 1] not in {b"{", b""}:
        return "is no safetensors file: its header cannot be read."
    return None


def wrong_file(path: Path, suffix: str) -> str | None:
    """Return what is wrong with a whole file, as the rest of a sentence; None if it is what `suffix` says.

    Of safetensors the header is read, and its offsets have to cover the file exactly; of GGUF the first fields.

    Raises:
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        wrong = wrong_beginning(file.read(BEGINNING), suffix, size)
    if wrong is not None or suffix == GGUF:
        return wrong
    try:
        with safe_open(path, framework="np"):
            return None
    except SafetensorError as error:
        return f"is no whole safetensors file: {str(error).removeprefix('Error while deserializing header: ')}."


def _wrong_gguf(beginning: bytes) -> str | None:
    if not beginning.startswith(_GGUF_MAGIC) or len(beginning) < _GGUF_BYTES:
        return "is no GGUF file: it does not begin as one."
    version = int.from_bytes(beginning[4:8], "little")
    if version not in _GGUF_VERSIONS:
        return f"is a GGUF file of version {version}, and {' and '.join(map(str, _GGUF_VERSIONS))} are known."
    counts = [int.from_bytes(beginning[at : at + 8], "little") for at in (8, 16)]
    return "is no GGUF file: its counts are impossible." if max(counts) > _MAX_GGUF_ENTRIES else None


def _is_text(beginning: bytes) -> bool:
    return another_kind(beginning, is_safetensors=False) is not None if beginning else False
