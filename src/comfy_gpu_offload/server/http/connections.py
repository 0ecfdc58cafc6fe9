"""The connections of a worker's server, and the choice of those that are closed when there are too many."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

from ...net.sockets import has_hung_up

logger = logging.getLogger(__name__)


class Connection:
    """A client's connection.

    Attributes:
        peer: the host that it comes from, or that of a proxy in between; empty for a socket without one.
        is_trusted: whether one of its requests was allowed.
        is_patient: whether one of its requests was answered without an error, with or without a token.
        is_silent: whether the server waits for it: for a request, or for the rest of one.
        closed: set once this side has closed it.
    """

    def __init__(self, sock: socket.socket, peer: str) -> None:
        self.sock = sock
        self.peer = peer
        self.is_trusted = False
        self.is_patient = False
        self.is_silent = True
        self.closed = threading.Event()
        self.on_trust: Callable[[], None] = _nothing
        self._since = monotonic()

    @property
    def age_s(self) -> float:
        """Return the seconds since it was accepted."""
        return monotonic() - self._since

    def trust(self) -> None:
        """Record that one of its requests was allowed: it may stay open from now on."""
        if not self.is_trusted:
            self.is_trusted = True
            self.on_trust()

    def has_hung_up(self) -> bool:
        """Return whether the client or this side has closed it."""
        return self.closed.is_set() or has_hung_up(self.sock)

    def close(self) -> None:
        """Close it, whatever its thread is doing."""
        self.closed.set()
        shut(self.sock)


class Connections:
    """All connections of one server. Silent ones that have shown no token make room for others. Thread-safe.

    Args:
        most: number of all connections.
        untrusted_each: number of connections of one host that have not shown a token.
    """

    def __init__(self, most: int, untrusted_each: int) -> None:
        self._most = most
        self._untrusted_each = untrusted_each
        self._threads: dict[Connection, threading.Thread] = {}  # in the order in which they came
        self._let_go = 0
        self._lock = threading.Lock()

    def admit(self, connection: Connection, thread: threading.Thread) -> bool:
        """Keep a new connection, and close another one if there are too many; return False if there is no room."""
        with self._lock:
            going = self._in_its_place(connection)
            if going is connection:
                return False
            if going is not None:
                del self._threads[going]
            self._threads[connection] = thread
        if going is not None:
            self._end(going)
        return True

    def _in_its_place(self, new: Connection) -> Connection | None:
        """Return the connection to close for `new`, which is `new` if no other may be; None if there is room."""
        untrusted = [each for each in self._threads if not each.is_trusted]
        own = [each for each in untrusted if each.peer == new.peer]
        if len(own) >= self._untrusted_each:
            crowd = own
        elif len(self._threads) >= self._most:
            crowd = untrusted
        else:
            return None
        return next((each for each in crowd if each.is_silent), new)

    def _end(self, connection: Connection) -> None:
        self._let_go += 1
        if str(self._let_go).strip("0") == "1":  # the first, the tenth, the hundredth
            logger.warning(
                "too many connections: closed one from %s that had sent no allowed request for %.0f s (%d so far)",
                connection.peer,
                connection.age_s,
                self._let_go,
            )
        connection.close()

    def forget(self, connection: Connection) -> None:
        """Remove a connection that has ended."""
        with self._lock:
            self._threads.pop(connection, None)

    def threads(self) -> list[threading.Thread]:
        """Return the threads that serve the connections."""
        with self._lock:
            return list(self._threads.values())

    def all(self) -> list[Connection]:
        """Return the connections that are open now."""
        with self._lock:
            return list(self._threads)


def shut(sock: socket.socket) -> None:
    """Shut down both directions of a socket; a thread that waits on it wakes up."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _nothing() -> None:
    """Do nothing."""
