"""Frames over HTTP/1.1: kept-alive connections, one send for headers and body, the reply into one buffer.

Written on the standard library's sockets rather than on requests or urllib3: on the path of every forward call
those cost more than the rest of the client together (benchmarks/http_clients.py).
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from weakref import WeakSet

from pydantic import SecretStr

from ..config.address import Address
from ..errors import (
    ConnectionLostError,
    ExchangeTimeoutError,
    FrameError,
    HttpStatusError,
    SilentConnectionError,
    TlsError,
)
from ..io.frame import DEFAULT_LIMITS, EncodedFrame
from ..net.sockets import notice_loss, prefer_bbr
from ..version import __version__
from .base import Carrier, Check, Route, Timeouts
from .connector import Connector, connector_to, has_ended
from .health import Health, health_of
from .http_response import Response
from .intermediary import Intermediary, header_lines
from .interruptible_socket import PolledSocket
from .silence_watch import SilenceWatch

MEDIA_TYPE = "application/octet-stream"
# A proxy may have dropped a connection that was idle for longer, without closing it; opening a new one is cheaper
# than finding out. nginx and aiohttp keep idle connections for 75 s.
_IDLE_S = 60.0
# A worker reports on a run every 5 s, whatever `silence_s` is; one report may be late.
_RUN_SILENCE_S = 12.0
# Plain http is for this machine and for tunnels, where a handshake takes a round trip or two.
_TLS_LOOK_S = 3.0


@dataclass
class _Connection:
    sock: socket.socket
    used_at: float


class HttpTransport:
    """Carries frames to the worker at `address`.

    Raises:
        ConfigError: `ca_file` cannot be read, or what names a proxy is wrong.
    """

    carrier = Carrier("single HTTP requests")
    carries_cancel = True

    def __init__(
        self,
        address: Address,
        token: SecretStr | None = None,
        *,
        ca_file: Path | None = None,
        max_frame_bytes: int = DEFAULT_LIMITS.frame_bytes,
        intermediary: Intermediary | None = None,
        connector: Connector | None = None,
    ) -> None:
        """Make a transport that connects when it is first used.

        Args:
            ca_file: as `certificates.tls_context`.
            connector: opens connections; by default those of `connector_to`.
        """
        self._connector = connector or connector_to(address, ca_file)
        self.url = self.peer = str(address)
        self._path = address.path
        self._limits = DEFAULT_LIMITS.__class__(frame_bytes=max_frame_bytes)
        self._fixed_headers = _fixed_headers(address.authority, token)
        self._intermediary = intermediary or Intermediary()
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []
        self._open: WeakSet[socket.socket] = WeakSet()
        self._was_answered = False

    def exchange(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> memoryview:
        """See `Transport`. A connection whose reply was not read to its end is never used again.

        Raises:
            TransportError: also if what stands in between does not pass a frame of that size; nothing is sent then.
        """
        with self._asked(route, frame, self._within_limits(timeouts), check) as (_, response):
            return self._only_frame(response)

    def stream(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> Generator[memoryview]:
        """See `Transport`."""
        timeouts = replace(timeouts, silence_s=max(timeouts.silence_s, _RUN_SILENCE_S))
        with self._asked(route, frame, timeouts, check) as (polled, response):
            while (reply := self._next_frame(response)) is not None:
                yield reply
                polled.extend(timeouts.exchange_s)

    @contextmanager
    def _asked(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None
    ) -> Iterator[tuple[PolledSocket, Response]]:
        """Send the request and give the response, whose body is to be read in the block.

        Raises:
            TransportError: the response has no frame, or as the block raises.
        """
        if frame.size_bytes > self._intermediary.request_bytes:
            raise self._intermediary.too_large(route, frame.size_bytes)
        connection = self._take() or self._connect(timeouts.connect_s, check)
        polled = self._polled(connection, timeouts, check)
        response: Response | None = None
        try:
            self._send(polled, route, frame)
            response = Response(polled)
            self._was_answered = True
            self._intermediary.replied(response.headers)
            if response.media_type != MEDIA_TYPE:
                raise self._intermediary.refusal(self.url, response.status, response.text())
            yield polled, response
        except BaseException as error:
            self._raise_ours(error, timeouts)
            raise
        finally:
            if response is not None and response.kept_alive:
                self._give_back(connection)
            else:
                connection.sock.close()

    def _only_frame(self, response: Response) -> memoryview:
        try:
            frame = response.frame(self._limits)
        except FrameError as error:
            raise self._no_frame(response, str(error)) from error
        if frame is None:
            raise self._no_frame(response, "it is empty")
        if response.has_more():
            raise ConnectionLostError(f"the reply is longer than its frame of {len(frame)} bytes")
        return frame

    def _no_frame(self, response: Response, why: str) -> HttpStatusError:
        return HttpStatusError(
            f"{self.url} answered {response.status} with something that is no frame ({why}). "
            "Is this a worker's address?",
            response.status,
            retryable=response.status >= 500,
        )

    def _next_frame(self, response: Response) -> memoryview | None:
        try:
            return response.frame(self._limits)
        except FrameError as error:
            raise ConnectionLostError(f"{self.url} sent something that is no frame ({error})") from error

    def close(self) -> None:
        """See `Transport`."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.sock.close()

    def forked(self) -> None:
        """See `Transport`. Closing here what is used there sends nothing, and lets that process end it."""
        inherited = list(self._open)
        self._begin()
        for sock in inherited:
            sock.close()

    def _within_limits(self, timeouts: Timeouts) -> Timeouts:
        most_s = self._intermediary.exchange_s
        return timeouts if timeouts.exchange_s < most_s else replace(timeouts, exchange_s=most_s)

    def _polled(self, connection: _Connection, timeouts: Timeouts, check: Check | None) -> PolledSocket:
        deadline = monotonic() + timeouts.exchange_s
        return PolledSocket(
            connection.sock,
            deadline,
            check,
            silence=SilenceWatch(
                self.url,
                timeouts.silence_s,
                answers=self._answers if self._intermediary.passes_pings else None,
                prompt=timeouts.prompt,
            ),
        )

    def _answers(self) -> bool:
        return health_of(self._connector) is not Health.UNREACHABLE

    def _take(self) -> _Connection | None:
        with self._lock:
            while self._idle:
                connection = self._idle.pop()
                if monotonic() - connection.used_at < _IDLE_S and not has_ended(connection.sock):
                    return connection
                connection.sock.close()
        return None

    def _give_back(self, connection: _Connection) -> None:
        connection.used_at = monotonic()
        with self._lock:
            self._idle.append(connection)

    def _connect(self, timeout_s: float, check: Check | None) -> _Connection:
        sock = self._connector.connect(timeout_s, check)
        self._open.add(sock)
        prefer_bbr(sock)
        notice_loss(sock)
        return _Connection(sock, monotonic())

    def _raise_ours(self, error: BaseException, timeouts: Timeouts) -> None:
        """Raise our error for one of sockets or TLS. Any other is ours already, or the caller's own."""
        if isinstance(error, SilentConnectionError):
            self.close()  # the idle ones lead the same way
            raise error
        if isinstance(error, ExchangeTimeoutError):
            is_limited = timeouts.exchange_s >= self._intermediary.exchange_s
            advice = "no more is allowed without a WebSocket" if is_limited else f"{timeouts.setting} allows more"
            raise ExchangeTimeoutError(
                f"{self.url} gave no complete reply in the time allowed, {timeouts.exchange_s:.4g} s. Its log says "
                f"whether it still computes; {advice}."
            ) from error
        if isinstance(error, OSError | ConnectionLostError) and not self._was_answered:
            self._refuse_tls()
        if isinstance(error, OSError):
            text = f"The connection to {self.url} broke off ({type(error).__name__})."
            raise ConnectionLostError(text) from error

    def _refuse_tls(self) -> None:
        """Look whether plain http was spoken to a TLS server: most hang up on it without a word.

        Raises:
            TlsError: it was.
        """
        self._was_answered = True  # to ask once
        if self._connector.speaks_tls(_TLS_LOOK_S):
            raise TlsError(
                f"{self.url} speaks TLS: paste the line that it prints with --share, or write https:// in "
                "place of http:// in its address."
            )

    def _send(self, polled: PolledSocket, route: Route, frame: EncodedFrame) -> None:
        head = (
            f"POST {self._path}/v1/{route} HTTP/1.1\r\n{self._fixed_headers}"
            f"{header_lines(self._intermediary.request_headers())}Content-Length: {frame.size_bytes}\r\n\r\n"
        ).encode("ascii")
        # A refusal may arrive, and the connection close, before all is sent. Then the refusal is to be read.
        with suppress(BrokenPipeError, ConnectionResetError):
            polled.send([head, *frame.buffers])


def _fixed_headers(host: str, token: SecretStr | None) -> str:
    lines = [
        f"Host: {host}",
        f"User-Agent: comfy-gpu-offload/{__version__}",
        f"Content-Type: {MEDIA_TYPE}",
        f"Accept: {MEDIA_TYPE}",
        "Accept-Encoding: identity",
        "Takes-Waiting: 1",
    ]
    if token is not None:
        lines.append(f"Authorization: Bearer {token.get_secret_value()}")
    return "".join(f"{line}\r\n" for line in lines)
