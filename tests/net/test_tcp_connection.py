from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from comfy_gpu_offload.net.tcp_connection import connect_tcp

Place = tuple[str, int]


@pytest.fixture
def dead() -> Iterator[Place]:
    """Give an address that neither takes connections nor refuses them, as one behind a dead route does."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()


@pytest.fixture
def refusing() -> Place:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place: Place = taken.getsockname()
    return place


@pytest.fixture
def alive() -> Iterator[Place]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()


def named(monkeypatch: pytest.MonkeyPatch, *places: Place) -> None:
    """Have every name stand for these addresses."""
    entries = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", place) for place in places]

    def look_up(*_: Any, **__: Any) -> list[Any]:
        return entries

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


def test_an_address_that_does_not_answer_keeps_no_other_waiting(
    dead: Place, alive: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a time limit that ends the test, were the first address given all of it."""
    named(monkeypatch, dead, dead, alive)
    with closing(connect_tcp("worker.example", 443, 3600)) as sock:
        assert sock.getpeername() == alive
        assert sock.getblocking()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_the_next_one_is_tried_after_one_that_refuses(
    refusing: Place, alive: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    named(monkeypatch, refusing, alive, refusing)
    with closing(connect_tcp("worker.example", 443, 60)) as sock:
        assert sock.getpeername() == alive


def test_one_that_refuses_ends_no_other_attempt(
    dead: Place, refusing: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    named(monkeypatch, dead, refusing)
    with pytest.raises(TimeoutError):
        connect_tcp("worker.example", 443, 0.5)


def test_an_address_that_this_machine_has_no_way_to_is_passed_over(
    alive: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    named(monkeypatch, ("255.255.255.255", 443), alive)
    with closing(connect_tcp("worker.example", 443, 60)) as sock:
        assert sock.getpeername() == alive


def test_that_none_answers_is_told_by_the_last(refusing: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    named(monkeypatch, ("255.255.255.255", 443), refusing)
    with pytest.raises(ConnectionRefusedError, match="refused"):
        connect_tcp("worker.example", 443, 60)


def test_none_answers_in_time(dead: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    named(monkeypatch, dead, dead)
    with pytest.raises(TimeoutError):
        connect_tcp("worker.example", 443, 0.4)


def test_a_name_without_an_address() -> None:
    with pytest.raises(socket.gaierror):
        connect_tcp("nowhere.invalid", 443, 60)
