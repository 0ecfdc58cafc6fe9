"""The tensor section of a frame: a safetensors document, written as buffers and read without copying.

The format is https://github.com/huggingface/safetensors#format: eight bytes of length, a JSON header padded
with spaces, then the data without holes. The stock library reads what this writes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import FrameError
from .buffers import Buffer
from .dtypes import DTYPES, stored_shape

_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class Entry:
    """One stored tensor: `shape` in torch's terms, `data` its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def layout(entries: Sequence[Entry], offset: int, alignment: int) -> tuple[bytes, list[Buffer]]:
    """The document's head and its data, in order.

    `offset` is where the document will stand in the frame; the head is padded so that the data begins at a
    multiple of `alignment` there. Wider dtypes come first, so every tensor is aligned to its element.
    """
    if not entries:
        return b"", []
    ordered = sorted(entries, key=lambda entry: -DTYPES[entry.dtype].itemsize)
    index: dict[str, Any] = {}
    position = 0
    for entry in ordered:
        end = position + len(entry.data)
        shape = stored_shape(entry.dtype, entry.shape)
        index[entry.name] = {"dtype": entry.dtype, "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(index, separators=(",", ":")).encode()
    padding = -(offset + _LENGTH.size + len(text)) % alignment
    head = _LENGTH.pack(len(text) + padding) + text + b" " * padding
    return head, [entry.data for entry in ordered if len(entry.data)]


def read_section(view: memoryview, max_header_bytes: int, max_rank: int) -> dict[str, Entry]:
    """The document's tensors by name; their data shares `view`'s memory.

    Raises:
        FrameError: not a safetensors document, one whose shapes and lengths disagree, or over a limit.
    """
    if len(view) < _LENGTH.size:
        raise FrameError("bad_section", "shorter than its own length field")
    (length,) = _LENGTH.unpack_from(view)
    if length > len(view) - _LENGTH.size:
        raise FrameError("bad_section", f"its header claims {length} bytes, and {len(view)} are there")
    if length > max_header_bytes:
        raise FrameError("header_too_large", f"the section's {length} bytes, over the {max_header_bytes} allowed")
    data = view[_LENGTH.size + length :]
    index = _read_index(bytes(view[_LENGTH.size : _LENGTH.size + length]))
    entries = {name: _read_entry(name, stated, data, max_rank) for name, stated in index.items()}
    _check_no_holes(index, len(data))
    return entries


def _read_index(text: bytes) -> dict[str, dict[str, Any]]:
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


def _read_entry(name: str, stated: Any, data: memoryview, max_rank: int) -> Entry:
    if not isinstance(stated, dict) or set(stated) != {"dtype", "shape", "data_offsets"}:
        raise FrameError("bad_section", f"{name!r:.80} is not described by dtype, shape and offsets")
    dtype, shape, offsets = stated["dtype"], stated["shape"], stated["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise FrameError("unknown_dtype", f"{name!r:.80} is stored as {dtype!r:.40}")
    if not _are_sizes(shape, max_rank) or not _are_sizes(offsets, 2) or len(offsets) != 2:
        raise FrameError("bad_section", f"{name!r:.80} has a shape or offsets that are no sizes")
    begin, end = offsets
    if not begin <= end <= len(data):
        raise FrameError("bad_section", f"{name!r:.80} claims bytes {begin} to {end} of {len(data)}")
    true_shape = _torch_shape(dtype, shape)
    fills = math.prod(true_shape) * DTYPES[dtype].itemsize == end - begin
    if not fills or stored_shape(dtype, true_shape) != shape:
        raise FrameError("shape_mismatch", f"{name!r:.80}: {dtype} {shape!r:.80} does not fill {end - begin} bytes")
    return Entry(name, dtype, true_shape, data[begin:end])


def _are_sizes(values: Any, most: int) -> bool:
    # Counted first: the product of many large numbers takes time quadratic in their count.
    if not isinstance(values, list) or len(values) > most:
        return False
    return all(type(value) is int and 0 <= value < 2**62 for value in values)


def _torch_shape(dtype: str, shape: list[int]) -> tuple[int, ...]:
    if dtype == "F4" and shape:
        return (*shape[:-1], shape[-1] // 2)
    return tuple(shape)


def _check_no_holes(index: dict[str, dict[str, Any]], data_bytes: int) -> None:
    position = 0
    for begin, end in sorted(stated["data_offsets"] for stated in index.values()):
        if begin != position:
            raise FrameError("bad_section", f"its data has a hole or an overlap at byte {position}")
        position = end
    if position != data_bytes:
        raise FrameError("bad_section", f"{data_bytes - position} bytes of its data belong to no tensor")
