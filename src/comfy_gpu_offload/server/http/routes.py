"""The routes of a worker's HTTP server, `/ping` and `/v1/…`, with their checks (docs/protocol.md, "HTTP")."""

from __future__ import annotations

import socket
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from http import HTTPStatus

from ...errors import FrameError
from ...io.buffers import Buffer, allocate
from ...io.frame import PRELUDE, EncodedFrame, FrameLimits, frame_size
from ...io.frame_reader import FrameReader
from ...net.http_reader import Body
from ...net.sockets import limit_unsent
from ...net.websocket.handshake import EARLY_HEADER, UpgradeRefusedError, accept, early_bytes
from ...net.websocket.link import Link
from ...net.websocket.pieces import PATH
from ...protocol.envelope import open_frame, seal
from ...protocol.messages import Fault, FaultCode
from ..faults import STARTING, UNAUTHORIZED, fault_of
from ..handler import Handler
from ..websocket.connection import ServedWorker, WebSocketConnection
from ..websocket.limits import WebSocketLimits
from .browser_guard import MEDIA_TYPE, BrowserGuard, Refusal
from .caller import HttpCaller, takes_waiting
from .reply import Reply
from .request import Request
from .tokens import Tokens
from .wrong_tokens import WrongTokens

# Whose requests are use of the worker while they arrive; those of others are by what they ask (`Handler`).
_USES = frozenset({"/v1/forward", "/v1/sample"})
_FRAME_PATHS = frozenset({"/v1/hello", "/v1/forward", "/v1/cancel", "/v1/sample"})

_STATUS: dict[FaultCode, int] = {
    FaultCode.BAD_FRAME: 400,
    FaultCode.BAD_MESSAGE: 400,
    FaultCode.UNSUPPORTED_PROTOCOL: 400,
    FaultCode.WRONG_DIGEST: 400,
    FaultCode.UNAUTHORIZED: 401,
    FaultCode.UNKNOWN_MODEL: 404,
    FaultCode.MODEL_CHANGED: 409,
    FaultCode.MISSING_TENSORS: 409,
    FaultCode.UNKNOWN_RUN: 404,
    FaultCode.UNKNOWN_REPLY: 404,
    FaultCode.UNKNOWN_PUSH: 409,
    FaultCode.UNKNOWN_PATCHES: 409,
    FaultCode.BAD_PATCHES: 400,
    FaultCode.UNKNOWN_HISTORY: 409,
    FaultCode.WRONG_PREDICTION: 409,
    FaultCode.TOO_LARGE: 413,
    FaultCode.CANCELLED: 499,
    FaultCode.NOT_ALLOWED: 403,
    FaultCode.REFUSED_FILE: 422,
    FaultCode.DOWNLOAD_FAILED: 502,
    FaultCode.BUSY: 503,
    FaultCode.STOPPING: 503,
    FaultCode.OUT_OF_MEMORY: 507,
    FaultCode.DISK_FULL: 507,
}


@dataclass
class WorkerState:
    """The worker behind the routes.

    Attributes:
        tokens: that callers must send.
        handler: None while the backend is being made.
        hosts: host names by which a worker without a token may be reached, besides this machine's own.
        is_behind_edge: whether a platform's edge with a name of its own is in front and lets in only its own users.
    """

    limits: FrameLimits
    tokens: Tokens = field(default_factory=Tokens)
    handler: Handler | None = None
    hosts: tuple[str, ...] = ()
    is_behind_edge: bool = False


class Routes:
    """The function from a request to its reply. Called on the connection's own thread."""

    def __init__(self, state: WorkerState, *, has_tls: bool = False, limits: WebSocketLimits | None = None) -> None:
        """Serve `state`.

        Args:
            has_tls: whether a certificate proves to clients the name that they ask for.
        """
        self._state = state
        self._limits = limits or WebSocketLimits()
        any_host = state.tokens.are_required or state.is_behind_edge or has_tls
        self._guard = BrowserGuard(any_host=any_host, hosts=state.hosts)
        self._wrong = WrongTokens()

    def __call__(self, request: Request) -> Reply:
        """Return the reply to any request."""
        if request.path == "/ping":
            return self._ping() if request.method in {"GET", "HEAD"} else _not_allowed("GET, HEAD")
        if request.path == PATH:
            return self._connect(request)
        if request.path in _FRAME_PATHS:
            return self._frame(request) if request.method == "POST" else _not_allowed("POST")
        return Reply(HTTPStatus.NOT_FOUND, (b"There is nothing here. A worker answers /ping and /v1/.\n",))

    def _ping(self) -> Reply:
        """Return 200 if the worker is ready and 204 while it starts, as RunPod requires. Needs no token."""
        if self._state.handler is None:
            return Reply(HTTPStatus.NO_CONTENT)
        return Reply(HTTPStatus.OK, (b'{"status": "ready"}',), "application/json")

    def _connect(self, request: Request) -> Reply:
        """Return the reply to a request for a WebSocket, which is let in by the rules for frames."""
        refused = self._refusal(request, has_frame=False)
        if refused is not None:
            return refused
        if not request.body.ended:
            return Reply(HTTPStatus.BAD_REQUEST, (b"An upgrade has no body.\n",))
        try:
            early = _early_frames(request.headers.get(EARLY_HEADER.lower()), self._limits.exchanges)
            accepted = accept(
                request.path,
                request.headers,
                method=request.method,
                is_http_1_1=request.is_http_1_1,
                early_taken=len(early),
            )
        except FrameError as error:
            return _answer_fault(fault_of(error))
        except UpgradeRefusedError as error:
            return Reply(error.status, (error.body,), headers=_kept(error.headers))

        def take_over(sock: socket.socket, received: bytes, is_stopping: Callable[[], bool]) -> None:
            limit_unsent(sock)
            link = Link(sock, accepted.protocol, received)
            authorization = request.headers.get("authorization")
            served = ServedWorker(
                lambda: self._state.handler, lambda: self._state.tokens.allow(authorization), is_stopping
            )
            WebSocketConnection(link, served, self._state.limits, self._limits).serve(early)

        return Reply(HTTPStatus.SWITCHING_PROTOCOLS, (accepted.answer,), takes_over=take_over)

    def _refusal(self, request: Request, *, has_frame: bool) -> Reply | None:
        """Return the reply to a request that is not let in; trust the connection of any other."""
        refusal = self._guard.refusal(request.headers, has_frame=has_frame)
        if refusal is not None:
            return _refused(refusal)
        if not self._state.tokens.allow(request.headers.get("authorization")):
            return self._unauthorized(request)
        request.connection.trust()
        return None

    def _frame(self, request: Request) -> Reply:
        """Return the reply to a request with a frame."""
        refused = self._refusal(request, has_frame=True)
        if refused is not None:
            return refused
        handler = self._state.handler
        if handler is None:
            return _answer_fault(STARTING)
        try:
            with handler.activity.in_use() if request.path in _USES else nullcontext():
                body = _read(request.body, self._state.limits)
        except FrameError as error:
            return _answer_fault(fault_of(error))
        caller = HttpCaller(request.connection)
        if request.path == "/v1/sample":
            return _streamed(handler.stream(body, caller, tells_waiting=takes_waiting(request.headers)))
        frame = handler.handle(body, caller)
        return _answer(frame, _status_of(frame))

    def _unauthorized(self, request: Request) -> Reply:
        after_s = self._wrong.note(request.connection.peer, is_missing="authorization" not in request.headers)
        return _answer_fault(UNAUTHORIZED)._replace(after_s=after_s)


def _read(body: Body, limits: FrameLimits) -> memoryview:
    """Read the frame into one buffer, which is allocated after the lengths in its prelude have been checked."""
    prelude = bytearray(PRELUDE.size)
    have = body.read_into(memoryview(prelude))
    if have < PRELUDE.size:
        raise FrameError("truncated", f"the request has {have} bytes, fewer than the prelude of a frame")
    size = frame_size(prelude, limits)
    if body.length is not None and body.length != size:
        name = "truncated" if body.length < size else "trailing_bytes"
        raise FrameError(name, f"the request has {body.length} bytes, the frame claims {size}")
    frame = allocate(size)
    frame[: PRELUDE.size] = prelude
    have += body.read_into(frame[PRELUDE.size :])
    if have < size:
        raise FrameError("truncated", f"{have} bytes of the {size} it claims")
    if body.length is None and body.read_into(memoryview(bytearray(1))):
        raise FrameError("trailing_bytes", f"more than the {size} bytes the frame claims")
    return frame


def _early_frames(text: str | None, most: int) -> list[memoryview]:
    """Return the frames that a client sent with its upgrade.

    Raises:
        FrameError: it is not whole frames, or they are more than `most`.
    """
    if text is None:
        return []
    data = early_bytes(text)
    reader = FrameReader(FrameLimits(frame_bytes=len(data)))
    frames = reader.feed(memoryview(data))
    if not reader.is_between_frames or not frames:
        raise FrameError("truncated", f"{EARLY_HEADER} ends in the middle of a frame")
    if len(frames) > most:
        raise FrameError("frame_too_large", f"{len(frames)} frames with the upgrade, over the {most} allowed")
    return frames


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of a refused upgrade that are not about its body."""
    return {name: value for name, value in headers.items() if name in {"upgrade", "sec-websocket-version", "allow"}}


def _not_allowed(methods: str) -> Reply:
    return Reply(HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": methods})


def _refused(refusal: Refusal) -> Reply:
    """Return the refusal: as a frame where it may be a client of ours, which shows the text to its user."""
    if refusal.status is HTTPStatus.MISDIRECTED_REQUEST:
        fault = Fault(code=FaultCode.UNAUTHORIZED, message=refusal.text)
        return _answer(seal(fault), refusal.status)
    return Reply(refusal.status, (f"{refusal.text}\n".encode(),))


def _answer_fault(fault: Fault) -> Reply:
    return _answer(seal(fault), _STATUS.get(fault.code, 500))


def _answer(frame: EncodedFrame, status: int) -> Reply:
    return Reply(status, frame.buffers, MEDIA_TYPE)


def _streamed(frames: Generator[EncodedFrame]) -> Reply:
    """Return a reply that streams the frames. A refusal, which is the only frame then, is an ordinary reply."""
    first = next(frames)
    status = _status_of(first)
    if status != 200:
        return _answer(first, status)
    return Reply(status, media_type=MEDIA_TYPE, stream=_pieces(first, frames))


def _pieces(first: EncodedFrame, frames: Generator[EncodedFrame]) -> Generator[Sequence[Buffer]]:
    with closing(frames):  # a client that is gone no longer follows the run
        yield first.buffers
        for frame in frames:
            yield frame.buffers


def _status_of(frame: EncodedFrame) -> int:
    # A fault has no tensors, so it is one small buffer; anything larger is a success.
    if len(frame.buffers) > 1:
        return 200
    message = open_frame(frame.buffers[0]).message
    return _STATUS.get(message.code, 500) if isinstance(message, Fault) else 200
