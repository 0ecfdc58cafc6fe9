"""A stream of server-sent events, read on a thread of its own so that the wait for the next one can be interrupted.

Form: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any

from ...errors import OffloadError, RunPodNetworkError, RunPodReplyError
from ...net.clock import CHECK_INTERVAL_S, Check
from ..api_requests import ApiHttp, Reply, Request
from .api_calls import ApiCalls

_PIECE_BYTES = 64 * 1024
_LONGEST_LINE = 256 * 1024
_WAITING_PIECES = 64
_THREAD_NAME = "comfy-gpu-offload-runpod-log"


@dataclass(frozen=True)
class Event:
    """An event: its id, empty if it has none, and its data."""

    id: str
    data: str


def events(calls: ApiCalls, request: Request, quiet_s: float | None, check: Check | None) -> Iterator[Event]:
    """Yield events as they come, until the server ends the stream, or nothing came for `quiet_s`.

    Raises:
        RunPodError: RunPod refused, or the connection was lost.
    """
    calls.await_turn(request, request.timeout_s, check)
    reader = _Reader(calls.http, request)
    lines = _Lines(request.path)
    try:
        while True:
            got = reader.next(quiet_s, check)
            if got is None:
                break
            if isinstance(got, Reply):
                calls.judge(got, request)
            else:
                yield from lines.feed(got)
        yield from lines.end()
    finally:
        reader.close()


class _Reader:
    """A thread that reads a response's body. It gives the head as a reply, and then the body in pieces."""

    def __init__(self, http: ApiHttp, request: Request) -> None:
        self._http = http
        self._request = request
        self._is_closed = False
        self._response: Any = None
        self._got: queue.Queue[Reply | bytes | BaseException | None] = queue.Queue(_WAITING_PIECES)
        threading.Thread(target=self._run, name=_THREAD_NAME, daemon=True).start()

    def next(self, quiet_s: float | None, check: Check | None) -> Reply | bytes | None:
        """Return the next of it; None at its end, or after `quiet_s` with nothing."""
        until = None if quiet_s is None else monotonic() + quiet_s
        while True:
            if check is not None:
                check()
            with suppress(queue.Empty):
                got = self._got.get(timeout=CHECK_INTERVAL_S)
                if isinstance(got, BaseException):
                    raise got
                return got
            if until is not None and monotonic() > until:
                return None

    def close(self) -> None:
        """End the thread, also in the middle of a read."""
        self._is_closed = True
        if self._response is not None:
            with suppress(Exception):  # it may have ended by itself
                self._response.raw.shutdown()

    def _run(self) -> None:
        try:
            with self._http.opened(self._request) as response:
                self._response = response
                head = response.headers
                body = self._http.body(response, self._request) if response.status_code != 200 else b""
                self._put(Reply(response.status_code, body, head.get("Retry-After"), head.get("RateLimit")))
                while not self._is_closed and (piece := response.raw.read1(_PIECE_BYTES)):
                    self._put(piece)
            self._put(None)
        except OffloadError as error:
            self._put(error)
        except Exception as error:  # of a response that was closed while it was read
            self._put(
                RunPodNetworkError(f"RunPod's log ended in the middle ({type(error).__name__}).", connected=True)
            )

    def _put(self, got: Reply | bytes | BaseException | None) -> None:
        while not self._is_closed:
            with suppress(queue.Full):
                self._got.put(got, timeout=CHECK_INTERVAL_S)
                return


class _Lines:
    """Makes events of the pieces of a stream."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._rest = b""
        self._id = ""
        self._data: list[str] = []
        self._data_bytes = 0

    def feed(self, piece: bytes) -> Iterator[Event]:
        """Yield the events that are complete with `piece`."""
        *lines, self._rest = (self._rest + piece).replace(b"\r\n", b"\n").split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            raise self._too_long()
        for line in lines:
            yield from self._line(line.decode("utf-8", "replace"))

    def end(self) -> Iterator[Event]:
        """Yield the last event, if the stream ended without the empty line after it."""
        if self._rest:
            yield from self._line(self._rest.decode("utf-8", "replace"))
        yield from self._line("")

    def _line(self, line: str) -> Iterator[Event]:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if self._data:
                yield Event(self._id, "\n".join(self._data))
            self._data, self._data_bytes = [], 0
        elif name == "data":
            self._data_bytes += len(value)
            if self._data_bytes > _LONGEST_LINE:
                raise self._too_long()
            self._data.append(value)
        elif name == "id" and value.isascii() and value.isprintable():
            self._id = value

    def _too_long(self) -> RunPodReplyError:
        return RunPodReplyError(
            f"An event of {self._path} is longer than {_LONGEST_LINE} bytes, and is not read. Read the log on "
            "https://console.runpod.io instead."
        )
