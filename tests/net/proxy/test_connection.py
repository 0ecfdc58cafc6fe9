"""The answers of proxies, and the errors for them: the same for HTTP and SOCKS."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import pytest
from pydantic import SecretStr
from tests.support.connect_proxy import ConnectProxy
from tests.support.socks_proxy import SocksProxy

from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.config.proxies import Proxy, ProxyKind
from comfy_gpu_offload.errors import ProxyError
from comfy_gpu_offload.net.proxy.connection import connect_through

TARGET = Address.parse("https://worker.example:8288")
PLACE = "worker.example:8288"
EVERY_KIND = pytest.mark.parametrize("kind", ["http", "socks4a", "socks5h"])


def proxy_at(port: int, kind: str, login: str = "") -> Proxy:
    user, _, password = login.partition(":")
    secrets = (SecretStr(user), SecretStr(password)) if login else (None, None)
    return Proxy(ProxyKind(kind), "127.0.0.1", port, "HTTPS_PROXY", *secrets)


def proxy_of_kind(kind: str, routes: dict[str, int], login: str = "") -> ConnectProxy:
    return ConnectProxy(routes, login=login) if kind == "http" else SocksProxy(routes, login=login)


@contextmanager
def echo() -> Iterator[int]:
    """Give the port of a server that sends back what one client sends."""

    def serve() -> None:
        with suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                while piece := connection.recv(100):
                    connection.sendall(piece)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        yield listener.getsockname()[1]
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
    serving.join(60)


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Give the port of a server that does this with a connection, once something was received."""

    def serve() -> None:
        with suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                answer(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        yield listener.getsockname()[1]
    serving.join(60)


@EVERY_KIND
@pytest.mark.parametrize("login", ["", "me:pass word"])
def test_bytes_pass_both_ways(kind: str, login: str) -> None:
    with echo() as port, proxy_of_kind(kind, {PLACE: port}, login) as proxy:
        with closing(connect_through(proxy_at(proxy.port, kind, login), TARGET, 60)) as sock:
            sock.sendall(b"hello")
            assert sock.recv(100) == b"hello"
        assert proxy.asked == [PLACE]


@pytest.mark.parametrize("kind", ["socks4", "socks5"])
def test_a_proxy_that_looks_no_names_up_is_given_an_address(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    look_up = socket.getaddrinfo

    def found(host: str, port: int, family: int = 0, *kinds: int, **named: int) -> object:
        if host != TARGET.host:
            return look_up(host, port, family, *kinds, **named)
        ipv6 = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::7", port, 0, 0))
        return [*([] if family else [ipv6]), (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", port))]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    with echo() as port, SocksProxy({"192.0.2.7:8288": port}) as proxy:
        connect_through(proxy_at(proxy.port, kind), TARGET, 60).close()


@pytest.mark.parametrize(("kind", "instead"), [("socks4", "socks4a://"), ("socks5", "socks5h://")])
def test_a_name_that_only_the_proxy_may_know(kind: str, instead: str) -> None:
    nowhere = Address.parse("https://nowhere.invalid")
    with SocksProxy({}) as proxy, pytest.raises(ProxyError, match=instead):
        connect_through(proxy_at(proxy.port, kind), nowhere, 60)


@pytest.mark.parametrize("kind", ["http", "socks5", "socks5h"])
def test_it_is_asked_for_an_ipv6_address(kind: str) -> None:
    with echo() as port, proxy_of_kind(kind, {"[2001:db8::7]:8288": port}) as proxy:
        address = Address.parse("https://[2001:db8::7]:8288")
        connect_through(proxy_at(proxy.port, kind), address, 60).close()
        assert proxy.asked == ["[2001:db8::7]:8288"]


@pytest.mark.parametrize(
    ("kind", "refusal", "says", "may_pass"),
    [
        ("http", 403, r"lets nobody through to .* \(403\).*port 443 alone, and this is 8288", False),
        ("http", 405, r"lets nobody through to .* \(405\)", False),
        ("http", 302, r"lets nobody through to .* \(302\)", False),
        ("http", 502, r"cannot reach https://worker.example:8288 \(502\)", True),
        ("http", 504, r"cannot reach .* \(504\)", True),
        ("socks5h", 1, r"cannot reach .* \(SOCKS 1\)", True),
        ("socks5h", 2, r"lets nobody through to .* \(SOCKS 2\).*port 443 alone", False),
        ("socks5h", 5, r"cannot reach .* \(SOCKS 5\)", True),
        ("socks5h", 8, r"lets nobody through to .* \(SOCKS 8\)", False),
        ("socks4a", 91, r"cannot reach .* \(SOCKS 91\)", True),
    ],
)
def test_a_refusal_is_named(kind: str, refusal: int, says: str, may_pass: bool) -> None:
    proxy = ConnectProxy({}, refusal=refusal) if kind == "http" else SocksProxy({}, refusal=refusal)
    with proxy, pytest.raises(ProxyError, match=says) as caught:
        connect_through(proxy_at(proxy.port, kind), TARGET, 60)
    assert caught.value.retryable is may_pass
    assert f"proxy 127.0.0.1:{proxy.port} (HTTPS_PROXY)" in str(caught.value)
    assert "NO_PROXY=worker.example" in str(caught.value)


def test_a_port_that_is_allowed_is_no_reason() -> None:
    with ConnectProxy({}) as proxy, pytest.raises(ProxyError, match="lets nobody through") as caught:
        connect_through(proxy_at(proxy.port, "http"), Address.parse("https://worker.example"), 60)
    assert "443 alone" not in str(caught.value)


@pytest.mark.parametrize("status", [b"407", b"401"])
def test_a_login_may_be_wanted_without_a_word_of_its_kind(status: bytes) -> None:
    answer = b"HTTP/1.0 " + status + b" Unauthorized\r\n\r\n"
    with answering(lambda near: near.sendall(answer)) as port, pytest.raises(ProxyError, match="USER:PASSWORD"):
        connect_through(proxy_at(port, "http"), TARGET, 60)


@EVERY_KIND
@pytest.mark.parametrize("login", ["", "she:very-secret"])
def test_a_login_is_wanted_or_another_one(kind: str, login: str) -> None:
    with proxy_of_kind(kind, {PLACE: 1}, "me:swordfish") as proxy, pytest.raises(ProxyError) as caught:
        connect_through(proxy_at(proxy.port, kind, login), TARGET, 60)
    assert f"{kind}://USER:PASSWORD@127.0.0.1:{proxy.port}" in str(caught.value)
    assert not caught.value.retryable
    assert ("other than those given" in str(caught.value)) == bool(login)
    assert "secret" not in str(caught.value)


def test_a_login_of_another_kind() -> None:
    challenge = 'Negotiate, NTLM, Digest realm="one, two", nonce="x"'
    says = r"not spoken here \(407 Negotiate NTLM Digest\).*Cntlm"
    with ConnectProxy({}, login="me:x", challenge=challenge) as proxy, pytest.raises(ProxyError, match=says):
        connect_through(proxy_at(proxy.port, "http", "me:guess"), TARGET, 60)


def test_what_follows_an_answer_too_early_is_refused() -> None:
    with ConnectProxy({PLACE: 1}, after=b"<html>") as proxy, pytest.raises(ProxyError, match="of its own"):
        connect_through(proxy_at(proxy.port, "http"), TARGET, 60)


@EVERY_KIND
@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"HTTP/1.1 2000 Fine\r\n\r\n",
        b"HTTP/1.1 200 Fine\r\nA B: c\r\n\r\n",
        b"\x05\xff\xff\xff",
        b"\x00\x00\x00\x00\x00\x00\x00\x00",
        b"\x05\x01",
        b"x" * 70_000,
    ],
)
def test_what_is_no_proxy_is_named(kind: str, answer: bytes) -> None:
    says = r"Is it right|USER:PASSWORD|cannot reach"
    with answering(lambda near: near.sendall(answer)) as port, pytest.raises(ProxyError, match=says):
        connect_through(proxy_at(port, kind), TARGET, 60)


def test_an_http_proxy_is_none_for_socks() -> None:
    with ConnectProxy({PLACE: 1}) as proxy, pytest.raises(ProxyError, match="does not answer as one"):
        connect_through(proxy_at(proxy.port, "socks5h"), TARGET, 0.5)


def test_a_socks_proxy_is_none_for_http() -> None:
    with SocksProxy({PLACE: 1}) as proxy, pytest.raises(ProxyError, match="no answer in time"):
        connect_through(proxy_at(proxy.port, "http"), TARGET, 0.5)


@EVERY_KIND
@pytest.mark.parametrize("piece", [b"", b"H", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_one_that_never_ends_its_answer_is_given_up(kind: str, piece: bytes) -> None:
    """Though bytes trickle in, and though each of them comes in time."""
    is_over = threading.Event()

    def trickle(connection: socket.socket) -> None:
        while not is_over.wait(0.02):
            connection.sendall(piece)

    with answering(trickle) as port:
        try:
            with pytest.raises(ProxyError):
                connect_through(proxy_at(port, kind), TARGET, 0.4)
        finally:
            is_over.set()


@EVERY_KIND
def test_one_that_is_not_there_is_named(kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(
        ProxyError, match=rf"proxy 127.0.0.1:{port} \(HTTPS_PROXY\).*refused.*Is it right"
    ) as caught:
        connect_through(proxy_at(port, kind), TARGET, 60)
    assert caught.value.retryable
