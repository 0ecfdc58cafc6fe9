"""One end of an open WebSocket: pieces in and out of a socket, by any number of threads.

The protocol itself is `websockets`' sans-I/O core (benchmarks/websocket_libraries.py compares it with wsproto).
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from time import monotonic
from typing import Any

from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, State

from ..clock import CHECK_INTERVAL_S
from ..sockets import wait_readable, wait_writable
from .pieces import Kind, Piece, PieceError, opened, sealed
from .turns import Turns

_RECEIVE_BYTES = 64 * 1024
# Answers to pings that the other side does not read, and messages that nobody has sent yet.
_MAX_UNSENT_BYTES = 64 * 1024

Wait = Callable[[], None]
"""Called ten times a second during a wait; what it raises ends the wait."""


class LinkClosedError(Exception):
    """The connection was closed, by either side.

    Attributes:
        code: of the WebSocket's close, 1006 where the connection just ended.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason or 'closed'} ({code})")
        self.code = code
        self.reason = reason


class Link:
    """An open WebSocket. One thread receives, any thread sends.

    The socket does not block. TLS connections are used by one thread at a time, for as long as one system call, and
    waits for the socket happen in between.

    Attributes:
        unanswered_pings: number of pings that the other side has not answered.
    """

    def __init__(self, sock: socket.socket, protocol: Protocol, received: bytes | memoryview = b"") -> None:
        """Take over a connection.

        Args:
            protocol: of the library, in its open state.
            received: bytes of the other side that were read already.
        """
        sock.setblocking(False)
        self._sock = sock
        self._protocol = protocol
        self._is_tls = isinstance(sock, ssl.SSLSocket)
        self._using: Any = threading.Lock() if self._is_tls else nullcontext()
        self._protocol_lock = threading.Lock()
        self._turns = Turns()
        self._unsent = b""  # the rest of what is under way; belongs to whoever has the turn
        self._small: deque[bytes] = deque()  # what any thread leaves to whoever has the turn next
        self._buffer = memoryview(bytearray(_RECEIVE_BYTES))
        self._fragments = bytearray()
        self._early = bytes(received)
        self.unanswered_pings = 0
        self._is_shut = False

    def receive(self, wait_s: float) -> list[Piece]:
        """Return the pieces that come within `wait_s` seconds; none if none come.

        For one thread. Pings are answered here.

        Raises:
            LinkClosedError: the connection is closed, or the socket failed.
        """
        with self._protocol_lock:
            frames = self._protocol.events_received()
            is_open = self._protocol.state is State.OPEN
        if not frames:
            if not is_open:
                raise self._closed()
            data = self._received(wait_s)
            if data is None:
                return []
            frames = self._parsed(data)
        pieces = [piece for frame in frames if (piece := self._piece(frame)) is not None]  # type: ignore[arg-type]
        if not pieces and self._protocol.state is not State.OPEN:
            raise self._closed()
        return pieces

    def send(self, message: bytes | Callable[[], bytes], wait: Wait, *, urgent: bool = False) -> None:
        """Send a piece, whole, before another thread sends; urgent ones first.

        If `wait` raises while it is sent, whoever sends next sends the rest of it first.

        Args:
            message: the piece, or a function that makes it. That is called once nothing can be sent before it.

        Raises:
            LinkClosedError: the connection is closed, or the socket failed.
            Whatever `wait` raises.
        """
        self._turns.take(wait, urgent=urgent)
        try:
            self._flush(wait)
            self._unsent = self._wire(message if isinstance(message, bytes) else message())
            self._flush(wait)
        finally:
            self._turns.release()

    def post(self, message: bytes) -> None:
        """Have a small piece sent without waiting for it: now if nobody is sending, else by whoever sends next.

        Raises:
            LinkClosedError: the connection is closed, or the other side has not read so many of them.
        """
        self._leave(self._wire(message))
        self.tend()

    def ping(self) -> None:
        """Ask the other side for a sign of life, without waiting for it.

        Raises:
            LinkClosedError: as `post`.
        """
        with self._protocol_lock:
            if self._protocol.state is not State.OPEN:
                raise self._closed()
            self.unanswered_pings += 1
            self._protocol.send_ping(b"")
            data = b"".join(self._protocol.data_to_send())
        self._leave(data)
        self.tend()

    def tend(self, *, warm: bool = False) -> None:
        """Send what is left to be sent, and a sign of life if `warm`, as far as that needs no waiting."""
        if not self._turns.take_if_free():
            return  # the line is not idle
        try:
            is_sent = self._flush(None)
            if warm and is_sent:
                self._unsent = self._wire(sealed(Kind.WARM))
                self._flush(None)
        except LinkClosedError:
            pass  # the thread that receives finds out as well
        finally:
            self._turns.release()

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye if that needs no waiting, and send nothing more. Thread-safe; a second time does nothing.

        The thread that receives ends when the other side has closed its half too: see `linger`.
        """
        with self._protocol_lock:
            if self._is_shut:
                return
            self._is_shut = True
            if self._protocol.state is State.OPEN:
                self._protocol.send_close(code, reason.encode()[:120].decode("utf-8", "ignore"))
            last = b"".join(self._protocol.data_to_send())
        if self._turns.take_if_free():
            with suppress(LinkClosedError):
                if self._flush(None):
                    self._unsent = last
                    self._flush(None)
            self._turns.release()
        # By the plain socket's method: an SSLSocket's own forgets the encryption, and the thread that receives
        # would take what still comes for pieces.
        with self._using, suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_WR)

    def linger(self, seconds: float) -> None:
        """Drop what still comes, until the other side closes or `seconds` are over, and free the socket.

        To close a connection with bytes unread would reset it, and the reason that was just sent would be lost.
        """
        deadline = monotonic() + seconds
        with suppress(LinkClosedError):
            while (left := deadline - monotonic()) > 0:
                count = self._attempt(lambda: self._sock.recv_into(self._buffer))
                if count == 0 or (count is None and not self._ready(wait_readable, left)):
                    break
        self.abandon()

    def abandon(self) -> None:
        """Close the socket without a word, as in a forked process whose parent goes on using the connection."""
        with suppress(OSError):
            self._sock.close()

    def _received(self, wait_s: float) -> bytes | memoryview | None:
        if self._early:
            early, self._early = self._early, b""
            return early
        count = self._attempt(lambda: self._sock.recv_into(self._buffer))
        if count is None and self._ready(wait_readable, wait_s):
            count = self._attempt(lambda: self._sock.recv_into(self._buffer))
        return None if count is None else self._buffer[:count]

    def _parsed(self, data: bytes | memoryview) -> list[Any]:
        with self._protocol_lock:
            if len(data):
                self._protocol.receive_data(data)  # type: ignore[arg-type]  # it is copied into a bytearray
            else:
                self._protocol.receive_eof()
            frames = self._protocol.events_received()
            answers = b"".join(self._protocol.data_to_send())
        if answers:
            self._leave(answers)
            self.tend()
        return frames

    def _piece(self, frame: Frame) -> Piece | None:
        """Return the piece that `frame` completes, if it does. A proxy may have cut a message into fragments."""
        if frame.opcode is Opcode.TEXT:
            self.close(1003, "only binary messages are accepted")
            raise LinkClosedError(1003, "the other side sent text")
        if frame.opcode is Opcode.PONG:
            self.unanswered_pings = 0  # an answer stands for all pings before it: RFC 6455, 5.5.3
        if frame.opcode not in {Opcode.BINARY, Opcode.CONT}:
            return None
        message: bytes | bytearray | memoryview = frame.data
        if not frame.fin or self._fragments:
            self._fragments += frame.data
            if not frame.fin:
                return None
            message, self._fragments = self._fragments, bytearray()
        try:
            return opened(message)
        except PieceError as error:
            self.close(1002, str(error))
            raise LinkClosedError(1002, str(error)) from None

    def _closed(self) -> LinkClosedError:
        close = self._protocol.close_rcvd or self._protocol.close_sent
        return LinkClosedError(1006, "") if close is None else LinkClosedError(int(close.code), close.reason)

    def _wire(self, message: bytes) -> bytes:
        """Return the bytes that send `message`, masked if this is the client."""
        with self._protocol_lock:
            if self._protocol.state is not State.OPEN:
                raise self._closed()
            self._protocol.send_binary(message)
            return b"".join(self._protocol.data_to_send())

    def _leave(self, data: bytes) -> None:
        self._small.append(data)
        if sum(map(len, self._small)) > _MAX_UNSENT_BYTES:
            self.close(1008, "answers are not read")
            raise LinkClosedError(1008, "the other side does not read")

    def _flush(self, wait: Wait | None) -> bool:
        """Send what is left; return whether all of it was sent, which it is if `wait` allows waiting."""
        while True:
            if not self._unsent:
                if not self._small:
                    return True
                self._unsent = self._small.popleft()
            view = memoryview(self._unsent)
            try:
                while view:
                    count = self._attempt(partial(self._sock.send, view))
                    if count is not None:
                        view = view[count:]
                    elif wait is None:
                        return False
                    elif not self._ready(wait_writable, CHECK_INTERVAL_S):
                        wait()
            finally:
                self._unsent = bytes(view)

    def _ready(self, wait: Callable[[socket.socket, float], bool], seconds: float) -> bool:
        """Return whether the socket is what `wait` waits for; another thread may close it at any time.

        Raises:
            LinkClosedError: it was closed.
        """
        try:
            return wait(self._sock, seconds)
        except (OSError, ValueError) as error:
            raise LinkClosedError(1006, type(error).__name__) from error

    def _attempt(self, operation: Callable[[], int]) -> int | None:
        """Return what a system call on the socket returns, or None if it would block.

        Raises:
            LinkClosedError: it failed. So an OSError of a caller's own check is not taken for one of the socket.
        """
        try:
            with self._using:
                return operation()
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except (OSError, ValueError) as error:  # ValueError: the socket was closed meanwhile
            raise LinkClosedError(1006, type(error).__name__) from error
