"""A message with its tree, in and out of frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import FrameError
from ..io import codecs, tree
from ..io.buffers import Buffer
from ..io.frame import DEFAULT_LIMITS, EncodedFrame, FrameLimits, Part, Received, decode, encode
from ..io.strides import with_strides
from .messages import PROTOCOL_VERSION, Message, parse

# Fields that a side which does not know of them would refuse, even where there is nothing in them.
_LEFT_OUT = ("prediction", "hooks", "skipped", "folders", "reply_strides", "autocast", "request", "waiting")


@dataclass(frozen=True)
class Envelope:
    """What came in one frame: the message, and the tree still apart."""

    message: Message
    skeleton: Any
    tensors: tuple[Received, ...]

    @property
    def request(self) -> str | None:
        """The name of the request that the message makes or answers, if it has one."""
        return getattr(self.message, "request", None)

    def unpack(self) -> tree.Tree:
        """The tree, when every tensor came with its data.

        Raises:
            FrameError: a tensor came as a digest only, or the tree is malformed.
        """
        tensors = tuple([received.tensor for received in self.tensors if received.tensor is not None])
        if len(tensors) < len(self.tensors):
            raise FrameError("missing_tensor", "a tensor came as a digest where its data belongs")
        return tree.unpack(self.skeleton, tensors)


def seal(
    message: Message, packed: tree.PackedTree | None = None, codec: codecs.Codec | codecs.Chooser = codecs.RAW
) -> EncodedFrame:
    """A frame of the message and a tree whose tensors all travel with their data."""
    packed = packed or tree.PackedTree(None)
    return seal_parts(message, packed.skeleton, parts_of(packed), codec)


def parts_of(packed: tree.PackedTree, strides: bool | None = True) -> list[Part]:
    """Return the parts of a tree that all travel with their data, and with plain strides unless `strides`.

    Args:
        strides: whether the receiver knows of them; else the tensors must be on the CPU.
    """
    tensors = packed.tensors if strides else tuple(with_strides(tensor, None) for tensor in packed.tensors)
    return list(map(Part, packed.paths, tensors))


def seal_parts(
    message: Message, skeleton: Any, parts: list[Part], codec: codecs.Codec | codecs.Chooser = codecs.RAW
) -> EncodedFrame:
    """A frame of the message and a tree, its tensors as `parts` say."""
    fields = message.fields()
    for name in _LEFT_OUT:
        if fields.get(name, fields) is None:
            del fields[name]
    return encode(fields, skeleton, parts, codec)


class ProtocolSkewError(FrameError):
    """The other side speaks a protocol this one does not."""


def open_frame(buffer: Buffer, limits: FrameLimits = DEFAULT_LIMITS) -> Envelope:
    """What the frame in `buffer` says.

    Raises:
        FrameError: not a frame.
        ProtocolSkewError: of a protocol version other than ours; looked at before the rest of the message.
        MessageError: a message we do not know.
    """
    frame = decode(buffer, limits)
    protocol = frame.message.get("protocol", PROTOCOL_VERSION)
    if protocol != PROTOCOL_VERSION:
        raise ProtocolSkewError(
            "unsupported_protocol",
            f"the other side speaks protocol {protocol!r:.20}, this one speaks {PROTOCOL_VERSION}; "
            "install the same release of comfy-gpu-offload on both sides",
        )
    return Envelope(parse(frame.message), frame.skeleton, frame.tensors)
