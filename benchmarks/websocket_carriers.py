"""Messages over a socket in pieces, by the libraries that `websocket_libraries.py` compares.

Each carrier sends a message from one buffer and receives one into another; a piece has 5 bytes before its payload.
"""

from __future__ import annotations

import secrets
import socket
import struct
from collections.abc import Generator
from typing import Protocol

from websockets.client import ClientProtocol
from websockets.frames import Frame
from websockets.server import ServerProtocol
from websockets.speedups import apply_mask
from websockets.streams import StreamReader
from websockets.uri import parse_uri
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, Request

from socket_echo import receive_exactly

_RECEIVED_BYTES = 256 * 1024
_PIECE_HEAD = struct.Struct("<BI")
_LONGEST = 2 * 1024**2


class Carrier(Protocol):
    """Sends messages and receives them."""

    def __init__(self, connection: socket.socket, piece_bytes: int, *, is_client: bool) -> None: ...

    def send(self, message: memoryview) -> None:
        """Send all of it."""

    def receive(self, message: memoryview) -> bool:
        """Fill it; return False if the other side closed instead."""


class Bare:
    """A socket and nothing else."""

    def __init__(self, connection: socket.socket, piece_bytes: int, *, is_client: bool) -> None:
        self._connection = connection

    def send(self, message: memoryview) -> None:
        self._connection.sendall(message)

    def receive(self, message: memoryview) -> bool:
        return receive_exactly(self._connection, message)


class Websockets:
    """The sans-I/O core of `websockets`, as documented."""

    def __init__(self, connection: socket.socket, piece_bytes: int, *, is_client: bool) -> None:
        self._connection = connection
        self._piece_bytes = piece_bytes
        self._buffer = memoryview(bytearray(_RECEIVED_BYTES))
        self._pieces: list[memoryview] = []
        self._protocol = websockets_shaken(connection, is_client=is_client)

    def send(self, message: memoryview) -> None:
        for number, begin in enumerate(range(0, len(message), self._piece_bytes)):
            piece = message[begin : begin + self._piece_bytes]
            self._protocol.send_binary(b"".join((_PIECE_HEAD.pack(2, number), piece)))
            for data in self._protocol.data_to_send():
                self._connection.sendall(data)

    def receive(self, message: memoryview) -> bool:
        filled = 0
        while filled < len(message):
            count = self._connection.recv_into(self._buffer)
            if not count:
                return False
            self._protocol.receive_data(self._buffer[:count])
            for frame in self._protocol.events_received():
                payload = memoryview(frame.data)[_PIECE_HEAD.size :]
                message[filled : filled + len(payload)] = payload
                filled += len(payload)
        return True


class _Reader(StreamReader):
    """Says how many bytes the parser waits for, and gives them from where they were received."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted = 0
        self.given: memoryview = memoryview(b"")

    def read_exact(self, n: int) -> Generator[None, None, memoryview]:  # type: ignore[override]
        self.wanted = n
        yield
        return self.given


class WebsocketsOwnIo:
    """The frame parser and mask of `websockets`; payloads go to the socket and come from it without its buffers."""

    def __init__(self, connection: socket.socket, piece_bytes: int, *, is_client: bool) -> None:
        self._connection = connection
        self._piece_bytes = piece_bytes
        self._masks = is_client
        websockets_shaken(connection, is_client=is_client)
        self._buffer = memoryview(bytearray(_RECEIVED_BYTES))
        self._begin = self._end = 0
        self._payload = memoryview(bytearray(_LONGEST))

    def send(self, message: memoryview) -> None:
        for number, begin in enumerate(range(0, len(message), self._piece_bytes)):
            piece: memoryview | bytes = message[begin : begin + self._piece_bytes]
            head, length = _PIECE_HEAD.pack(2, number), len(piece) + _PIECE_HEAD.size
            if self._masks:
                key = secrets.token_bytes(4)
                # The piece's bytes begin at the sixth: the key is turned by as many.
                turned = key[_PIECE_HEAD.size % 4 :] + key[: _PIECE_HEAD.size % 4]
                start = struct.pack("!BBQ", 0x82, 0xFF, length) + key + apply_mask(head, key)
                piece = apply_mask(piece, turned)
            else:
                start = struct.pack("!BBQ", 0x82, 0x7F, length) + head
            sent = self._connection.sendmsg([start, piece])
            if sent < len(start) + len(piece):
                self._connection.sendall(memoryview(piece)[sent - len(start) :])

    def receive(self, message: memoryview) -> bool:
        filled = 0
        while filled < len(message):
            frame = self._frame()
            if frame is None:
                return False
            payload = memoryview(frame.data)[_PIECE_HEAD.size :]
            message[filled : filled + len(payload)] = payload
            filled += len(payload)
        return True

    def _frame(self) -> Frame | None:
        reader = _Reader()
        parsing = Frame.parse(reader.read_exact, mask=not self._masks, max_size=_LONGEST)
        next(parsing)
        while True:
            given = self._exactly(reader.wanted)
            if given is None:
                return None
            reader.given = given
            try:
                next(parsing)
            except StopIteration as done:
                return done.value

    def _exactly(self, wanted: int) -> memoryview | None:
        """Return that many bytes: heads from what was received, payloads straight into a buffer."""
        if wanted <= 16:
            while self._end - self._begin < wanted:
                self._buffer[: self._end - self._begin] = bytes(self._buffer[self._begin : self._end])
                self._begin, self._end = 0, self._end - self._begin
                # Little, so that hardly anything of the payload is copied.
                count = self._connection.recv_into(self._buffer[self._end : self._end + 64])
                if not count:
                    return None
                self._end += count
            self._begin += wanted
            return self._buffer[self._begin - wanted : self._begin]
        have = min(wanted, self._end - self._begin)
        self._payload[:have] = self._buffer[self._begin : self._begin + have]
        self._begin += have
        if not receive_exactly(self._connection, self._payload[have:wanted]):
            return None
        return self._payload[:wanted]


class Wsproto:
    """`wsproto`, with h11 for the handshake."""

    def __init__(self, connection: socket.socket, piece_bytes: int, *, is_client: bool) -> None:
        self._connection = connection
        self._piece_bytes = piece_bytes
        self._buffer = memoryview(bytearray(_RECEIVED_BYTES))
        self._protocol = WSConnection(ConnectionType.CLIENT if is_client else ConnectionType.SERVER)
        if is_client:
            connection.sendall(self._protocol.send(Request(host="127.0.0.1", target="/")))
        self._protocol.receive_data(connection.recv(65536))
        list(self._protocol.events())
        if not is_client:
            connection.sendall(self._protocol.send(AcceptConnection()))

    def send(self, message: memoryview) -> None:
        for number, begin in enumerate(range(0, len(message), self._piece_bytes)):
            piece = message[begin : begin + self._piece_bytes]
            data = b"".join((_PIECE_HEAD.pack(2, number), piece))
            self._connection.sendall(self._protocol.send(BytesMessage(data)))

    def receive(self, message: memoryview) -> bool:
        filled, skipped = 0, 0
        while filled < len(message):
            count = self._connection.recv_into(self._buffer)
            if not count:
                return False
            self._protocol.receive_data(bytes(self._buffer[:count]))
            # It gives what there is of a message, and says when one is finished.
            for event in self._protocol.events():
                skip = min(_PIECE_HEAD.size - skipped, len(event.data))
                payload = memoryview(event.data)[skip:]
                message[filled : filled + len(payload)] = payload
                filled += len(payload)
                skipped = 0 if event.message_finished else skipped + skip
        return True


def websockets_shaken(connection: socket.socket, *, is_client: bool) -> ClientProtocol | ServerProtocol:
    """Return the protocol of a connection after its handshake."""
    protocol: ClientProtocol | ServerProtocol
    if is_client:
        protocol = ClientProtocol(parse_uri("ws://127.0.0.1/"), max_size=_LONGEST)
        protocol.send_request(protocol.connect())
        for data in protocol.data_to_send():
            connection.sendall(data)
    else:
        protocol = ServerProtocol(max_size=_LONGEST)
    protocol.receive_data(connection.recv(65536))
    for event in protocol.events_received():
        if isinstance(protocol, ServerProtocol):
            protocol.send_response(protocol.accept(event))
            for data in protocol.data_to_send():
                connection.sendall(data)
    return protocol


CARRIERS: dict[str, type[Carrier]] = {
    "bare": Bare,
    "websockets": Websockets,
    "websockets+io": WebsocketsOwnIo,
    "wsproto": Wsproto,
}
