"""The tensor section of a frame: a safetensors document, written as buffers and read without copying.

The format is https://github.com/huggingface/safetensors#format: eight bytes of length, a JSON header padded
with spaces, then the data without holes. The stock library reads what this writes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..errors import FrameError
from .dtypes import DTYPES, stored_shape

_LENGTH = struct.Struct("<Q")


class Entry(NamedTuple):
    """A tensor to be stored: `shape` is torch's, `size_bytes` that of its data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int


def written_index(entries: Sequence[Entry]) -> tuple[list[int], bytes]:
    """Return the positions of the entries in the order in which they are stored, and the JSON that says so.

    The JSON is empty if there are no entries. Wider dtypes come first, so that every tensor is aligned to its
    element.
    """
    if not entries:
        return [], b""
    order = sorted(range(len(entries)), key=lambda at: -DTYPES[entries[at].dtype].itemsize)
    index: dict[str, Any] = {}
    position = 0
    for name, dtype, shape, size in (entries[at] for at in order):
        end = position + size
        index[name] = {"dtype": dtype, "shape": stored_shape(dtype, shape), "data_offsets": [position, end]}
        position = end
    return order, json.dumps(index, separators=(",", ":")).encode()


def section_head(index: bytes, offset: int, alignment: int) -> bytes:
    """Return what precedes the document's data; nothing if the index is empty.

    `offset` is where the document will stand in the frame; the head is padded so that the data begins at a
    multiple of `alignment` there.
    """
    if not index:
        return b""
    padding = -(offset + _LENGTH.size + len(index)) % alignment
    return _LENGTH.pack(len(index) + padding) + index + b" " * padding


def split_section(view: memoryview, max_header_bytes: int) -> tuple[bytes | None, memoryview]:
    """Return the document's JSON, or None if there is no document, and a view of its data.

    Raises:
        FrameError: shorter than it says, or over the limit.
    """
    if not len(view):
        return None, view
    if len(view) < _LENGTH.size:
        raise FrameError("bad_section", "shorter than its own length field")
    (length,) = _LENGTH.unpack_from(view)
    if length > len(view) - _LENGTH.size:
        raise FrameError("bad_section", f"its header claims {length} bytes, and {len(view)} are there")
    if length > max_header_bytes:
        raise FrameError("header_too_large", f"the section's {length} bytes, over the {max_header_bytes} allowed")
    begin = _LENGTH.size + length
    return bytes(view[_LENGTH.size : begin]), view[begin:]


def read_index(text: bytes, data_bytes: int, max_rank: int) -> dict[str, Place]:
    """Return where each tensor lies, by name; everything that can be wrong without the data is checked.

    Raises:
        FrameError: not a safetensors header, or one whose shapes and lengths disagree, or over a limit.
    """
    places = [_read_place(name, stated, max_rank) for name, stated in _parsed(text).items()]
    _check_no_holes(places)
    total = max((place.end for place in places), default=0)
    if total != data_bytes:
        raise FrameError("bad_section", f"its tensors take {total} bytes, and {data_bytes} are there")
    return {place.name: place for place in places}


class Place(NamedTuple):
    """The place of a stored tensor: `begin` and `end` in bytes of the data, `shape` as in torch."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def _parsed(text: bytes) -> dict[str, dict[str, Any]]:
    try:
        index = json.loads(text.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise FrameError("bad_section", "its header is not JSON, or repeats a name") from error
    if not isinstance(index, dict):
        raise FrameError("bad_section", "its header is not a JSON object")
    return index


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("repeated key")
    return table


def _read_place(name: str, stated: Any, max_rank: int) -> Place:
    if not isinstance(stated, dict) or set(stated) != {"dtype", "shape", "data_offsets"}:
        raise FrameError("bad_section", f"{name!r:.80} is not described by dtype, shape and offsets")
    dtype, shape, offsets = stated["dtype"], stated["shape"], stated["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise FrameError("unknown_dtype", f"{name!r:.80} is stored as {dtype!r:.40}")
    if not _are_sizes(shape, max_rank) or not _are_sizes(offsets, 2) or len(offsets) != 2:
        raise FrameError("bad_section", f"{name!r:.80} has a shape or offsets that are no sizes")
    begin, end = offsets
    if not begin <= end:
        raise FrameError("bad_section", f"{name!r:.80} claims bytes {begin} to {end}")
    true_shape = _torch_shape(dtype, shape)
    fills = math.prod(true_shape) * DTYPES[dtype].itemsize == end - begin
    if not fills or stored_shape(dtype, true_shape) != shape:
        raise FrameError("shape_mismatch", f"{name!r:.80}: {dtype} {shape!r:.80} does not fill {end - begin} bytes")
    return Place(name, dtype, true_shape, begin, end)


def _are_sizes(values: Any, most: int) -> bool:
    # The count comes first: the product of many large numbers takes time quadratic in their count.
    if not isinstance(values, list) or len(values) > most:
        return False
    return all(type(value) is int and 0 <= value < 2**62 for value in values)


def _torch_shape(dtype: str, shape: list[int]) -> tuple[int, ...]:
    if dtype == "F4" and shape:
        return (*shape[:-1], shape[-1] // 2)
    return tuple(shape)


def _check_no_holes(places: Sequence[Place]) -> None:
    position = 0
    for begin, end in sorted((place.begin, place.end) for place in places):
        if begin != position:
            raise FrameError("bad_section", f"its data has a hole or an overlap at byte {position}")
        position = end
