"""Pieces: the messages of a WebSocket, each a part of one exchange's frames.

docs/protocol.md, "WebSocket", is the specification.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from math import ceil
from typing import Final, NamedTuple

from .payloads import Buffer
from .piece_size import PieceSize

SUBPROTOCOL: Final = "comfy-gpu-offload.v1"
PATH: Final = "/v1/connect"
CONNECTION: Final = 0
"""The number in pieces that belong to no exchange."""

SMALL_FRAME_BYTES: Final = 64 * 1024
"""Frames up to that size are urgent: they do not wait behind larger ones."""
MAX_MESSAGE_BYTES: Final = 1024 * 1024
"""The largest message that is accepted, so that a later release may send larger pieces."""
_HEADER = struct.Struct("<BI")
_SMALL_BYTES = 4 * 1024

Message = tuple[Buffer, ...]
"""The bytes of a message, in one buffer or several."""


class Kind(IntEnum):
    """The kinds of pieces.

    BEGIN opens an exchange: its payload is the route and the first bytes of the request's frame. DATA has more
    bytes of the request, or of the replies, frame after frame. END has the last bytes of the replies, if any are
    left. DROP says that nobody wants the replies any more. WARM keeps the connection warm and is a sign of life.
    WAITING says, as text, what the exchange waits for.
    """

    BEGIN = 1
    DATA = 2
    END = 3
    DROP = 4
    WARM = 5
    WAITING = 6


class Piece(NamedTuple):
    """A message that was received. `payload` shares memory into which the next may be received."""

    kind: Kind
    exchange: int
    payload: memoryview


class PieceError(ValueError):
    """A message is no piece."""


def sealed(kind: Kind, exchange: int = CONNECTION, *payload: Buffer) -> Message:
    """Return the message of a piece, whose payload is in one buffer or several."""
    return _HEADER.pack(kind, exchange), *payload


def opened(message: Buffer) -> Piece:
    """Return the piece that a message is.

    Raises:
        PieceError: it is shorter than a header, or of an unknown kind.
    """
    if len(message) < _HEADER.size:
        raise PieceError("a message is shorter than the header of a piece")
    kind, exchange = _HEADER.unpack_from(message)
    try:
        return Piece(Kind(kind), exchange, memoryview(message)[_HEADER.size :])
    except ValueError:
        raise PieceError(f"a message is a piece of the unknown kind {kind}") from None


def payloads(buffers: Sequence[Buffer], size: PieceSize, first: bytes = b"") -> Iterator[list[Buffer]]:
    """Yield the bytes of `first` and then of `buffers` in payloads of `size` at most, which are nearly equal.

    Each is a list of buffers, which share memory except for small neighbours, which are joined: a system call takes
    so many buffers and no more.
    """
    left = len(first) + sum(map(len, buffers))
    room = _part(left, size) - len(first)
    parts, small = list[Buffer](), bytearray(first)
    for buffer in buffers:
        view = memoryview(buffer)
        while view:
            part, view = view[:room], view[room:]
            room -= len(part)
            if len(part) < _SMALL_BYTES:
                small += part
            else:
                parts += [small, part] if small else [part]
                small = bytearray()
            if not room:
                payload = [*parts, small] if small else parts
                yield payload
                left -= sum(map(len, payload))
                parts, small, room = [], bytearray(), _part(left, size)
    if parts or small:
        yield [*parts, small] if small else parts


def _part(left: int, size: PieceSize) -> int:
    return ceil(left / ceil(left / size.bytes)) if left else 0
