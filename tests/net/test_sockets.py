from __future__ import annotations

import socket
from contextlib import suppress
from errno import ETIMEDOUT
from pathlib import Path

import pytest
from tests.support import deaf_socket

from comfy_gpu_offload.net.sockets import notice_loss, prefer_bbr, wait_writable

AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")


def algorithm(sock: socket.socket) -> bytes:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")


def allows_bbr() -> bool:
    return hasattr(socket, "TCP_CONGESTION") and AVAILABLE.exists() and "bbr" in AVAILABLE.read_text().split()


def test_a_buffer_has_room_until_it_is_full() -> None:
    near, far = socket.socketpair()
    with near, far:
        assert wait_writable(near, 0)
        near.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                near.send(bytes(65536))
        assert not wait_writable(near, 0)


def test_a_socket_that_was_closed_is_said_to_be() -> None:
    near, far = socket.socketpair()
    near.close()
    far.close()
    with pytest.raises(ValueError, match="file descriptor"):
        wait_writable(near, 0)


@pytest.mark.skipif(not allows_bbr(), reason="this system has no BBR")
def test_what_a_listener_accepts_goes_by_bbr_and_what_connects_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        prefer_bbr(listener)
        with socket.create_connection(listener.getsockname()) as near, listener.accept()[0] as far:
            assert algorithm(far) == b"bbr"
            prefer_bbr(near)
            assert algorithm(near) == b"bbr"


def test_where_it_cannot_be_had_nothing_happens() -> None:
    near, far = socket.socketpair()
    with near, far:
        prefer_bbr(near)  # no TCP
        near.sendall(b"x")
        assert far.recv(1) == b"x"


@pytest.mark.skipif(not deaf_socket.POSSIBLE, reason="this system cannot be made to lose what arrives")
@pytest.mark.parametrize("sent", [b"", b"a request"])
def test_the_loss_of_the_other_side_is_noticed_whether_or_not_something_was_sent(sent: bytes) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname(), timeout=60) as near,
        listener.accept()[0] as far,
    ):
        notice_loss(near, gone_s=1)
        deaf_socket.make_deaf(far)
        near.sendall(sent)
        with pytest.raises(TimeoutError) as caught:
            near.recv(1)
    assert caught.value.errno == ETIMEDOUT  # the system's, not the socket's own


def test_where_losses_cannot_be_noticed_nothing_happens() -> None:
    near, far = socket.socketpair()
    with near, far:
        notice_loss(near)  # no TCP
        near.sendall(b"x")
        assert far.recv(1) == b"x"
