"""Payloads of WebSocket frames that the library neither joins nor copies.

`websockets` serializes a frame by copying its payload three times, and parses one by copying it twice before it is
unmasked. A call's megabytes pass beside that (benchmarks/websocket_libraries.py): heads, control frames and every
check are the library's.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Generator, Sequence
from typing import Any

from websockets.protocol import Protocol

try:
    from websockets.speedups import apply_mask
except ImportError:  # no C extension for this platform
    from websockets.utils import apply_mask

Buffer = bytes | bytearray | memoryview

# Shorter ones are parsed out of what was read with the head, and longer ones too that came with it as a whole.
_SHORT_BYTES = 1024
_FINAL_BINARY, _MASKED = 0x82, 0x80  # RFC 6455, 5.2
_LONG, _LONGER = 126, 127


def framed(parts: Sequence[Buffer], *, is_masked: bool) -> list[Buffer]:
    """Return the buffers of a binary message: a head, and then `parts`, whose memory is shared unless masked."""
    length, mask_bit = sum(map(len, parts)), _MASKED if is_masked else 0
    if length < _LONG:
        head = struct.pack("!BB", _FINAL_BINARY, mask_bit | length)
    elif length < 1 << 16:
        head = struct.pack("!BBH", _FINAL_BINARY, mask_bit | _LONG, length)
    else:
        head = struct.pack("!BBQ", _FINAL_BINARY, mask_bit | _LONGER, length)
    if not is_masked:
        return [head, *parts]
    key = secrets.token_bytes(4)
    buffers: list[Buffer] = [head + key]
    for part in parts:
        buffers.append(apply_mask(part, key))
        turn = len(part) % 4
        key = key[turn:] + key[:turn]
    return buffers


class IncomingPayload:
    """The payload that a protocol's parser waits for, to be received straight into memory of its own.

    Attributes:
        vacant: the part of that memory that is still to be filled; empty while the parser waits for none.
    """

    def __init__(self, protocol: Protocol) -> None:
        """Have the parser of `protocol`, which is open, take long payloads from here."""
        self._memory = memoryview(b"")
        self.vacant = memoryview(b"")
        self._reader = protocol.reader
        self._read_short = self._reader.read_exact
        # Where a later release of the library reads otherwise, payloads pass through its buffer, and take longer.
        protocol.reader.read_exact = self._read_exact  # type: ignore[method-assign]

    def received(self, count: int) -> None:
        """Note that so many bytes of `vacant` were filled."""
        self.vacant = self.vacant[count:]

    def _read_exact(self, n: int) -> Generator[None, None, Any]:
        # The parser goes on to the next frames of the buffer before anybody has taken this one. So one that is
        # whole already is copied out: in the memory here, the next of them would take its place.
        if n < _SHORT_BYTES or n <= len(self._reader.buffer):
            return (yield from self._read_short(n))
        if len(self._memory) < n:
            self._memory = memoryview(bytearray(n))
        buffered = self._reader.buffer
        early = len(buffered)
        self._memory[:early] = buffered
        buffered.clear()
        self.vacant = self._memory[early:n]
        while self.vacant:
            if self._reader.eof:
                raise EOFError("the stream ended in a payload")
            yield
        return self._memory[:n]
