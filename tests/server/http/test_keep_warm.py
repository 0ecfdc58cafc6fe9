"""The worker's half of a warm connection."""

from __future__ import annotations

import socket
from contextlib import ExitStack, suppress

import pytest

from comfy_gpu_offload.server.http.keep_warm import Warmth, is_asked_for

INTERIM = b"HTTP/1.1 102 Processing\r\n\r\n"


def received(sock: socket.socket, least: int) -> bytes:
    """Return what arrives on `sock`, until it is that much or nothing arrives for long."""
    sock.settimeout(5)
    whole = b""
    with suppress(TimeoutError):
        while len(whole) < least:
            whole += sock.recv(65536)
    return whole


def test_a_client_that_does_not_read_is_not_waited_for() -> None:
    with ExitStack() as stack:
        stuck, _stuck_far, well, well_far = (
            stack.enter_context(sock) for _ in range(2) for sock in socket.socketpair()
        )
        stuck.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                stuck.send(bytes(65536))
        stuck.setblocking(True)
        warmth = Warmth()
        with warmth.kept(stuck), warmth.kept(well):
            assert received(well_far, 3 * len(INTERIM)) == 3 * INTERIM


def test_a_connection_that_was_closed_meanwhile_is_no_trouble() -> None:
    with ExitStack() as stack:
        gone, gone_far, well, well_far = (
            stack.enter_context(sock) for _ in range(2) for sock in socket.socketpair()
        )
        warmth = Warmth()
        with warmth.kept(gone), warmth.kept(well):
            gone_far.close()
            gone.close()
            assert received(well_far, 3 * len(INTERIM)) == 3 * INTERIM


def test_nothing_is_sent_once_the_call_is_done() -> None:
    near, far = socket.socketpair()
    with near, far:
        with Warmth().kept(near):
            received(far, len(INTERIM))
        near.sendall(b"reply")
        near.shutdown(socket.SHUT_WR)
        rest = b"".join(iter(lambda: far.recv(65536), b""))
    assert rest.endswith(b"reply")
    assert set(rest.removesuffix(b"reply")) <= set(INTERIM)


@pytest.mark.parametrize(
    ("headers", "asked"),
    [
        ({"keep-warm": "102"}, True),
        ({}, False),
        ({"keep-warm": "103"}, False),
        ({"keep-warm": "102", "x-forwarded-for": "192.0.2.7"}, False),
        ({"keep-warm": "102", "via": "1.1 a-proxy"}, False),
        ({"keep-warm": "102", "forwarded": "for=192.0.2.7"}, False),
    ],
)
def test_only_who_asks_without_a_proxy_in_between_is_kept_warm(headers: dict[str, str], asked: bool) -> None:
    assert is_asked_for(headers) is asked
