from __future__ import annotations

import re
import threading
from time import sleep
from typing import Any

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.breaking_proxy import BreakingProxy
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import Session, connect
from comfy_gpu_offload.backends.base import Computed
from comfy_gpu_offload.client.connect import connect_from
from comfy_gpu_offload.client.timings import CallTimings
from comfy_gpu_offload.config.settings import given_settings
from comfy_gpu_offload.errors import ConnectError, ConnectionLostError, ModelFailedError, TooLargeError
from comfy_gpu_offload.io.frame import EncodedFrame, FrameLimits
from comfy_gpu_offload.server.handler import Handler
from comfy_gpu_offload.transport.base import Route
from comfy_gpu_offload.transport.loopback import LoopbackTransport

CONTEXT = torch.randn(2, 77, 64)


def test_a_restarted_worker_costs_a_resend(backend: FunctionBackend) -> None:
    with ThreadWorker(backend) as first:
        session = connect(first.url, retry_s=30)
        model = session.model("echo")
        for _ in range(3):
            model(torch.randn(1, 4), context=CONTEXT)
        port = first.port
    with ThreadWorker(backend, port=port):
        x = torch.randn(1, 4)
        assert torch.equal(model(x, context=CONTEXT), x)
        assert model.last_timings is not None
        assert model.last_timings.exchanges == 2
        model(torch.randn(1, 4), context=CONTEXT)
        assert model.last_timings.exchanges == 1
        assert model.last_timings.bytes_up < 1000


def test_a_call_made_while_the_worker_is_away_waits_for_it(backend: FunctionBackend) -> None:
    with ThreadWorker(backend) as first:
        model = connect(first.url, retry_s=30).model("echo")
        port = first.port
    x = torch.randn(4)
    results: list[torch.Tensor] = []
    call = threading.Thread(target=lambda: results.append(model(x)))
    call.start()
    call.join(0.3)
    assert call.is_alive()
    with ThreadWorker(backend, port=port):
        call.join(60)
        assert torch.equal(results[0], x)


def test_who_waits_for_a_lost_worker_is_told_and_the_log_says_it_once(
    backend: FunctionBackend, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []
    with ThreadWorker(backend) as first:
        model = connect_from(given_settings(url=first.url, retry_s=30), notify=told.append).model("echo")
        port = first.port
    caplog.set_level("WARNING", "comfy_gpu_offload")
    call = threading.Thread(target=model, args=(torch.randn(4),))
    call.start()
    call.join(1.0)  # some attempts
    with ThreadWorker(backend, port=port):
        call.join(60)
        model(torch.randn(4))
    assert [re.sub(r"\d+ s ago", "N s ago", line) for line in told[:-1]] == [
        "the worker was lost N s ago; tried again for up to 30 s"
    ]
    assert re.fullmatch(r"the worker is back after \d+ s", told[-1])
    assert len([each for each in caplog.records if "was lost" in each.message]) == 1


def test_a_worker_that_stays_away_is_an_error_when_patience_is_over(backend: FunctionBackend) -> None:
    with ThreadWorker(backend) as first:
        model = connect(first.url, retry_s=0.5).model("echo")
    with pytest.raises(ConnectError):
        model(torch.ones(1))


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize(("what", "connections"), [("break", 2), ("alter", 1)])
def test_a_call_that_breaks_off_or_is_altered_on_the_way_costs_no_second_computation_of_a_known_result(
    worker: ThreadWorker, backend: FunctionBackend, what: str, connections: int, way: str
) -> None:
    # Without compression: a busy machine may make the link look slow, and then the whole reply is predicted.
    with (
        BreakingProxy(worker.port) as proxy,
        connect(proxy.url, retry_s=60, compression="none") as session,
    ):
        model = session.model("double")
        x = torch.randn(200_000)
        setattr(proxy, f"{what}_after_{way}", getattr(proxy, way) + 300_000)
        assert torch.equal(model(x), x * 2)
        assert model.last_timings is not None
        assert model.last_timings.exchanges == 2
        assert proxy.connections == connections
        assert len(backend.calls) == 1


def test_a_worker_without_room_still_serves(backend: FunctionBackend) -> None:
    with ThreadWorker(backend, store_bytes=0) as worker, connect(worker.url) as session:
        model = session.model("echo")
        for _ in range(4):
            x = torch.randn(2)
            assert torch.equal(model(x, context=CONTEXT), x)
            assert model.last_timings is not None
            assert model.last_timings.exchanges == 1


def test_a_call_beyond_the_workers_limit_says_so(backend: FunctionBackend) -> None:
    with ThreadWorker(backend, limits=FrameLimits(frame_bytes=100_000)) as worker, connect(worker.url) as session:
        with pytest.raises(TooLargeError, match="over the 100000 bytes allowed"):
            session.model("echo")(torch.randn(100_000))
        assert not backend.calls
        assert session.model("echo")(torch.ones(1)).item() == 1


def test_timings_add_up(session: Session) -> None:
    model = session.model("echo")
    model(torch.randn(1000))
    timings = model.last_timings
    assert isinstance(timings, CallTimings)
    assert timings.exchanges == 1
    assert timings.bytes_up > 4000
    assert timings.bytes_down > 4000
    assert timings.compute_s == 1e-5
    moving = timings.pack_s + timings.encode_s + timings.upload_s + timings.exchange_s + timings.decode_s
    assert timings.total_s == pytest.approx(moving + timings.waited_s)
    told = timings.transfer_s + timings.compute_s + timings.load_s + timings.queue_s + timings.waited_s
    assert timings.total_s == pytest.approx(told)
    assert 0 < timings.wire_s < timings.exchange_s
    assert (timings + timings).bytes_up == 2 * timings.bytes_up


def test_what_a_call_waits_for_is_no_transfer(worker: ThreadWorker, backend: FunctionBackend) -> None:
    """A lost exchange, a wait for the next, and a worker that gets ready; each is far longer than the transfer."""
    lost_s, ready_s = 0.4, 0.3
    losses = iter([ConnectionLostError("cut")])

    class Losing(LoopbackTransport):
        def exchange(self, route: Route, frame: EncodedFrame, *further: Any) -> memoryview:
            if route == "forward":
                for error in losses:
                    sleep(lost_s)
                    raise error
            return super().exchange(route, frame, *further)

    compute = backend.forward

    def slow(*args: Any, **kwargs: Any) -> Computed:
        sleep(ready_s)
        return compute(*args, **kwargs)

    backend.forward = slow  # type: ignore[method-assign]
    with Session(Losing(Handler(backend))) as session:
        model = session.model("echo")
        model(torch.randn(1000))
        timings = model.last_timings
    assert timings is not None
    assert timings.waited_s >= lost_s
    assert timings.load_s >= ready_s
    assert timings.total_s >= timings.waited_s + timings.load_s + timings.transfer_s


def test_what_a_models_error_is_known_by(session: Session, backend: FunctionBackend) -> None:
    """ComfyUI and scripts know errors by torch's own classes, and give their tips by them."""

    def mismatched(x: torch.Tensor) -> torch.Tensor:
        return torch.randn(77, 768) @ torch.randn(2048, 320)

    def full(x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    backend.functions |= {"mismatched": mismatched, "full": full}
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes") as raised:
        session.model("mismatched")(torch.randn(3))
    assert isinstance(raised.value, ModelFailedError)
    with pytest.raises(torch.OutOfMemoryError, match="The worker's device has too little memory") as raised:
        session.model("full")(torch.randn(3))
    assert isinstance(raised.value, ModelFailedError)
