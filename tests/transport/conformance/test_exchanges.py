"""Exchanges over every transport: one, many, large, at once, followed, and counted."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from time import sleep
from typing import Any

import pytest
import torch
from tests.transport.conformance.calls import TIMEOUTS, Calls
from tests.transport.conformance.conftest import Setup

from comfy_gpu_offload import Session
from comfy_gpu_offload.errors import CodecError, FrameError, OffloadError, TransportError
from comfy_gpu_offload.io.frame import EncodedFrame
from comfy_gpu_offload.protocol.envelope import open_frame
from comfy_gpu_offload.transport.base import Check, Route, Timeouts, Transport

SAMPLE = {"sampler": "echo", "scheduler": "simple", "seed": 3, "steps": 5, "cfg": 1.0}


class Counting:
    """Carries as `inner` does, and notes the size of each frame."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self.carries_cancel, self.peer = inner.carries_cancel, inner.peer
        self.up: list[int] = []
        self.down: list[int] = []

    def exchange(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> memoryview:
        reply = self._inner.exchange(route, frame, timeouts, check)
        self.up.append(frame.size_bytes)
        self.down.append(len(reply))
        return reply

    def stream(self, *arguments: Any) -> Generator[memoryview]:
        return self._inner.stream(*arguments)

    def close(self) -> None:
        self._inner.close()

    def forked(self) -> None:
        self._inner.forked()


def test_a_reply_comes_whole_and_may_be_written(transport: Transport) -> None:
    Calls().echo().made(transport)


def test_one_after_another_each_gets_its_own_reply(transport: Transport) -> None:
    calls = Calls()
    for size in (0, 1, 10, 1000, 100_000, 3):
        calls.echo(size).made(transport)


def test_the_largest_frames_pass(setup: Setup, transport: Transport) -> None:
    calls = Calls()
    calls.first_byte(setup.carrier.up_bytes).made(transport)
    calls.repeated(setup.carrier.down_bytes).made(transport)
    both = min(setup.carrier.up_bytes, setup.carrier.down_bytes)
    calls.echo(both).made(transport)


def test_a_larger_request_is_refused_unsent_where_there_is_a_limit(setup: Setup, transport: Transport) -> None:
    if not setup.carrier.refuses_more:
        pytest.skip("no limit but the worker's own")
    before = len(setup.backend.calls)
    with pytest.raises(TransportError, match="MB") as caught:
        Calls().first_byte(setup.carrier.up_bytes + 3_000_000).made(transport)
    assert not caught.value.retryable
    assert len(setup.backend.calls) == before
    Calls().echo().made(transport)


def test_exchanges_may_overlap(transport: Transport) -> None:
    def many(client: str) -> None:
        calls = Calls(client)
        for size in (10, 50_000, 10):
            calls.echo(size).made(transport)

    with ThreadPoolExecutor(6) as threads:
        for done in [threads.submit(many, f"client-{number}") for number in range(6)]:
            done.result(60)


@pytest.mark.parametrize("cut", [-10, -1, 1, 64], ids=lambda cut: f"{cut:+} bytes")
def test_a_reply_of_a_wrong_size_is_never_taken_for_one(setup: Setup, transport: Transport, cut: int) -> None:
    setup.handler.alter = lambda data: data[:cut] if cut < 0 else data + bytes(cut)
    call = Calls().echo(1000)
    with pytest.raises((TransportError, FrameError, CodecError)):
        open_frame(transport.exchange("forward", call.frame, TIMEOUTS)).unpack()
    setup.handler.alter = None
    Calls().echo().made(transport)


def test_a_run_tells_its_steps_in_order_and_ends_with_its_result(transport: Transport) -> None:
    steps: list[int] = []
    with Session(transport) as session:
        latent = torch.zeros(4, 5)
        result, timings = session.model("echo").sample(
            SAMPLE, {"latent": latent, "positive": [], "negative": []}, lambda step, *_: steps.append(step)
        )
    assert torch.equal(result, latent + 15)
    assert steps == sorted(set(steps))
    assert timings.exchanges == 1


def test_timings_count_the_bytes_of_frames(transport: Transport) -> None:
    counting = Counting(transport)
    with Session(counting) as session:
        model = session.model("double")
        counting.up.clear()
        counting.down.clear()
        x = torch.arange(5000.0)
        assert torch.equal(model(x), x * 2)
        timings = model.last_timings
    assert timings is not None
    assert (timings.bytes_up, timings.bytes_down) == (sum(counting.up), sum(counting.down))
    assert timings.bytes_up > x.nbytes


def test_a_call_that_waits_for_another_says_so_in_lines(setup: Setup) -> None:
    if not setup.carrier.tells_waiting:
        pytest.skip("nothing is told of waiting")
    lines: list[str] = []
    transport = setup.transport(notify=lines.append)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(Calls("first").wait().made, transport)
        assert setup.backend.started.wait(60)
        second = threads.submit(Calls("second").echo().made, transport)
        for _ in range(600):
            if lines:
                break
            sleep(0.1)
        setup.backend.release.set()
        first.result(60)
        second.result(60)
    assert lines
    assert all(line.strip() and line.isprintable() for line in lines)


def test_errors_of_the_worker_come_as_replies(setup: Setup, transport: Transport) -> None:
    """They are no errors of the transport: the session knows what to make of them."""
    setup.backend.functions["raises"] = _raises
    with Session(transport) as session, pytest.raises(OffloadError, match="over and out") as caught:
        session.model("raises")(torch.ones(2))
    assert not isinstance(caught.value, TransportError)


def _raises(_: torch.Tensor) -> torch.Tensor:
    raise ValueError("over and out")
