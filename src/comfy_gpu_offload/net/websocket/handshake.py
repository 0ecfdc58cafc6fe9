"""The opening handshake of a WebSocket, for both ends (RFC 6455, 4)."""

from __future__ import annotations

import base64
import binascii
import logging
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from time import monotonic
from typing import Final

from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake
from websockets.http11 import Request, Response
from websockets.protocol import Protocol, Side, State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from ...errors import FrameError
from .pieces import MAX_MESSAGE_BYTES, SUBPROTOCOL

EARLY_HEADER: Final = "Comfy-Gpu-Offload-Hello"
"""The field with the frames that a client sends with its upgrade; in the answer, the number of those taken."""
# A line of a head may have 8 KB by the defaults of nginx.
_MAX_EARLY_CHARACTERS = 6 * 1024
MAX_EARLY_BYTES: Final = _MAX_EARLY_CHARACTERS // 4 * 3
"""The most bytes that frames sent with an upgrade have together."""

_SUBPROTOCOLS = [Subprotocol(SUBPROTOCOL)]
_RECEIVE_BYTES = 16 * 1024

# The library logs headers and messages at its debug level: a token and tensors.
_silent = logging.getLogger(f"{__name__}.silent")
_silent.setLevel(logging.CRITICAL + 1)


class UpgradeRefusedError(Exception):
    """The answer to an upgrade opened no WebSocket.

    Attributes:
        status: the answer's; 0 where what came is no HTTP.
        headers: the answer's; names in lower case.
        body: the beginning of the answer's body.
    """

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.headers = headers
        self.body = body


def early_text(frames: bytes) -> str:
    """Return the value of `EARLY_HEADER` for frames of at most `MAX_EARLY_BYTES`, one after another."""
    return base64.urlsafe_b64encode(frames).rstrip(b"=").decode()


def early_bytes(text: str) -> bytes:
    """Return the bytes of the frames that a client's `EARLY_HEADER` holds.

    Raises:
        FrameError: it is too long, or no base64url.
    """
    if len(text) > _MAX_EARLY_CHARACTERS:
        raise FrameError(
            "frame_too_large", f"{len(text)} characters with the upgrade, over {_MAX_EARLY_CHARACTERS}"
        )
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise FrameError("bad_payload", f"{EARLY_HEADER} is no base64url") from error


class Upgrade:
    """A client's upgrade: the request to send, and the answer as it comes.

    Attributes:
        request: the bytes to send.
        headers: the answer's, once the protocol is open; names in lower case.
    """

    def __init__(self, authority: str, path: str, headers: Iterable[tuple[str, str]]) -> None:
        # The library asks for the parts of the authority only to write `Host`, which is replaced.
        uri = WebSocketURI(False, "worker", 80, path, "")
        self._protocol = ClientProtocol(uri, subprotocols=_SUBPROTOCOLS, max_size=MAX_MESSAGE_BYTES, logger=_silent)
        request = self._protocol.connect()
        del request.headers["Host"]
        request.headers["Host"] = authority
        for name, value in headers:
            request.headers[name] = value
        self._protocol.send_request(request)
        self.request = b"".join(self._protocol.data_to_send())
        self.headers: Mapping[str, str] = {}

    @property
    def early_taken(self) -> int:
        """Return the number of the frames in `EARLY_HEADER` that the worker has taken, by its answer."""
        taken = self.headers.get(EARLY_HEADER.lower(), "0")
        return int(taken) if re.fullmatch("[0-9]{1,4}", taken) else 0

    def receive(self, data: bytes) -> Protocol | None:
        """Take bytes of the answer, empty at its end; return the open protocol once it is whole.

        The protocol may hold messages that came with the answer.

        Raises:
            UpgradeRefusedError: the answer opens no WebSocket.
        """
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        error = self._protocol.handshake_exc
        if error is not None:
            raise self._refused(error)
        # It may have been closed already, by bytes that came with the answer.
        return None if self._protocol.state is State.CONNECTING else self._opened()

    def _opened(self) -> Protocol:
        if self._protocol.subprotocol != SUBPROTOCOL:
            raise UpgradeRefusedError(101, {}, b"", f"the server does not speak {SUBPROTOCOL}")
        answers = [event for event in self._protocol.events if isinstance(event, Response)]
        self.headers = _fields(answers[0])
        self._protocol.events = [event for event in self._protocol.events if not isinstance(event, Response)]
        return self._protocol

    def _refused(self, error: Exception) -> UpgradeRefusedError:
        response = next((each for each in self._protocol.events_received() if isinstance(each, Response)), None)
        if response is None:
            return UpgradeRefusedError(0, {}, b"", str(error.__cause__ or error))
        return UpgradeRefusedError(response.status_code, _fields(response), bytes(response.body or b""), str(error))


def _fields(response: Response) -> dict[str, str]:
    """Return a response's headers, names in lower case."""
    return {name.lower(): value for name, value in response.headers.raw_items()}


@dataclass(frozen=True)
class Accepted:
    """The worker's answer to an upgrade: the bytes of the answer, and the open protocol."""

    answer: bytes
    protocol: Protocol


def accept(
    path: str, headers: Mapping[str, str], *, method: str, is_http_1_1: bool, early_taken: int = 0
) -> Accepted:
    """Return the answer to a client's request for a WebSocket.

    Args:
        headers: names in lower case; several of one name are joined by commas.
        early_taken: number of the frames that came with the request, which will be answered.

    Raises:
        UpgradeRefusedError: the request is none that can be accepted; its status, headers and body are to be sent.
    """
    # Releases of the library before 16 look at neither.
    if method != "GET":
        raise UpgradeRefusedError(HTTPStatus.METHOD_NOT_ALLOWED, {"allow": "GET"}, b"", "the method is not GET")
    if not is_http_1_1:
        raise UpgradeRefusedError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, {}, b"", "the request is not HTTP/1.1")
    handshake = ServerProtocol(subprotocols=_SUBPROTOCOLS, logger=_silent)
    response = handshake.accept(Request(path, Headers(headers)))
    if response.status_code != 101:
        raise _refusal(response, handshake.handshake_exc)
    if early_taken:
        response.headers[EARLY_HEADER] = str(early_taken)
    protocol = Protocol(Side.SERVER, state=State.OPEN, max_size=MAX_MESSAGE_BYTES, logger=_silent)
    return Accepted(response.serialize(), protocol)


def _refusal(response: Response, error: Exception | None) -> UpgradeRefusedError:
    status, headers = response.status_code, _fields(response)
    if isinstance(error, InvalidHandshake) and "Sec-WebSocket-Version" in str(error):
        status, headers["sec-websocket-version"] = 426, "13"  # RFC 6455, 4.2.2
    return UpgradeRefusedError(status, headers, bytes(response.body), str(error))


def upgraded(sock: socket.socket, upgrade: Upgrade, within_s: float) -> Protocol:
    """Send the request of `upgrade`, and return the open protocol once the answer has come.

    Args:
        sock: is left with some time-out.
        within_s: the whole time that this may take, in seconds.

    Raises:
        UpgradeRefusedError: the answer opens no WebSocket.
        OSError: as sockets raise, TimeoutError included.
    """
    deadline = monotonic() + within_s
    sock.settimeout(within_s)
    sock.sendall(upgrade.request)
    protocol = None
    while protocol is None:
        left = deadline - monotonic()
        if left <= 0:
            raise TimeoutError
        sock.settimeout(left)
        protocol = upgrade.receive(sock.recv(_RECEIVE_BYTES))
    return protocol
