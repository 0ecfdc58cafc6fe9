"""The transport to a worker with an address of its own: a WebSocket, or HTTP exchanges where that is refused."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator
from time import monotonic

from ..config.endpoint import Direct
from ..config.settings import Settings
from ..errors import ConnectionLostError, HttpStatusError, TransportError
from ..io.frame import EncodedFrame
from ..io.frame_reader import whole_frame
from ..net.websocket.handshake import UpgradeRefusedError
from .base import Check, Notify, Route, Timeouts
from .connector import connector_to
from .http_transport import MEDIA_TYPE, HttpTransport
from .intermediary import Intermediary
from .runpod_intermediaries import PodProxy
from .websocket_transport import WebSocketTransport

logger = logging.getLogger(__name__)

# A proxy that fails answers an upgrade as one that refuses it does, so it is asked again after a while.
_ASK_AGAIN_S = 30.0


def from_settings(settings: Settings, target: Direct, notify: Notify | None) -> DirectTransport:
    """Return the transport to the worker at the address of `target`."""
    connector = connector_to(target.address, settings.ca_file, target.fingerprint)
    intermediary = PodProxy() if target.is_pod else Intermediary()
    return DirectTransport(
        WebSocketTransport(
            target.address,
            connector,
            target.token,
            max_frame_bytes=settings.frame_bytes,
            intermediary=intermediary,
            notify=notify,
        ),
        HttpTransport(
            target.address,
            target.token,
            max_frame_bytes=settings.frame_bytes,
            intermediary=intermediary,
            connector=connector,
        ),
        intermediary,
    )


class DirectTransport:
    """Carries frames over a WebSocket, and by HTTP exchanges where a proxy or an older worker refuses the upgrade.

    Args:
        websocket, http: to the same worker.
        intermediary: reads what stands in between by its answer to an upgrade.

    Attributes:
        refusal: why HTTP exchanges are used; None while they are not.
    """

    carries_cancel = True

    def __init__(
        self, websocket: WebSocketTransport, http: HttpTransport, intermediary: Intermediary | None = None
    ) -> None:
        self._websocket = websocket
        self._http = http
        self._intermediary = intermediary or Intermediary()
        self.peer = websocket.peer
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self.refusal: str | None = None
        self._until: float | None = None  # for which HTTP exchanges are used, if not for good

    def exchange(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> memoryview:
        """See `Transport`."""
        if self._uses_http(frame):
            return self._http.exchange(route, frame, timeouts, check)
        try:
            return self._websocket.exchange(route, frame, timeouts, check)
        except (UpgradeRefusedError, ConnectionLostError) as error:
            refusal = self._refused(error, frame)
            if isinstance(refusal, memoryview):
                return refusal
        reply = self._http.exchange(route, frame, timeouts, check)
        self._use_http(refusal)
        return reply

    def stream(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> Generator[memoryview]:
        """See `Transport`."""
        if self._uses_http(frame):
            yield from self._http.stream(route, frame, timeouts, check)
            return
        try:
            yield from self._websocket.stream(route, frame, timeouts, check)
        except (UpgradeRefusedError, ConnectionLostError) as error:
            refusal = self._refused(error, frame)
            if isinstance(refusal, memoryview):
                yield refusal
                return
        else:
            return
        for reply in self._http.stream(route, frame, timeouts, check):
            self._use_http(refusal)
            yield reply

    def close(self) -> None:
        """See `Transport`."""
        self._websocket.close()
        self._http.close()

    def forked(self) -> None:
        """See `Transport`."""
        refusal, until = self.refusal, self._until
        self._begin()
        self.refusal, self._until = refusal, until
        self._websocket.forked()
        self._http.forked()

    @property
    def is_open(self) -> bool:
        """True while there is a WebSocket that the next exchange may use."""
        return self._websocket.is_open

    def _uses_http(self, frame: EncodedFrame) -> bool:
        with self._lock:
            is_passing = self._until is not None and (monotonic() > self._until or not self._passes(frame))
            if self.refusal is not None and is_passing:
                self.refusal = self._until = None
            return self.refusal is not None

    def _passes(self, frame: EncodedFrame) -> bool:
        """Return whether an HTTP exchange may carry `frame`. Else a WebSocket is worth another attempt."""
        return frame.size_bytes <= self._intermediary.request_bytes

    def _use_http(self, refusal: HttpStatusError) -> None:
        """Note that the worker is reached without a WebSocket; say so once."""
        with self._lock:
            was_known, self.refusal = self.refusal is not None, str(refusal)
            self._until = monotonic() + _ASK_AGAIN_S if refusal.retryable else None
        if not was_known:
            logger.warning(
                "%s is reached by single HTTP requests, by which the network takes up to three times as long: %s "
                "Let what stands in between pass WebSockets, or update the worker.",
                self.peer,
                refusal,
            )

    def _refused(
        self, error: UpgradeRefusedError | ConnectionLostError, frame: EncodedFrame
    ) -> memoryview | HttpStatusError:
        """Return the worker's own refusal, as a frame, or what stands in for the WebSocket's.

        Raises:
            TransportError: what the answer means, where it is no refusal of a WebSocket.
        """
        if isinstance(error, ConnectionLostError):
            if self._websocket.was_heard or not self._passes(frame):
                raise error
            return HttpStatusError(f"{error} It was to become a WebSocket.", 0, retryable=True)
        if error.headers.get("content-type") == MEDIA_TYPE:
            fault = whole_frame(error.body)
            if fault is not None:
                return fault
        self._intermediary.replied(error.headers)
        text = error.body.decode("utf-8", "replace")
        meant: TransportError = self._intermediary.refusal(self.peer, error.status, text)
        if isinstance(meant, HttpStatusError) and (not meant.retryable or self._passes(frame)):
            return meant
        raise meant from error
