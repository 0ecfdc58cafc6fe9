"""The frame: one message and its tensors as bytes. docs/frame.md is the specification.

    prelude (32 bytes)  magic, version, lengths, checksum
    header              msgpack: the message, the tree's skeleton, what each tensor is
    section             a safetensors document: raw tensors as they are, coded ones as U8

Encoding gives a list of buffers, so that a raw tensor goes from its own memory to the socket. Decoding gives
tensors that share the frame's memory. No memory is allocated by a length that has not been checked.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import xxhash

from ..errors import CodecError, FrameError
from . import codecs
from .buffers import ALIGNMENT, Buffer, allocate, tensor_bytes, tensor_from
from .dtypes import NAMES
from .header import Row, Slot, layout, outline, packed_header, read_message
from .header_packing import PACKED, packed, unpacked
from .limits import DEFAULT_LIMITS, FrameLimits
from .section import section_head, split_section
from .strides import Strides, strides_of, with_strides

__all__ = [
    "ALTERED",
    "DEFAULT_LIMITS",
    "MAGIC",
    "PRELUDE",
    "VERSION",
    "DecodedFrame",
    "EncodedFrame",
    "FrameLimits",
    "Part",
    "Received",
    "decode",
    "encode",
    "frame_size",
]

# As in PNG: a non-ASCII byte, a name, and line ends that any text-mode transfer would mangle.
MAGIC = b"\x89CGO\r\n\x1a\n"
VERSION = 1
ALTERED = "bad_checksum"
"""The malformation that may have happened in transit: sent again, the same frame may arrive whole."""
PRELUDE = struct.Struct("<8sHHIQQ")


class Part(NamedTuple):
    """A tensor on its way into a frame.

    Attributes:
        name: its name in the section; unique in the frame.
        tensor: any dense tensor of a known dtype, on any device.
        digest: its content digest, if the receiver is to keep it or has it.
        held: whether the receiver has it, so that only the digest is sent.
    """

    name: str
    tensor: torch.Tensor
    digest: bytes | None = None
    held: bool = False


class Received(NamedTuple):
    """A tensor from a frame; `tensor` is None if only its digest was sent, `strides` if they are row-major."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    digest: bytes | None
    tensor: torch.Tensor | None
    strides: Strides | None = None


@dataclass(frozen=True)
class DecodedFrame:
    """The content of a frame, with the tree still apart: its skeleton and its tensors."""

    message: dict[str, Any]
    skeleton: Any
    tensors: tuple[Received, ...]


class EncodedFrame:
    """A frame as buffers to be sent one after another.

    Attributes:
        buffers: the buffers, in order. Those of raw tensors share the tensors' memory.
        size_bytes: their total size.
    """

    __slots__ = ("buffers", "size_bytes")

    def __init__(self, buffers: tuple[Buffer, ...]) -> None:
        self.buffers = buffers
        self.size_bytes = sum(map(len, buffers))

    def joined(self) -> bytearray:
        """Return the frame in one piece: a copy, for transports that need one."""
        return bytearray().join(self.buffers)

    def part(self, begin: int, size_bytes: int) -> memoryview:
        """Return a copy of some of its bytes: fewer than `size_bytes` at its end, none behind it."""
        made = allocate(max(0, min(size_bytes, self.size_bytes - begin)))
        start = filled = 0
        for buffer in self.buffers:
            view = memoryview(buffer)[max(0, begin + filled - start) : max(0, begin + len(made) - start)]
            made[filled : filled + len(view)] = view
            filled += len(view)
            start += len(buffer)
        return made


def encode(
    message: Mapping[str, Any],
    skeleton: Any = None,
    parts: Sequence[Part] = (),
    codec: codecs.Codec | codecs.Chooser = codecs.RAW,
    *,
    packs_header: bool = False,
) -> EncodedFrame:
    """Encode a frame; tensors that `codec` does not make smaller stay raw, those with a digest lossless.

    Args:
        packs_header: whether to compress a long header. The receiver must know that.
    """
    rows, payloads = [], []
    for part in parts:
        row, payload = _stored(part, codec)
        rows.append(row)
        payloads.append(payload)
    planned = layout(tuple(rows))
    header = packed_header(message, skeleton, planned.table)
    shorter = packed(header) if packs_header else None
    header = header if shorter is None else shorter
    section = section_head(planned.section, PRELUDE.size + len(header), ALIGNMENT)
    data = [payloads[at] for at in planned.order if rows[at].stored_bytes]
    head = header + section
    hasher = xxhash.xxh3_64(head)
    for buffer in data:
        hasher.update(buffer)
    section_bytes = len(section) + planned.data_bytes
    flags = 0 if shorter is None else PACKED
    prelude = PRELUDE.pack(MAGIC, VERSION, flags, len(header), section_bytes, hasher.intdigest())
    return EncodedFrame((prelude + head, *data))


def _stored(part: Part, codec: codecs.Codec | codecs.Chooser) -> tuple[Row, Buffer]:
    name, tensor, digest, held = part
    dtype_name, shape, strides = NAMES[tensor.dtype], tuple(tensor.shape), strides_of(tensor)
    if held:
        return Row(name, dtype_name, shape, digest, None, strides=strides), b""
    data = tensor_bytes(tensor)
    # What goes by its digest is kept under it, and must be what the digest says.
    used, payload = codecs.encode(codec, data, dtype_name, shape, exact=digest is not None)
    parameters = () if used is codecs.RAW else tuple(codecs.parameters(used).items())
    return Row(name, dtype_name, shape, digest, used.name, parameters, len(payload), strides), payload


def frame_size(prelude: Buffer, limits: FrameLimits = DEFAULT_LIMITS) -> int:
    """Return the size of a whole frame in bytes, by its first 32.

    Raises:
        FrameError: not the beginning of a frame, or larger than the limits allow.
    """
    _, header_bytes, section_bytes, _ = _read_prelude(prelude, limits)
    return PRELUDE.size + header_bytes + section_bytes


def decode(buffer: Buffer, limits: FrameLimits = DEFAULT_LIMITS) -> DecodedFrame:
    """Decode the frame in `buffer`. Raw tensors share its memory if their strides are row-major.

    A read-only buffer is copied first, since torch has no read-only tensors.

    Raises:
        FrameError: not a frame; `malformation` names what is wrong. Nothing else is ever raised.
    """
    view = memoryview(buffer)
    flags, header_bytes, section_bytes, checksum = _read_prelude(view, limits)
    _check_length(len(view), PRELUDE.size + header_bytes + section_bytes)
    if xxhash.xxh3_64_intdigest(view[PRELUDE.size :]) != checksum:
        raise FrameError(ALTERED, "the bytes were altered, lost or re-ordered on the way")
    if view.readonly:
        view = _writable(view)
    start = PRELUDE.size + header_bytes
    header = view[PRELUDE.size : start]
    message, rest = read_message(unpacked(header, limits.header_bytes) if flags & PACKED else bytes(header))
    index, data = split_section(view[start:], limits.header_bytes)
    skeleton, slots = outline(rest, index, len(data), limits)
    return DecodedFrame(message, skeleton, tuple([_received(slot, data) for slot in slots]))


def _received(slot: Slot, data: memoryview) -> Received:
    if slot.codec is None:
        return Received(slot.name, slot.dtype, slot.shape, slot.digest, None, slot.strides)
    payload = data[slot.begin : slot.end]
    if slot.codec is not codecs.RAW:
        try:
            payload = slot.codec.decode(payload, slot.size_bytes, slot.dtype_name, slot.shape)
        except CodecError as error:
            raise FrameError("bad_payload", f"{slot.name!r:.80}: {error}") from error
    tensor = tensor_from(payload, slot.dtype, slot.shape)
    if slot.strides is not None:
        tensor = with_strides(tensor, slot.strides)
    return Received(slot.name, slot.dtype, slot.shape, slot.digest, tensor, slot.strides)


def _read_prelude(buffer: Buffer, limits: FrameLimits) -> tuple[int, int, int, int]:
    if len(buffer) < PRELUDE.size:
        raise FrameError("truncated", f"{len(buffer)} bytes, and a frame begins with {PRELUDE.size}")
    magic, version, flags, header_bytes, section_bytes, checksum = PRELUDE.unpack_from(buffer)
    if magic != MAGIC:
        raise FrameError("bad_magic", "these bytes are not a frame of this package")
    if version != VERSION or flags & ~PACKED:
        raise FrameError(
            "unsupported_version",
            f"the frame is of version {version}, flags {flags}, and this side reads version {VERSION}; "
            "install the same release of comfy-gpu-offload on both sides",
        )
    if header_bytes > limits.header_bytes:
        raise FrameError("header_too_large", f"{header_bytes} bytes, over the {limits.header_bytes} allowed")
    if PRELUDE.size + header_bytes + section_bytes > limits.frame_bytes:
        raise FrameError("frame_too_large", f"over the {limits.frame_bytes} bytes allowed")
    return flags, header_bytes, section_bytes, checksum


def _check_length(have: int, claimed: int) -> None:
    if have < claimed:
        raise FrameError("truncated", f"{have} bytes of the {claimed} it claims")
    if have > claimed:
        raise FrameError("trailing_bytes", f"{have - claimed} bytes after the {claimed} it claims")


def _writable(view: memoryview) -> memoryview:
    copy = allocate(len(view))
    copy[:] = view
    return copy
