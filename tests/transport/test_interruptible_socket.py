"""The work that a polled socket does ten times a second, whatever comes meanwhile."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic

import pytest

from comfy_gpu_offload.errors import ExchangeTimeoutError
from comfy_gpu_offload.transport.interruptible_socket import PolledSocket

LONG_S = 20.0
CRLF = b"\r\n"


class StopError(BaseException):
    """An interrupt that is no `Exception`, as ComfyUI's is not."""


@contextmanager
def dripping() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends; on the near one a byte arrives far more often than anything is looked at, for some seconds."""
    near, far = socket.socketpair()
    ended = threading.Event()

    def drip() -> None:
        with suppress(OSError):
            for _ in range(120):
                far.sendall(b".")
                if ended.wait(0.02):
                    return
            far.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield near, far
    finally:
        ended.set()
        thread.join()
        near.close()
        far.close()


def read_to_the_end(polled: PolledSocket) -> None:
    while polled.receive_into(memoryview(bytearray(1))):
        pass


def test_bytes_that_trickle_in_do_not_put_off_a_check() -> None:
    looks = []

    def check() -> None:
        looks.append(None)
        if len(looks) == 3:
            raise StopError

    with dripping() as (near, _), pytest.raises(StopError):
        read_to_the_end(PolledSocket(near, monotonic() + LONG_S, check))


def test_bytes_that_trickle_in_do_not_put_off_the_deadline() -> None:
    with dripping() as (near, _), pytest.raises(ExchangeTimeoutError):
        read_to_the_end(PolledSocket(near, monotonic() + 0.3, None))


def test_the_way_up_is_kept_warm_while_bytes_come_down() -> None:
    with dripping() as (near, far):
        read_to_the_end(PolledSocket(near, monotonic() + LONG_S, None, warming=CRLF))
        far.settimeout(0)
        warmed = far.recv(65536)
    assert set(warmed) == set(CRLF)
    assert len(warmed) >= 10 * len(CRLF)


def test_a_way_up_that_is_full_is_left_alone() -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            near.send(bytes(65536))
    polled = PolledSocket(near, monotonic() + LONG_S, None, warming=CRLF)
    threading.Timer(0.35, far.sendall, (b".",)).start()
    with near, far:
        assert polled.receive_into(memoryview(bytearray(1))) == 1


def test_a_wait_for_nothing_keeps_warm_too_and_only_a_wait() -> None:
    near, far = socket.socketpair()
    with near, far:
        polled = PolledSocket(near, monotonic() + LONG_S, None, warming=CRLF)
        polled.send([b"request"])
        threading.Timer(0.35, far.sendall, (b".",)).start()
        polled.receive_into(memoryview(bytearray(1)))
        sent = far.recv(65536)
    assert sent.startswith(b"request" + CRLF)
    assert set(sent.removeprefix(b"request")) == set(CRLF)
