"""The end of a worker: signals, running calls, and its exit status."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.frames import forward_frame
from tests.support.platforms import needs_posix
from tests.support.process import environment
from tests.support.worker import ThreadWorker

from comfy_gpu_offload.io.frame import FrameLimits
from comfy_gpu_offload.protocol.envelope import open_frame
from comfy_gpu_offload.protocol.messages import Fault, FaultCode, Result
from comfy_gpu_offload.server import serve
from comfy_gpu_offload.server.handler import HandlerOptions
from comfy_gpu_offload.server.http.routes import WorkerState

_STOPPED_WHILE_LOADING = """
import os, signal, threading
from comfy_gpu_offload.cli.worker_command import serve_process
from comfy_gpu_offload.io.frame import FrameLimits
from comfy_gpu_offload.server.http.routes import WorkerState
from comfy_gpu_offload.server.handler import HandlerOptions
from comfy_gpu_offload.server.serve import ServeOptions

def load_for_ever():
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait()

serve_process(WorkerState(FrameLimits()), load_for_ever, ServeOptions("127.0.0.1", 0, HandlerOptions(), print))
"""


@needs_posix
def test_a_worker_that_is_stopped_while_it_loads_does_not_wait_for_that(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _STOPPED_WHILE_LOADING]
    assert subprocess.run(command, env=environment(), cwd=tmp_path, timeout=60, check=False).returncode == 0


def test_a_call_that_takes_too_long_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_DRAIN_S", 0.1)
    backend, state = FunctionBackend(), WorkerState(FrameLimits())

    async def stopped_in_a_call() -> bool:
        stopping = asyncio.Event()
        options = serve.ServeOptions("127.0.0.1", 0, HandlerOptions(), lambda _: begin.set())
        begin = threading.Event()
        serving = asyncio.ensure_future(serve.serve(state, lambda: backend, options, stopping))
        await asyncio.to_thread(begin.wait, 30)
        assert state.handler is not None
        call = state.handler.submit(forward_frame(torch.ones(1), model="wait").joined())
        await asyncio.to_thread(backend.started.wait, 30)
        stopping.set()
        ended = await serving
        backend.release.set()
        await asyncio.wrap_future(call)
        return ended

    assert asyncio.run(stopped_in_a_call()) is False


def test_a_worker_that_ends_refuses_what_waits_and_finishes_the_call_that_runs() -> None:
    backend = FunctionBackend()
    with ThreadPoolExecutor(3) as threads, ThreadWorker(backend) as worker:
        handler = worker.handler

        def answer(model: str) -> Any:
            frame = forward_frame(torch.ones(2), model=model, request=f"request-{model}").joined()
            return open_frame(handler.handle(frame).joined())

        try:
            running = threads.submit(answer, "wait")
            assert backend.started.wait(60)
            waiting = threads.submit(answer, "double")
            ending = threads.submit(worker.stop)
            refused = waiting.result(10).message
            assert not running.done()
            assert not ending.done()
        finally:
            backend.release.set()
        assert isinstance(refused, Fault)
        assert refused.code is FaultCode.STOPPING
        assert isinstance(running.result(10).message, Result)
        ending.result(30)
    assert backend.closed
