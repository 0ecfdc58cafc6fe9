from __future__ import annotations

import gc
import socket
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import pytest
import torch
from pydantic import SecretStr
from tests.support import deaf_socket
from tests.support.backend import FunctionBackend
from tests.support.frames import forward_frame
from tests.support.worker import ThreadWorker

from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.errors import (
    ConnectError,
    ConnectionLostError,
    ExchangeTimeoutError,
    HttpStatusError,
    TransportError,
)
from comfy_gpu_offload.io.tree import pack
from comfy_gpu_offload.net.sockets import notice_loss
from comfy_gpu_offload.protocol.envelope import open_frame, seal
from comfy_gpu_offload.protocol.messages import Cancel, Cancelled, Fault, FaultCode
from comfy_gpu_offload.transport import http_transport
from comfy_gpu_offload.transport.base import Timeouts
from comfy_gpu_offload.transport.health import Health, ping
from comfy_gpu_offload.transport.http_transport import HttpTransport

QUICK = Timeouts(connect_s=60.0, exchange_s=60.0)
CANCEL = seal(Cancel(request="nothing-1"))


@contextmanager
def canned(reply: bytes | Callable[[socket.socket], None]) -> Iterator[str]:
    """Run a server that reads one request's head and then says `reply`, whatever was asked."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        listener.close()  # a further connection is refused at once, in place of waiting for an answer
        with connection:
            connection.recv(65536)
            if callable(reply):
                reply(connection)
            else:
                connection.sendall(reply)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


def exchange(url: str, **options: object) -> memoryview:
    return HttpTransport(Address.parse(url), **options).exchange("cancel", CANCEL, QUICK)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def worker() -> Iterator[ThreadWorker]:
    with ThreadWorker(FunctionBackend()) as made:
        yield made


def test_a_frame_goes_and_a_frame_comes_back(worker: ThreadWorker) -> None:
    answer = open_frame(exchange(worker.url)).message
    assert answer == Cancelled(request="nothing-1", state="unknown")


def test_one_connection_carries_many_exchanges(worker: ThreadWorker) -> None:
    transport = HttpTransport(worker.address)
    transport.exchange("cancel", CANCEL, QUICK)
    (first,) = transport._idle
    for _ in range(5):
        transport.exchange("cancel", CANCEL, QUICK)
    assert transport._idle == [first]
    assert first.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("options", [b"close", b"Close, TE", b"te , close"])
def test_a_connection_that_the_server_will_close_is_not_kept(options: bytes) -> None:
    frame = bytes(seal(Cancelled(request="nothing-1", state="unknown")).joined())
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nConnection: %s\r\nContent-Length: %d\r\n\r\n"
    )

    def answer(connection: socket.socket) -> None:
        connection.sendall(head % (options, len(frame)) + frame)
        connection.recv(1)  # until the client closes

    with canned(answer) as url:
        transport = HttpTransport(Address.parse(url))
        transport.exchange("cancel", CANCEL, QUICK)
        assert not transport._idle


def test_exchanges_may_overlap(worker: ThreadWorker) -> None:
    transport = HttpTransport(worker.address)
    x = torch.randn(300_000)
    results: list[bool] = []

    def call(number: int) -> None:
        frame = forward_frame(x + number, request=f"overlap-{number}")
        value = open_frame(transport.exchange("forward", frame, QUICK)).unpack()
        results.append(torch.equal(value, x + number))

    threads = [threading.Thread(target=call, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [True] * 6


def test_large_frames_arrive_whole(worker: ThreadWorker) -> None:
    x = torch.randn(6_000_000)
    value = open_frame(
        HttpTransport(worker.address).exchange("forward", forward_frame(x, request="request-large"), QUICK)
    )
    assert torch.equal(value.unpack(), x)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-type:application/octet-stream; x=y\r\nCONTENT-LENGTH:%d\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Type: application/octet-stream\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200\r\nContent-Type: application/octet-stream\r\n\r\n",
    ],
)
def test_every_way_to_send_a_body_is_read(head: bytes) -> None:
    frame = bytes(seal(Cancelled(request="nothing-1", state="unknown"), pack(torch.ones(50_000))).joined())
    with canned((head % len(frame) if b"%d" in head else head) + frame) as url:
        assert bytes(exchange(url)) == frame


def test_a_chunked_reply_is_read() -> None:
    frame = bytes(seal(Cancelled(request="nothing-1", state="unknown"), pack(torch.ones(50_000))).joined())
    pieces = [frame[:1], frame[1:70_000], frame[70_000:]]
    body = b"".join(b"%x;note=1\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nTrailer: 1\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    with canned(head + body) as url:
        assert bytes(exchange(url)) == frame


def test_a_reply_that_comes_byte_by_byte_is_read() -> None:
    frame = bytes(seal(Cancelled(request="nothing-1", state="unknown")).joined())
    whole = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n" % len(frame)

    def drip(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in whole + frame:
            connection.sendall(bytes([byte]))

    with canned(drip) as url:
        assert bytes(exchange(url)) == frame


OK = b"HTTP/1.1 200 OK\r\n"
NO_WHOLE_REPLY = {
    "nothing": b"",
    "half a head": OK + b"Content-Type: appl",
    "half a body": OK + b"Content-Type: application/octet-stream\r\nContent-Length: 100\r\n\r\nshort",
    "another protocol": b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
    "a status below 100": b"HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n",
    "a status over 599": b"HTTP/1.1 902 Processing\r\n\r\n",
    "a switch of protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
    "NUL in the reason": b"HTTP/1.1 200 O\x00K\r\nContent-Length: 0\r\n\r\n",
    "no colon": OK + b"Content-Length 0\r\n\r\n",
    "no name": OK + b": 0\r\n\r\n",
    "a space before the colon": OK + b"Content-Length : 0\r\n\r\n",
    "a space before the first header": OK + b" Content-Length: 0\r\n\r\n",
    "a folded line": OK + b"A: b\r\n folded\r\nContent-Length: 0\r\n\r\n",
    "NUL in a value": OK + b"Content-Type: a\x00b\r\nContent-Length: 0\r\n\r\n",
    "a bare CR in a value": OK + b"A: b\rc\r\nContent-Length: 0\r\n\r\n",
    "a bare LF in a value": OK + b"A: b\nc: d\r\nContent-Length: 0\r\n\r\n",
    "a length below 0": OK + b"Content-Length: -5\r\n\r\n",
    "no length": OK + b"Content-Length:\r\n\r\n",
    "two lengths": OK + b"Content-Length: 0\r\nContent-Length: 1\r\n\r\n",
    "two lengths in one line": OK + b"Content-Length: 0, 1\r\n\r\n",
    "a length and chunks": OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks of HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "another coding": OK + b"Transfer-Encoding: gzip\r\n\r\n",
    "a chunk's length that is none": OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a chunk that is too long": OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
    "a head over 64 KB": OK + b"X: y\r\n" * 20_000 + b"\r\n",
}


@pytest.mark.parametrize("reply", NO_WHOLE_REPLY.values(), ids=NO_WHOLE_REPLY)
def test_a_reply_that_is_no_whole_one_is_a_lost_connection(reply: bytes) -> None:
    with canned(reply) as url, pytest.raises(ConnectionLostError):
        exchange(url)


@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        (400, False),
        (401, False),
        (404, False),
        (408, True),
        (500, True),
        (502, True),
        (503, True),
        (524, True),
        (599, True),
    ],
)
def test_a_proxys_own_page_is_named_by_its_status(status: int, retryable: bool) -> None:
    page = b"<html>\nBad day</html>"
    reply = b"HTTP/1.1 %d X\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%s" % (status, len(page), page)
    with canned(reply) as url, pytest.raises(HttpStatusError, match=str(status)) as caught:
        exchange(url)
    assert (caught.value.status, caught.value.retryable) == (status, retryable)


@pytest.mark.parametrize("framing", [b"Content-Length: %d\r\n\r\n", b"Connection: close\r\n\r\n"])
def test_a_reply_that_is_longer_than_its_frame_was_altered_on_the_way(framing: bytes) -> None:
    body = bytes(seal(Cancelled(request="nothing-1", state="unknown")).joined()) + b"!"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
    framing = framing.replace(b"%d", str(len(body)).encode())
    with canned(head + framing + body) as url, pytest.raises(ConnectionLostError, match="longer"):
        exchange(url)


def test_another_programs_octets_are_no_frame() -> None:
    body = b"x" * 100
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 100\r\n\r\n"
    with canned(head + body) as url, pytest.raises(HttpStatusError, match="no frame"):
        exchange(url)


def test_nobody_there_says_so_and_what_to_check() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ConnectError, match="Is it running"):
        exchange(f"http://127.0.0.1:{port}")


def test_silence_ends_with_the_timeout() -> None:
    with canned(lambda connection: threading.Event().wait(3)) as url, pytest.raises(ExchangeTimeoutError):
        HttpTransport(Address.parse(url)).exchange("cancel", CANCEL, Timeouts(2.0, 0.3))


class StopError(BaseException):
    """An interrupt that is no `Exception`, as ComfyUI's is not."""


@pytest.mark.skipif(not deaf_socket.POSSIBLE, reason="this system cannot be made to lose what arrives")
def test_a_worker_that_is_gone_without_a_word_is_a_lost_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call is made again, and does not end with the time for an exchange."""
    monkeypatch.setattr(http_transport, "notice_loss", partial(notice_loss, gone_s=1))

    def lost(connection: socket.socket) -> None:
        deaf_socket.make_deaf(connection)
        threading.Event().wait(10)

    with canned(lost) as url, pytest.raises(ConnectionLostError):
        HttpTransport(Address.parse(url)).exchange("cancel", CANCEL, Timeouts(2.0, 20.0))


def test_a_check_ends_the_wait_and_the_connection_is_not_used_again(worker: ThreadWorker) -> None:
    looks = []

    def check() -> None:
        looks.append(None)
        if len(looks) == 6:  # within 3 s, or the other end is gone
            raise StopError

    with canned(lambda connection: threading.Event().wait(3)) as url:
        transport = HttpTransport(Address.parse(url))
        with pytest.raises(StopError):
            transport.exchange("cancel", CANCEL, QUICK, check)
        assert not transport._idle


def test_nothing_of_a_call_that_failed_is_kept() -> None:
    """A frame may be large, and Python may take long to look for cycles."""
    given = torch.zeros(100_000)
    frame = forward_frame(given)
    kept = weakref.ref(given)

    def stop() -> None:
        raise StopError

    gc.disable()
    try:
        with canned(lambda connection: threading.Event().wait(1)) as url, suppress(StopError):
            HttpTransport(Address.parse(url)).exchange("cancel", frame, QUICK, stop)
        del given, frame
        assert kept() is None
    finally:
        gc.enable()


def test_a_check_also_ends_an_upload_nobody_reads() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    frame = forward_frame(torch.zeros(20_000_000))
    looks = []

    def check() -> None:
        looks.append(None)
        if len(looks) == 3:
            raise StopError

    with pytest.raises(StopError):
        HttpTransport(Address.parse(f"http://127.0.0.1:{listener.getsockname()[1]}")).exchange(
            "forward", frame, QUICK, check
        )
    listener.close()


def test_an_idle_connection_that_was_closed_is_replaced() -> None:
    backend = FunctionBackend()
    with ThreadWorker(backend) as first:
        transport = HttpTransport(first.address)
        transport.exchange("cancel", CANCEL, QUICK)
        port = first.port
    with ThreadWorker(backend, port=port):
        answer = open_frame(transport.exchange("cancel", CANCEL, QUICK)).message
    assert isinstance(answer, Cancelled)


@pytest.mark.parametrize("token", [None, "wrong", "right but longer"])
def test_a_wrong_token_is_refused_with_401_and_a_frame(token: str | None) -> None:
    with ThreadWorker(FunctionBackend(), token="right") as guarded:
        secret = None if token is None else SecretStr(token)
        answer = open_frame(exchange(guarded.url, token=secret)).message
        assert isinstance(answer, Fault)
        assert answer.code is FaultCode.UNAUTHORIZED
        right = open_frame(exchange(guarded.url, token=SecretStr("right"))).message
        assert isinstance(right, Cancelled)
        assert ping(guarded.address) is Health.READY


def test_ping_tells_health(worker: ThreadWorker) -> None:
    assert ping(worker.address) is Health.READY
    with canned(b"HTTP/1.1 204 No Content\r\n\r\n") as url:
        assert ping(Address.parse(url)) is Health.WARMING
    with canned(b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n") as url:
        assert ping(Address.parse(url)) is Health.UNHEALTHY
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert ping(Address.parse(f"http://127.0.0.1:{port}")) is Health.UNREACHABLE


def test_foreign_errors_never_come_through() -> None:
    """The caller sees an error of ours, whatever bytes a server sends."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        noise = bytes(torch.randint(0, 256, (200,), generator=generator, dtype=torch.uint8).tolist())
        with canned(b"HTTP/1.1 200 OK\r\n" + noise + b"\r\n\r\n" + noise) as url, pytest.raises(TransportError):
            exchange(url)
