from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from time import sleep

import pytest

from comfy_gpu_offload.io.receiver import Receiver

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="sleeps in every wait there")


@pytest.fixture(params=[1, 2], ids=["one core", "two cores"])
def pair(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Receiver, socket.socket]]:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(request.param)))
    near, far = socket.socketpair()
    near.settimeout(10)
    with near, far:
        yield Receiver(near), far


def received(receiver: Receiver) -> bytes:
    buffer = bytearray(16)
    return bytes(buffer[: receiver.receive_into(buffer)])


def test_what_is_there_and_what_comes_later_is_received(pair: tuple[Receiver, socket.socket]) -> None:
    receiver, far = pair
    far.sendall(b"there")
    assert received(receiver) == b"there"
    for delay_s in (0.0001, 0.0001, 0.05, 0.0001, 0.05):
        threading.Timer(delay_s, far.sendall, (b"later",)).start()
        assert received(receiver) == b"later"
    threading.Timer(0.01, far.close).start()
    assert received(receiver) == b""


def test_a_wait_ends_with_the_sockets_own_timeout(pair: tuple[Receiver, socket.socket]) -> None:
    receiver, _ = pair
    receiver.sock.settimeout(0.02)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            received(receiver)


def test_only_after_a_brief_wait_is_the_next_one_spent_awake(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[None] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(os, "sched_yield", lambda: looks.append(None))
    near, far = socket.socketpair()
    with near, far:
        receiver = Receiver(near)
        near.settimeout(0.05)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                received(receiver)
        assert not looks
        receiver._is_brief = True
        with pytest.raises(TimeoutError):
            received(receiver)
        assert looks
        del looks[:]
        with pytest.raises(TimeoutError):
            received(receiver)
        assert not looks


def test_where_others_have_work_for_the_core_the_next_waits_are_spent_asleep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[None] = []

    def others_run() -> None:
        looks.append(None)
        sleep(0.001)

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(os, "sched_yield", others_run)
    near, far = socket.socketpair()
    with near, far:
        receiver = Receiver(near)
        near.settimeout(10)
        receiver._is_brief = True
        for _ in range(20):
            threading.Timer(0.005, far.sendall, (b"later",)).start()
            assert received(receiver) == b"later"
        assert len(looks) == 1
