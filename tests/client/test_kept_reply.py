"""Large replies, fetched in parts: whole whatever breaks, and computed once unless the worker has lost them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.breaking_proxy import BreakingProxy
from tests.support.worker import ThreadWorker

from comfy_gpu_offload.client import kept_reply
from comfy_gpu_offload.client.connect import connect_from
from comfy_gpu_offload.client.model_call import ModelCall
from comfy_gpu_offload.client.session import Session
from comfy_gpu_offload.config.settings import Settings, given_settings
from comfy_gpu_offload.errors import OffloadError, WorkerFaultError
from comfy_gpu_offload.io.frame import EncodedFrame
from comfy_gpu_offload.protocol.messages import MAX_PART_BYTES
from comfy_gpu_offload.server.answers.forward import ForwardCalls

COUNT = 2_000_000
MANY = torch.arange(COUNT, dtype=torch.float32)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep replies from 1 MB, and fetch them in eight parts."""
    monkeypatch.setattr("comfy_gpu_offload.client.options.SessionOptions.most_reply_bytes", 1_000_000)
    monkeypatch.setattr(kept_reply, "PART_BYTES", 1_000_000)


class Counting:
    """A model that returns the same large tensor, and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, first: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return MANY + first


def backend_of(model: Counting) -> FunctionBackend:
    return FunctionBackend(large=model)


def raw(url: str, **further: Any) -> Settings:
    """Return settings without compression, by which replies are as large as their tensors."""
    return given_settings(url=url, compression="none", **further)


def call(session: Session, told: list[tuple[int, int]]) -> torch.Tensor:
    description = session.model("large").description
    one = ModelCall(
        description.ref,
        description.fingerprint,
        (torch.zeros(1),),
        {},
        on_received=lambda done, of: told.append((done, of)),
    )
    value, timings = session.forward(one)
    assert isinstance(value, torch.Tensor)
    assert timings.bytes_down > MANY.nbytes
    return value


def test_a_large_reply_comes_in_parts_and_whole() -> None:
    model, told = Counting(), list[tuple[int, int]]()
    with (
        ThreadWorker(backend_of(model)) as worker,
        connect_from(raw(worker.url)) as session,
    ):
        assert torch.equal(call(session, told), MANY)
    assert model.calls == 1
    size = told[0][1]
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[0][0] == 0
    assert told[-1] == (size, size)
    assert len(told) == 1 + -(-size // 1_000_000)


def test_a_small_reply_comes_at_once() -> None:
    told: list[tuple[int, int]] = []
    backend = FunctionBackend(large=lambda x: x)
    with (
        ThreadWorker(backend) as worker,
        connect_from(raw(worker.url)) as session,
    ):
        description = session.model("large").description
        x = torch.ones(1000)
        asked = ModelCall(
            description.ref, description.fingerprint, (x,), {}, on_received=lambda *both: told.append(both)
        )
        assert session.forward(asked)[0].equal(x)  # type: ignore[union-attr]
    assert not told


@pytest.mark.parametrize("after", [2_500_000, 5_000_001, 7_900_000])
def test_a_lost_connection_costs_the_parts_under_way(after: int) -> None:
    model, told = Counting(), list[tuple[int, int]]()
    with ThreadWorker(backend_of(model)) as worker:
        proxy = BreakingProxy(worker.port)
        proxy.break_after_down = after
        with connect_from(raw(proxy.url, retry_s=30)) as session:
            assert torch.equal(call(session, told), MANY)
        # Four parts were under way at most.
        assert proxy.down < MANY.nbytes + 4_500_000
    assert model.calls == 1
    assert proxy.break_after_down is None


def test_damage_of_a_part_is_noticed_and_the_part_fetched_again() -> None:
    model = Counting()
    with ThreadWorker(backend_of(model)) as worker:
        proxy = BreakingProxy(worker.port)
        proxy.alter_after_down = 4_000_000
        with connect_from(raw(proxy.url, retry_s=30)) as session:
            assert torch.equal(call(session, []), MANY)
    assert model.calls == 1


def test_a_worker_that_was_restarted_computes_the_reply_again() -> None:
    first, second = Counting(), Counting()
    told: list[tuple[int, int]] = []
    worker = ThreadWorker(backend_of(first)).__enter__()
    port = worker.port
    again: list[ThreadWorker] = []
    with connect_from(raw(worker.url, retry_s=30)) as session:
        description = session.model("large").description

        def received(done: int, of: int) -> None:
            told.append((done, of))
            if done and not again:
                worker.__exit__(None, None, None)
                again.append(ThreadWorker(backend_of(second), port=port).__enter__())

        one = ModelCall(description.ref, description.fingerprint, (torch.zeros(1),), {}, on_received=received)
        assert torch.equal(session.forward(one)[0], MANY)  # type: ignore[arg-type]
        again[0].__exit__(None, None, None)
    assert (first.calls, second.calls) == (1, 1)


def test_a_worker_that_never_keeps_replies_ends_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Counting()

    def forgets(self: ForwardCalls, request: str) -> EncodedFrame | None:
        self._replies.forget(request, self._replies.join(request))  # type: ignore[arg-type]
        return None

    monkeypatch.setattr(ForwardCalls, "reply", forgets)
    with (
        ThreadWorker(backend_of(model)) as worker,
        connect_from(raw(worker.url, retry_s=1)) as session,
        pytest.raises(WorkerFaultError, match="does not keep that reply"),
    ):
        call(session, [])
    assert model.calls == 3


def test_a_check_ends_the_fetching() -> None:
    class StopError(Exception):
        pass

    model, told = Counting(), list[tuple[int, int]]()

    def check() -> None:
        if len(told) > 3:
            raise StopError

    with (
        ThreadWorker(backend_of(model)) as worker,
        connect_from(raw(worker.url)) as session,
    ):
        description = session.model("large").description
        one = ModelCall(
            description.ref,
            description.fingerprint,
            (torch.zeros(1),),
            {},
            on_received=lambda *both: told.append(both),
        )
        with pytest.raises(StopError):
            session.forward(one, check)
    assert len(told) < 9


def test_a_reply_larger_than_this_side_takes_is_refused_before_it_is_fetched() -> None:
    model = Counting()
    with (
        ThreadWorker(backend_of(model)) as worker,
        connect_from(raw(worker.url, frame_bytes=4_000_000, retry_s=1)) as session,
        pytest.raises(OffloadError, match="4000000 allowed"),
    ):
        call(session, [])


def test_parts_are_what_a_worker_allows() -> None:
    assert kept_reply.PART_BYTES <= MAX_PART_BYTES
