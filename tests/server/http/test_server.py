from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from comfy_gpu_offload.server.http.reply import Reply
from comfy_gpu_offload.server.http.request import Request
from comfy_gpu_offload.server.http.server import HttpServer, ServerLimits, listen


def echo(request: Request) -> Reply:
    """Answer with the method, the path, the header `x` and the body, which is read in small pieces."""
    whole, piece = bytearray(), memoryview(bytearray(7))
    while count := request.body.read_into(piece):
        whole += piece[:count]
    text = f"{request.method} {request.path} {request.headers.get('x', '-')} ".encode()
    return Reply(200, (text, bytes(whole)))


def refuse(_: Request) -> Reply:
    return Reply(401, (b"no",))


@pytest.fixture
def server() -> Iterator[HttpServer]:
    made = HttpServer(echo, listen("127.0.0.1", 0))
    yield made
    made.close()


def converse(server: HttpServer, *pieces: bytes) -> bytes:
    """Everything the server answers to these bytes until it closes the connection."""
    with socket.create_connection(server.address, timeout=60) as sock:
        for piece in pieces:
            sock.sendall(piece)
        sock.shutdown(socket.SHUT_WR)
        answer = bytearray()
        while data := sock.recv(65536):
            answer += data
    return bytes(answer)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_a_body_of_known_length_arrives_whole(server: HttpServer) -> None:
    answer = converse(
        server, b"POST /a HTTP/1.1\r\nHost: x\r\nX: y\r\nContent-Length: 20\r\n\r\n", b"01234567", b"890123456789"
    )
    assert answer.endswith(b"\r\n\r\nPOST /a y 01234567890123456789")
    assert b"Content-Length: 30\r\n" in answer


def test_a_chunked_body_arrives_whole(server: HttpServer) -> None:
    head = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = converse(server, head, b"3\r\nabc\r\n", b"A;name=value\r\n0123456789\r", b"\n0\r\nTrailer: t\r\n\r\n")
    assert answer.endswith(b"POST /a - abc0123456789")


def test_requests_one_after_another_are_answered_in_order(server: HttpServer) -> None:
    one = b"POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab"
    two = b"GET /2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    three = b"GET /3 HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = converse(server, one + two + three)
    assert answer.index(b"POST /1 - ab") < answer.index(b"GET /2 - ")
    assert b"/3" not in answer  # the client asked for the connection to end before


def test_a_client_that_waits_to_be_asked_for_the_body_is_asked(server: HttpServer) -> None:
    with socket.create_connection(server.address, timeout=60) as sock:
        sock.sendall(b"POST /a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"abc")
        assert sock.recv(1000).endswith(b"abc")


def test_http_1_0_gets_one_answer_and_a_closed_connection(server: HttpServer) -> None:
    with socket.create_connection(server.address, timeout=60) as sock:
        sock.sendall(b"GET /a HTTP/1.0\r\n\r\n")
        answer = bytearray()
        while data := sock.recv(1000):
            answer += data
    assert b"Connection: close" in answer


def test_a_head_request_gets_no_body(server: HttpServer) -> None:
    answer = converse(server, b"HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n")
    assert b"Content-Length: 10" in answer


HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"
NOT_TAKEN = {
    "TLS to a plain port": (b"\x16\x03\x01 TLS\r\n\r\n", 400),
    "a method in small letters": (b"get / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a target that is no path": (b"GET http://elsewhere/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a target with a space": (b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 400),
    "no version": (b"GET /\r\nHost: x\r\n\r\n", 400),
    "no Host": (b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 400),
    "two Hosts": (HEAD + b"Host: y\r\n\r\n", 400),
    "twice the same Host": (HEAD + b"Host: x\r\n\r\n", 400),
    "no colon": (HEAD + b"no colon\r\n\r\n", 400),
    "no name": (HEAD + b": value\r\n\r\n", 400),
    "a space before the colon": (HEAD + b"Content-Length : 0\r\n\r\n", 400),
    "a space before the first header": (b"POST / HTTP/1.1\r\n Host: x\r\n\r\n", 400),
    "a folded line": (HEAD + b"A: b\r\n folded\r\n\r\n", 400),
    "a line folded by a tab": (HEAD + b"A: b\r\n\tfolded\r\n\r\n", 400),
    "a value that is not ASCII": (HEAD + b"A: \xff\r\n\r\n", 400),
    "NUL in a value": (HEAD + b"A: b\x00c\r\n\r\n", 400),
    "a bare CR in a value": (HEAD + b"A: b\rTransfer-Encoding: chunked\r\n\r\n", 400),
    "a bare LF in a value": (HEAD + b"A: b\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "an empty line of bare LF": (HEAD + b"A: b\n\nGET /smuggled HTTP/1.1\r\n\r\n", 400),
    "a length below 0": (HEAD + b"Content-Length: -1\r\n\r\n", 400),
    "a length with a sign": (HEAD + b"Content-Length: +1\r\n\r\n", 400),
    "a length in hexadecimal": (HEAD + b"Content-Length: 0x1\r\n\r\n", 400),
    "no length": (HEAD + b"Content-Length:\r\n\r\n", 400),
    "two lengths": (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
    "two lengths in one line": (HEAD + b"Content-Length: 1, 2\r\n\r\nab", 400),
    "a length and chunks": (HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunks of HTTP/1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "another coding": (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "twice chunked": (HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
    "a chunk's length that is none": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    "a chunk's length below 0": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", 400),
    "a chunk that is too long": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n", 400),
    "a bare LF in a trailer": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nA: b\nC: d\r\n\r\n", 400),
    "a head over 64 KB": (HEAD + b"A: " + b"a" * 70_000 + b"\r\n\r\n", 431),
}


@pytest.mark.parametrize(("request_bytes", "status"), NOT_TAKEN.values(), ids=NOT_TAKEN)
def test_what_is_no_request_is_refused_and_the_connection_closed(
    server: HttpServer, request_bytes: bytes, status: int
) -> None:
    answer = converse(server, request_bytes)
    assert status_of(answer) == status
    assert b"Connection: close" in answer
    assert status_of(converse(server, b"GET /after HTTP/1.1\r\nHost: x\r\n\r\n")) == 200


@pytest.mark.parametrize("cut", [b"", b"GET / HT", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc"])
def test_a_client_that_goes_away_is_no_trouble(server: HttpServer, cut: bytes) -> None:
    assert converse(server, cut) == b""
    assert status_of(converse(server, b"GET /after HTTP/1.1\r\nHost: x\r\n\r\n")) == 200


def test_a_refusal_reaches_a_client_that_is_still_sending() -> None:
    server = HttpServer(refuse, listen("127.0.0.1", 0))
    body = bytes(8 * 1024**2)
    answer = converse(server, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body), body)
    server.close()
    assert status_of(answer) == 401


def test_a_client_that_stalls_holds_up_nobody_and_is_let_go() -> None:
    server = HttpServer(echo, listen("127.0.0.1", 0), limits=ServerLimits(idle_s=0.5, progress_s=0.2))
    with socket.create_connection(server.address, timeout=60) as stalled:
        stalled.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc")
        assert status_of(converse(server, b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n")) == 200
        assert stalled.recv(10) == b""
    server.close()


@pytest.mark.parametrize(("begun", "trickle"), [(b"", b"\r\n"), (b"GET / HTTP/1.1\r\nHost: x\r\n", b"a")])
def test_a_client_that_trickles_no_request_is_let_go(begun: bytes, trickle: bytes) -> None:
    server = HttpServer(echo, listen("127.0.0.1", 0), limits=ServerLimits(idle_s=0.5, progress_s=0.3))
    with socket.create_connection(server.address, timeout=0.1) as sock, suppress(ConnectionError):
        sock.sendall(begun)
        for _ in range(50):
            with suppress(TimeoutError):
                assert sock.recv(10) == b""
                break
            sock.sendall(trickle)
        else:
            pytest.fail("it is still there")
    server.close()


def trusting(request: Request) -> Reply:
    request.connection.trust()
    return echo(request)


def test_more_connections_than_allowed_are_refused() -> None:
    server = HttpServer(trusting, listen("127.0.0.1", 0), limits=ServerLimits(connections=1))
    with socket.create_connection(server.address, timeout=60) as first:
        first.sendall(b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert first.recv(1000)
        with socket.create_connection(server.address, timeout=60) as second:
            assert second.recv(10) == b""
    server.close()


def test_closing_lets_a_reply_on_its_way_finish_and_ends_idle_connections() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(request: Request) -> Reply:
        if request.path == "/slow":
            begun.set()
            go_on.wait(60)
        return Reply(200, (b"done",))

    server = HttpServer(slow, listen("127.0.0.1", 0))
    with (
        socket.create_connection(server.address, timeout=60) as busy,
        socket.create_connection(server.address, timeout=60) as idle,
    ):
        idle.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(1000)
        busy.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        assert begun.wait(60)
        closing = threading.Thread(target=server.close)
        closing.start()
        assert idle.recv(10) == b""
        go_on.set()
        answer = busy.recv(1000)
        assert answer.endswith(b"done")
        assert b"Connection: close" in answer
    closing.join(60)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(server.address, timeout=60)


def test_empty_lines_before_a_request_are_passed_over(server: HttpServer) -> None:
    answer = converse(server, b"\r\n\r\n", b"\r", b"\nGET /a HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n" * 10)
    assert answer.endswith(b"GET /a - ")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_what_an_older_client_sends_to_be_kept_warm_is_ignored(server: HttpServer) -> None:
    asking = b"GET /a HTTP/1.1\r\nHost: x\r\nKeep-Warm: 102\r\nTakes-Waiting: 1\r\n\r\n"
    assert converse(server, asking, b"\r\n") == converse(server, b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")


def small_buffered(server: HttpServer) -> socket.socket:
    """Return a connection on which few bytes are under way at a time, as on a slow line."""
    server._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 128 * 1024)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    sock.settimeout(10)
    sock.connect(server.address)
    return sock


def read_slowly(sock: socket.socket) -> int:
    """Read 64 KB every 25 ms until the connection ends; return the number of bytes."""
    whole = 0
    while count := len(sock.recv(64 * 1024)):
        whole += count
        threading.Event().wait(0.025)
    return whole


def test_a_reply_may_take_long_as_long_as_the_client_goes_on_taking_it() -> None:
    body = bytes(4 * 1024**2)
    server = HttpServer(lambda _: Reply(200, (body,)), listen("127.0.0.1", 0), limits=ServerLimits(progress_s=1.0))
    with small_buffered(server) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert read_slowly(sock) > len(body)
    server.close()


def test_the_last_reply_arrives_whole_though_more_bytes_came_meanwhile() -> None:
    begun, go_on = threading.Event(), threading.Event()
    body = bytes(1024**2)

    def slow(_: Request) -> Reply:
        begun.set()
        go_on.wait(60)
        return Reply(200, (body,))

    server = HttpServer(slow, listen("127.0.0.1", 0))
    with small_buffered(server) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert begun.wait(60)
        sock.sendall(b"\r\n")
        closing = threading.Thread(target=server.close)
        closing.start()
        while not server._stopping:
            threading.Event().wait(0.01)
        go_on.set()
        assert read_slowly(sock) > len(body)
    closing.join(60)
    assert not closing.is_alive()


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")
def test_a_listening_socket_of_another_family_is_served(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "worker.sock"))
    listener.listen()
    peers: list[str] = []

    def note(request: Request) -> Reply:
        peers.append(request.connection.peer)
        return Reply(200, (b"hello",))

    server = HttpServer(note, listener)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(str(tmp_path / "worker.sock"))
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        reply = b""
        while piece := sock.recv(4096):
            reply += piece
    server.close()
    assert reply.startswith(b"HTTP/1.1 200")
    assert reply.endswith(b"hello")
    assert peers == [""]
