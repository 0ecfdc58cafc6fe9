"""Sessions in processes that were forked from the one that made them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.forked_calls import CALLS, CHILDREN
from tests.support.process import environment, worker_process

from comfy_gpu_offload import Session
from comfy_gpu_offload.client.capture import Capture
from comfy_gpu_offload.client.session import SessionOptions
from comfy_gpu_offload.errors import ForkedWorkerError
from comfy_gpu_offload.server.handler import Handler
from comfy_gpu_offload.transport.loopback import LoopbackTransport

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
DIFFUSERS = ("--backend", "diffusers", "--port", "0", "--cpu")
ROOT = Path(__file__).parents[2]


def test_parent_and_children_call_at_once_and_each_gets_its_own_results(tmp_path: Path) -> None:
    with worker_process(*DIFFUSERS, cwd=tmp_path, OMP_NUM_THREADS="1") as worker:
        command = [sys.executable, "-m", "tests.support.forked_calls", worker.url]
        path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            env=environment(PYTHONPATH=path),
            cwd=ROOT,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [each["calls"] for each in told] == [CALLS] * (CHILDREN + 1)
    assert [each["errors"] for each in told] == [[]] * (CHILDREN + 1)
    assert [each["wrong"] for each in told] == [[]] * (CHILDREN + 1)
    assert len({each["client"] for each in told}) == CHILDREN + 1


def in_a_child(work: Callable[[], str]) -> str:
    """Return what `work` says in a process that is forked for it."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, work().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


def test_threads_of_a_child_that_compute_at_once_find_torchs_pool() -> None:
    handler = Handler(FunctionBackend())
    session = Session(LoopbackTransport(handler))  # a process without one is not this package's to prepare
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # each thread of a child sets it anew, and with it the pool
    try:
        told = [in_a_child(first_computations) for _ in range(100)]
    finally:
        torch.set_num_threads(threads)
        session.close()
        handler.close(10)
    assert told == ["computed"] * 100


def first_computations() -> str:
    errors: list[str] = []
    together = threading.Barrier(8)

    def compute() -> None:
        together.wait()
        try:
            torch.ones(2).add(1)
            torch.ones(65536).sum()
        except RuntimeError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=compute) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors[0][:300] if errors else "computed"


def test_a_worker_within_the_other_process_is_refused_by_name() -> None:
    handler = Handler(FunctionBackend())
    session = Session(LoopbackTransport(handler))

    def call() -> str:
        try:
            session.models()
        except ForkedWorkerError as error:
            return str(error)
        return "answered"

    assert "forked" in in_a_child(call)
    assert session.models()
    handler.close(10)


def test_what_is_captured_in_a_child_has_names_of_its_own(tmp_path: Path) -> None:
    handler = Handler(FunctionBackend())
    capture = Capture(tmp_path, 10**6)
    session = Session(LoopbackTransport(handler), SessionOptions(capture=capture))

    def record() -> str:
        capture.call(["x"], [torch.ones(2)], torch.ones(2))
        return ", ".join(file.name for file in tmp_path.iterdir())

    there = in_a_child(record)
    record()
    assert there
    assert len(list(tmp_path.iterdir())) == 2
    session.close()
    handler.close(10)


def test_a_capture_folder_that_is_gone_leaves_no_session_of_a_child_half_made(tmp_path: Path) -> None:
    """The case of a server that gave up its rights before it forked."""
    folder = tmp_path / "captured"
    handler = Handler(FunctionBackend())
    session = Session(LoopbackTransport(handler), SessionOptions(capture=Capture(folder, 10**6)))
    folder.rmdir()
    folder.write_text("in its place")
    assert in_a_child(lambda: session.client) != session.client
    session.close()
    handler.close(10)
