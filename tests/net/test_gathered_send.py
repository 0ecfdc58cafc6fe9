from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest

from comfy_gpu_offload.net.gathered_send import send_gathered

BIG, SMALL = bytes(range(256)) * 8 * 1024, b"small"
CASES = {
    "none": [],
    "small ones": [SMALL, bytearray(SMALL), memoryview(SMALL)],
    "a large one": [memoryview(BIG)],
    "a head and a body": [SMALL, BIG],
    "large ones and small ones": [SMALL, SMALL, BIG, BIG, b"", SMALL, BIG, SMALL],
}


class WithoutGathering:
    """A socket without `sendmsg`, as TLS and Windows have it."""

    def __init__(self, sock: socket.socket) -> None:
        self.send = sock.send


@pytest.mark.parametrize("wrap", [lambda sock: sock, WithoutGathering])
@pytest.mark.parametrize("buffers", CASES.values(), ids=CASES)
def test_all_bytes_arrive_in_order_though_the_other_side_is_slow(
    buffers: list[bytes], wrap: Callable[[socket.socket], socket.socket]
) -> None:
    near, far = socket.socketpair()
    arrived = bytearray()

    def read() -> None:
        while data := far.recv(10_000):
            arrived.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    with near, far:
        send_gathered(wrap(near), buffers)
        near.shutdown(socket.SHUT_WR)
        reader.join(30)
    assert arrived == b"".join(buffers)


def test_small_neighbours_leave_in_one_operation_and_large_ones_with_the_small_one_before_them() -> None:
    near, far = socket.socketpair()
    operations: list[int] = []

    def run(operation: Callable[[], int]) -> int:
        operations.append(operation())
        return operations[-1]

    with near, far:
        send_gathered(near, [SMALL, SMALL, bytes(20_000), SMALL, SMALL], run)
    assert operations == [2 * len(SMALL) + 20_000, 2 * len(SMALL)]


def test_an_operation_that_timed_out_may_be_run_again() -> None:
    near, far = socket.socketpair()
    near.settimeout(0.05)
    timed_out: list[None] = []

    def patient(operation: Callable[[], int]) -> int:
        while True:
            try:
                return operation()
            except TimeoutError:
                if not timed_out:
                    reader.start()
                timed_out.append(None)

    arrived = bytearray()

    def read() -> None:
        while len(arrived) < len(SMALL + BIG):
            arrived.extend(far.recv(65536))

    reader = threading.Thread(target=read)
    with near, far:
        send_gathered(near, [SMALL, BIG], patient)
        reader.join(30)
    assert timed_out
    assert arrived == SMALL + BIG
