"""Connections that end, over every transport: cut anywhere, closed while idle, nobody there, after a fork."""

from __future__ import annotations

import os
import socket
from time import sleep

import pytest
from tests.transport.conformance.calls import TIMEOUTS, Call, Calls
from tests.transport.conformance.conftest import Setup

from comfy_gpu_offload.errors import ForkedWorkerError, TransportError
from comfy_gpu_offload.transport.base import Transport

BYTES = 60_000


def positions(total: int) -> list[int]:
    """Return where a message of so many bytes is cut: in its head, in its middle, at its end."""
    some = {0, 1, 7, 40, 130, 200, 300, 500, 4096, 16_384, 32_768, total // 2, total - 100, total - 2, total - 1}
    return sorted(position for position in some if 0 <= position < total)


def error_of(transport: Transport) -> TransportError | None:
    """Return the error that a call ends with, or None where its whole reply came."""
    try:
        Calls().echo(BYTES).made(transport)
    except TransportError as error:
        return error
    return None


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_connection_cut_anywhere_is_a_loss_and_never_half_a_reply(setup: Setup, way: str) -> None:
    proxy = setup.proxy()
    transport = setup.transport(proxy.port)
    Calls().echo().made(transport)
    totals = []
    for _ in range(5):
        before = getattr(proxy, way)
        Calls().echo(BYTES).made(transport)
        totals.append(getattr(proxy, way) - before)
    total = min(totals)  # without the signs of life that a call sends which takes longer
    assert total > BYTES
    unnoticed = []
    for position in positions(total):
        setattr(proxy, f"break_after_{way}", getattr(proxy, way) + position)
        error = error_of(transport)
        assert error is None or (isinstance(error, setup.carrier.loses) and error.retryable), (position, error)
        unnoticed += [position] if error is None else []
        setattr(proxy, f"break_after_{way}", None)
        Calls().echo().made(transport)  # the transport goes on
    assert setup.carrier.asks_again or unnoticed == []


def test_a_connection_that_is_closed_while_idle_is_replaced(setup: Setup) -> None:
    proxy = setup.proxy()
    transport = setup.transport(proxy.port)
    for _ in range(3):
        Calls().echo().made(transport)
        proxy.start_again()
        sleep(0.1)
    Calls().echo().made(transport)
    assert proxy.connections >= 3


def test_nobody_there_is_an_error_of_ours(setup: Setup) -> None:
    if setup.carrier.reach is None:
        pytest.skip("no connection")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(TransportError):
        Calls().echo().made(setup.transport(port))


def test_after_close_an_exchange_connects_anew(transport: Transport) -> None:
    for _ in range(3):
        Calls().echo().made(transport)
        transport.close()
    Calls().echo().made(transport)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_fork_leaves_both_processes_with_replies_of_their_own(setup: Setup, transport: Transport) -> None:
    Calls().echo().made(transport)
    theirs = [Calls("child").echo(20_000) for _ in range(3)]
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, _calls_of_a_child(transport, theirs).encode())
        finally:
            os._exit(0)
    os.close(writing)
    for _ in range(3):
        Calls("parent").echo(20_000).made(transport)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    assert said == ("fine" if setup.carrier.answers_after_fork else "refused")
    Calls("parent").echo().made(transport)


def _calls_of_a_child(transport: Transport, calls: list[Call]) -> str:
    """Return how the calls went. Compare bytes alone: torch may wait for threads that only the parent has."""
    try:
        transport.forked()
        for call in calls:
            reply = bytes(transport.exchange("forward", call.frame, TIMEOUTS))
            if bytes(call.expected.numpy()) not in reply:
                return "another's reply"
    except ForkedWorkerError:
        return "refused"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "fine"
