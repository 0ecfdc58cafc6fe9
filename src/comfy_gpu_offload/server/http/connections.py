"""The connections that a worker's server has, and whose have to go when there are too many."""

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
        peer: the address that it comes from; of a proxy, where one stands in between.
        is_trusted: whether a request of it was allowed.
        is_patient: whether a request of it was answered well, with or without a token.
        is_silent: whether it is waited for: for a request, or the rest of one.
        closed: set when it has been closed from this side.
        say: sends headers with the next interim response; False where none is sent.
    """

    def __init__(self, sock: socket.socket, peer: str) -> None:
        self.sock = sock
        self.peer = peer
        self.is_trusted = False
        self.is_patient = False
        self.is_silent = True
        self.closed = threading.Event()
        self.on_trust: Callable[[], None] = _nothing
        self.say: Callable[[str], bool] = _unsaid
        self._since = monotonic()

    @property
    def age_s(self) -> float:
        """Seconds since it was made."""
        return monotonic() - self._since

    def trust(self) -> None:
        """Note that a request of it was allowed: it stays as long as it likes."""
        if not self.is_trusted:
            self.is_trusted = True
            self.on_trust()

    def has_hung_up(self) -> bool:
        """Return whether the client has closed it, or this side has."""
        return self.closed.is_set() or has_hung_up(self.sock)

    def close(self) -> None:
        """End it, whatever its thread is at."""
        self.closed.set()
        shut(self.sock)


class Connections:
    """All connections of one server. Those that may go are silent and have shown no token yet. Thread-safe.

    Args:
        most: how many there may be.
        untrusted_each: how many of one address that have not shown a token.
    """

    def __init__(self, most: int, untrusted_each: int) -> None:
        self._most = most
        self._untrusted_each = untrusted_each
        self._threads: dict[Connection, threading.Thread] = {}  # in the order in which they came
        self._let_go = 0
        self._lock = threading.Lock()

    def admit(self, connection: Connection, thread: threading.Thread) -> bool:
        """Keep a new one; another goes for it where there are too many. False where none may."""
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
        """Return the one that has to go for `new`, itself where no other may; None where there is room."""
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
                "too many connections: one from %s that sent no allowed request for %.0f s was closed (%d so far)",
                connection.peer,
                connection.age_s,
                self._let_go,
            )
        connection.close()

    def forget(self, connection: Connection) -> None:
        """Let one go that has ended."""
        with self._lock:
            self._threads.pop(connection, None)

    def threads(self) -> list[threading.Thread]:
        """Return the threads that serve them."""
        with self._lock:
            return list(self._threads.values())

    def all(self) -> list[Connection]:
        """Return those that are there now."""
        with self._lock:
            return list(self._threads)


def shut(sock: socket.socket) -> None:
    """Shut both ways of a socket, whoever waits on it."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _unsaid(_: str) -> bool:
    return False


def _nothing() -> None:
    """Nobody to tell."""
