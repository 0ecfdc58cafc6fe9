"""WebSockets through the test edge: frames pass as they are, and the edge ends connections by rules of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import aiohttp
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import StreamWriter

_PIECE_BYTES = 65536
# RFC 6455, 5.5.1 and 7.4.1: "message too big", and the time in which the client may answer it.
_TOO_BIG = b"\x88\x02" + (1009).to_bytes(2, "big")
_LINGER_S = 1.0

Write = Callable[[bytes], Awaitable[None]]


class UpgradedResponse(web.StreamResponse):
    """A 101, after which `write` sends bytes as they are."""

    _length_check = False

    def __init__(self, upstream: aiohttp.ClientResponse) -> None:
        super().__init__(status=101, headers=upstream.headers)


class TooBigMessageError(Exception):
    """A message turned out larger than allowed."""


class Direction:
    """The frames of one direction (RFC 6455, 5.2).

    Args:
        message_bytes: the largest message, in bytes.
        cut_after: bytes after which `cut` is called, and no more pass; None for never.

    Attributes:
        passed: bytes so far.
        turn: held while a frame passes, so that nothing else is written in its middle.
    """

    def __init__(self, message_bytes: int, cut_after: int | None, cut: Callable[[], None]) -> None:
        self.passed = 0
        self.turn = asyncio.Lock()
        self._message_bytes = message_bytes
        self._cut_after = cut_after
        self._cut = cut

    async def run(self, source: asyncio.StreamReader, write: Write) -> None:
        """Pass frames on as they come, until `source` ends.

        Raises:
            TooBigMessageError: before anything of the frame that is too much was passed on.
        """
        message = 0
        while (head := await _head(source)) is not None:
            size = _payload_bytes(head)
            opcode = head[0] & 0x0F
            if opcode < 8:  # no control frame, which may stand in the middle of a message
                message = size if opcode else message + size
                if message > self._message_bytes:
                    raise TooBigMessageError
            async with self.turn:
                await self._pass(head, write)
                while size and (piece := await source.read(min(size, _PIECE_BYTES))):
                    await self._pass(piece, write)
                    size -= len(piece)

    async def _pass(self, piece: bytes, write: Write) -> None:
        if self._cut_after is not None and self.passed + len(piece) > self._cut_after:
            piece = piece[: self._cut_after - self.passed]
            self._cut()
        self.passed += len(piece)
        await write(piece)


async def _head(source: asyncio.StreamReader) -> bytes | None:
    """Return a frame's head, or None if `source` has ended."""
    try:
        head = await source.readexactly(2)
        longer = {126: 2, 127: 8}.get(head[1] & 0x7F, 0)
        return head + await source.readexactly(longer + 4 * (head[1] >> 7))
    except asyncio.IncompleteReadError:
        return None


def _payload_bytes(head: bytes) -> int:
    length = head[1] & 0x7F
    longer = {126: 2, 127: 8}.get(length)
    return length if longer is None else int.from_bytes(head[2 : 2 + longer], "big")


class Spliced:
    """A client's WebSocket and a worker's, joined frame by frame. Nothing in them is answered here.

    Args:
        message_bytes: the largest message; a larger one ends the connection with 1009.
        connection_s: seconds after which the connection ends without a word.
        cut_up, cut_down: bytes of that direction after which the same happens; None for never.
    """

    def __init__(
        self, message_bytes: int, connection_s: float, cut_up: int | None = None, cut_down: int | None = None
    ) -> None:
        self._connection_s = connection_s
        self._is_cut = asyncio.Event()
        self.up = Direction(message_bytes, cut_up, self.cut)
        self.down = Direction(message_bytes, cut_down, self.cut)

    def cut(self) -> None:
        """End both connections without a word."""
        self._is_cut.set()

    async def run(self, request: web.Request, upstream: aiohttp.ClientResponse, response: UpgradedResponse) -> None:
        """Pass frames both ways until one side ends or a rule does."""
        near, far = request.protocol, upstream.connection and upstream.connection.protocol
        assert far is not None, "the worker's connection ended with its 101"
        await response.prepare(request)
        near.keep_alive(False)
        from_client, from_worker = _reader(near), _reader(far)
        near.set_parser(_Fed(from_client))  # type: ignore[arg-type]
        far.set_parser(_Fed(from_worker), from_worker)
        to_worker = StreamWriter(far, asyncio.get_running_loop())
        up = asyncio.create_task(self.up.run(from_client, to_worker.write))
        down = asyncio.create_task(self.down.run(from_worker, response.write))
        cut = asyncio.create_task(self._is_cut.wait())
        is_abrupt = True
        try:
            done, _ = await asyncio.wait(
                (up, down, cut), timeout=self._connection_s, return_when=asyncio.FIRST_COMPLETED
            )
            if any(isinstance(task.exception(), TooBigMessageError) for task in done):
                await self._refuse(response.write, from_client, up)
            is_abrupt = not done or self._is_cut.is_set()
        finally:
            for task in (up, down, cut):
                task.cancel()
            await asyncio.gather(up, down, cut, return_exceptions=True)
            _end(near, far, abruptly=is_abrupt)

    async def _refuse(self, write: Write, from_client: asyncio.StreamReader, up: asyncio.Task[None]) -> None:
        """Send a close frame between two of the worker's, and read on until the client has seen it."""
        up.cancel()
        await asyncio.gather(up, return_exceptions=True)
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(_LINGER_S):
                async with self.down.turn:
                    await write(_TOO_BIG)
                while await from_client.read(_PIECE_BYTES):
                    pass


class _Fed:
    """The `feed_data` that aiohttp calls on a connection that was upgraded, before a stream reader."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._reader.feed_data(data)
        return False, b""

    def feed_eof(self) -> None:
        self._reader.feed_eof()


def _reader(protocol: BaseProtocol) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(_PIECE_BYTES)
    if protocol.transport is not None:
        reader.set_transport(protocol.transport)
    return reader


def _end(*protocols: BaseProtocol, abruptly: bool) -> None:
    for protocol in protocols:
        if protocol.transport is not None:
            protocol.transport.abort() if abruptly else protocol.transport.close()
