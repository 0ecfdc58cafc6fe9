"""A single loss or damage on a connection ends nothing: no first hello, no upload, no probe and no cancel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.breaking_proxy import BreakingProxy
from tests.support.faults import Fault
from tests.support.mixed_replies import use_everything
from tests.support.runpod_edge import LoadBalancerEdge
from tests.support.runpod_gateway import KEY
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import Session, connect
from comfy_gpu_offload.client.weight_patches import WeightPatches
from comfy_gpu_offload.errors import UnauthorizedError
from comfy_gpu_offload.io.digests import digest

X = torch.randn(1000)


class StopError(BaseException):
    """Stand for ComfyUI's interrupt."""


FAULTS = ["break_after_up", "break_after_down", "alter_after_up", "alter_after_down"]


@pytest.fixture
def proxy(worker: ThreadWorker) -> Iterator[BreakingProxy]:
    with BreakingProxy(worker.port) as made:
        yield made


@pytest.mark.parametrize("fault", FAULTS)
def test_a_first_hello(proxy: BreakingProxy, fault: str) -> None:
    setattr(proxy, fault, 0)
    with connect(proxy.url, retry_s=60) as session:
        assert torch.equal(session.model("double")(X), X * 2)
    assert getattr(proxy, fault) is None, "nothing went wrong"


def uploaded(session: Session) -> torch.Tensor:
    tensor = torch.randn(5000)
    template = {"layer": [[0, "diff", [digest(tensor), False], None, None]]}
    patches = WeightPatches(template, ((1.0, 1.0),), {digest(tensor): tensor})
    return session.model("double").patched(patches, (X,), {})  # type: ignore[no-any-return]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", ["hello", "load", "probe", "upload"])
def test_an_exchange_of_any_kind(proxy: BreakingProxy, kind: str, fault: str) -> None:
    kinds: dict[str, Callable[[Session], Any]] = {
        "hello": Session.models,
        "load": lambda session: session.model("double"),
        "probe": lambda session: session.probe(1000, 1000),
        "upload": uploaded,
    }
    with connect(proxy.url, retry_s=60) as session:
        setattr(proxy, fault, getattr(proxy, fault.removeprefix("break_after_").removeprefix("alter_after_")))
        assert kinds[kind](session) is not None
    assert getattr(proxy, fault) is None, "nothing went wrong"


@pytest.mark.parametrize("fault", ["break_after_up", "break_after_down", "alter_after_up"])
def test_a_cancel(proxy: BreakingProxy, backend: FunctionBackend, fault: str) -> None:
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise StopError

    with connect(proxy.url, retry_s=60) as session:
        model = session.model("wait", check=check)

        def interrupt() -> None:
            backend.started.wait(60)
            setattr(proxy, fault, proxy.up if fault.endswith("up") else proxy.down)
            stop.set()

        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(StopError):
            model(X)
        stop.clear()
        # The worker computes one call at a time: this one's turn comes once the other was ended.
        assert torch.equal(session.model("double", check=check)(X), X * 2)
        assert not backend.release.is_set()


@pytest.mark.parametrize("status", [400, 404, 405, 500, 501, 503])
def test_a_status_without_a_frame_is_believed_when_it_comes_twice(worker: ThreadWorker, status: int) -> None:
    """The answer after a head that was damaged on its way, and of a proxy before a replica that died."""
    with LoadBalancerEdge(worker.url) as edge:
        for route in ("/v1/hello", "/v1/forward", "/v1/sample"):
            edge.faults.add(route, Fault(status=status, body="<html>no</html>"))
        # The worker's own token is the edge's, which is asked as any proxy is.
        with connect(edge.url, KEY, retry_s=60) as session:
            use_everything(session, "double", 3)


def test_a_wrong_token_is_asked_about_twice_and_no_more() -> None:
    with ThreadWorker(FunctionBackend(), token="the-token-of-this-worker") as worker:
        with BreakingProxy(worker.port) as proxy, pytest.raises(UnauthorizedError):
            connect(proxy.url, "another-token-than-that", retry_s=3600)
        assert proxy.up < 4000
