"""A check of files of weights before they are loaded, since libraries' errors on damaged ones help little."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from .base import ModelFileError

_BEGINNING = 1024
_LENGTH_BYTES = 8
# safetensors' own limit.
_MAX_HEADER_BYTES = 100_000_000
SAFETENSORS = {".safetensors", ".sft"}
_ZIP = b"PK\x03\x04"
_AGAIN = "Download it again, and compare its size with what the site says."


def check_weight_file(path: Path) -> None:
    """Raise for a file that cannot be what its name says.

    Raises:
        ModelFileError: it is empty, cut off, a web page, a Git LFS pointer or otherwise damaged; names the file,
            what it is, and what to do.
    """
    try:
        with path.open("rb") as file:
            wrong = _wrong_with(file, path)
    except OSError as error:
        wrong = f"cannot be read ({error.strerror or type(error).__name__}). Look at its permissions and its disk."
    if wrong is not None:
        raise ModelFileError(f"{path} {wrong}")


def bytes_of_keys(path: Path, wanted: Callable[[str], bool]) -> int | None:
    """Return the bytes of a safetensors file's tensors whose keys are wanted; None for another kind of file."""
    if path.suffix.lower() not in SAFETENSORS:
        return None
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        entries = _entries(file.read(min(length, _MAX_HEADER_BYTES)))
    if entries is None:
        return None
    return sum(end - start for key, (start, end) in entries.items() if wanted(key))


def _wrong_with(file: BinaryIO, path: Path) -> str | None:
    size = path.stat().st_size
    beginning = file.read(_BEGINNING)
    if not beginning:
        return f"is empty (0 bytes). {_AGAIN}"
    is_safetensors = path.suffix.lower() in SAFETENSORS
    # The first bytes of other kinds of files, read as a length, exceed that of any header.
    if is_safetensors and size >= _LENGTH_BYTES and _is_length(beginning):
        return _wrong_safetensors(file, beginning, size)
    another = another_kind(beginning, is_safetensors=is_safetensors)
    if another is None and is_safetensors:
        return f"is no safetensors file: it does not begin with the length of a header. {_AGAIN}"
    if another is None and beginning.startswith(_ZIP) and not zipfile.is_zipfile(path):
        return f"is cut off ({size} bytes, without the end of its archive). {_AGAIN}"
    return another


def another_kind(beginning: bytes, *, is_safetensors: bool) -> str | None:
    """Return what a file that begins so is instead of weights, and what to do; None where it may be some."""
    if not any(beginning):
        return f"begins with zeros: a download that broke off, or a disk that was full. {_AGAIN}"
    text = beginning.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    kinds = _KINDS + (_KINDS_NOT_SAFETENSORS if is_safetensors else ())
    return next((what for signs, what in kinds if text.startswith(signs)), None)


_KINDS: tuple[tuple[tuple[bytes, ...], str], ...] = (
    (
        (b"version https://git-lfs.github.com/spec/",),
        "is a Git LFS pointer, not the file itself: run `git lfs pull` in its folder, or download the file "
        "from the site.",
    ),
    (
        (b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--"),
        "is a web page, not a model: a site answered the download with a page, perhaps to log in or to accept a "
        "licence. Do that, and download the file again.",
    ),
)
# In lower case, since the beginning of the file is lowered before they are looked for.
_KINDS_NOT_SAFETENSORS: tuple[tuple[tuple[bytes, ...], str], ...] = (
    (
        (_ZIP.lower(), b"\x80\x02"),
        "is a PyTorch checkpoint under the name of a safetensors file: rename it to .ckpt.",
    ),
    ((b"gguf",), "is a GGUF file under the name of a safetensors file, which cannot be loaded here."),
    (
        (b'{"error', b'{"message', b'{"detail'),
        f"is a site's error message, not a model. {_AGAIN}",
    ),
)


def _is_length(beginning: bytes) -> bool:
    return 2 <= int.from_bytes(beginning[:_LENGTH_BYTES], "little") <= _MAX_HEADER_BYTES


def _wrong_safetensors(file: BinaryIO, beginning: bytes, size: int) -> str | None:
    length = int.from_bytes(beginning[:_LENGTH_BYTES], "little")
    if length > size - _LENGTH_BYTES:
        return f"is cut off: its header takes {length} bytes, and the file has {size} in all. {_AGAIN}"
    file.seek(_LENGTH_BYTES)
    data_bytes = _data_bytes(file.read(length))
    if data_bytes is None:
        return f"is no safetensors file: its header cannot be read. {_AGAIN}"
    whole = _LENGTH_BYTES + length + data_bytes
    return f"is cut off: {size} of its {whole} bytes are there. {_AGAIN}" if whole > size else None


def _data_bytes(header: bytes) -> int | None:
    """Return the bytes that the tensors of a header take together, or None where it is none."""
    entries = _entries(header)
    return None if entries is None else max((end for _, end in entries.values()), default=0)


def _entries(header: bytes) -> dict[str, tuple[int, int]] | None:
    """Return by key where a tensor's data begins and ends, or None where the header is none."""
    try:
        described = json.loads(header)
        entries = {name: entry["data_offsets"] for name, entry in described.items() if name != "__metadata__"}
        found = {name: (offsets[0], offsets[1]) for name, offsets in entries.items()}
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None
    numbers = (number for offsets in found.values() for number in offsets)
    return found if all(type(number) is int and number >= 0 for number in numbers) else None
