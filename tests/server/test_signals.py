"""Ctrl-C and SIGTERM at a worker whose model computes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest
import torch
from tests.support.platforms import needs_posix
from tests.support.process import environment

from comfy_gpu_offload import connect
from comfy_gpu_offload.errors import OffloadError, WorkerFaultError

pytestmark = needs_posix
TESTS = Path(__file__).parents[2]
# Its model `wait` ends at a block; `deaf` never looks whether it is to end.
WORKER = """
import logging, sys, threading
from tests.support.backend import FunctionBackend
from comfy_gpu_offload.cli.worker_command import serve_process
from comfy_gpu_offload.io.frame import FrameLimits
from comfy_gpu_offload.server.http.routes import WorkerState
from comfy_gpu_offload.backends.base import InterruptedCallError
from comfy_gpu_offload.server.handler import HandlerOptions
from comfy_gpu_offload.server.serve import ServeOptions

def computing(stops):
    def model(x):
        print("begun", flush=True)
        while not release.wait(0.01):
            if stops and backend.interrupted.is_set():
                raise InterruptedCallError("The call was cancelled.")
        return x
    return model

def released():
    sys.stdin.readline()
    release.set()

release = threading.Event()
backend = FunctionBackend(wait=computing(True), deaf=computing(False))
threading.Thread(target=released, daemon=True).start()
logging.basicConfig(level="INFO", format="%(message)s")
options = ServeOptions("127.0.0.1", 0, HandlerOptions(), lambda address: print(address, flush=True))
serve_process(WorkerState(FrameLimits()), lambda: backend, options)
"""


class BusyWorker:
    """A worker process in the middle of a call to one of its models."""

    def __init__(self, model: str, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "log").open("wb"),
            text=True,
            env=environment(PYTHONPATH=f"{TESTS / 'src'}{os.pathsep}{TESTS}"),
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        self._log = folder / "log"
        self.result: torch.Tensor | None = None
        self.error: OffloadError | None = None
        self.calling = threading.Thread(target=self._call, args=(model,), daemon=True)
        self.calling.start()
        assert self.process.stdout.readline() == "begun\n"

    def _call(self, model: str) -> None:
        try:
            with connect(self.url, retry_s=0.1) as session:
                remote = session.model(model)
                self.result = remote(torch.ones(2))
        except OffloadError as error:
            self.error = error

    @property
    def log(self) -> str:
        return self._log.read_text()

    def press(self, says: str) -> None:
        """Press Ctrl-C and wait until the worker logs that text."""
        self.process.send_signal(signal.SIGINT)
        deadline = monotonic() + 60
        while says not in self.log:
            assert monotonic() < deadline, self.log
            assert self.process.poll() is None or says in self.log, self.log
            sleep(0.01)

    def release(self) -> None:
        """Lets the model finish."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def ended(self) -> int:
        """Wait for the end of the process and of the call; return the exit status."""
        status = self.process.wait(60)
        self.calling.join(60)
        return status


@pytest.fixture
def busy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BusyWorker]:
    worker = BusyWorker(request.param, tmp_path)
    yield worker
    worker.process.kill()
    worker.process.wait(30)
    worker.calling.join(60)


@pytest.mark.parametrize("busy", ["wait", "deaf"], indirect=True)
def test_a_first_ctrl_c_says_what_is_waited_for_and_lets_it_finish(busy: BusyWorker) -> None:
    busy.press("stopping after a call of ")
    assert "Ctrl-C again" in busy.log
    assert busy.process.poll() is None
    busy.release()
    assert busy.ended() == 0
    assert busy.result is not None


@pytest.mark.parametrize("busy", ["wait"], indirect=True)
def test_a_second_ends_the_call_at_the_next_block(busy: BusyWorker) -> None:
    busy.press("stopping after a call of wait")
    busy.press("is ended at the model's next block")
    assert busy.ended() == 0
    assert busy.result is None
    # The client may ask a worker that is started again; here there is none.
    assert not isinstance(busy.error, WorkerFaultError) or busy.error.code == "stopping"


@pytest.mark.parametrize("busy", ["deaf"], indirect=True)
def test_a_third_ends_the_process_whatever_it_does(busy: BusyWorker) -> None:
    busy.press("stopping after a call of deaf")
    busy.press("is ended at the model's next block")
    busy.press("stopped at once")
    assert busy.ended() == 130


@pytest.mark.parametrize("busy", ["wait"], indirect=True)
def test_sigterm_however_often_lets_the_call_finish(busy: BusyWorker) -> None:
    for _ in range(3):
        busy.process.send_signal(signal.SIGTERM)
        sleep(0.1)
    assert busy.process.poll() is None
    busy.release()
    assert busy.ended() == 0
    assert busy.result is not None
