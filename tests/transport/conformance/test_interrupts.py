"""Ends of an exchange from this side, over every transport: by a check in each phase, by its time, by `close`."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic, sleep

import pytest
import torch
from tests.transport.conformance.calls import TIMEOUTS, Call, Calls, StopError
from tests.transport.conformance.conftest import Setup

from comfy_gpu_offload import Session
from comfy_gpu_offload.errors import ConnectError, ExchangeTimeoutError, TransportError
from comfy_gpu_offload.transport.base import Timeouts, Transport

WITHIN_S = 0.5
# Another program may have taken the processor, so one of a few tries must do.
TRIES = 4


class Exchange(threading.Thread):
    """An exchange on a thread of its own, until its check is told to raise."""

    def __init__(self, transport: Transport, call: Call, timeouts: Timeouts = TIMEOUTS) -> None:
        super().__init__(daemon=True)
        self.error: BaseException | None = None
        self._work = lambda: call.made(transport, timeouts, self._check)
        self._stopping = threading.Event()
        self.start()

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self.error = error

    def _check(self) -> None:
        if self._stopping.is_set():
            raise StopError

    def interrupted_after_s(self) -> float:
        """Interrupt it; return how many seconds it took to end."""
        sleep(0.2)  # into the middle of the phase
        assert self.is_alive(), self.error
        began = monotonic()
        self._stopping.set()
        self.join(60)
        assert isinstance(self.error, StopError), self.error
        return monotonic() - began


def ends_in_time(attempt: Callable[[], float]) -> None:
    assert any(attempt() < WITHIN_S for _ in range(TRIES))


def until(condition: Callable[[], bool]) -> None:
    deadline = monotonic() + 60
    while not condition():
        assert monotonic() < deadline
        sleep(0.01)


@contextmanager
def full_listener() -> Iterator[int]:
    """Give the port of a server that takes no more connections and refuses none, as a machine that is off does."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_a_check_ends_the_wait_for_a_connection(setup: Setup) -> None:
    if setup.carrier.reach is None:
        pytest.skip("no connection")
    with full_listener() as port:
        transport = setup.transport(port)
        ends_in_time(lambda: Exchange(transport, Calls().echo()).interrupted_after_s())


def test_a_check_ends_a_request_that_nobody_reads(setup: Setup) -> None:
    proxy = setup.proxy()
    transport = setup.transport(proxy.port)

    def attempt() -> float:
        Calls().echo().made(transport)
        hung = proxy.hung
        proxy.stall_after_up = proxy.up + 50_000
        exchange = Exchange(transport, Calls().first_byte(setup.carrier.up_bytes))
        until(lambda: proxy.hung > hung)
        return exchange.interrupted_after_s()

    ends_in_time(attempt)
    Calls().echo().made(transport)


def test_a_check_ends_the_wait_for_a_reply(setup: Setup, transport: Transport) -> None:
    def attempt() -> float:
        setup.backend.started.clear()
        exchange = Exchange(transport, Calls().wait())
        assert setup.backend.started.wait(60)
        seconds = exchange.interrupted_after_s()
        setup.backend.release.set()
        Calls().echo().made(transport)
        setup.backend.release.clear()
        return seconds

    ends_in_time(attempt)


def test_a_check_ends_a_reply_that_stops_in_its_middle(setup: Setup) -> None:
    proxy = setup.proxy()
    transport = setup.transport(proxy.port)

    def attempt() -> float:
        Calls().echo().made(transport)
        hung = proxy.hung
        proxy.silent_after_down = proxy.down + 100_000
        exchange = Exchange(transport, Calls().repeated(2_000_000))
        until(lambda: proxy.hung > hung)
        return exchange.interrupted_after_s()

    ends_in_time(attempt)
    Calls().echo().made(transport)


def test_a_check_ends_a_run(setup: Setup, transport: Transport) -> None:
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise StopError

    def slow(x: torch.Tensor) -> torch.Tensor:
        stop.set()
        sleep(0.05)
        return x

    setup.backend.functions["slow"] = slow
    fields = {"sampler": "slow", "scheduler": "simple", "seed": 0, "steps": 100, "cfg": 1.0}
    with Session(transport) as session:
        model = session.model("echo", check=check)
        with pytest.raises(StopError):
            model.sample(fields, {"latent": torch.zeros(3), "positive": [], "negative": []})
    assert setup.backend.steps_done < 100


def test_an_exchange_that_takes_too_long_is_a_timeout(setup: Setup, transport: Transport) -> None:
    with pytest.raises(ExchangeTimeoutError):
        Calls().wait().made(transport, Timeouts(connect_s=60.0, exchange_s=0.4, silence_s=60.0))
    setup.backend.release.set()
    Calls().echo().made(transport)


def test_a_connection_that_takes_too_long_is_no_connection(setup: Setup) -> None:
    if not setup.carrier.connects:
        pytest.skip("connections have a time of their own")
    with full_listener() as port, pytest.raises(ConnectError):
        Calls().echo().made(setup.transport(port), Timeouts(connect_s=0.3, exchange_s=60.0))


def test_close_while_another_thread_waits_loses_no_reply(setup: Setup, transport: Transport) -> None:
    exchange = Exchange(transport, Calls().wait())
    assert setup.backend.started.wait(60)
    transport.close()
    setup.backend.release.set()
    exchange.join(60)
    assert not exchange.is_alive()
    assert exchange.error is None or isinstance(exchange.error, TransportError)
    Calls().echo().made(transport)
