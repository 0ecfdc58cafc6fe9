"""The transport to a worker with an address of its own: a WebSocket, or HTTP exchanges where that is refused."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator
from dataclasses import replace
from math import inf
from time import monotonic

from ..config.endpoint import Direct
from ..config.settings import Settings
from ..errors import ConnectionLostError, HttpStatusError, TransportError
from ..io.frame import EncodedFrame
from ..io.frame_reader import whole_frame
from ..net.websocket.handshake import UpgradeRefusedError
from .base import Carrier, Check, Notify, Route, Timeouts
from .connector import connector_to
from .http_transport import MEDIA_TYPE, HttpTransport
from .intermediary import Intermediary
from .runpod_intermediaries import PodProxy
from .websocket_transport import WebSocketTransport

logger = logging.getLogger(__name__)

# A proxy that fails, or bytes damaged on the way, cause what a refusal does. So the WebSocket is asked for again
# after a while, until a refusal that is no passing one has come twice in a row.
_ASK_AGAIN_S = 30.0
_BELIEVED_AFTER = 2


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
        self._until = inf  # for which HTTP exchanges are used
        self._refusals = 0  # in a row

    def exchange(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> memoryview:
        """See `Transport`."""
        if self._uses_http(frame):
            return self._http.exchange(route, frame, timeouts, check)
        try:
            reply = self._websocket.exchange(route, frame, timeouts, check)
        except (UpgradeRefusedError, ConnectionLostError) as error:
            refusal = self._refused(error, frame)
            if isinstance(refusal, memoryview):
                return refusal
        else:
            self._use_websocket()
            return reply
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
            self._use_websocket()
            return
        for reply in self._http.stream(route, frame, timeouts, check):
            self._use_http(refusal)
            yield reply

    @property
    def carrier(self) -> Carrier:
        """See `Transport`."""
        if self.refusal is None:
            return self._websocket.carrier
        return replace(self._http.carrier, slower_why=_cost(self.refusal))

    def close(self) -> None:
        """See `Transport`."""
        self._websocket.close()
        self._http.close()

    def forked(self) -> None:
        """See `Transport`."""
        known = self.refusal, self._until, self._refusals
        self._begin()
        self.refusal, self._until, self._refusals = known
        self._websocket.forked()
        self._http.forked()

    @property
    def is_open(self) -> bool:
        """True while there is a WebSocket that the next exchange may use."""
        return self._websocket.is_open

    def _uses_http(self, frame: EncodedFrame) -> bool:
        with self._lock:
            is_passing = self._until < inf and not self._passes(frame)
            return self.refusal is not None and monotonic() < self._until and not is_passing

    def _use_websocket(self) -> None:
        """Note that the worker is reached by a WebSocket; say so if it was not before."""
        with self._lock:
            was_refused, self.refusal, self._refusals = self.refusal is not None, None, 0
        if was_refused:
            logger.info("%s is reached by a WebSocket from now on.", self.peer)

    def _passes(self, frame: EncodedFrame) -> bool:
        """Return whether an HTTP exchange may carry `frame`. Else a WebSocket is worth another attempt."""
        return frame.size_bytes <= self._intermediary.request_bytes

    def _use_http(self, refusal: HttpStatusError) -> None:
        """Note that the worker is reached without a WebSocket; say so once."""
        with self._lock:
            was_known, self.refusal = self.refusal is not None, str(refusal)
            self._refusals = 0 if refusal.retryable else self._refusals + 1
            self._until = inf if self._refusals >= _BELIEVED_AFTER else monotonic() + _ASK_AGAIN_S
        if not was_known:
            logger.warning("%s is reached by single HTTP requests: %s", self.peer, _cost(str(refusal)))

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
            return HttpStatusError(str(error), 0, retryable=True)
        if error.headers.get("content-type") == MEDIA_TYPE:
            fault = whole_frame(error.body)
            if fault is not None:
                return fault
        self._intermediary.replied(error.headers)
        text = error.body.decode("utf-8", "replace")
        meant: TransportError = self._intermediary.refusal(self.peer, error.status, text)
        if isinstance(meant, HttpStatusError) and (not meant.retryable or self._passes(frame)):
            text = f"The answer to its upgrade was {error.status}."
            return HttpStatusError(text, error.status, retryable=meant.retryable)
        raise meant from error


def _cost(refusal: str) -> str:
    """Return what a refusal of WebSockets costs, and what to do."""
    return (
        f"the network takes about three times as long as by a WebSocket, which could not be opened. {refusal} "
        "Let what stands in between pass WebSockets, or update the worker."
    )
