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
