"""Connections that stay open and lead nowhere, and waits that only look like it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import sleep
from typing import Any

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.breaking_proxy import BreakingProxy
from tests.support.nginx import needs_nginx, nginx
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import RemoteModel, Session, connect
from comfy_gpu_offload.errors import SilentConnectionError
from comfy_gpu_offload.server import run_store

# Long enough for a machine that has other work, so that what is no silence does not look like one.
SILENCE_S = 3.0
LONGER_S = 2.5 * SILENCE_S
X = torch.randn(50_000)


@pytest.fixture
def proxy(worker: ThreadWorker) -> Iterator[BreakingProxy]:
    with BreakingProxy(worker.port) as made:
        yield made


@pytest.fixture
def through(proxy: BreakingProxy) -> Iterator[Session]:
    with connect(proxy.url, retry_s=60, silence_s=1, compression="none") as session:
        yield session


def sampled(model: RemoteModel, latent: torch.Tensor, steps: int = 3) -> tuple[torch.Tensor, int]:
    fields = {"sampler": "echo", "scheduler": "simple", "seed": 3, "steps": steps, "cfg": 1.0}
    result, timings = model.sample(fields, {"latent": latent, "positive": [], "negative": []})
    return result, timings.exchanges  # type: ignore[return-value]


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("beyond", [0, 150_000])
def test_a_call_on_a_connection_that_went_silent_is_made_on_another(
    through: Session, proxy: BreakingProxy, way: str, beyond: int
) -> None:
    """At its beginning, and in the middle of a body."""
    model = through.model("double")
    setattr(proxy, f"silent_after_{way}", getattr(proxy, way) + beyond)
    assert torch.equal(model(X), X * 2)
    assert model.last_timings is not None
    assert model.last_timings.exchanges > 1


def test_signs_of_life_that_stop_end_the_connection(
    through: Session, proxy: BreakingProxy, backend: FunctionBackend
) -> None:
    """In the middle of computing: the call is taken up on another connection, and computed once."""
    model = through.model("wait")

    def hush() -> None:
        assert backend.started.wait(60)
        sleep(0.5)
        proxy.silent_after_down = 0
        while proxy.hung < 1 or proxy.connections < 2:
            sleep(0.05)
        backend.release.set()

    threading.Thread(target=hush, daemon=True).start()
    assert torch.equal(model(X), X)
    assert len(backend.calls) == 1
    assert model.last_timings is not None
    assert model.last_timings.exchanges > 1


@pytest.mark.parametrize("kind", ["hello", "load", "probe", "run"])
def test_every_kind_of_exchange_is_made_again(proxy: BreakingProxy, through: Session, kind: str) -> None:
    model = through.model("echo")
    proxy.silent_after_down = proxy.down
    kinds: dict[str, Callable[[], Any]] = {
        "hello": through.models,
        "load": lambda: through.model("double"),
        "probe": lambda: through.probe(1000, 1000),
        "run": lambda: sampled(model, X),
    }
    assert kinds[kind]() is not None
    assert proxy.connections > 1


def test_a_first_hello_that_nobody_answers_is_said_again(proxy: BreakingProxy) -> None:
    proxy.silent_after_down = 0
    with connect(proxy.url, retry_s=60, silence_s=1) as session:
        assert torch.equal(session.model("double")(X), X * 2)


def test_a_tunnel_that_hangs_for_good_is_named_with_the_setting(proxy: BreakingProxy, through: Session) -> None:
    model = through.model("double")
    through._options.__dict__["retry"] = type(through._options.retry)(total_s=3.0)
    proxy.silent = True
    with pytest.raises(SilentConnectionError) as caught:
        model(X)
    for part in (proxy.url, " s, ", "COMFY_GPU_OFFLOAD_SILENCE_S", "ServerAliveInterval"):
        assert part in str(caught.value)


def test_a_tunnel_that_was_started_again_is_used(proxy: BreakingProxy, through: Session) -> None:
    model = through.model("double")
    proxy.silent = True
    threading.Timer(4.0, proxy.start_again).start()
    assert torch.equal(model(X), X * 2)


def test_waiting_behind_another_clients_load_or_call_is_no_silence(
    worker: ThreadWorker, backend: FunctionBackend
) -> None:
    with (
        connect(worker.url, silence_s=SILENCE_S) as session,
        connect(worker.url, silence_s=SILENCE_S) as other,
    ):
        model, waiting = session.model("double"), other.model("wait")
        describe = backend.describe

        def slow(ref: Any) -> Any:
            if ref.name == "echo":
                backend.started.set()
                backend.release.wait(60)
            return describe(ref)

        backend.describe = slow  # type: ignore[method-assign]
        for occupy in (lambda: other.model("echo"), lambda: waiting(X)):
            backend.started.clear()
            backend.release.clear()
            busy = threading.Thread(target=occupy)
            busy.start()
            assert backend.started.wait(60)
            threading.Timer(LONGER_S, backend.release.set).start()
            assert torch.equal(model(X), X * 2)
            busy.join(60)
            assert model.last_timings is not None
            assert model.last_timings.exchanges == 1


def test_a_runs_long_step_is_no_silence_however_little_of_it_is_allowed(
    worker: ThreadWorker, backend: FunctionBackend
) -> None:
    """Longer than the pause between two words of a run, which is longer than what is allowed for a call."""

    def slow(x: torch.Tensor) -> torch.Tensor:
        sleep(1.4 * run_store.HEARTBEAT_S)
        return x

    backend.functions["echo"] = slow
    with connect(worker.url, silence_s=1) as session:
        result, exchanges = sampled(session.model("echo"), X, steps=1)
    assert torch.equal(result, X + 3)
    assert exchanges == 1


@needs_nginx
def test_a_long_call_through_a_proxy_that_drops_signs_of_life_is_waited_for(
    worker: ThreadWorker, backend: FunctionBackend, tmp_path: Path
) -> None:
    """Somebody is asked on another connection meanwhile."""
    with nginx(worker.port, tmp_path) as front, connect(front.url, silence_s=1) as session:
        model = session.model("wait")

        def release() -> None:
            while front.requests("/ping") < 3:
                sleep(0.05)
            backend.release.set()

        threading.Thread(target=release, daemon=True).start()
        assert torch.equal(model(X), X)
        assert model.last_timings is not None
        assert model.last_timings.exchanges == 1


@needs_nginx
def test_a_tunnel_to_such_a_proxy_that_hangs_is_noticed(
    worker: ThreadWorker, backend: FunctionBackend, tmp_path: Path
) -> None:
    with (
        nginx(worker.port, tmp_path) as front,
        BreakingProxy(front.port) as proxy,
        connect(proxy.url, silence_s=1, retry_s=60) as session,
    ):
        model = session.model("wait")

        def hang() -> None:
            assert backend.started.wait(60)
            proxy.silent = True
            while proxy.hung < 2:  # the call, and who asked for it
                sleep(0.05)
            proxy.start_again()
            backend.release.set()

        threading.Thread(target=hang, daemon=True).start()
        assert torch.equal(model(X), X)
        assert len(backend.calls) == 1
        assert model.last_timings is not None
        assert model.last_timings.exchanges > 1
