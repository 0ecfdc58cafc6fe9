"""A log's stream over a real connection: its form, its end, its losses, and what no terminal may get."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler

import pytest
from pydantic import SecretStr
from tests.support.runpod_api import KEY, Answer, FakeClock, LoopbackApi, breaks_off, loopback_api, says

from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.errors import RunPodNotFoundError, RunPodReplyError
from comfy_gpu_offload.runpod.rest.client import RestClient


class StopError(Exception):
    pass


def event(number: int, line: str, ts: str = "2026-06-01T12:00:00Z") -> bytes:
    data = json.dumps({"source": "container", "line": line, "ts": ts})
    return f"id: {ts}/{number}\ndata: {data}\n\n".encode()


def streams(*pieces: bytes, cut: bool = False, hold: threading.Event | None = None) -> Answer:
    """Return an answer that sends the pieces in chunks, and then ends, is cut, or waits."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for piece in pieces:
            handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            handler.wfile.flush()
        if hold is not None:
            hold.wait(30)
        if cut:
            breaks_off(handler)
        else:
            handler.wfile.write(b"0\r\n\r\n")

    return answer


def client_of(api: LoopbackApi) -> RestClient:
    return RestClient(SecretStr(KEY), base_url=Address.parse(api.url), clock=FakeClock().clock)


def lines(api: LoopbackApi) -> list[str]:
    return [line.line for line in client_of(api).pod_logs("abc123")]


def test_events_may_be_cut_anywhere_and_the_last_may_lack_its_end() -> None:
    whole = event(1, "one") + b": a sign of life\n\nevent: other\r\ndata: {\r\ndata: }\r\n\r\n" + event(2, "zwei ü")
    for cut in range(0, len(whole), 7):
        with loopback_api(streams(whole[:cut] or b":\n", whole[cut:].rstrip(b"\n"))) as api:
            assert lines(api) == ["one", "zwei ü"]


def test_what_is_asked_for_stands_in_the_query() -> None:
    with loopback_api(streams(event(1, "one"))) as api:
        list(client_of(api).pod_logs("abc123", tail=7, source="system"))
    assert api.requests == [("GET", "/v2/pods/abc123/logs?tail=7&source=system")]
    assert api.headers[0]["Accept"] == "text/event-stream"
    assert api.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_a_lost_stream_is_taken_up_after_its_last_event_without_repeating_it() -> None:
    begun = streams(event(1, "one"), event(2, "two"), event(2, "two"), cut=True)
    again = streams(event(2, "two"), event(2, "two"), event(2, "two"), event(3, "three"))
    with loopback_api(begun, breaks_off, says(503, {}), again) as api:
        assert lines(api) == ["one", "two", "two", "two", "three"]
    assert "Last-Event-ID" not in api.headers[0]
    assert {headers["Last-Event-ID"] for headers in api.headers[1:]} == {"2026-06-01T12:00:00Z/2"}


def test_a_log_of_a_pod_that_is_gone_is_not_found() -> None:
    with loopback_api(says(404, {"title": "Not Found"})) as api, pytest.raises(RunPodNotFoundError):
        lines(api)


def test_commands_to_a_terminal_are_taken_out_and_long_lines_cut() -> None:
    with loopback_api(streams(event(1, "\x1b]0;title\x07\x9b2J\ttext\r\n"), event(2, "x" * 9000))) as api:
        first, second = lines(api)
    assert first == "\ufffd]0;title\ufffd\ufffd2J\ttext"
    assert len(second) == 4000


@pytest.mark.parametrize("endless", [b"x" * 70_000, b"data: 1234567890\n" * 7_000], ids=["line", "event"])
def test_an_endless_event_is_refused(endless: bytes) -> None:
    with loopback_api(streams(*[endless] * 6)) as api, pytest.raises(RunPodReplyError, match="longer than"):
        lines(api)


def test_a_quiet_log_ends_and_a_caller_may_leave() -> None:
    hold = threading.Event()
    with loopback_api(streams(event(1, "one"), hold=hold)) as api:
        assert [line.line for line in client_of(api).pod_logs("abc123", quiet_s=0.2)] == ["one"]

        got: list[str] = []

        def check() -> None:
            if got:
                raise StopError

        log = client_of(api).pod_logs("abc123", check=check)
        got.append(next(log).line)
        with pytest.raises(StopError):
            next(log)
        hold.set()
