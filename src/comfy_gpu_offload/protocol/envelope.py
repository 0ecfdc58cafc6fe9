"""Envelopes: a message and its tree of tensors, sealed into a frame or opened from one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import FrameError
from ..io import codecs, tree
from ..io.buffers import Buffer
from ..io.frame import DEFAULT_LIMITS, EncodedFrame, FrameLimits, Part, Received, decode, encode
from ..io.strides import with_strides
from .messages import PROTOCOL_VERSION, Message, parse


@dataclass(frozen=True)
class Envelope:
    """The content of one received frame: the message, and the tree as its skeleton and its tensors."""

    message: Message
    skeleton: Any
    tensors: tuple[Received, ...]

    @property
    def request(self) -> str | None:
        """Return the name of the request that the message makes or answers, if it has one."""
        return getattr(self.message, "request", None)

    def unpack(self) -> tree.Tree:
        """Return the tree, all of whose tensors must have come with their data.

        Raises:
            FrameError: a tensor came as a digest only, or the tree is malformed.
        """
        tensors = tuple([received.tensor for received in self.tensors if received.tensor is not None])
        if len(tensors) < len(self.tensors):
            raise FrameError("missing_tensor", "a tensor came as a digest, without its data")
        return tree.unpack(self.skeleton, tensors)


def seal(
    message: Message, packed: tree.PackedTree | None = None, codec: codecs.Codec | codecs.Chooser = codecs.RAW
) -> EncodedFrame:
    """Return a frame of the message and of a tree whose tensors are all sent with their data."""
    packed = packed or tree.PackedTree(None)
    return seal_parts(message, packed.skeleton, parts_of(packed), codec)


def parts_of(packed: tree.PackedTree, strides: bool | None = True) -> list[Part]:
    """Return a frame's parts for a tree whose tensors are all sent with their data.

    Args:
        strides: whether the receiver knows strides; if not, the tensors must be on the CPU and are made contiguous.
    """
    tensors = packed.tensors if strides else tuple(with_strides(tensor, None) for tensor in packed.tensors)
    return list(map(Part, packed.paths, tensors))


def seal_parts(
    message: Message,
    skeleton: Any,
    parts: list[Part],
    codec: codecs.Codec | codecs.Chooser = codecs.RAW,
    *,
    packs_header: bool = False,
) -> EncodedFrame:
    """Return a frame of the message and of a tree with this skeleton, whose tensors are given by `parts`.

    Args:
        packs_header: whether to compress the message and the skeleton. The receiver must know that.
    """
    return encode(message.fields(), skeleton, parts, codec, packs_header=packs_header)


class ProtocolSkewError(FrameError):
    """The other side speaks another version of the protocol."""


def open_frame(buffer: Buffer, limits: FrameLimits = DEFAULT_LIMITS) -> Envelope:
    """Return the content of the frame in `buffer`.

    Raises:
        FrameError: the bytes are no frame.
        ProtocolSkewError: the message states another version of the protocol; the rest of it is not looked at.
        MessageError: the message is unknown or malformed.
    """
    frame = decode(buffer, limits)
    protocol = frame.message.get("protocol", PROTOCOL_VERSION)
    if protocol != PROTOCOL_VERSION:
        raise ProtocolSkewError("unsupported_protocol", _of_skew(frame.message.get("type"), protocol))
    return Envelope(parse(frame.message), frame.skeleton, frame.tensors)


def _of_skew(kind: object, protocol: object) -> str:
    """Name both sides' versions, in words that are true on either side: a worker's fault is read at the client."""
    theirs, ours = ("worker", "client") if kind == "welcome" else ("client", "worker")
    is_newer = isinstance(protocol, int) and protocol > PROTOCOL_VERSION
    return (
        f"the {theirs} speaks version {protocol!r:.20} of the protocol and the {ours} version {PROTOCOL_VERSION}: "
        f"update comfy-gpu-offload on the {ours if is_newer else theirs}"
    )
