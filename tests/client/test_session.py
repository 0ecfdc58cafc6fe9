from __future__ import annotations

import re
import threading

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import Session, connect
from comfy_gpu_offload.errors import (
    ConfigError,
    ExchangeTimeoutError,
    HttpStatusError,
    ModelChangedError,
    ModelFailedError,
    TlsError,
    TransportError,
    UnauthorizedError,
    UnknownModelError,
    UnsupportedValueError,
)
from comfy_gpu_offload.io.buffers import allocate
from comfy_gpu_offload.io.frame import EncodedFrame
from comfy_gpu_offload.server.handler import Handler
from comfy_gpu_offload.transport.base import Check, Route, Timeouts
from comfy_gpu_offload.transport.loopback import LoopbackTransport

CONTEXT = torch.randn(2, 77, 64)


def test_any_call_and_any_result(session: Session, backend: FunctionBackend) -> None:
    backend.functions["tree"] = lambda *args, **kwargs: {"got": [args, kwargs], "sum": args[0] + args[1][0]}
    x, y = torch.randn(3, 4), torch.randn(3, 4, dtype=torch.float64)
    result = session.model("tree")(x, [y, None, ("a", 2)], flag=True, nested={(1, "k"): x})
    assert torch.equal(result["sum"], x + y)
    args, kwargs = result["got"]
    assert args[1][2] == ("a", 2)
    assert torch.equal(kwargs["nested"][1, "k"], x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool])
def test_a_result_has_the_dtype_that_the_model_gave_it(session: Session, dtype: torch.dtype) -> None:
    x = torch.randn(7).to(dtype)
    result = session.model("echo")(x)
    assert result.dtype is dtype
    assert torch.equal(result, x)


def test_a_raw_latent_is_not_copied_between_a_socket_and_a_tensor(
    worker: ThreadWorker, backend: FunctionBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either side computes with tensors where its socket has put them, and sends them from where they lie."""
    received: list[tuple[int, int]] = []

    def noted(size_bytes: int) -> memoryview:
        buffer = allocate(size_bytes)
        start = torch.frombuffer(buffer, dtype=torch.uint8).data_ptr()
        received.append((start, start + size_bytes))
        return buffer

    monkeypatch.setattr("comfy_gpu_offload.io.frame_reader.allocate", noted)
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


def test_a_fault_of_the_handshake_names_the_worker(backend: FunctionBackend) -> None:
    with ThreadWorker(backend, token="t" * 32) as worker:
        with connect(worker.url, "t" * 32) as made, pytest.raises(UnknownModelError, match=re.escape(worker.url)):
            made.model("nobody")
        with pytest.raises(UnauthorizedError, match=re.escape(worker.url)):
            connect(worker.url, "w" * 32)


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


def test_what_cannot_travel_is_named_before_anything_is_sent(session: Session, backend: FunctionBackend) -> None:
    model = session.model("echo")
    with pytest.raises(UnsupportedValueError, match=r"kwargs\['options'\]\['patch'\] holds a function"):
        model(torch.ones(1), options={"patch": lambda: None})
    with pytest.raises(UnsupportedValueError, match="gradient"):
        model(torch.ones(1, requires_grad=True))
    assert not backend.calls
    with torch.no_grad():
        assert model(torch.ones(1, requires_grad=True)).item() == 1


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


class RefusingTransport(LoopbackTransport):
    """Calls fail on the way, each in the same way."""

    def __init__(self, handler: Handler, error: TransportError) -> None:
        super().__init__(handler)
        self.error = error
        self.calls = 0

    def exchange(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> memoryview:
        if route != "forward":
            return super().exchange(route, frame, timeouts, check)
        self.calls += 1
        raise self.error


@pytest.mark.parametrize(
    ("error", "calls"),
    [(TlsError("no"), 1), (HttpStatusError("no", 403, retryable=False), 2), (ExchangeTimeoutError("no"), 1)],
    ids=lambda value: type(value).__name__,
)
def test_what_sending_again_cannot_mend_is_not_sent_again(
    backend: FunctionBackend, error: TransportError, calls: int
) -> None:
    """A refusal is believed when it comes twice: a call whose head was altered on its way is refused too."""
    handler = Handler(backend)
    transport = RefusingTransport(handler, error)
    with Session(transport) as session, pytest.raises(type(error)):
        session.model("echo")(torch.ones(1))
    assert transport.calls == calls
    handler.close(10)


@pytest.mark.parametrize("settings", [{"url": "worker"}, {"url": "http://127.0.0.1:1", "colour": "red"}])
def test_a_wrong_setting_is_named(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        connect(**settings)
