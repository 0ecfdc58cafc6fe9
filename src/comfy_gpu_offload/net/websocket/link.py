"""One end of an open WebSocket: pieces in and out of a socket, by any number of threads.

The protocol itself is `websockets`' sans-I/O core (benchmarks/websocket_libraries.py compares it with wsproto), but
long payloads pass beside it.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from time import monotonic
from typing import Any, cast

from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State

from ..clock import CHECK_INTERVAL_S
from ..sockets import wait_readable, wait_writable
from .payloads import Buffer, IncomingPayload, framed
from .piece_size import PieceSize
from .pieces import Kind, Message, Piece, PieceError, opened, sealed
from .turns import Turns
from .unsent import Unsent

# Of heads of frames, and short frames. Little, because what comes with them of a long payload is copied.
_RECEIVE_BYTES = 4 * 1024
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
        piece_size: of the pieces to be sent.
        heard_at: when bytes came last, by `monotonic`: on a slow line a piece may take longer than silence may.
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
        self._is_client = protocol.side is Side.CLIENT
        self._payload = IncomingPayload(protocol)
        self._is_tls = isinstance(sock, ssl.SSLSocket)
        self._using: Any = threading.Lock() if self._is_tls else nullcontext()
        self._protocol_lock = threading.Lock()
        self._turns = Turns()
        self.piece_size = PieceSize()
        self._unsent = Unsent()  # belongs to whoever has the turn, but for what any thread adds
        self._buffer = memoryview(bytearray(_RECEIVE_BYTES))
        self._fragments = bytearray()
        self._early = bytes(received)
        self._is_drained = False  # the last read took all that there was
        self.heard_at = monotonic()
        self.unanswered_pings = 0
        self._is_shut = False

    def receive(self, wait_s: float) -> list[Piece]:
        """Return the pieces that come within `wait_s` seconds; none if none come.

        For one thread. Pings are answered here.

        Raises:
            LinkClosedError: the connection is closed, or the socket failed.
        """
        frames, is_open = self._events()
        until = monotonic() + wait_s
        while not frames:
            if not is_open:
                raise self._closed()
            if not self._advance(wait_s):
                return []
            frames, is_open = self._events()
            wait_s = max(0.0, until - monotonic())
        pieces = [piece for frame in frames if (piece := self._piece(frame)) is not None]
        if not pieces and self._protocol.state is not State.OPEN:
            raise self._closed()
        return pieces

    def send(self, message: Message | Callable[[], Message], wait: Wait, *, urgent: bool = False) -> None:
        """Send a piece, whole, before another thread sends; urgent ones first.

        It is sent from its own memory. If `wait` raises meanwhile, whoever sends next sends the rest of it first.

        Args:
            message: the piece, or a function that makes it. That is called once nothing can be sent before it.

        Raises:
            LinkClosedError: the connection is closed, or the socket failed.
            Whatever `wait` raises.
        """
        self._turns.take(wait, urgent=urgent)
        try:
            self._flush(wait)
            buffers = self._wire(message if isinstance(message, tuple) else message())
            began = monotonic()
            self._unsent.begin(buffers)
            self._flush(wait)
            self.piece_size.took(sum(map(len, buffers)), monotonic() - began)
        except BaseException:
            self._unsent.copy()
            raise
        finally:
            self._turns.release()

    def post(self, message: Message) -> None:
        """Have a small piece sent without waiting for it: now if nobody is sending, else by whoever sends next.

        Raises:
            LinkClosedError: the connection is closed, or the other side has not read so many of them.
        """
        self._leave(b"".join(self._wire(message)))
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
                self._unsent.begin(self._wire(sealed(Kind.WARM)))
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
                    self._unsent.begin([last])
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

    def _events(self) -> tuple[list[Frame], bool]:
        """Return the frames that were parsed, and whether the connection is open."""
        with self._protocol_lock:
            frames = cast(list[Frame], self._protocol.events_received())
            return frames, self._protocol.state is State.OPEN

    def _advance(self, wait_s: float) -> bool:
        """Take what comes within `wait_s` seconds; return whether anything did, or the end."""
        if self._early:
            early, self._early = self._early, b""
            self._parse(early)
            return True
        payload = self._payload.vacant
        room = payload or self._buffer
        count = None if self._is_drained else self._attempt(lambda: self._sock.recv_into(room))
        if count is None and self._ready(wait_readable, wait_s):
            count = self._attempt(lambda: self._sock.recv_into(room))
        # What a TLS socket has deciphered already cannot be waited for.
        self._is_drained = not self._is_tls and (count is None or count < len(room))
        if count is None:
            return False
        self.heard_at = monotonic()
        if not count:
            self._parse(None)
        elif not payload:
            self._parse(self._buffer[:count])
        else:
            self._payload.received(count)
            if not self._payload.vacant:
                self._parse(b"")
        return True

    def _parse(self, data: bytes | memoryview | None) -> None:
        """Have the library parse `data`, None at the end of all, and send what it answers."""
        with self._protocol_lock:
            if data is None:
                self._protocol.receive_eof()
            else:
                self._protocol.receive_data(data)  # type: ignore[arg-type]  # it is copied into a bytearray
            answers = b"".join(self._protocol.data_to_send())
        if answers:
            self._leave(answers)
            self.tend()

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

    def _wire(self, message: Message) -> list[Buffer]:
        """Return the bytes that send `message`, masked if this is the client."""
        if self._protocol.state is not State.OPEN:
            raise self._closed()
        buffers = framed(message, is_masked=self._is_client)
        # Encryption copies them anyway, and would make a record of each.
        return [b"".join(buffers)] if self._is_tls else buffers

    def _leave(self, data: bytes) -> None:
        if self._unsent.add(data) > _MAX_UNSENT_BYTES:
            self.close(1008, "answers are not read")
            raise LinkClosedError(1008, "the other side does not read")

    def _flush(self, wait: Wait | None) -> bool:
        """Send what is left; return whether all of it was sent, which it is if `wait` allows waiting."""
        while buffers := self._unsent.next():
            count = self._attempt(partial(self._send_some, buffers))
            if count is not None:
                self._unsent.sent(count)
            elif wait is None:
                return False
            elif not self._ready(wait_writable, CHECK_INTERVAL_S):
                wait()
        return True

    def _send_some(self, buffers: list[Buffer]) -> int:
        if len(buffers) > 1 and hasattr(self._sock, "sendmsg"):  # not on Windows
            return self._sock.sendmsg(buffers)
        return self._sock.send(buffers[0])

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
