from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import monotonic, sleep

import pytest

from comfy_gpu_offload.transport import load_pings
from comfy_gpu_offload.transport.load_pings import LoadPings

THREAD = "comfy-gpu-offload-load"


class Asked:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def until(condition: Callable[[], bool]) -> None:
    deadline = monotonic() + 30
    while not condition():
        assert monotonic() < deadline
        sleep(0.005)


def threads() -> int:
    return sum(thread.name == THREAD for thread in threading.enumerate())


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def pings(asked: Asked) -> Iterator[LoadPings]:
    made = LoadPings(asked, every_s=0.01)
    yield made
    made.close()
    until(lambda: threads() == 0)


def test_it_asks_while_a_call_runs_and_not_afterwards(pings: LoadPings, asked: Asked) -> None:
    with pings.during_call():
        until(lambda: asked.count > 3)
    after = asked.count
    sleep(0.2)
    assert asked.count <= after + 1  # one may have been under way


def test_calls_of_one_run_share_a_thread(pings: LoadPings, asked: Asked) -> None:
    while asked.count < 5:
        with pings.during_call(), pings.during_call():
            sleep(0.002)
        assert threads() == 1


def test_it_goes_on_until_the_last_of_several_calls_ends(pings: LoadPings, asked: Asked) -> None:
    with pings.during_call():
        with suppress(ValueError), pings.during_call():
            raise ValueError
        before = asked.count
        until(lambda: asked.count > before + 3)


def test_the_thread_ends_when_no_call_comes(
    pings: LoadPings, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_pings, "_LINGER_S", 0.05)
    with pings.during_call():
        until(lambda: asked.count > 0)
    until(lambda: threads() == 0)
    with pings.during_call():
        before = asked.count
        until(lambda: asked.count > before)


def test_close_ends_the_thread_and_a_later_call_begins_anew(pings: LoadPings, asked: Asked) -> None:
    with pings.during_call():
        pings.close()  # not in the middle of a call
        until(lambda: asked.count > 3)
    pings.close()
    until(lambda: threads() == 0)
    with pings.during_call():
        before = asked.count
        until(lambda: asked.count > before)


def test_after_a_fork_it_begins_anew(pings: LoadPings, asked: Asked) -> None:
    with pings.during_call():
        until(lambda: asked.count > 0)
    pings.close()
    pings.forked()
    with pings.during_call():
        before = asked.count
        until(lambda: asked.count > before)
