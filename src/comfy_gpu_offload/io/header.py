"""A frame's header: msgpack of the message, the tree's skeleton, and what each tensor is.

The frames of one sampling run differ only in their message and their data. So the rest of the header is cached by
its bytes, with what was read from it: equal bytes are checked once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import msgpack
import torch

from ..errors import CodecError, FrameError
from . import codecs
from .digests import DIGEST_BYTES
from .dtypes import DTYPES, stored_shape
from .limits import FrameLimits
from .section import Entry, Place, read_index, written_index
from .strides import Strides, are_strides, span
from .tree import MAX_NODES

# The beginning of a map of three, and its keys, packed by msgpack.
_MESSAGE, _TREE, _TENSORS = b"\x83" + msgpack.packb("message"), msgpack.packb("tree"), msgpack.packb("tensors")
_MAP_OF_TWO = b"\x82"
_ROWS_KEPT = 64
# What is cached can take some sixty times its bytes: under 32 MB in all.
_KEPT = 32
_KEPT_BYTES = 16 * 1024


class Slot(NamedTuple):
    """A tensor in its frame: `begin` and `end` in bytes of the section's data; `codec` is None without data."""

    name: str
    dtype: torch.dtype
    dtype_name: str
    shape: tuple[int, ...]
    digest: bytes | None
    codec: codecs.Codec | None
    size_bytes: int
    begin: int = 0
    end: int = 0
    strides: Strides | None = None


class Row(NamedTuple):
    """A tensor on its way into a frame.

    Attributes:
        codec: the codec that stores it, or None if its data is not sent; `parameters` are the codec's.
        stored_bytes: the size of its payload.
        strides: None if they are row-major.
    """

    name: str
    dtype_name: str
    shape: tuple[int, ...]
    digest: bytes | None
    codec: str | None
    parameters: tuple[tuple[str, Any], ...] = ()
    stored_bytes: int = 0
    strides: Strides | None = None


class Layout(NamedTuple):
    """The description of a frame's tensors.

    Attributes:
        table: the header's part of it.
        section: the section's JSON.
        order: the positions of the rows whose data is sent, in the order of the section.
        data_bytes: the size of all that data.
    """

    table: bytes
    section: bytes
    order: tuple[int, ...]
    data_bytes: int


def layout(rows: tuple[Row, ...]) -> Layout:
    """Return how these tensors are described and stored."""
    for row in rows:
        if row.parameters:  # equal ones can differ in type, as 1 and 1.0 do
            return _layout.__wrapped__(rows)
    return (_layout if len(rows) <= _ROWS_KEPT else _layout.__wrapped__)(rows)


@lru_cache(maxsize=_KEPT)
def _layout(rows: tuple[Row, ...]) -> Layout:
    table = msgpack.packb([_fields(row) for row in rows])
    stored = [position for position, row in enumerate(rows) if row.codec is not None]
    entries = [_entry(rows[position]) for position in stored]
    order, index = written_index(entries)
    return Layout(
        _TENSORS + table, index, tuple(stored[at] for at in order), sum(entry.size_bytes for entry in entries)
    )


def _fields(row: Row) -> dict[str, Any]:
    fields: dict[str, Any] = {"name": row.name, "dtype": row.dtype_name, "shape": row.shape}
    if row.digest is not None:
        fields["digest"] = row.digest
    if row.codec is not None:
        fields["codec"] = row.codec
    if row.parameters:
        fields["parameters"] = dict(row.parameters)
    if row.strides is not None:
        fields["strides"] = row.strides
    return fields


def _entry(row: Row) -> Entry:
    if row.codec == codecs.RAW.name:
        return Entry(row.name, row.dtype_name, row.shape, row.stored_bytes)
    return Entry(row.name, "U8", (row.stored_bytes,), row.stored_bytes)


def packed_header(message: Mapping[str, Any], skeleton: Any, table: bytes) -> bytes:
    """Return the header's bytes; `table` is that of `layout`."""
    return b"".join((_MESSAGE, msgpack.packb(message), _TREE, msgpack.packb(skeleton), table))


def read_message(header: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the message, and the bytes after it for `outline`.

    Raises:
        FrameError: `bad_header`.
    """
    # The message may contain these bytes too. What is cut off there is not a whole message, and is read again
    # below.
    end = header.find(_TREE, len(_MESSAGE))
    if not header.startswith(_MESSAGE) or end < 0:
        return _read_in_any_order(header)
    try:
        message = msgpack.unpackb(header[len(_MESSAGE) : end], **_STRICTLY)
    except _UNREADABLE:
        return _read_in_any_order(header)
    if not isinstance(message, dict):
        raise FrameError("bad_header", "the message must be a map")
    return message, header[end:]


def _read_in_any_order(header: bytes) -> tuple[dict[str, Any], bytes]:
    """Read a header whose keys another writer has put in another order."""
    whole = _unpacked(header)
    if not isinstance(whole, dict) or set(whole) != {"message", "tree", "tensors"}:
        raise _not_three()
    if not isinstance(whole["message"], dict):
        raise FrameError("bad_header", "the message must be a map")
    try:
        rest = _TREE + msgpack.packb(whole["tree"]) + _TENSORS + msgpack.packb(whole["tensors"])
    except _UNREADABLE as error:  # it packs less deep than it unpacks
        raise _unreadable() from error
    return whole["message"], rest


def outline(rest: bytes, index: bytes | None, data_bytes: int, limits: FrameLimits) -> tuple[Any, tuple[Slot, ...]]:
    """Return the skeleton, not to be changed, and the tensors' slots, by the rest of the header and the index.

    Raises:
        FrameError: anything is wrong with either, or they contradict each other.
    """
    size = len(rest) + (0 if index is None else len(index))
    read = _outline if size <= _KEPT_BYTES else _outline.__wrapped__
    return read(rest, index, data_bytes, limits)


@lru_cache(maxsize=_KEPT)
def _outline(
    rest: bytes, index: bytes | None, data_bytes: int, limits: FrameLimits
) -> tuple[Any, tuple[Slot, ...]]:
    fields = _unpacked(_MAP_OF_TWO + rest)
    if not isinstance(fields, dict) or set(fields) != {"tree", "tensors"}:
        raise _not_three()
    if not isinstance(fields["tensors"], list):
        raise FrameError("bad_header", "the tensors must be a list")
    slots = _read_table(fields["tensors"], limits)
    places = {} if index is None else read_index(index, data_bytes, limits.rank)
    found = tuple(_placed(slot, places) for slot in slots)
    if places:
        raise FrameError("surplus_tensor", f"{next(iter(places))!r:.80} is stored but not announced")
    return fields["tree"], found


def _placed(slot: Slot, places: dict[str, Place]) -> Slot:
    if slot.codec is None:
        return slot
    place = places.pop(slot.name, None)
    if place is None:
        raise FrameError("missing_tensor", f"{slot.name!r:.80} is announced but not stored")
    stored = ("U8", [place.end - place.begin])
    if slot.codec is codecs.RAW:
        stored = (slot.dtype_name, stored_shape(slot.dtype_name, slot.shape))
    if (place.dtype, stored_shape(place.dtype, place.shape)) != stored:
        raise FrameError("contradiction", f"header and section differ on what {slot.name!r:.80} is")
    return slot._replace(begin=place.begin, end=place.end)


def _unpacked(packed: bytes) -> Any:
    try:
        return msgpack.unpackb(packed, **_STRICTLY)
    except _UNREADABLE as error:
        raise _unreadable() from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("repeated key")
    return table


def _refuse_extension(code: int, data: bytes) -> Any:
    raise ValueError(f"extension type {code}")


# msgpack allocates an array by the length that it claims, so that length has a limit of its own.
_STRICTLY: dict[str, Any] = {
    "ext_hook": _refuse_extension,
    "object_pairs_hook": _unique,
    "max_array_len": MAX_NODES + 1,
}
_UNREADABLE = (ValueError, TypeError, RecursionError, MemoryError, msgpack.UnpackException)


def _unreadable() -> FrameError:
    return FrameError("bad_header", "not msgpack, or more than plain values")


def _not_three() -> FrameError:
    return FrameError("bad_header", "a map of message, tree and tensors belongs here")


def _read_table(table: list[Any], limits: FrameLimits) -> list[Slot]:
    if len(table) > limits.tensors:
        raise FrameError("too_many_tensors", f"{len(table)}, and the limit is {limits.tensors}")
    rows = [_read_row(row, limits.rank) for row in table]
    if len({row.name for row in rows}) != len(rows):
        raise FrameError("repeated_tensor", "two tensors have the same name")
    total = sum(_memory_bytes(row) for row in rows)
    if total > limits.tensor_bytes:
        raise FrameError("tensors_too_large", f"{total} bytes, over the {limits.tensor_bytes} allowed")
    return rows


def _memory_bytes(slot: Slot) -> int:
    if slot.strides is None or slot.codec is None:
        return slot.size_bytes
    return max(slot.size_bytes, span(slot.shape, slot.strides) * slot.dtype.itemsize)


_ROW_KEYS = {"name", "dtype", "shape", "digest", "codec", "parameters", "strides"}


def _read_row(row: Any, max_rank: int) -> Slot:
    if not isinstance(row, dict) or not row.keys() <= _ROW_KEYS or not isinstance(row.get("name"), str):
        raise FrameError("bad_tensor", "an entry of the tensor table is not of its form")
    name = row["name"]
    dtype = row.get("dtype")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise FrameError("unknown_dtype", f"{name!r:.80} has the dtype {dtype!r:.40}")
    shape = _read_shape(name, row.get("shape"), max_rank)
    digest = row.get("digest")
    if digest is not None and (not isinstance(digest, bytes) or len(digest) != DIGEST_BYTES):
        raise FrameError("bad_digest", f"{name!r:.80} has a digest that is not {DIGEST_BYTES} bytes")
    codec = _read_codec(name, row)
    if codec is None and (digest is None or "parameters" in row):
        raise FrameError("bad_tensor", f"{name!r:.80} has neither data nor a digest alone")
    size_bytes = math.prod(shape) * DTYPES[dtype].itemsize if codec is not None else 0
    strides = _read_strides(name, row["strides"], shape, DTYPES[dtype].itemsize) if "strides" in row else None
    return Slot(name, DTYPES[dtype], dtype, shape, digest, codec, size_bytes, strides=strides)


def _read_shape(name: str, shape: Any, max_rank: int) -> tuple[int, ...]:
    if not isinstance(shape, list) or len(shape) > max_rank:
        raise FrameError("bad_shape", f"{name!r:.80} has no shape, or one of over {max_rank} dimensions")
    # The bound keeps sizes and strides within what torch can address; an empty tensor has strides too.
    sizes_fit = all(type(size) is int and 0 <= size < 2**62 for size in shape)
    if not sizes_fit or math.prod(max(size, 1) for size in shape) >= 2**62:
        raise FrameError("bad_shape", f"{name!r:.80} has a dimension that is no size")
    return tuple(shape)


def _read_strides(name: str, strides: Any, shape: tuple[int, ...], itemsize: int) -> Strides:
    whole = isinstance(strides, list) and all(type(stride) is int for stride in strides)
    if not whole or 0 in shape or not are_strides(shape, strides, itemsize):
        raise FrameError("bad_strides", f"{name!r:.80} has strides that no tensor of its shape can have")
    return tuple(strides)


def _read_codec(name: str, row: dict[str, Any]) -> codecs.Codec | None:
    if "codec" not in row:
        return None
    values = row.get("parameters", {})
    if not isinstance(row["codec"], str) or not isinstance(values, dict):
        raise FrameError("unknown_codec", f"{name!r:.80} names its codec in no known form")
    try:
        codec = codecs.named(row["codec"], values)
    except CodecError as error:
        raise FrameError("unknown_codec", str(error)) from error
    return codecs.RAW if codec == codecs.RAW else codec
