"""TCP connections to a host by its name, all of whose addresses are tried in one time limit."""

from __future__ import annotations

import os
import selectors
import socket
from collections import deque
from collections.abc import Sequence
from time import monotonic
from typing import Any

# Until the next address is tried beside one that does not answer (RFC 8305, 5).
_HEAD_START_S = 0.25


# An address of a host, as `socket.getaddrinfo` gives it.
Place = tuple[int, int, int, str, tuple[Any, ...]]


def places_of(host: str, port: int) -> list[Place]:
    """Return the addresses of a host, by the system's rules, the best first.

    Raises:
        OSError: the name has no address (`socket.gaierror`).
    """
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))


def connect_tcp(host: str, port: int, timeout_s: float) -> socket.socket:
    """Return a blocking connection to whichever of the host's addresses answers first, without Nagle's algorithm.

    They are tried in the system's order, IPv6 and IPv4 alike: the next one when one has failed, or has not answered
    for 0.25 s. So a dead route costs no more than that.

    Raises:
        OSError: the name has no address (`socket.gaierror`), or none answers; why the last one does not.
        TimeoutError: none answered in time.
    """
    deadline = monotonic() + timeout_s
    return connect_to(places_of(host, port), deadline - monotonic())


def connect_to(places: Sequence[Place], timeout_s: float) -> socket.socket:
    """Return a connection to the first of these addresses that answers; see `connect_tcp`. No name is looked up.

    Raises:
        OSError: none answers; why the last one does not.
        TimeoutError: none answered in time.
    """
    deadline = monotonic() + timeout_s
    untried = deque(places)
    error: OSError = TimeoutError("timed out")
    with _Attempts() as attempts:
        while untried or attempts.are_under_way:
            left = deadline - monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            try:
                if untried:
                    family, kind, protocol, _, place = untried.popleft()
                    attempts.begin(socket.socket(family, kind, protocol), place)
                connected = attempts.wait(min(left, _HEAD_START_S) if untried else left)
            except OSError as failed:
                error = failed
                continue
            if connected is not None:
                connected.setblocking(True)
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return connected
    raise error


class _Attempts:
    """Connections that are being made. Those that are left when the block ends are given up."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._sockets: set[socket.socket] = set()

    @property
    def are_under_way(self) -> bool:
        return bool(self._sockets)

    def begin(self, sock: socket.socket, place: object) -> None:
        """Begin to connect `sock`, which is closed if that fails at once.

        Raises:
            OSError: there is no way to `place`.
        """
        self._sockets.add(sock)
        try:
            sock.setblocking(False)
            sock.connect(place)  # type: ignore[arg-type]  # whatever getaddrinfo has for its family
        except BlockingIOError:
            pass
        except BaseException:
            self._drop(sock)
            raise
        self._selector.register(sock, selectors.EVENT_WRITE)

    def wait(self, seconds: float) -> socket.socket | None:
        """Return one that is connected, or None if none is within `seconds`.

        Raises:
            OSError: one has failed.
        """
        for key, _ in self._selector.select(seconds):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)  # noqa: S101  # nosec B101
            self._selector.unregister(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not code:
                self._sockets.remove(sock)
                return sock
            self._drop(sock)
            # Windows has numbers of its own, which strerror does not know.
            raise OSError(code, getattr(socket, "errorTab", {}).get(code) or os.strerror(code))
        return None

    def _drop(self, sock: socket.socket) -> None:
        self._sockets.discard(sock)
        sock.close()

    def __enter__(self) -> _Attempts:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        for sock in self._sockets:
            sock.close()
