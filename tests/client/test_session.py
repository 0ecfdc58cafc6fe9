from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from time import monotonic

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.proxy import BreakingProxy
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import Session, connect
from comfy_gpu_offload.client.timings import CallTimings
from comfy_gpu_offload.errors import (
    CallCancelledError,
    ConfigError,
    ConnectError,
    ModelChangedError,
    ModelFailedError,
    TooLargeError,
    TransportError,
    UnauthorizedError,
    UnknownModelError,
    UnsupportedValueError,
    VersionSkewError,
)
from comfy_gpu_offload.io.buffers import allocate
from comfy_gpu_offload.io.frame import FrameLimits
from comfy_gpu_offload.server.handler import Handler
from comfy_gpu_offload.transport.loopback import LoopbackTransport

CONTEXT = torch.randn(2, 77, 64)


@pytest.fixture
def backend() -> FunctionBackend:
    return FunctionBackend()


@pytest.fixture
def worker(backend: FunctionBackend) -> Iterator[ThreadWorker]:
    with ThreadWorker(backend) as made:
        yield made
        backend.release.set()


@pytest.fixture
def session(worker: ThreadWorker) -> Iterator[Session]:
    with connect(worker.url, retry_s=10) as made:
        yield made


def test_any_call_and_any_result(session: Session, backend: FunctionBackend) -> None:
    backend.functions["tree"] = lambda *args, **kwargs: {"got": [args, kwargs], "sum": args[0] + args[1][0]}
    x, y = torch.randn(3, 4), torch.randn(3, 4, dtype=torch.float64)
    result = session.model("tree")(x, [y, None, ("a", 2)], flag=True, nested={(1, "k"): x})
    assert torch.equal(result["sum"], x + y)
    args, kwargs = result["got"]
    assert args[1][2] == ("a", 2)
    assert torch.equal(kwargs["nested"][1, "k"], x)


def test_a_raw_latent_is_not_copied_between_a_socket_and_a_tensor(
    worker: ThreadWorker, backend: FunctionBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What either side computes with lies where its socket has put it, and leaves from where it lies."""
    received: list[tuple[int, int]] = []

    def noted(size_bytes: int) -> memoryview:
        buffer = allocate(size_bytes)
        start = torch.frombuffer(buffer, dtype=torch.uint8).data_ptr()
        received.append((start, start + size_bytes))
        return buffer

    monkeypatch.setattr("comfy_gpu_offload.server.app.allocate", noted)
    monkeypatch.setattr("comfy_gpu_offload.transport.response.allocate", noted)
    given: list[torch.Tensor] = []
    backend.functions["keep"] = lambda x: given.append(x) or x
    with connect(worker.url, compression="none") as session:
        model = session.model("keep")
        for _ in range(4):  # the first ones are tried for whether they come again, and kept by the worker
            del received[:]
            result = model(torch.randn(1, 16, 32, 32, dtype=torch.bfloat16))
    (up, down) = received
    assert up[0] < given[-1].data_ptr() < up[1]
    assert down[0] < result.data_ptr() < down[1]
    assert torch.equal(result, given[-1])


def test_it_lists_models_anew(session: Session, backend: FunctionBackend) -> None:
    backend.functions["later"] = lambda x: x
    assert "later" in {entry.name for entry in session.models()}


def test_conditioning_crosses_once_and_latents_are_not_hashed_for_ever(session: Session) -> None:
    model = session.model("echo")
    for step in range(6):
        model(torch.randn(1, 4, 16, 16), torch.tensor([float(step)]), context=CONTEXT.clone())
    sizes = [timings.bytes_up for timings in model.timings]
    assert sizes[0] > CONTEXT.nbytes
    latent_bytes = 4 * 16 * 16 * 4
    assert all(latent_bytes < size < latent_bytes + 1000 for size in sizes[1:])


def test_a_second_run_sends_no_conditioning_again(session: Session) -> None:
    session.model("echo")(torch.randn(1, 4), context=CONTEXT)
    again = session.model("echo")
    again(torch.randn(1, 4), context=CONTEXT.clone())
    assert again.last_timings is not None
    assert again.last_timings.bytes_up < 1000


def test_an_input_that_comes_back_after_many_new_ones_is_noticed(session: Session) -> None:
    model = session.model("echo")
    kept = torch.randn(1, 4, 64, 64)
    for _ in range(5):
        model(torch.randn(1, 4, 64, 64))
    for _ in range(3):
        model(kept)
    assert model.last_timings is not None
    assert model.last_timings.bytes_up < 1000


def test_a_tensor_changed_in_place_is_a_new_one(session: Session) -> None:
    model = session.model("echo")
    x = torch.randn(64, 64)
    for _ in range(4):
        x[5, 5] += 1  # between the pieces that the cheap sample looks at, or not
        assert torch.equal(model(x), x)


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
        call.join(20)
        assert torch.equal(results[0], x)


def test_a_worker_that_stays_away_is_an_error_in_the_time_set(backend: FunctionBackend) -> None:
    with ThreadWorker(backend) as first:
        model = connect(first.url, retry_s=0.5).model("echo")
    started = monotonic()
    with pytest.raises(ConnectError):
        model(torch.ones(1))
    assert monotonic() - started < 3


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_connection_cut_in_the_middle_of_a_call_costs_no_second_computation_of_a_known_result(
    worker: ThreadWorker, backend: FunctionBackend, way: str
) -> None:
    with BreakingProxy(worker.port) as proxy, connect(proxy.url, retry_s=10) as session:
        model = session.model("double")
        x = torch.randn(200_000)
        setattr(proxy, f"break_after_{way}", getattr(proxy, way) + 300_000)
        assert torch.equal(model(x), x * 2)
        assert model.last_timings is not None
        assert model.last_timings.exchanges == 2
        assert proxy.connections == 2
        assert len(backend.calls) == 1


def test_a_worker_without_room_still_serves(backend: FunctionBackend) -> None:
    with ThreadWorker(backend, store_bytes=0) as worker, connect(worker.url) as session:
        model = session.model("echo")
        for _ in range(4):
            x = torch.randn(2)
            assert torch.equal(model(x, context=CONTEXT), x)
            assert model.last_timings is not None
            assert model.last_timings.exchanges == 1


class StopError(BaseException):
    """As ComfyUI's interrupt."""


def test_an_interrupt_ends_the_call_at_once_and_tells_the_worker(
    session: Session, backend: FunctionBackend
) -> None:
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise StopError

    model = session.model("wait", check=check)
    threading.Thread(target=lambda: (backend.started.wait(10), stop.set())).start()
    with pytest.raises(StopError):
        model(torch.ones(1))
    stopped = monotonic()
    assert backend.interrupted.wait(5)
    assert monotonic() - stopped < 0.5
    stop.clear()
    assert torch.equal(session.model("echo", check=check)(torch.ones(1)), torch.ones(1))


def test_a_call_that_takes_too_long_is_cancelled(backend: FunctionBackend) -> None:
    with ThreadWorker(backend) as worker, connect(worker.url, call_timeout_s=0.5) as session:
        with pytest.raises(TransportError, match="time"):
            session.model("wait")(torch.ones(1))
        assert backend.interrupted.wait(5)


def test_two_clients_share_one_worker(worker: ThreadWorker) -> None:
    results: dict[int, bool] = {}

    def run(number: int) -> None:
        with connect(worker.url) as session:
            model = session.model("double")
            inputs = [torch.randn(1000) + number for _ in range(20)]
            results[number] = all(torch.equal(model(x, context=CONTEXT), x * 2) for x in inputs)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == dict.fromkeys(range(4), True)


def test_faults_are_errors_of_their_own_kind(session: Session, backend: FunctionBackend) -> None:
    with pytest.raises(UnknownModelError, match="nobody"):
        session.model("nobody")

    def broken(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 do not fit")

    backend.functions["broken"] = broken
    with pytest.raises(ModelFailedError, match="mat1 and mat2") as caught:
        session.model("broken")(torch.ones(1))
    assert caught.value.worker_traceback is not None
    assert "in broken" in caught.value.worker_traceback
    model = session.model("echo")
    backend.fingerprint = "g" * 16
    with pytest.raises(ModelChangedError):
        model(torch.ones(1))


def test_a_wrong_token_is_said_at_once() -> None:
    with ThreadWorker(FunctionBackend(), token="right") as worker:
        with pytest.raises(UnauthorizedError, match="COMFY_GPU_OFFLOAD_TOKEN"):
            connect(worker.url, "wrong")
        with connect(worker.url, "right") as session:
            assert session.model("echo")(torch.ones(1)).item() == 1


def test_a_call_beyond_the_workers_limit_says_so(backend: FunctionBackend) -> None:
    with ThreadWorker(backend, limits=FrameLimits(frame_bytes=100_000)) as worker, connect(worker.url) as session:
        with pytest.raises(TooLargeError, match="over the 100000 bytes allowed"):
            session.model("echo")(torch.randn(100_000))
        assert not backend.calls
        assert session.model("echo")(torch.ones(1)).item() == 1


def test_another_protocol_is_refused_by_name(worker: ThreadWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    from comfy_gpu_offload.client import session as module

    class Future(module.Hello):
        protocol: int = 99

    monkeypatch.setattr(module, "Hello", Future)
    with pytest.raises(VersionSkewError, match="99"):
        connect(worker.url)


def test_other_releases_on_the_two_sides_are_warned_of(
    worker: ThreadWorker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comfy_gpu_offload.client.skew.__version__", "9.9.9")
    with caplog.at_level(logging.WARNING), connect(worker.url):
        assert "9.9.9" in caplog.text


def test_what_cannot_travel_is_named_before_anything_is_sent(session: Session, backend: FunctionBackend) -> None:
    model = session.model("echo")
    with pytest.raises(UnsupportedValueError, match=r"kwargs\['options'\]\['patch'\] holds a function"):
        model(torch.ones(1), options={"patch": lambda: None})
    with pytest.raises(UnsupportedValueError, match="gradient"):
        model(torch.ones(1, requires_grad=True))
    assert not backend.calls
    with torch.no_grad():
        assert model(torch.ones(1, requires_grad=True)).item() == 1


def test_timings_add_up(session: Session) -> None:
    model = session.model("echo")
    model(torch.randn(1000))
    timings = model.last_timings
    assert isinstance(timings, CallTimings)
    assert timings.exchanges == 1
    assert timings.bytes_up > 4000
    assert timings.bytes_down > 4000
    assert timings.compute_s == 1e-5
    parts = timings.pack_s + timings.encode_s + timings.exchange_s + timings.decode_s
    assert timings.total_s == parts
    assert 0 < timings.wire_s < timings.exchange_s
    assert (timings + timings).bytes_up == 2 * timings.bytes_up


@pytest.mark.parametrize("compression", ["zstd", "planes"])
def test_compression_is_lossless_and_smaller(worker: ThreadWorker, compression: str) -> None:
    x = torch.zeros(1, 77, 4096)
    x[:, :10] = torch.randn(1, 10, 4096)
    with connect(worker.url, compression=compression) as session:
        model = session.model("echo")
        assert torch.equal(model(x), x)
        assert model.last_timings is not None
        assert model.last_timings.bytes_up < x.nbytes / 2
        assert model.last_timings.bytes_down < x.nbytes / 2


def test_a_lossy_codec_is_used_when_asked_for_and_warned_of(
    worker: ThreadWorker, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(worker.url, compression="int8-block") as session:
        model = session.model("echo")
        for _ in range(4):  # what may come again is named by its digest, and goes losslessly
            x = torch.randn(1, 16, 64, 64)
            back = model(x)
        assert model.last_timings is not None
        assert model.last_timings.bytes_up < x.nbytes / 3
    assert "is lossy" in caplog.text
    assert not torch.equal(back, x)
    assert torch.allclose(back, x, atol=0.1)


def test_the_loopback_transport_serves_the_same_session(backend: FunctionBackend) -> None:
    handler = Handler(backend)
    with Session(LoopbackTransport(handler)) as session:
        x = torch.randn(5)
        assert torch.equal(session.model("double")(x, context=CONTEXT), x * 2)
        backend.functions["cancelled"] = lambda _: (_ for _ in ()).throw(KeyError("x"))
        with pytest.raises(ModelFailedError):
            session.model("cancelled")(x)
    handler.close(10)


def test_a_cancelled_call_is_its_own_error(session: Session, backend: FunctionBackend) -> None:
    threading.Thread(target=lambda: (backend.started.wait(10), backend.interrupt())).start()
    with pytest.raises(CallCancelledError):
        session.model("wait")(torch.ones(1))


@pytest.mark.parametrize("settings", [{"url": "worker"}, {"url": "http://127.0.0.1:1", "colour": "red"}])
def test_a_wrong_setting_is_named(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        connect(**settings)


def test_a_probe_carries_what_it_says_and_waits_its_turn(session: Session, backend: FunctionBackend) -> None:
    assert session.probe(up_bytes=100_000, down_bytes=200_000) >= 0
    running = threading.Thread(target=lambda: session.model("wait")(torch.ones(1)), daemon=True)
    running.start()
    assert backend.started.wait(10)
    done = threading.Event()
    threading.Thread(target=lambda: (session.probe(down_bytes=1), done.set()), daemon=True).start()
    assert not done.wait(0.2)
    assert session.probe() >= 0  # for nothing there is nothing to wait for
    backend.release.set()
    assert done.wait(10)
    running.join(10)
