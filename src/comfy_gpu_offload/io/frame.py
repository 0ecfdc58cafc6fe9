"""The frame: one message and its tensors as bytes. docs/frame.md is the specification.

    prelude (32 bytes)  magic, version, lengths, checksum
    header              msgpack: the message, the tree's skeleton, what each tensor is
    section             a safetensors document: raw tensors as they are, coded ones as U8

Encoding gives a list of buffers, so that a raw tensor goes from its own memory to the socket. Decoding gives
tensors that share the frame's memory. Nothing is allocated on the word of a length that was not checked.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgpack
import torch
import xxhash

from ..errors import CodecError, FrameError
from . import codecs
from .buffers import ALIGNMENT, Buffer, allocate, tensor_bytes, tensor_from
from .digests import DIGEST_BYTES
from .dtypes import DTYPES, NAMES, stored_shape
from .section import Entry, layout, read_section
from .tree import MAX_NODES

# As in PNG: a non-ASCII byte, a name, and line ends that any text-mode transfer would mangle.
MAGIC = b"\x89CGO\r\n\x1a\n"
VERSION = 1
PRELUDE = struct.Struct("<8sHHIQQ")


@dataclass(frozen=True)
class FrameLimits:
    """What a frame may claim before it is refused. Sizes in bytes."""

    frame_bytes: int = 2 * 1024**3
    header_bytes: int = 32 * 1024**2
    tensor_bytes: int = 4 * 1024**3
    tensors: int = 8192
    rank: int = 64


DEFAULT_LIMITS = FrameLimits()


class Part(NamedTuple):
    """A tensor on its way into a frame.

    Attributes:
        name: its name in the section; unique in the frame.
        tensor: any dense tensor of a known dtype, on any device.
        digest: its content digest, when the receiver is to keep it or has it.
        held: the receiver has it: only the digest travels.
    """

    name: str
    tensor: torch.Tensor
    digest: bytes | None = None
    held: bool = False


class Received(NamedTuple):
    """A tensor out of a frame; `tensor` is None when only its digest travelled."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    digest: bytes | None
    tensor: torch.Tensor | None


@dataclass(frozen=True)
class DecodedFrame:
    """What a frame says."""

    message: dict[str, Any]
    skeleton: Any
    tensors: tuple[Received, ...]


@dataclass(frozen=True)
class EncodedFrame:
    """A frame as buffers to be sent one after another."""

    buffers: tuple[Buffer, ...]
    size_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size_bytes", sum(len(buffer) for buffer in self.buffers))

    def joined(self) -> bytearray:
        """The frame in one piece: a copy, for carriers that need one."""
        return bytearray().join(self.buffers)


def encode(
    message: Mapping[str, Any],
    skeleton: Any = None,
    parts: Sequence[Part] = (),
    codec: codecs.Codec | codecs.Chooser = codecs.RAW,
) -> EncodedFrame:
    """One frame. Tensors that `codec` does not make smaller are stored raw; those with a digest go losslessly."""
    table, payloads = [], []
    for part in parts:
        row, payload = _encode_part(part, codec)
        table.append(row)
        if payload is not None:
            payloads.append(payload)
    header = msgpack.packb({"message": dict(message), "tree": skeleton, "tensors": table})
    index, data = layout(payloads, PRELUDE.size + len(header), ALIGNMENT)
    head = header + index
    checksum = _checksum([head, *data])
    section_bytes = len(index) + sum(len(buffer) for buffer in data)
    prelude = PRELUDE.pack(MAGIC, VERSION, 0, len(header), section_bytes, checksum)
    return EncodedFrame((prelude + head, *data))


def _encode_part(part: Part, codec: codecs.Codec | codecs.Chooser) -> tuple[dict[str, Any], Entry | None]:
    name = NAMES[part.tensor.dtype]
    row: dict[str, Any] = {"name": part.name, "dtype": name, "shape": list(part.tensor.shape)}
    if part.digest is not None:
        row["digest"] = part.digest
    if part.held:
        return row, None
    data = tensor_bytes(part.tensor)
    shape = tuple(part.tensor.shape)
    # What goes by its digest is kept under it, and must be what the digest says.
    used, payload = codecs.encode(codec, data, name, shape, exact=part.digest is not None)
    row["codec"] = used.name
    if used == codecs.RAW:
        return row, Entry(part.name, name, shape, data)
    if values := codecs.parameters(used):
        row["parameters"] = values
    return row, Entry(part.name, "U8", (len(payload),), memoryview(payload))


def frame_size(prelude: Buffer, limits: FrameLimits = DEFAULT_LIMITS) -> int:
    """The whole frame's size in bytes, by its first 32.

    Raises:
        FrameError: not the beginning of a frame, or larger than the limits allow.
    """
    header_bytes, section_bytes, _ = _read_prelude(prelude, limits)
    return PRELUDE.size + header_bytes + section_bytes


def decode(buffer: Buffer, limits: FrameLimits = DEFAULT_LIMITS) -> DecodedFrame:
    """What the frame in `buffer` says. Raw tensors share the buffer's memory.

    A read-only buffer is copied first, since torch has no read-only tensors.

    Raises:
        FrameError: not a frame; `malformation` names what is wrong. Nothing else is ever raised.
    """
    view = memoryview(buffer)
    header_bytes, section_bytes, checksum = _read_prelude(view, limits)
    _check_length(len(view), PRELUDE.size + header_bytes + section_bytes)
    if _checksum([view[PRELUDE.size :]]) != checksum:
        raise FrameError("bad_checksum", "the bytes were altered, lost or re-ordered on the way")
    if view.readonly:
        view = _writable(view)
    start = PRELUDE.size + header_bytes
    header = _read_header(view[PRELUDE.size : start])
    rows = _read_table(header["tensors"], limits)
    payloads = read_section(view[start:], limits.header_bytes, limits.rank) if section_bytes else {}
    received = tuple(_decode_part(row, payloads) for row in rows)
    if payloads:
        raise FrameError("surplus_tensor", f"{next(iter(payloads))!r:.80} is stored but not announced")
    return DecodedFrame(header["message"], header["tree"], received)


def _read_prelude(buffer: Buffer, limits: FrameLimits) -> tuple[int, int, int]:
    if len(buffer) < PRELUDE.size:
        raise FrameError("truncated", f"{len(buffer)} bytes, and a frame begins with {PRELUDE.size}")
    magic, version, flags, header_bytes, section_bytes, checksum = PRELUDE.unpack_from(buffer)
    if magic != MAGIC:
        raise FrameError("bad_magic", "these bytes are no frame of this package")
    if version != VERSION or flags:
        raise FrameError(
            "unsupported_version",
            f"the frame is of version {version}, flags {flags}, and this side reads version {VERSION}; "
            "install the same release of comfy-gpu-offload on both sides",
        )
    if header_bytes > limits.header_bytes:
        raise FrameError("header_too_large", f"{header_bytes} bytes, over the {limits.header_bytes} allowed")
    if PRELUDE.size + header_bytes + section_bytes > limits.frame_bytes:
        raise FrameError("frame_too_large", f"over the {limits.frame_bytes} bytes allowed")
    return header_bytes, section_bytes, checksum


def _check_length(have: int, claimed: int) -> None:
    if have < claimed:
        raise FrameError("truncated", f"{have} bytes of the {claimed} it claims")
    if have > claimed:
        raise FrameError("trailing_bytes", f"{have - claimed} bytes after the {claimed} it claims")


def _checksum(buffers: Iterable[Buffer]) -> int:
    hasher = xxhash.xxh3_64()
    for buffer in buffers:
        hasher.update(buffer)
    return int(hasher.intdigest())


def _writable(view: memoryview) -> memoryview:
    copy = allocate(len(view))
    copy[:] = view
    return copy


def _read_header(buffer: memoryview) -> dict[str, Any]:
    try:
        # An array is allocated by the length it claims, so that length has a limit of its own.
        header = msgpack.unpackb(
            buffer, ext_hook=_refuse_extension, object_pairs_hook=_unique, max_array_len=MAX_NODES + 1
        )
    except (ValueError, TypeError, RecursionError, MemoryError, msgpack.UnpackException) as error:
        raise FrameError("bad_header", "not msgpack, or more than plain values") from error
    if not isinstance(header, dict) or set(header) != {"message", "tree", "tensors"}:
        raise FrameError("bad_header", "a map of message, tree and tensors belongs here")
    if not isinstance(header["message"], dict) or not isinstance(header["tensors"], list):
        raise FrameError("bad_header", "the message must be a map and the tensors a list")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("repeated key")
    return table


def _refuse_extension(code: int, data: bytes) -> Any:
    raise ValueError(f"extension type {code}")


class _Row(NamedTuple):
    name: str
    dtype: str
    shape: tuple[int, ...]
    digest: bytes | None
    codec: codecs.Codec | None
    size_bytes: int


def _read_table(table: list[Any], limits: FrameLimits) -> list[_Row]:
    if len(table) > limits.tensors:
        raise FrameError("too_many_tensors", f"{len(table)}, and the limit is {limits.tensors}")
    rows = [_read_row(row, limits) for row in table]
    if len({row.name for row in rows}) != len(rows):
        raise FrameError("repeated_tensor", "two tensors have the same name")
    total = sum(row.size_bytes for row in rows)
    if total > limits.tensor_bytes:
        raise FrameError("tensors_too_large", f"{total} bytes, over the {limits.tensor_bytes} allowed")
    return rows


_ROW_KEYS = {"name", "dtype", "shape", "digest", "codec", "parameters"}


def _read_row(row: Any, limits: FrameLimits) -> _Row:
    if not isinstance(row, dict) or not row.keys() <= _ROW_KEYS or not isinstance(row.get("name"), str):
        raise FrameError("bad_tensor", "an entry of the tensor table is not of its form")
    name = row["name"]
    dtype = row.get("dtype")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise FrameError("unknown_dtype", f"{name!r:.80} has the dtype {dtype!r:.40}")
    shape = _read_shape(name, row.get("shape"), limits)
    digest = row.get("digest")
    if digest is not None and (not isinstance(digest, bytes) or len(digest) != DIGEST_BYTES):
        raise FrameError("bad_digest", f"{name!r:.80} has a digest that is not {DIGEST_BYTES} bytes")
    codec = _read_codec(name, row)
    if codec is None and (digest is None or "parameters" in row):
        raise FrameError("bad_tensor", f"{name!r:.80} has neither data nor a digest alone")
    size_bytes = math.prod(shape) * DTYPES[dtype].itemsize if codec is not None else 0
    return _Row(name, dtype, shape, digest, codec, size_bytes)


def _read_shape(name: str, shape: Any, limits: FrameLimits) -> tuple[int, ...]:
    if not isinstance(shape, list) or len(shape) > limits.rank:
        raise FrameError("bad_shape", f"{name!r:.80} has no shape, or one of over {limits.rank} dimensions")
    # The bound keeps sizes and strides within what torch can address; an empty tensor has strides too.
    sizes_fit = all(type(size) is int and 0 <= size < 2**62 for size in shape)
    if not sizes_fit or math.prod(max(size, 1) for size in shape) >= 2**62:
        raise FrameError("bad_shape", f"{name!r:.80} has a dimension that is no size")
    return tuple(shape)


def _read_codec(name: str, row: dict[str, Any]) -> codecs.Codec | None:
    if "codec" not in row:
        return None
    values = row.get("parameters", {})
    if not isinstance(row["codec"], str) or not isinstance(values, dict):
        raise FrameError("unknown_codec", f"{name!r:.80} names its codec in no known form")
    try:
        return codecs.named(row["codec"], values)
    except CodecError as error:
        raise FrameError("unknown_codec", str(error)) from error


def _decode_part(row: _Row, payloads: dict[str, Entry]) -> Received:
    dtype = DTYPES[row.dtype]
    if row.codec is None:
        return Received(row.name, dtype, row.shape, row.digest, None)
    entry = payloads.pop(row.name, None)
    if entry is None:
        raise FrameError("missing_tensor", f"{row.name!r:.80} is announced but not stored")
    stored = ("U8", [len(entry.data)])
    if row.codec == codecs.RAW:
        stored = (row.dtype, stored_shape(row.dtype, row.shape))
    if (entry.dtype, stored_shape(entry.dtype, entry.shape)) != stored:
        raise FrameError("contradiction", f"header and section differ on what {row.name!r:.80} is")
    try:
        data = row.codec.decode(entry.data, row.size_bytes, row.dtype, row.shape)
    except CodecError as error:
        raise FrameError("bad_payload", f"{row.name!r:.80}: {error}") from error
    return Received(row.name, dtype, row.shape, row.digest, tensor_from(data, dtype, row.shape))
