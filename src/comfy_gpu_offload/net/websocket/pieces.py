"""Pieces: the messages of a WebSocket, each a part of one exchange's frames.

docs/protocol.md, "WebSocket", is the specification.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

SUBPROTOCOL: Final = "comfy-gpu-offload.v1"
PATH: Final = "/v1/connect"
CONNECTION: Final = 0
"""The number in pieces that belong to no exchange."""

# Measured from 64 KB to 1 MB (benchmarks/websocket_libraries.py): larger pieces leave the processor's cache between
# masking, sending and unmasking. It is also what a cancel waits for behind a large frame.
PIECE_BYTES: Final = 64 * 1024
MAX_MESSAGE_BYTES: Final = 1024 * 1024
"""The largest message that is accepted, so that a later release may send larger pieces."""
_HEADER = struct.Struct("<BI")


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
    """A message that was received. `payload` shares its memory."""

    kind: Kind
    exchange: int
    payload: memoryview


class PieceError(ValueError):
    """A message is no piece."""


def sealed(kind: Kind, exchange: int = CONNECTION, payload: bytes | bytearray | memoryview = b"") -> bytes:
    """Return the message of a piece."""
    return _HEADER.pack(kind, exchange) + payload


def opened(message: bytes | bytearray | memoryview) -> Piece:
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


def payloads(buffers: Sequence[bytes | bytearray | memoryview], first: bytes = b"") -> Iterator[bytes | memoryview]:
    """Yield the bytes of `first` and then of `buffers` in payloads of `PIECE_BYTES` at most.

    A payload that lies within one buffer shares its memory; small neighbours are joined.
    """
    joined = bytearray(first)
    for buffer in buffers:
        view = memoryview(buffer)
        while view:
            room = PIECE_BYTES - len(joined)
            if not joined and len(view) >= PIECE_BYTES:
                yield view[:PIECE_BYTES]
                view = view[PIECE_BYTES:]
                continue
            joined += view[:room]
            view = view[room:]
            if len(joined) == PIECE_BYTES:
                yield bytes(joined)
                joined = bytearray()
    if joined:
        yield bytes(joined)
