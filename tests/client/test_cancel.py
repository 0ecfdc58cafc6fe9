from __future__ import annotations

import threading

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import Session, connect
from comfy_gpu_offload.errors import CallCancelledError, TransportError


class StopError(BaseException):
    """Stand for ComfyUI's interrupt."""


def test_an_interrupt_ends_the_call_at_once_and_tells_the_worker(
    session: Session, backend: FunctionBackend
) -> None:
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise StopError

    model = session.model("wait", check=check)
    threading.Thread(target=lambda: (backend.started.wait(60), stop.set())).start()
    with pytest.raises(StopError):
        model(torch.ones(1))
    assert backend.interrupted.wait(60)
    stop.clear()
    assert torch.equal(session.model("echo", check=check)(torch.ones(1)), torch.ones(1))


def test_a_call_that_takes_too_long_is_cancelled(backend: FunctionBackend) -> None:
    with ThreadWorker(backend) as worker, connect(worker.url, call_timeout_s=0.5) as session:
        with pytest.raises(TransportError, match="time"):
            session.model("wait")(torch.ones(1))
        assert backend.interrupted.wait(60)


def test_a_cancelled_call_is_its_own_error(session: Session, backend: FunctionBackend) -> None:
    threading.Thread(target=lambda: (backend.started.wait(60), backend.interrupt())).start()
    with pytest.raises(CallCancelledError):
        session.model("wait")(torch.ones(1))
